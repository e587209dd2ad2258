//! The binary under test, and a seeder for it in the test's own process.

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use ropewalk::{AddOptions, Config, Session, State, Torrent};
use serde_json::Value;
use tempfile::TempDir;

use super::payload::Payload;
use super::process::{PATIENCE, Process};

/// A running `ropewalk --json`.
pub(crate) struct Ropewalk(
    Process,
    /// The user's folder for state.
    #[expect(dead_code, reason = "it goes with the process")]
    TempDir,
);

impl Ropewalk {
    /// `ropewalk get`: downloads from one peer into `dir`.
    pub(crate) fn get(payload: &Payload, dir: &Path, peer: SocketAddr) -> Self {
        Self::get_with(payload, dir, peer, &[])
    }

    /// As [`get`](Self::get), with more options.
    pub(crate) fn get_with(payload: &Payload, dir: &Path, peer: SocketAddr, more: &[&OsStr]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ropewalk"));
        command.arg("get").arg(payload.torrent()).arg("-o").arg(dir).args(["--peer", &peer.to_string()]);
        Self::start(command.args(more))
    }

    /// `ropewalk seed`: also the port that it listens on.
    pub(crate) fn seed(payload: &Payload, dir: &Path) -> (Self, SocketAddr) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ropewalk"));
        let mut ropewalk = Self::start(command.arg("seed").arg(payload.torrent()).arg("--data").arg(dir));
        let port = ropewalk.wait_for("listening")["port"].as_u64().unwrap() as u16;
        ropewalk.wait_for("seeding");
        (ropewalk, SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// Starts it with the options that all have, and few descriptors: as many as most systems give by default.
    fn start(command: &mut Command) -> Self {
        command.args(["--bind", "127.0.0.1", "--port", "0", "--no-tracker", "--no-dht", "--no-lsd", "--json"]);
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 1024; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
        let state = tempfile::tempdir().unwrap();
        // What is hashed is said by a log line.
        let process = Process::start(limited.env("RUST_LOG", "ropewalk=info").env("XDG_STATE_HOME", state.path()));
        Self(process, state)
    }

    /// The next event of this name.
    pub(crate) fn wait_for(&mut self, name: &str) -> Value {
        self.wait_until(name, |event| event["event"] == name)
    }

    /// The next event that `is_it` accepts; `what` is for the message of a failure.
    pub(crate) fn wait_until(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.0.wait_until(what, |line| event(line).filter(&is_it))
    }

    /// The most memory that it had resident so far, in bytes; 0 where the system does not say.
    pub(crate) fn peak_resident(&self) -> u64 {
        self.0.peak_resident()
    }

    /// Kills it with SIGKILL, and gives what it had said.
    pub(crate) fn kill(self) -> Said {
        Said { code: None, said: self.0.kill() }
    }

    /// Stops it as Ctrl-C does.
    pub(crate) fn interrupt(self) -> Said {
        let (status, said) = self.0.interrupt();
        Said { code: status.code(), said }
    }

    /// Waits for its end.
    pub(crate) fn end(self) -> Said {
        let (status, said) = self.0.end();
        Said { code: status.code(), said }
    }
}

/// What a run of ropewalk said.
#[derive(Debug)]
pub(crate) struct Said {
    /// The exit code.
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
}

impl Said {
    /// The events of this name.
    pub(crate) fn events(&self, name: &str) -> Vec<Value> {
        self.said.lines().filter_map(event).filter(|event| event["event"] == name).collect()
    }

    /// How many pieces were hashed at the start.
    pub(crate) fn hashed(&self) -> u32 {
        let count = |line: &str| line.split_once("hashing ")?.1.split(' ').next()?.parse().ok();
        self.said.lines().find_map(count).unwrap_or(0)
    }

    /// The event that ends a run.
    pub(crate) fn summary(&self) -> Value {
        self.events("summary").pop().unwrap_or_else(|| panic!("no summary:\n{}", self.said))
    }

    /// How much was there before anything was fetched.
    pub(crate) fn done_at_first(&self) -> u64 {
        let begun = self.events("progress").into_iter().find(|event| event["state"] == "downloading");
        begun.map_or(0, |event| event["done"].as_u64().unwrap())
    }
}

/// A session that has everything. `up` is its limit in bytes per second.
pub(crate) fn seeder(payload: &Payload, up: Option<u64>) -> (Session, Torrent, SocketAddr) {
    let mut config = Config::default();
    config.dht.enabled = false;
    config.listen.ports = 0..=0;
    config.listen.bind = Some(IpAddr::from([127, 0, 0, 1]).into());
    config.limits.up = up;
    let session = Session::new(config).unwrap();
    let torrent = session.add(payload.metainfo.clone(), AddOptions::new(payload.data())).unwrap();
    assert_eq!(torrent.wait(PATIENCE), State::Seeding);
    let addr = session.listen_addrs()[0];
    (session, torrent, addr)
}

fn event(line: &str) -> Option<Value> {
    serde_json::from_str(line).ok()
}
