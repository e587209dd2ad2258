//! The command line of ropewalk: see [`cli`].

mod cli;

use std::process::ExitCode;

use rustix::process::{Resource, getrlimit, setrlimit};

fn main() -> ExitCode {
    allow_descriptors();
    cli::run()
}

/// Raises the limit on open files as far as the system lets us: each peer is one, and the usual 1,024 is meant for
/// programs that call `select`, which we do not. A library leaves this to its program.
fn allow_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What stays lower is a refused peer, later.
    setrlimit(Resource::Nofile, limit).ok();
}
