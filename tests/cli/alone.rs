//! Nobody is there: what is said then.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Running, STATE, album, event, events, fails, run, said_to, serve, terminal};

/// An address that nobody listens at.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// What `ropewalk` says on a terminal of so many columns.
fn on_a_terminal(folder: &Path, columns: u16, args: &[&str]) -> String {
    let (terminal, other) = terminal((columns, 24));
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("ropewalk"));
    command.current_dir(folder).args(args).env("XDG_STATE_HOME", folder.join(STATE));
    command.env_remove("RUST_LOG").env("ROPEWALK_DHT", "off").env("TERM", "xterm").stdout(Stdio::null());
    command.stdin(Stdio::null()).stderr(other);
    said_to(terminal, command)
}

#[test]
fn nothing_to_connect_to_is_code_4_and_makes_nothing() {
    let folder = album();
    fails(folder.path(), &["get", "album.torrent", "-o", "out"], 4, "--peer");
    assert!(!folder.path().join("out").exists());
    // Reserved, and nobody listens.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let get = ["get", "album.torrent", "-o", "out", "--peer", &silent, "--port", "0", "--timeout", "1s"];
    fails(folder.path(), &get, 4, "no peer for 1 s (1 address known");
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
fn each_reason_why_nobody_was_met_is_said() {
    let folder = album();
    let link = run(folder.path(), &["magnet", "album.torrent"], 0).0.trim().to_owned();
    fs::write(folder.path().join("list"), "127.0.0.1\n").unwrap();
    let (_plain, plain) = Running::seeder(folder.path(), &["--encryption", "off"]);
    let nobody = nobody();
    for (options, why) in [
        (&["--peer", &nobody][..], "1 address known: refusing connections"),
        (&["--peer", &nobody, "--blocklist", "list"], "1 address blocked by --blocklist"),
        (
            &["--peer", &plain, "--encryption", "require"],
            "1 address known: refusing encryption, and --encryption require was given",
        ),
    ] {
        for source in ["album.torrent", &link] {
            let get = [&["get", source, "-o", "out", "--port", "0", "--bind", "127.0.0.1", "--timeout", "1s"], options];
            let (_, err) = run(folder.path(), &get.concat(), 4);
            assert!(err.contains(why), "{why} is not in: {err}");
        }
    }
    let require = ["get", "album.torrent", "-o", "out", "--port", "0", "--timeout", "1s", "--json", "--encryption"];
    let (out, _) = run(folder.path(), &[&require[..], &["require", "--peer", &plain]].concat(), 4);
    assert_eq!(event(&events(&out), "summary")["missed"]["unencrypted"], 1, "{out}");
}

#[test]
fn what_matters_of_a_search_fits_a_terminal_of_80_columns() {
    let folder = album();
    let link =
        run(folder.path(), &["magnet", "album.torrent"], 0).0.trim().replace("dn=album", "dn=a.very.long.name.mkv");
    let (_plain, plain) = Running::seeder(folder.path(), &["--encryption", "off"]);
    let get = ["get", &link, "-o", "out", "--port", "0", "--bind", "127.0.0.1", "--timeout", "1s", "--no-lsd"];
    let said = on_a_terminal(folder.path(), 80, &[&get[..], &["--peer", &plain, "--encryption", "require"]].concat());
    assert!(said.contains("looking for metadata; 1 address known: refusing encryption"), "{said}");
    let said = on_a_terminal(folder.path(), 80, &[&get[..], &["--peer", &nobody()]].concat());
    assert!(said.contains("looking for metadata; 1 address known: refusing connections"), "{said}");
}

#[cfg(feature = "upnp")]
#[test]
fn a_port_that_no_gateway_can_help_is_told_of_at_once() {
    let folder = album();
    let args = ["seed", "album.torrent", "--bind", "127.0.0.1", "--port", "0", "--map-port"];
    let mut seeder = Running::start(folder.path(), &args);
    let told = seeder.wait_for(|event| event["event"] == "not-mapped");
    assert_eq!(told["error"], "it is bound to an address of this machine alone");
}
