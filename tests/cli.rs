//! The command line as a user meets it: the real binary, real files, sockets of 127.0.0.1 on free ports.
//!
//! A process that has to be waited for says so itself: seeders print, as JSON, the port they listen on and that they seed.

#[path = "cli/alone.rs"]
mod alone;
#[path = "cli/blocklists.rs"]
mod blocklists;
#[path = "cli/files.rs"]
mod files;
#[path = "cli/magnets.rs"]
mod magnets;
#[cfg(feature = "redis")]
#[path = "rig/need.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod need;
#[cfg(feature = "redis")]
#[path = "cli/redis.rs"]
mod redis;
#[path = "cli/share.rs"]
mod share;
#[path = "cli/swarms.rs"]
mod swarms;
#[path = "cli/tracker.rs"]
mod tracker;
#[path = "cli/transfers.rs"]
mod transfers;

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use ropewalk::hash::Backend;
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;
use tempfile::TempDir;

/// After this a command that should have ended is killed, and its test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where, below the folder of a test, is kept what belongs into the user's own folder for state.
const STATE: &str = ".state";

/// `ropewalk` in a folder, without what the developer's own shell may have set.
fn ropewalk(folder: &Path, args: &[&str]) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::cargo_bin("ropewalk").unwrap();
    command.current_dir(folder).args(args).args(to_itself(args)).timeout(PATIENCE);
    command.env("XDG_STATE_HOME", folder.join(STATE)).env_remove("RUST_LOG").env_remove("ROPEWALK_HASH");
    command.env("ROPEWALK_DHT", "off");
    command
}

/// What keeps a command from telling the neighbours of this machine what it does.
fn to_itself(args: &[&str]) -> &'static [&'static str] {
    if matches!(args.first(), Some(&"get" | &"seed" | &"share")) { &["--no-lsd"] } else { &[] }
}

/// As [`ropewalk`], run to its end with the exit code `code`; gives stdout and stderr.
#[track_caller]
fn run(folder: &Path, args: &[&str], code: i32) -> (String, String) {
    let output = ropewalk(folder, args).output().unwrap();
    said(&output, code)
}

#[track_caller]
fn said(output: &Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout:\n{out}\nstderr:\n{err}");
    (out, err)
}

/// As [`run`], for an error: it is said on stderr, in a line that begins with `error: ` and holds `part`.
#[track_caller]
fn fails(folder: &Path, args: &[&str], code: i32, part: &str) {
    let (out, err) = run(folder, args, code);
    let line = err.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("no error in:\n{err}"));
    assert!(line.contains(part), "{part} is not in: {line}");
    assert!(!err.contains("os error") && !err.contains("panicked"), "{err}");
    assert_eq!(out, "", "an error belongs to stderr");
}

/// The objects of lines of JSON.
#[track_caller]
fn events(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[track_caller]
fn event<'a>(events: &'a [Value], name: &str) -> &'a Value {
    events.iter().find(|event| event["event"] == name).unwrap_or_else(|| panic!("no {name} in {events:#?}"))
}

/// A folder with `album` (three files, an empty one and a hidden one) and `album.torrent`.
fn album() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("album/cd")).unwrap();
    for (path, bytes) in [("cd/one.flac", noise(3_000_000)), ("two.flac", noise(700_001)), ("tiny.jpg", noise(3))] {
        fs::write(folder.path().join("album").join(path), bytes).unwrap();
    }
    fs::write(folder.path().join("album/empty"), "").unwrap();
    fs::write(folder.path().join("album/.hidden"), "x").unwrap();
    run(folder.path(), &["create", "album"], 0);
    folder
}

fn noise(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

/// A running `ropewalk` whose events are read. Killed when dropped.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(folder: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("ropewalk"));
        command
            .current_dir(folder)
            .args(args)
            .args(to_itself(args))
            .arg("--json")
            .env("XDG_STATE_HOME", folder.join(STATE))
            .env_remove("RUST_LOG")
            .env_remove("ROPEWALK_HASH")
            .env("ROPEWALK_DHT", "off");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Seeds the folder's `album`, on a free port. Gives `HOST:PORT`.
    fn seeder(folder: &Path, more: &[&str]) -> (Self, String) {
        let mut running =
            Self::start(folder, &[&["seed", "album.torrent", "--bind", "127.0.0.1", "--port", "0"], more].concat());
        let port = running.wait_for(|event| event["event"] == "listening")["port"].clone();
        running.wait_for(|event| event["event"] == "seeding");
        (running, format!("127.0.0.1:{port}"))
    }

    /// Reads events until one fits.
    #[track_caller]
    fn wait_for(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        let events = self.lines.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        events.into_iter().find(fits).expect("the event before the end of the process")
    }

    /// As Ctrl-C does.
    fn interrupt(&self) {
        self.signal(rustix::process::Signal::INT);
    }

    fn hang_up(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// The exit code, and the events that were left.
    fn ended(mut self) -> (Option<i32>, Vec<Value>) {
        let rest = self.lines.by_ref().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A terminal of so many columns and rows: the side that reads what is said, and the side of the program.
fn terminal((columns, rows): (u16, u16)) -> (fs::File, OwnedFd) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let other = rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY, rustix::fs::Mode::empty()).unwrap();
    tcsetwinsize(&other, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    (terminal.into(), other)
}

/// What a command says, from its start to its end, to the terminal of which it has the other side.
fn said_to(mut terminal: fs::File, mut command: Command) -> String {
    let mut child = command.spawn().unwrap();
    // It keeps a copy of the other side, and reading ends only when nobody has one.
    drop(command);
    let (mut said, mut chunk) = (Vec::new(), [0; 4096]);
    // The end of the other side is an error on Linux.
    while let Ok(n @ 1..) = terminal.read(&mut chunk) {
        said.extend_from_slice(&chunk[..n]);
    }
    child.wait().unwrap();
    String::from_utf8(said).unwrap()
}

/// A web server that answers one request with these bytes. Gives its URL.
fn serve(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x.torrent", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        socket.write_all(&answer).unwrap();
    });
    url
}

#[track_caller]
fn same_album(left: &Path, right: &Path) {
    for path in ["cd/one.flac", "two.flac", "tiny.jpg", "empty"] {
        let read = |folder: &Path| fs::read(folder.join("album").join(path)).unwrap();
        assert!(read(left) == read(right), "{path} differs");
    }
}

#[test]
fn help_has_examples_and_exit_codes_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["get", "seed", "share", "create", "show", "magnet", "verify", "swarm", "dht", "tracker"] {
        let (out, _) = run(folder.path(), &[command, "--help"], 0);
        assert!(out.contains("Examples:") && out.contains("Exit codes:"), "{command}");
        assert!(out.lines().all(|line| line.len() <= 100), "{command}: lines that wrap");
    }
    let (out, _) = run(folder.path(), &["--help"], 0);
    assert!(["get", "share", "demo", "completions", "Exit codes:"].iter().all(|part| out.contains(part)));
    assert!(run(folder.path(), &["--version"], 0).0.starts_with("ropewalk "));
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(folder.path(), &["completions", shell], 0).0.contains("ropewalk"));
    }
}

#[test]
fn wrong_usage_is_code_2() {
    let folder = album();
    for args in [
        &["get"][..],
        &["fly"],
        &["get", "album.torrent", "--seed=maybe"],
        &["get", "album.torrent", "--limit-up", "0"],
        &["get", "album.torrent", "--port", "99999"],
        &["get", "album.torrent", "--peer", "no-port"],
        &["get", "album.torrent", "--bind", "no/interface"],
        &["get", "album.torrent", "--files", "0"],
        &["get", "album.torrent", "--files", "*.mp3"],
        &["get", "album.torrent", "--files", "5"],
        &["get", "album.torrent", "album.torrent", "--peer", "127.0.0.1:9", "--port", "0", "-o", "out"],
        &["create", "album", "--piece-length", "300K"],
        &["create", "album", "--tracker", "nonsense"],
    ] {
        let (_, err) = run(folder.path(), args, 2);
        assert!(err.starts_with("error: "), "{args:?}: {err}");
    }
    fails(folder.path(), &["get", "album.torrent", "-o", "-", "--seed"], 2, "-o -");
    fails(
        folder.path(),
        &["get", "album.torrent", "--bind", "127.0.0.1", "--peer", "[::1]:9"],
        2,
        "has no IPv4 address",
    );
    let gone = ["get", "album.torrent", "-o", "out", "--bind", "no-such-if", "--peer", "127.0.0.1:9"];
    fails(folder.path(), &gone, 1, "there is no network interface no-such-if");
    fails(folder.path(), &["demo", "--size", "0"], 2, "--size");
    assert!(!folder.path().join("out").exists(), "nothing is made");
}

#[test]
fn the_demo_verifies_and_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let output =
        ropewalk(temporary.path(), &["demo", "--size", "8MiB"]).env("TMPDIR", temporary.path()).output().unwrap();
    let (out, err) = said(&output, 0);
    assert!(out.contains("every byte is right") && err.is_empty(), "{out}\n{err}");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn a_demo_that_does_not_fit_fails_before_it_writes() {
    let temporary = tempfile::tempdir().unwrap();
    let output =
        ropewalk(temporary.path(), &["demo", "--size", "8000TiB"]).env("TMPDIR", temporary.path()).output().unwrap();
    let (_, err) = said(&output, 5);
    assert!(err.contains("--size") && err.contains("free"), "{err}");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn the_version_says_how_it_hashes_and_was_built() {
    let folder = tempfile::tempdir().unwrap();
    let (short, _) = run(folder.path(), &["--version"], 0);
    assert_eq!(short, format!("ropewalk {}\n", env!("CARGO_PKG_VERSION")));
    for args in [["--version", "--verbose"], ["-v", "--version"], ["-vV", "-v"]] {
        let (long, _) = run(folder.path(), &args, 0);
        let cores = std::thread::available_parallelism().unwrap();
        for part in [short.as_str(), &Backend::best().to_string(), &format!("workers    {cores},"), "build ", "(crate)"]
        {
            assert!(long.contains(part), "{part} is not in {long}");
        }
    }
}

#[test]
fn whatever_way_to_hash_is_asked_for_makes_checks_and_fetches_the_same() {
    let folder = album();
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let hash = |word: &str, args: &[&str]| {
        let output = ropewalk(folder.path(), args).env("ROPEWALK_HASH", word).output().unwrap();
        let code = if word.parse().is_ok_and(Backend::is_available) { 0 } else { 2 };
        (code == 0, said(&output, code))
    };
    run(folder.path(), &["create", "album", "-o", "expected", "--no-date"], 0);
    for word in ["crate", "avx2", "avx512", "sse2"] {
        let (made, copy) = (format!("{word}.torrent"), format!("out-{word}"));
        let (here, (_, err)) = hash(word, &["create", "album", "-o", &made, "--no-date"]);
        let (_, (verdicts, _)) = hash(word, &["verify", "album.torrent"]);
        hash(word, &["get", "album.torrent", "-o", &copy, "--peer", &addr, "--port", "0"]);
        let (_, (version, _)) = hash(word, &["--version", "-v"]);
        if here {
            assert!(fs::read(folder.path().join(made)).unwrap() == fs::read(folder.path().join("expected")).unwrap());
            assert!(verdicts.contains("right: 4 files"), "{verdicts}");
            same_album(folder.path(), &folder.path().join(copy));
            let way = word.parse::<Backend>().unwrap();
            assert!(version.contains(&format!("hashing    {way} ({word})")), "{version}");
        } else {
            assert!(err.contains("ROPEWALK_HASH") && err.contains(word) && err.contains("unset it"), "{err}");
            assert!(!folder.path().join(made).exists());
        }
    }
}

#[test]
fn a_full_disk_behind_stdout_is_code_5_and_says_so() {
    let folder = album();
    for args in [
        &["show", "album.torrent"][..],
        &["verify", "album.torrent"],
        &["verify", "album.torrent", "--json"],
        &["create", "album", "-o", "-"],
        &["share", "album", "--no-tracker", "--bind", "127.0.0.1", "--port", "0"],
        &["create", "album", "-o", "new", "-f", "--json"],
        &["get", "album.torrent", "--json"],
        &["completions", "bash"],
        &["--version", "-v"],
    ] {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("ropewalk"));
        command
            .current_dir(folder.path())
            .args(args)
            .args(to_itself(args))
            .env("XDG_STATE_HOME", folder.path().join(STATE));
        command.env_remove("RUST_LOG").env_remove("ROPEWALK_HASH");
        command.env("ROPEWALK_DHT", "off");
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = command.stdout(full).stderr(Stdio::piped()).output().unwrap();
        let (_, err) = said(&output, 5);
        assert!(err.contains("cannot write to stdout: no space left on device"), "{args:?}: {err}");
    }
}
