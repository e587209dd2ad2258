//! `--blocklist`: addresses to have nothing to do with.

use std::fs;
use std::io::Write;

use super::{Running, album, event, events, fails, run, serve};

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
