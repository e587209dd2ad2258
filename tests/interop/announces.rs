//! A tracker that gives everyone the same peers and tells the test who announced what.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, unbounded};

use crate::rig::process::PATIENCE;

/// A running tracker; dropping it stops it.
pub(crate) struct Announces {
    addr: SocketAddr,
    queries: Receiver<String>,
    server: Option<JoinHandle<()>>,
}

impl Announces {
    /// Listens on a free port of `ip`.
    pub(crate) fn start(ip: IpAddr, peers: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(ip, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, queries) = unbounded();
        let reply = reply(peers);
        let server = thread::spawn(move || {
            for stream in listener.incoming() {
                match stream.map(|stream| answer(stream, &reply)) {
                    Ok(Some(query)) if query == "stop" => return,
                    Ok(Some(query)) => drop(sender.send(query)),
                    _ => {}
                }
            }
        });
        Self { addr, queries, server: Some(server) }
    }

    /// What goes into a torrent.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/announce", self.addr)
    }

    /// Waits for an announce whose query has all these parts.
    pub(crate) fn wait_for(&self, parts: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        loop {
            let Ok(query) = self.queries.recv_deadline(deadline) else {
                panic!("nobody announced {parts:?}, only:\n{}", heard.join("\n"));
            };
            if parts.iter().all(|part| query.split('&').any(|given| given == *part)) {
                return;
            }
            heard.push(query);
        }
    }
}

impl Drop for Announces {
    fn drop(&mut self) {
        if let Ok(mut stream) = TcpStream::connect(self.addr) {
            stream.write_all(b"GET /?stop HTTP/1.0\r\n\r\n").ok();
        }
        self.server.take().map(JoinHandle::join);
    }
}

fn reply(peers: &[SocketAddr]) -> Vec<u8> {
    let mut compact = Vec::new();
    for peer in peers {
        let IpAddr::V4(ip) = peer.ip() else { continue };
        compact.extend(ip.octets());
        compact.extend(peer.port().to_be_bytes());
    }
    let mut body = format!("d8:completei1e10:incompletei1e8:intervali1800e5:peers{}:", compact.len()).into_bytes();
    body.extend(compact);
    body.push(b'e');
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.into_bytes(), body].concat()
}

/// Answers one request, and gives its query.
fn answer(mut stream: TcpStream, reply: &[u8]) -> Option<String> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let request = lines.next()?.ok()?;
    // To the empty line, so that closing does not reset the connection under the reply.
    lines.find(|line| line.as_ref().map_or(true, String::is_empty));
    stream.write_all(reply).ok()?;
    Some(request.split(' ').nth(1)?.split_once('?')?.1.to_owned())
}
