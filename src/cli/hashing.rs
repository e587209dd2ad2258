//! How this program hashes: the variable `ROPEWALK_HASH`, and what `--version --verbose` says.
//!
//! It owns the variable, which is for finding out what is wrong or slow on a machine, never needed in daily use.

use std::env::VarError;

use ropewalk::hash::{Backend, Hashing};

use super::exit::{Code, failed};

/// The variable that takes one of the words of [`Backend::word`].
const VARIABLE: &str = "ROPEWALK_HASH";

/// As many threads as there are cores, and the quickest way here or the one that the variable names.
pub fn hashing() -> anyhow::Result<Hashing> {
    let wrong =
        |why: String| Err(failed(Code::Usage, format!("{VARIABLE} is {why}; unset it for the quickest way here")));
    let word = match std::env::var(VARIABLE) {
        Ok(word) if !word.is_empty() => word,
        Ok(_) | Err(VarError::NotPresent) => return Ok(Hashing::default()),
        Err(VarError::NotUnicode(_)) => return wrong("not text".into()),
    };
    match word.parse::<Backend>() {
        Ok(backend) if backend.is_available() => Ok(Hashing { backend, ..Hashing::default() }),
        Ok(backend) => wrong(format!("{word}, and this processor cannot do {backend}")),
        Err(error) => wrong(format!("{word}: {error}")),
    }
}

/// What this program is and how it hashes, for `--version --verbose`.
pub fn version() -> anyhow::Result<String> {
    let Hashing { threads, backend } = hashing()?;
    let named = |backend: Backend| format!("{backend} ({})", backend.word());
    let alone = match backend {
        Backend::Crate => String::new(),
        _ => format!("; fewer than {} pieces one after the other by {}", backend.fewest(), Backend::Crate),
    };
    let here = Backend::ALL.into_iter().filter(|backend| backend.is_available()).map(named);
    let build = if cfg!(debug_assertions) { "debug, which is slow," } else { "release" };
    let system = [std::env::consts::ARCH, std::env::consts::OS, environment()].join(" ");
    Ok(format!(
        "ropewalk {}\nhashing    {}{alone}\navailable  {}\nworkers    {threads}, one for each core\n\
         build      {build} for {}",
        env!("CARGO_PKG_VERSION"),
        named(backend),
        here.collect::<Vec<_>>().join(", "),
        system.trim_end()
    ))
}

/// Which C library the program was built for.
fn environment() -> &'static str {
    if cfg!(target_env = "gnu") {
        "gnu"
    } else if cfg!(target_env = "musl") {
        "musl"
    } else {
        ""
    }
}
