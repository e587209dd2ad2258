//! Peers that call ropewalk, more than it has room for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Instant;

use anyhow::Context;
use ropewalk::wire::handshake::Handshake;
use ropewalk::{InfoHash, Metainfo};
use serde_json::{Value, json};

use crate::peers::{address, handshake};
use crate::{PATIENCE, THREADS};

/// Calls as many times as it is told to, keeps every connection, and says how many were kept by the other side.
pub(crate) fn callers(task: &Value) -> anyhow::Result<()> {
    let calls = task["calls"].as_u64().unwrap_or(0) as usize;
    let port = u16::try_from(task["port"].as_u64().context("a port")?)?;
    let info_hash = Metainfo::read(task["torrent"].as_str().context("a torrent")?.as_ref())?.info_hash();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let start = Instant::now();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            std::thread::spawn(move || {
                let calls = (thread..calls).step_by(THREADS);
                calls.map(|number| be_taken_in(number, to, info_hash).ok()).collect::<Vec<_>>()
            })
        })
        .collect();
    let lines: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().expect("no caller panics")).collect();
    let accepted = lines.iter().flatten().count();
    let wall = start.elapsed().as_secs_f64();
    println!("{}", json!({"accepted": accepted, "refused": calls - accepted, "wall": wall}));
    let mut word = String::new();
    std::io::stdin().read_to_string(&mut word)?;
    Ok(())
}

/// Calls and hears the first message after the handshake, by which it is known to be taken in.
fn be_taken_in(number: usize, to: SocketAddr, info_hash: InfoHash) -> std::io::Result<TcpStream> {
    let mut stream = call(address(number), to)?;
    shake_hands(&mut stream, info_hash, number)?;
    stream.read_exact(&mut [0; 4])?;
    Ok(stream)
}

/// Connects from a loopback address.
pub(crate) fn call(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&to.into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// Says who it is and hears who the other is.
pub(crate) fn shake_hands(stream: &mut TcpStream, info_hash: InfoHash, number: usize) -> std::io::Result<()> {
    stream.write_all(&handshake(info_hash, number).encode())?;
    stream.read_exact(&mut [0; Handshake::LEN])
}
