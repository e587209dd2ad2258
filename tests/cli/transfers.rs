//! `get` and `seed`: content from one folder to another.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use super::{Running, STATE, album, event, events, fails, noise, ropewalk, run, said, same_album};

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
fn a_seeder_whom_nobody_asks_says_so_once() {
    let folder = album();
    // Long enough for two lines.
    let (_, err) = run(folder.path(), &["seed", "album.torrent", "--port", "0", "--until", "12s"], 0);
    assert_eq!(err.matches("0 peers").count(), 1, "{err}");
}

#[test]
fn a_folder_that_cannot_be_one_is_code_5() {
    let folder = album();
    let get = ["get", "album.torrent", "-o", "album.torrent", "--peer", "127.0.0.1:9", "--port", "0"];
    fails(folder.path(), &get, 5, "is not a plain folder");
}

#[test]
fn a_second_download_into_the_same_folder_is_code_5_and_leaves_the_first_alone() {
    let folder = album();
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let get = ["get", "album.torrent", "-o", "out", "--peer", &addr, "--port", "0"];
    let mut first = Running::start(folder.path(), &[&get[..], &["--seed"]].concat());
    first.wait_for(|event| event["event"] == "seeding");
    fails(folder.path(), &get, 5, "another ropewalk is at work on this torrent here");
    // Nor is somebody looked for who has the metadata of a link.
    let (magnet, _) = run(folder.path(), &["magnet", "album.torrent"], 0);
    let link = ["get", magnet.trim(), "-o", "out", "--peer", "127.0.0.1:9", "--port", "0"];
    fails(folder.path(), &link, 5, "another ropewalk is at work on this torrent here");
    first.interrupt();
    let (code, events) = first.ended();
    assert_eq!((code, &event(&events, "summary")["result"]), (Some(0), &"done".into()));
    let (out, _) = run(folder.path(), &get, 0);
    assert!(out.contains("complete already"), "{out}");
    same_album(folder.path(), &folder.path().join("out"));
}

#[test]
fn two_torrents_that_have_the_same_file_are_not_both_done() {
    let folder = album();
    let path = folder.path();
    run(path, &["create", "album", "-o", "coarser.torrent", "--piece-length", "64K"], 0);
    let (_seeder, addr) = Running::seeder(path, &["--limit-up", "1MB"]);
    // Nobody has the second one, should it be quicker to open.
    let get =
        ["get", "album.torrent", "coarser.torrent", "-o", "out", "--peer", &addr, "--port", "0", "--timeout", "3s"];
    let (out, err) = run(path, &get, 5);
    assert!(out.matches("done: out/album (").count() <= 1, "{out}");
    assert!(err.contains("is a file of another torrent, too") && err.contains("different folders"), "{err}");
}

#[test]
fn bytes_are_not_written_to_a_terminal() {
    let folder = album();
    let said = super::share::on_a_terminal(
        folder.path(),
        (100, 24),
        &["get", "album.torrent", "-o", "-", "--peer", "127.0.0.1:9"],
    );
    assert!(said.contains("pipe them into a program"), "{said}");
}

#[test]
fn a_seeder_says_that_its_tracker_does_not_answer() {
    let folder = album();
    let path = folder.path();
    let create = ["create", "album", "-o", "told.torrent", "--tracker", "http://127.0.0.1:9/announce"];
    run(path, &create, 0);
    let (_, err) = run(path, &["seed", "told.torrent", "--port", "0", "--until", "7s"], 0);
    assert!(err.contains("0 peers 0 B sent 127.0.0.1:9: cannot reach the tracker"), "{err}");
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

#[test]
fn a_trace_takes_the_place_of_an_earlier_one_and_of_nothing_else() {
    let folder = album();
    let (_seeder, addr) = Running::seeder(folder.path(), &[]);
    let get = |trace| ["get", "album.torrent", "-o", "copy", "--peer", addr.as_str(), "--port", "0", "--trace", trace];
    fails(folder.path(), &get("album.torrent"), 5, "album.torrent is there and is no trace");
    fails(folder.path(), &get("-"), 2, "--trace");
    for _ in 0..2 {
        run(folder.path(), &get("trace.html"), 0);
    }
}
