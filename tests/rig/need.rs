//! What a test needs from the machine, and how it says that it is not there.
//!
//! What is missing is said on the real standard error, which the test harness does not capture; with
//! `ROPEWALK_REQUIRE_PEERS=1` it is a failure, but for what no distribution has ready. No test is skipped silently.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// Whether all these programs are on PATH.
pub(crate) fn programs(names: &[&str]) -> bool {
    let missing: Vec<&str> = names.iter().copied().filter(|name| find(name).is_none()).collect();
    missing.is_empty() || skip(&format!("{} not on PATH", missing.join(", ")))
}

/// Whether this program is on PATH that people must compile for themselves, which takes longer than all tests together.
pub(crate) fn unpackaged(name: &str) -> bool {
    find(name).is_some() || left_out(&format!("{name} not on PATH"))
}

/// Whether Python can import libtorrent.
pub(crate) fn libtorrent() -> bool {
    let found = Command::new("python3").args(["-c", "import libtorrent"]).output();
    found.is_ok_and(|output| output.status.success()) || skip("python3 with libtorrent is not installed")
}

/// A file of a package of npm, in one of the folders that NODE_PATH names, with a node to run it.
pub(crate) fn node_package(file: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("NODE_PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(file)).find(|file| file.is_file());
    if found.is_none() {
        skip(&format!("{file} in none of the folders of NODE_PATH"));
    }
    found.filter(|_| programs(&["node"]))
}

/// Says that the test does not run, and why; fails where that is not allowed.
pub(crate) fn skip(why: &str) -> bool {
    if std::env::var_os("ROPEWALK_REQUIRE_PEERS").is_some_and(|value| value == "1") {
        let test = std::thread::current().name().unwrap_or("?").to_owned();
        panic!("{test} cannot run: {why}, and ROPEWALK_REQUIRE_PEERS=1");
    }
    left_out(why)
}

fn left_out(why: &str) -> bool {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    // Not `eprintln`, which the harness hides when a test passes.
    writeln!(std::io::stderr(), "SKIPPED {test}: {why}").ok();
    false
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
