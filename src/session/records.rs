//! The file that keeps what is remembered of peers from one run to the next.
//!
//! It owns the reading and the writing, which replaces the file at once and whole. A file that cannot be read or written is
//! said and costs nothing else: what is remembered is a help, not a need.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::policy::Reputation;

/// Of how many peers something is remembered.
const PEERS: usize = 10_000;

/// What the file has, if there is one.
pub(super) fn load(path: Option<&Path>) -> Reputation {
    let Some(path) = path else { return Reputation::new(PEERS) };
    match read(path) {
        Ok(reputation) => reputation,
        Err(error) => {
            log::warn!("{}: what was remembered of peers is not used: {error}", path.display());
            Reputation::new(PEERS)
        }
    }
}

/// Replaces the file, together with what other sessions put there meanwhile. Where nothing is worth it, none is made.
pub(super) fn save(path: Option<&Path>, reputation: &Reputation) {
    let Some(path) = path else { return };
    let now = SystemTime::now();
    let mut all = reputation.clone();
    if let Ok(others) = read(path) {
        all.merge(others, now);
    }
    if all.is_empty() {
        return;
    }
    if let Err(error) = write(path, &all.encode(now)) {
        log::warn!("{}: what is remembered of peers cannot be kept: {error}", path.display());
    }
}

fn read(path: &Path) -> io::Result<Reputation> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Reputation::new(PEERS)),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(Reputation::longest(PEERS) as u64).read_to_string(&mut text)?;
    Reputation::decode(&text, PEERS, SystemTime::now()).map_err(io::Error::other)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Two processes that end at once do not write into each other's.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let replaced = written.and_then(|()| fs::rename(&temporary, path));
    if replaced.is_err() {
        fs::remove_file(&temporary).ok();
    }
    replaced
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::SystemTime;

    use super::{PEERS, load, save};
    use crate::policy::{Deed, Reputation, Standing};

    #[test]
    fn what_two_sessions_remember_is_kept_and_a_broken_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/peers");
        save(Some(&path), &load(Some(&path)));
        assert!(!path.exists(), "nothing to remember");
        let (one, other): (SocketAddr, SocketAddr) = ("9.9.9.9:1".parse().unwrap(), "8.8.8.8:1".parse().unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, b"\xff\xfe").unwrap();
        for addr in [one, other] {
            let mut known = Reputation::new(PEERS);
            known.note(addr, Deed::Lie, SystemTime::now());
            save(Some(&path), &known);
        }
        let known = load(Some(&path));
        assert!([one, other].iter().all(|&addr| known.standing(addr, SystemTime::now()) == Standing::Cheat));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
        assert!(load(None).is_empty());
    }
}
