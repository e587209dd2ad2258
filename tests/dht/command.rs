//! `ropewalk dht` as a person uses it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{LOCAL, node};
use crate::rig::process::Process;

/// Runs `ropewalk dht` to its end: exit code and what it said.
fn run(folder: &Path, node: &str, args: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ropewalk"));
    command.current_dir(folder).env_remove("RUST_LOG").arg("dht").args(args);
    command.args(["--bind", "127.0.0.1", "--node", node]);
    let (status, said) = Process::start(&mut command).end();
    (status.code().unwrap(), said)
}

fn events(said: &str, name: &str) -> Vec<Value> {
    let events = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["event"] == name).collect()
}

#[test]
fn what_was_put_is_got_and_what_was_announced_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (_first, first) = node(LOCAL, &[]);
    let (_second, _) = node(LOCAL, &[first]);
    let first = first.to_string();
    let ask = |args: &[&str]| run(folder.path(), &first, args);

    let (code, said) = ask(&["put", "hello"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("e28910ea0adb94dd45ced75fbff3e135c01bc437"), "{said}");
    let (code, said) = ask(&["get", "e28910ea0adb94dd45ced75fbff3e135c01bc437"]);
    assert!(code == 0 && said.lines().any(|line| line == "hello"), "{said}");
    let (code, said) = ask(&["get", "0000000000000000000000000000000000000000"]);
    assert!(code == 4 && said.contains("no node has it"), "{said}");

    let hash = "6853ab2b86b2cb6a3a778b8aafe3dffd94321bf5";
    let (code, said) = ask(&["peers", hash]);
    assert!(code == 4 && said.contains("no node knows a peer"), "{said}");
    assert_eq!(ask(&["peers", hash, "--announce", "1234"]).0, 0);
    let (code, said) = ask(&["peers", hash, "--json"]);
    let peer = &events(&said, "peer")[0]["address"];
    assert!(code == 0 && peer == "127.0.0.1:1234", "{said}");
    let (code, said) = ask(&["scrape", hash]);
    assert!(code == 0 && said.contains("0 seeds and 1 peer"), "{said}");
    let (code, said) = ask(&["sample", "--json"]);
    let samples = events(&said, "sample");
    assert!(code == 0 && samples.iter().any(|sample| sample["samples"][0] == hash), "{said}");
}

#[test]
fn a_signed_item_is_replaced_by_its_next_version() {
    let folder = tempfile::tempdir().unwrap();
    let (_node, addr) = node(LOCAL, &[]);
    let addr = addr.to_string();
    let put = |text: &str, more: &[&str]| {
        let args = [&["put", text, "--key", "my.key", "--json"], more].concat();
        let (code, said) = run(folder.path(), &addr, &args);
        (code, events(&said, "stored").pop().unwrap_or_default())
    };
    let (code, first) = put("one", &[]);
    assert_eq!((code, &first["seq"]), (0, &1.into()), "{first}");
    let (code, second) = put("two", &[]);
    assert_eq!((code, &second["seq"], &second["key"]), (0, &2.into(), &first["key"]));
    assert_eq!(put("old", &["--seq", "1"]).0, 1, "an older version is not stored");
    let (_, salted) = put("three", &["--salt", "x"]);
    assert_eq!(salted["seq"], 1);
    let get = |more: &[&str]| {
        let (code, said) =
            run(folder.path(), &addr, &[&["get", first["key"].as_str().unwrap(), "--json"], more].concat());
        (code, events(&said, "item").pop().unwrap_or_default()["value"].clone())
    };
    assert_eq!((get(&[]), get(&["--salt", "x"])), ((0, "two".into()), (0, "three".into())));
    assert_eq!(get(&["--salt", "y"]).0, 4);
}

#[test]
fn a_node_that_runs_is_there_and_one_that_does_not_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ropewalk"));
    let mut running = Process::start(command.args(["dht", "run", "--bind", "127.0.0.1", "--json"]));
    let listening: Value = serde_json::from_str(&running.wait_for("listening")).unwrap();
    let addr = listening["addresses"][0].as_str().unwrap().to_owned();
    let (code, said) = run(folder.path(), &addr, &["ping", &addr]);
    assert!(code == 0 && said.contains("is there, after"), "{said}");
    let (status, said) = running.interrupt();
    assert!(status.code() == Some(0) && events(&said, "summary").len() == 1, "{said}");
    let (code, said) = run(folder.path(), &addr, &["ping", &addr]);
    assert!(code == 4 && said.contains("does not answer"), "{said}");
    let (code, said) =
        run(folder.path(), &addr, &["peers", "6853ab2b86b2cb6a3a778b8aafe3dffd94321bf5", "--time", "2s"]);
    assert!(code == 4 && said.contains(&addr) && said.contains("--node"), "{said}");
}

#[test]
fn wrong_usage_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let text = "x".repeat(997);
    std::fs::write(folder.path().join("no.key"), "nonsense").unwrap();
    for (code, args) in [
        (2, &["peers", "123"][..]),
        (2, &["get", "123"]),
        (2, &["ping", "nowhere"]),
        (2, &["put", "x", "--salt", "y"]),
        (6, &["put", &text]),
        (6, &["put", "x", "--key", "no.key"]),
    ] {
        let (got, said) = run(folder.path(), "127.0.0.1:1", args);
        assert_eq!(got, code, "{args:?}: {said}");
    }
}
