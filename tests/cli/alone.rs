//! Nobody is there: what is said then.

use std::net::TcpListener;

use super::{album, fails, run, serve};

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
