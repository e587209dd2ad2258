//! The command line as a user meets it: the real binary, real files, sockets of 127.0.0.1 on free ports.
//!
//! A process that has to be waited for says so itself: seeders print, as JSON, the port they listen on and that they seed.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use ropewalk::hash::Backend;
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
    if matches!(args.first(), Some(&"get" | &"seed")) { &["--no-lsd"] } else { &[] }
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
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
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
    for command in ["get", "seed", "create", "show", "magnet", "verify", "swarm", "dht"] {
        let (out, _) = run(folder.path(), &[command, "--help"], 0);
        assert!(out.contains("Examples:") && out.contains("Exit codes:"), "{command}");
        assert!(out.lines().all(|line| line.len() <= 100), "{command}: lines that wrap");
    }
    let (out, _) = run(folder.path(), &["--help"], 0);
    assert!(["get", "demo", "completions", "Exit codes:"].iter().all(|part| out.contains(part)));
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
fn names_cannot_drive_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("odd")).unwrap();
    fs::write(folder.path().join("odd/a\x1b[31m"), "x").unwrap();
    let (_, err) = run(folder.path(), &["create", "odd"], 6);
    assert!(err.contains("rename it") && !err.contains('\x1b'), "{err}");
}

#[test]
fn what_is_not_a_torrent_is_code_6() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x.torrent"), "<html>").unwrap();
    for command in ["get", "seed", "show", "verify"] {
        fails(folder.path(), &[command, "x.torrent"], 6, "not a .torrent file");
        fails(folder.path(), &[command, "absent.torrent"], 6, "there is no such file");
        fails(folder.path(), &[command, "."], 6, "is a directory");
        fails(folder.path(), &[command, "magnet:?xt=urn:btih:00"], 6, "`00` is no info-hash");
        fails(folder.path(), &[command, "ftp://example.org/x.torrent"], 6, "ftp: URLs cannot be fetched");
    }
    let (out, err) = run(folder.path(), &["get", "x.torrent", "--json"], 6);
    let events = events(&out);
    assert_eq!((event(&events, "error")["code"].clone(), err.is_empty()), (6.into(), false));
}

#[test]
fn a_torrent_is_fetched_from_a_web_server() {
    let folder = album();
    let torrent = fs::read(folder.path().join("album.torrent")).unwrap();
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", torrent.len()).into_bytes();
    answer.extend(torrent);
    let (out, _) = run(folder.path(), &["show", &serve(answer)], 0);
    assert_eq!(out, run(folder.path(), &["show", "album.torrent"], 0).0);

    let absent = serve(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec());
    fails(folder.path(), &["get", &absent], 6, "404 Not Found; check the URL");
    let page = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>".to_vec());
    fails(folder.path(), &["get", &page], 6, "is not a .torrent file");
    let nobody = format!("http://{}/x", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    fails(folder.path(), &["get", &nobody], 6, "onnection refused");
}

#[test]
fn create_and_show_agree() {
    let folder = album();
    let path = folder.path();
    let trackers = ["-t", "http://a.example/x,http://b.example/x", "-t", "udp://c.example:1"];
    let more = ["-o", "b.torrent", "-l", "32K", "-p", "-c", "line\x1bone", "-w", "http://web.example/", "--json"];
    let (out, _) = run(path, &[&["create", "album"], &trackers[..], &more[..]].concat(), 0);
    let events = events(&out);
    let created = event(&events, "created");
    assert_eq!(created["left_out"], serde_json::json!([".hidden"]));

    let shown: Value = serde_json::from_str(&run(path, &["show", "b.torrent", "--json"], 0).0).unwrap();
    assert_eq!(shown["info_hash"], created["info_hash"]);
    assert_eq!(
        shown["trackers"],
        serde_json::json!([["http://a.example/x", "http://b.example/x"], ["udp://c.example:1"]])
    );
    assert_eq!((shown["private"].clone(), shown["piece_length"].clone()), (true.into(), 32768.into()));
    assert_eq!(shown["web_seeds"], serde_json::json!(["http://web.example/"]));
    assert_eq!(shown["files"][0]["path"], "album/cd/one.flac");
    assert_eq!(shown["size"], 3_700_004);

    let (out, _) = run(path, &["show", "b.torrent"], 0);
    assert!(out.contains(shown["info_hash"].as_str().unwrap()) && out.contains("album/two.flac"));
    assert!(!out.contains('\x1b'), "a comment cannot drive the terminal");
}

#[test]
fn create_is_the_same_every_time_and_replaces_nothing_unasked() {
    let folder = album();
    let path = folder.path();
    fails(path, &["create", "album"], 1, "--force");
    run(path, &["create", "album", "--force", "--no-date"], 0);
    let first = fs::read(path.join("album.torrent")).unwrap();
    run(path, &["create", "album/../album/", "-o", "again.torrent", "--no-date", "-q"], 0);
    assert!(first == fs::read(path.join("again.torrent")).unwrap());
    let output = ropewalk(path, &["create", "album", "-o", "-", "--no-date"]).output().unwrap();
    assert!(first == output.stdout && output.status.success());

    fails(path, &["create", "absent"], 6, "absent");
    fails(path, &["create", "album/empty"], 6, "no content");
    fails(path, &["create", "album", "-o", "no/such/folder.torrent"], 5, "there is no folder no/such");
    let left: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn verify_says_which_file_is_wrong_and_how() {
    let folder = album();
    let path = folder.path();
    let (out, _) = run(path, &["verify", "album.torrent"], 0);
    assert!(out.lines().last().unwrap().starts_with("right: 4 files"), "{out}");
    assert_eq!(run(path, &["verify", "album.torrent", "-q"], 0), Default::default());

    let one = path.join("album/cd/one.flac");
    let mut bytes = fs::read(&one).unwrap();
    bytes[1_000_000] ^= 1;
    fs::write(&one, bytes).unwrap();
    fs::remove_file(path.join("album/tiny.jpg")).unwrap();
    fs::write(path.join("album/empty"), "not").unwrap();
    let (out, err) = run(path, &["verify", "album.torrent"], 7);
    assert!(err.starts_with("error: ") && err.contains("ropewalk get"), "{err}");
    assert!(out.contains("missing    album/tiny.jpg") && out.contains("too long   album/empty"), "{out}");

    let events = events(&run(path, &["verify", "album.torrent", "--json"], 7).0);
    let verdicts: Vec<_> =
        events.iter().filter(|event| event["event"] == "file").map(|file| &file["verdict"]).collect();
    assert_eq!(verdicts[..3], ["wrong", "too-long", "missing"]);
    assert_eq!(event(&events, "summary")["right"], false);
    assert_eq!(event(&events, "file")["path"], "album/cd/one.flac", "as `show` prints it");

    fails(path, &["verify", "album.torrent", "-d", "absent"], 7, "there is no folder absent");
}

#[test]
fn seeding_what_is_not_there_names_the_files() {
    let folder = album();
    let path = folder.path();
    fs::remove_file(path.join("album/two.flac")).unwrap();
    fails(path, &["seed", "album.torrent"], 7, "1 of the 4 files");
    let (_, err) = run(path, &["seed", "album.torrent"], 7);
    assert!(err.contains("album/two.flac"), "{err}");
    // The right length, the wrong bytes.
    fs::write(path.join("album/two.flac"), vec![0; 700_001]).unwrap();
    let (_, err) = run(path, &["seed", "album.torrent", "--port", "0", "--bind", "127.0.0.1"], 7);
    assert!(err.contains("album/two.flac") && err.contains("ropewalk get"), "{err}");
    fails(path, &["seed", "album.torrent", "-d", "album"], 7, "one above this");
    assert!(!path.join(".ropewalk").exists(), "seeding writes nothing");
}

#[test]
fn get_fetches_from_seed_and_a_second_run_has_nothing_to_do() {
    let folder = album();
    let (seeder, addr) = Running::seeder(folder.path(), &[]);
    let get = ["get", "album.torrent", "-o", "out", "--peer", &addr, "--port", "0"];
    let (out, _) = run(folder.path(), &get, 0);
    assert!(out.starts_with("done: out/album ("), "{out}");
    same_album(folder.path(), &folder.path().join("out"));
    seeder.interrupt();
    let (code, events) = seeder.ended();
    assert_eq!(code, Some(0), "ending a seeder is not an error");
    assert!(event(&events, "summary")["uploaded"].as_u64().unwrap() >= 3_700_004);

    // Without the seeder, and without any source.
    let (out, _) = run(folder.path(), &["get", "album.torrent", "-o", "out"], 0);
    assert!(out.contains("complete already"), "{out}");
    fs::remove_dir_all(folder.path().join("out/.ropewalk")).unwrap();
    let (out, _) = run(folder.path(), &["get", "album.torrent", "-o", "out"], 0);
    assert!(out.contains("every byte checked"), "{out}");
}

#[test]
fn json_tells_a_download_from_begin_to_end() {
    let folder = album();
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let get = ["get", "album.torrent", "-o", "out", "--peer", &addr, "--port", "0", "--json"];
    let events = events(&run(folder.path(), &get, 0).0);
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names[..2], ["listening", "added"]);
    assert_eq!(names[names.len() - 2..], ["finished", "summary"]);
    assert_eq!(names.iter().filter(|&&name| name == "file").count(), 4 - 1, "an empty file has no piece to wait for");
    let summary = event(&events, "summary");
    assert_eq!((summary["result"].clone(), summary["code"].clone()), ("done".into(), 0.into()));
    assert_eq!((summary["done"].clone(), summary["wanted"].clone()), (3_700_004.into(), 3_700_004.into()));
    assert!(event(&events, "progress")["state"].is_string());
    // Paths are those in the torrent, as `show` prints them, below the folder.
    assert!(event(&events, "file")["path"].as_str().unwrap().starts_with("album/"));
    assert_eq!((event(&events, "added")["folder"].clone(), summary["folder"].clone()), ("out".into(), "out".into()));
}

#[test]
fn explain_says_where_the_time_went_in_words_and_in_numbers() {
    let folder = album();
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let get = ["get", "album.torrent", "--peer", &addr, "--port", "0", "--limit-down", "1MB", "--explain", "-o"];
    let (out, _) = run(folder.path(), &[&get[..], &["out"]].concat(), 0);
    for part in ["done: out/album (", "where the time went, ", "held by the download limit", "raise it", &addr] {
        assert!(out.contains(part), "no {part} in:\n{out}");
    }
    let events = events(&run(folder.path(), &[&get[..], &["again", "--json"]].concat(), 0).0);
    let explanation = &event(&events, "summary")["explanation"];
    let limit = explanation["connections"]["limit"].as_f64().unwrap();
    assert!(limit > 1.0 && explanation["seconds"].as_f64().unwrap() >= limit, "{explanation:#}");
    assert_eq!(explanation["peers"][0]["address"], addr.as_str());
    assert_eq!(explanation["peers"][0]["connection"]["limit"], explanation["connections"]["limit"]);

    // Where there is nobody, that is said; and what goes to stdout stays what was asked for.
    let nobody = ["get", "album.torrent", "--peer", "127.0.0.1:1", "--timeout", "1s", "--explain", "-o", "-"];
    let (out, err) = run(folder.path(), &nobody, 4);
    assert!(out.is_empty() && err.contains("no peer was connected"), "{err}");
}

#[test]
fn only_the_files_that_are_asked_for_are_made() {
    let folder = album();
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let get = ["get", "album.torrent", "-o", "out", "--peer", &addr, "--port", "0", "--files", "3,*two*"];
    run(folder.path(), &get, 0);
    let made = |path: &str| folder.path().join("out/album").join(path).exists();
    assert!(made("tiny.jpg") && made("two.flac") && !made("cd/one.flac") && !made("empty"));
}

#[test]
fn stdout_gets_the_bytes_in_order_and_nothing_else() {
    let folder = album();
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let temporary = tempfile::tempdir().unwrap();
    let get = |more: &[&str]| {
        let args = [&["get", "album.torrent", "-o", "-", "--peer", &addr, "--port", "0"], more].concat();
        let output = ropewalk(folder.path(), &args).env("TMPDIR", temporary.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let file = |path: &str| fs::read(folder.path().join("album").join(path)).unwrap();
    assert!(get(&[]) == [file("cd/one.flac"), file("tiny.jpg"), file("two.flac")].concat());
    assert!(get(&["--files", "two.flac"]) == file("two.flac"));
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "the temporary folder is gone");
}

#[test]
fn a_reader_that_has_had_enough_ends_it_quietly() {
    let folder = album();
    let (_seeder, addr) = Running::seeder(folder.path(), &["--limit-up", "1MiB"]);
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("ropewalk"));
    command.current_dir(folder.path()).args(["get", "album.torrent", "-o", "-", "--peer", &addr, "--port", "0"]);
    command.arg("--no-lsd");
    command.env("XDG_STATE_HOME", folder.path().join(STATE));
    command.env("ROPEWALK_DHT", "off");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(said(&output, 0), Default::default());
    assert_eq!(first, noise(3_000_000)[..10]);
}

#[test]
fn a_download_that_was_stopped_goes_on_where_it_was() {
    let folder = album();
    let get = |addr: &str| ["get", "album.torrent", "-o", "out", "--peer", addr, "--port", "0"].map(String::from);
    let args = |all: &[String; 8]| all.clone();
    let (slow, addr) = Running::seeder(folder.path(), &["--limit-up", "700KB"]);
    let all = args(&get(&addr));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut running = Running::start(folder.path(), &all);
    running.wait_for(|event| event["event"] == "progress" && event["done"].as_u64().unwrap() > 500_000);
    running.interrupt();
    let (code, events) = running.ended();
    assert_eq!(code, Some(3));
    let summary = event(&events, "summary");
    assert_eq!(summary["result"], "stopped");
    let before = summary["done"].as_u64().unwrap();
    assert!((500_000..3_700_004).contains(&before), "{before}");
    drop(slow);

    let (_fast, addr) = Running::seeder(folder.path(), &[]);
    let all = args(&get(&addr));
    let all: Vec<&str> = all.iter().map(String::as_str).chain(["--json"]).collect();
    let events = self::events(&run(folder.path(), &all, 0).0);
    let fetched = event(&events, "summary")["downloaded"].as_u64().unwrap();
    assert!(fetched <= 3_700_004 - before, "{fetched} bytes fetched again, {before} were there");
    same_album(folder.path(), &folder.path().join("out"));
}

#[test]
fn seeding_ends_at_its_ratio() {
    let folder = album();
    let (seeder, addr) = Running::seeder(folder.path(), &["--until", "1"]);
    let get = ["get", "album.torrent", "-o", "out", "--peer", &addr, "--port", "0"];
    run(folder.path(), &get, 0);
    let (code, events) = seeder.ended();
    assert_eq!(code, Some(0));
    assert!(event(&events, "summary")["uploaded"].as_u64().unwrap() >= 3_700_004);
}

#[test]
fn nothing_to_connect_to_is_code_4_and_makes_nothing() {
    let folder = album();
    fails(folder.path(), &["get", "album.torrent", "-o", "out"], 4, "--peer");
    assert!(!folder.path().join("out").exists());
    // Reserved, and nobody listens.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let get = ["get", "album.torrent", "-o", "out", "--peer", &silent, "--port", "0", "--timeout", "1s"];
    fails(folder.path(), &get, 4, "no peer for 1.0 s (1 address known");
}

#[test]
fn a_folder_that_cannot_be_one_is_code_5() {
    let folder = album();
    let get = ["get", "album.torrent", "-o", "album.torrent", "--peer", "127.0.0.1:9", "--port", "0"];
    fails(folder.path(), &get, 5, "is not a plain folder");
}

#[test]
fn seed_after_get_may_stand_before_the_source() {
    let folder = album();
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let mut second = Running::start(
        folder.path(),
        &["get", "--seed", "album.torrent", "-o", "out", "--peer", &addr, "--port", "0", "--bind", "127.0.0.1"],
    );
    let port = second.wait_for(|event| event["event"] == "listening")["port"].clone();
    second.wait_for(|event| event["event"] == "seeding");
    let get = ["get", "album.torrent", "-o", "third", "--peer", &format!("127.0.0.1:{port}"), "--port", "0"];
    run(folder.path(), &get, 0);
    same_album(folder.path(), &folder.path().join("third"));
    second.interrupt();
    assert_eq!(second.ended().0, Some(0));
}

#[test]
fn a_swarm_is_looked_at_and_nothing_is_made() {
    let folder = album();
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let empty = tempfile::tempdir().unwrap();
    let torrent = folder.path().join("album.torrent").display().to_string();
    let args = |more: &[&str]| {
        [&["swarm", &torrent, "--bind", "127.0.0.1", "--port", "0", "--time", "1s"], more].concat().join(" ")
    };
    let swarm = |more: &[&str], code| {
        let args = args(more);
        run(empty.path(), &args.split(' ').collect::<Vec<_>>(), code)
    };
    let (out, _) = swarm(&["--peer", &addr, "--json"], 0);
    let [seen] = events(&out).try_into().unwrap();
    assert_eq!(seen["peers"]["seen"], 1);
    assert_eq!((&seen["peers"]["seeds"], &seen["peers"]["leechers"]), (&1.into(), &0.into()));
    assert_eq!(seen["sources"]["manual"]["seen"], 1);
    assert_eq!(seen["transports"].as_object().unwrap().values().collect::<Vec<_>>(), [1]);
    assert_eq!(seen["availability"]["copies"], 1.0);
    assert_eq!(seen["availability"]["histogram"][0]["pieces"], seen["pieces"]);
    assert_eq!(seen["list"][0]["address"], addr);
    assert!(seen["clients"].as_object().unwrap().keys().all(|client| client.starts_with("ropewalk ")));
    let (out, _) = swarm(&["--peer", &addr], 0);
    assert!(out.contains("1 seed, 0 leechers") && out.contains("ropewalk "), "{out}");

    // By its magnet link alone, the metadata comes from the peer.
    let (link, _) = run(folder.path(), &["magnet", "album.torrent"], 0);
    let (port, bind) = (["--port", "0"], ["--bind", "127.0.0.1"]);
    let magnet = [&["swarm", link.trim(), "--time", "3s", "--peer", &addr, "--json"], &port[..], &bind].concat();
    let [by_link] = events(&run(empty.path(), &magnet, 0).0).try_into().unwrap();
    assert_eq!((&by_link["pieces"], &by_link["availability"]), (&seen["pieces"], &seen["availability"]));
    assert_eq!(by_link["peers"]["seeds"], 1);

    // Nobody is there, which is told as well.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (out, _) = swarm(&["--peer", &nobody, "--json"], 4);
    assert_eq!(events(&out)[0]["peers"]["seen"], 0);
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
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
fn without_peers_it_says_why() {
    let folder = album();
    for (answer, why) in [
        (&b"d8:intervali1800e5:peers0:e"[..], "(the tracker knows nobody else)"),
        (b"d14:failure reason12:unregisterede", "unregistered"),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
        let tracker = serve([head.as_bytes(), answer].concat());
        run(folder.path(), &["create", "album", "-o", "tracked", "-f", "-t", &tracker], 0);
        let get = ["get", "tracked", "-o", "out", "--port", "0", "--timeout", "3s", "--bind", "127.0.0.1"];
        fails(folder.path(), &get, 4, why);
    }
}

#[test]
fn a_torrent_is_read_from_stdin() {
    let folder = album();
    let torrent = fs::read(folder.path().join("album.torrent")).unwrap();
    let output = ropewalk(folder.path(), &["show", "-"]).write_stdin(torrent).output().unwrap();
    assert_eq!(said(&output, 0), run(folder.path(), &["show", "album.torrent"], 0));
    let output = ropewalk(folder.path(), &["verify", "-"]).write_stdin("<html>").output().unwrap();
    assert!(said(&output, 6).1.contains("what came from stdin is not a .torrent file"));
}

#[test]
fn a_full_disk_behind_stdout_is_code_5_and_says_so() {
    let folder = album();
    for args in [
        &["show", "album.torrent"][..],
        &["verify", "album.torrent"],
        &["verify", "album.torrent", "--json"],
        &["create", "album", "-o", "-"],
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

#[test]
fn whom_a_blocklist_names_in_whatever_form_is_neither_dialled_nor_let_in() {
    let folder = album();
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let gzip = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let lists = [
        ("list.p2p", b"This machine:127.0.0.0-127.0.0.255\n".to_vec()),
        ("list.dat", b"# eMule\n127.000.000.000 - 127.000.000.255 , 100 , this machine\n".to_vec()),
        ("list.txt", b"10.0.0.0/8\n127.0.0.1\nnonsense\n2001:db8::/32\n".to_vec()),
        ("list.gz", gzip("This machine:127.0.0.1-127.0.0.1\n")),
    ];
    for (name, bytes) in &lists {
        fs::write(folder.path().join(name), bytes).unwrap();
        let get = ["get", "album.torrent", "-o", "out", "--peer", &addr, "--port", "0", "--json", "--timeout", "100ms"];
        let (out, err) = run(folder.path(), &[&get[..], &["--blocklist", "list.p2p", "--blocklist", name]].concat(), 4);
        let events = events(&out);
        assert_eq!(event(&events, "summary")["refused"]["blocked"], 1, "{name}: {out}");
        let told = events.iter().rfind(|event| event["event"] == "blocklist").unwrap();
        let (ranges, bad) = if *name == "list.txt" { (3, 1) } else { (1, 0) };
        assert_eq!(
            (&told["list"], &told["ranges"], &told["bad_lines"]),
            (&(*name).into(), &ranges.into(), &bad.into())
        );
        assert_eq!(err.contains("1 line is no range and passed over, first line 3: nonsense"), bad == 1, "{err}");
    }

    let (mut blocking, addr) = Running::seeder(folder.path(), &["--blocklist", "list.dat"]);
    // Long enough for the statistics to be looked at again.
    let get = ["get", "album.torrent", "-o", "out", "--peer", &addr, "--port", "0", "--timeout", "1s"];
    run(folder.path(), &get, 4);
    blocking.interrupt();
    let summary = blocking.wait_for(|event| event["event"] == "summary");
    assert!(summary["refused"]["blocked_callers"].as_u64().unwrap() > 0, "{summary}");
}

#[test]
fn a_blocklist_may_be_fetched_and_one_that_lets_pass_changes_nothing() {
    let folder = album();
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let list = "1.2.3.0/24\n127.0.0.0 - 127.0.0.255 , 200 , trusted\n";
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{list}", list.len());
    let url = serve(answer.into_bytes());
    let get = ["get", "album.torrent", "-o", "out", "--peer", &addr, "--port", "0", "--blocklist", &url];
    run(folder.path(), &get, 0);
}

#[test]
fn a_blocklist_that_cannot_be_read_ends_the_command_before_anything_is_made() {
    let folder = album();
    fs::write(folder.path().join("page.html"), "<html>\n<body>Not found</body>\n").unwrap();
    fs::write(folder.path().join("list.zip"), b"PK\x03\x04\0\0").unwrap();
    fs::write(folder.path().join("cut.gz"), b"\x1f\x8b\x08\0\0").unwrap();
    let url = serve(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec());
    for (list, part) in [
        ("missing", "cannot read --blocklist missing: there is no such file or folder; check it"),
        (
            "page.html",
            "--blocklist page.html: not a blocklist: none of its 2 lines is a range, the first is \"<html>\"",
        ),
        ("list.zip", "--blocklist list.zip: it is a zip archive; unpack it"),
        ("cut.gz", "cannot read --blocklist cut.gz: "),
        (&url, "the server says 404 Not Found; check the URL"),
    ] {
        let get = ["get", "album.torrent", "-o", "out", "--peer", "127.0.0.1:9", "--port", "0", "--blocklist", list];
        fails(folder.path(), &get, 6, part);
    }
    assert!(!folder.path().join("out").exists());
}

#[test]
fn what_is_remembered_of_peers_is_kept_in_the_folder_for_state_and_told_to_programs() {
    let folder = album();
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let get = ["get", "album.torrent", "-o", "out", "--peer", &addr, "--port", "0", "--json"];
    let (out, _) = run(folder.path(), &get, 0);
    assert!(out.contains("\"finished\""), "{out}");
    let kept = fs::read_to_string(folder.path().join(STATE).join("ropewalk/peers")).unwrap();
    assert!(kept.starts_with("ropewalk peers 1\n") && kept.contains(&format!("{addr} 37")), "{kept}");

    let state = [&get[..3], &["again"], &get[4..], &["--state-dir", "state"]].concat();
    run(folder.path(), &state, 0);
    assert!(folder.path().join("state/peers").exists());
}

/// The album's magnet link.
fn album_link(folder: &Path) -> String {
    run(folder, &["magnet", "album.torrent"], 0).0.trim().to_owned()
}

#[test]
fn magnet_prints_the_link_of_a_torrent_and_show_says_what_is_in_one() {
    let folder = album();
    run(
        folder.path(),
        &["create", "album", "-o", "x", "-f", "-t", "http://127.0.0.1:9/a", "-t", "udp://127.0.0.1:9"],
        0,
    );
    let (link, _) = run(folder.path(), &["magnet", "x"], 0);
    let (shown, _) = run(folder.path(), &["show", link.trim()], 0);
    assert!(shown.contains("album") && shown.contains("http://127.0.0.1:9/a"), "{shown}");
    let json = |args: &[&str]| -> Value { serde_json::from_str(&run(folder.path(), args, 0).0).unwrap() };
    let about = json(&["magnet", "x", "--json"]);
    assert_eq!(about, json(&["show", link.trim(), "--json"]));
    assert_eq!(about["trackers"].as_array().unwrap().len(), 2);
    assert_eq!(about["info_hash"], json(&["show", "x", "--json"])["info_hash"]);
    let short = json(&["magnet", "x", "--no-trackers", "--files", "2", "--peer", "192.0.2.7:6881", "--json"]);
    assert_eq!((&short["trackers"], &short["select"]), (&serde_json::json!([]), &serde_json::json!([[1, 1]])));
    assert!(short["magnet"].as_str().unwrap().ends_with("&x.pe=192.0.2.7:6881&so=1"), "{short}");
    fails(folder.path(), &["magnet", "x", "--files", "99"], 2, "99");
}

#[test]
fn what_needs_the_torrent_says_so_of_a_magnet_link() {
    let folder = album();
    let link = album_link(folder.path());
    for command in ["seed", "verify"] {
        fails(folder.path(), &[command, &link], 6, "needs the .torrent file");
    }
    fails(folder.path(), &["get", "magnet:?xt=urn:btih:123"], 6, "`123` is no info-hash");
    fails(folder.path(), &["get", "magnet:?dn=x"], 6, "names no torrent");
    let v2 = format!("magnet:?xt=urn:btmh:1220{}", "ab".repeat(32));
    fails(folder.path(), &["get", &v2], 6, "v2-only");
}

#[test]
fn get_takes_a_magnet_link_and_a_second_run_needs_nobody() {
    let folder = album();
    let link = album_link(folder.path());
    let (seeder, addr) = Running::seeder(folder.path(), &[]);
    let get = ["get", &link, "-o", "out", "--port", "0", "--bind", "127.0.0.1", "--peer", &addr];
    let (out, err) = run(folder.path(), &get, 0);
    assert!(out.contains("done: out/album"), "{out}");
    assert!(err.contains("looking for its metadata") && err.contains("4 files"), "{err}");
    same_album(folder.path(), &folder.path().join("out"));
    drop(seeder);
    let (out, _) = run(folder.path(), &["get", &link, "-o", "out", "--port", "0", "--bind", "127.0.0.1"], 0);
    assert!(out.contains("complete already"), "{out}");
}

#[test]
fn json_tells_of_the_search_for_metadata_and_files_are_chosen_when_it_is_there() {
    let folder = album();
    let link = album_link(folder.path());
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let common = ["-o", "out", "--port", "0", "--bind", "127.0.0.1", "--peer", &addr];
    let (out, _) = run(folder.path(), &[&["get", &link, "--json", "--files", "1"], &common[..]].concat(), 0);
    let events = events(&out);
    assert_eq!(event(&events, "progress")["state"], "metadata");
    assert!(event(&events, "progress")["metadata"]["tried"].is_number());
    assert_eq!(event(&events, "metadata")["files"], 4);
    assert!(event(&events, "added")["size"].is_null());
    assert_eq!(fs::read_dir(folder.path().join("out/album")).unwrap().count(), 1);
    // What takes no file is an error as soon as there are files, and makes none.
    let missing = ["get", &link, "-o", "none", "--port", "0", "--bind", "127.0.0.1", "--peer", &addr, "--files", "77"];
    let (_, err) = run(folder.path(), &missing, 2);
    assert!(err.contains("77"), "{err}");
    assert!(!folder.path().join("none/album").exists());
}

#[test]
fn a_magnet_link_goes_to_stdout_too() {
    let folder = album();
    let link = album_link(folder.path());
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let get = ["get", &link, "-o", "-", "--port", "0", "--bind", "127.0.0.1", "--peer", &addr, "--files", "1"];
    let whole = ropewalk(folder.path(), &get).output().unwrap();
    let plain =
        ["get", "album.torrent", "-o", "-", "--port", "0", "--bind", "127.0.0.1", "--peer", &addr, "--files", "1"];
    let expected = ropewalk(folder.path(), &plain).output().unwrap();
    assert!(whole.status.success() && whole.stdout == expected.stdout && !whole.stdout.is_empty());
}

#[test]
fn metadata_that_never_comes_is_code_4_with_what_was_tried() {
    let folder = album();
    let link = album_link(folder.path());
    let get = ["get", &link, "-o", "out", "--port", "0", "--bind", "127.0.0.1"];
    fails(folder.path(), &get, 4, "nothing to ask for the metadata");
    assert!(!folder.path().join("out").exists());
    let answer = b"d14:failure reason12:unregisterede";
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
    let tracker = serve([head.as_bytes(), answer].concat());
    let tracked = format!("{link}&tr={tracker}");
    let get = ["get", &tracked, "-o", "out", "--port", "0", "--bind", "127.0.0.1", "--timeout", "1s"];
    let (_, err) = run(folder.path(), &[&get[..], &["--peer", "127.0.0.1:9"]].concat(), 4);
    assert!(err.contains("no metadata for") && err.contains("1 connection tried"), "{err}");
    assert!(err.contains("unregistered"), "{err}");
}

#[test]
fn ctrl_c_ends_a_search_for_metadata() {
    let folder = album();
    let link = album_link(folder.path());
    let get = ["get", &link, "-o", "out", "--port", "0", "--bind", "127.0.0.1", "--peer", "127.0.0.1:9"];
    let mut running = Running::start(folder.path(), &get);
    running.wait_for(|event| event["event"] == "progress");
    running.interrupt();
    let (code, events) = running.ended();
    assert_eq!(code, Some(3));
    assert!(event(&events, "summary")["error"].as_str().unwrap().contains("metadata was looked for"));
}
