//! Connections at real UDP ports, as threads use them.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use super::pair::bytes;
use crate::config::Bind;
use crate::net::udp::{UdpPort, Waker};
use crate::net::utp::{Utp, UtpStream};
use crate::net::{Arrival, Closer, Stream};

const SOON: Duration = Duration::from_secs(20);

/// A port that is served until it is dropped.
struct Port {
    utp: Utp,
    addr: SocketAddr,
    calls: Receiver<(UtpStream, SocketAddr)>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Port {
    fn new(accepts: bool) -> Self {
        let port = UdpPort::bind(Some(&Bind::Addr(IpAddr::V4(Ipv4Addr::LOCALHOST))), 0).unwrap();
        let (addr, waker) = (port.addrs()[0], port.waker());
        let (sender, calls) = bounded(8);
        let (utp, machine) = Utp::new(&port, accepts.then_some(sender), [1, 2]);
        let thread = Some(thread::spawn(move || port.run(&mut [machine])));
        Self { utp, addr, calls, waker, thread }
    }

    fn stop(&mut self) {
        self.waker.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    fn call(&self, to: &Self) -> std::io::Result<Stream> {
        Stream::connect_utp(to.addr, &self.utp, SOON, &Closer::default())
    }

    fn accept(&self) -> Stream {
        let (stream, _) = self.calls.recv_timeout(SOON).unwrap();
        Stream::accepted(Arrival::Utp(stream), &Closer::default()).unwrap()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Two ends of a connection, and their ports.
fn pair() -> ([Port; 2], [Stream; 2]) {
    let ports = [Port::new(true), Port::new(true)];
    let mut caller = ports[0].call(&ports[1]).unwrap();
    caller.write_all(b"hello").unwrap();
    let mut called = ports[1].accept();
    called.set_read_timeout(Some(SOON)).unwrap();
    caller.set_read_timeout(Some(SOON)).unwrap();
    let mut hello = [0; 5];
    called.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    called.write_all(&hello).unwrap();
    caller.read_exact(&mut hello).unwrap();
    (ports, [caller, called])
}

#[test]
fn megabytes_go_both_ways_at_once_and_the_end_comes_after_them() {
    let (_ports, [caller, called]) = pair();
    let length = 8 << 20;
    let exchange = |stream: Stream, send: u64, receive: u64| {
        let mut writer = stream.clone();
        let mut reader = stream;
        let written = thread::spawn(move || writer.write_all(&bytes(length, send)).unwrap());
        thread::spawn(move || {
            let mut read = vec![0; length];
            reader.read_exact(&mut read).unwrap();
            assert!(read == bytes(length, receive));
            written.join().unwrap();
            reader
        })
    };
    let ends = [exchange(caller, 1, 2), exchange(called, 2, 1)];
    let [one, mut other] = ends.map(|end| end.join().unwrap());
    one.close();
    assert_eq!(other.read(&mut [0; 10]).unwrap(), 0);
    assert_eq!(other.read(&mut [0; 10]).unwrap(), 0);
}

#[test]
fn what_was_written_before_a_close_arrives() {
    let (_ports, [mut caller, mut called]) = pair();
    caller.write_all(&bytes(60_000, 1)).unwrap();
    drop(caller);
    let mut read = Vec::new();
    called.read_to_end(&mut read).unwrap();
    assert!(read == bytes(60_000, 1));
}

#[test]
fn whoever_waits_is_woken_when_the_connection_is_ended_from_here_or_there_or_its_port_ends() {
    for case in 0..3 {
        let (mut ports, [caller, called]) = pair();
        caller.set_read_timeout(None).unwrap();
        let mut reader = caller.clone();
        let waits = thread::spawn(move || reader.read(&mut [0; 10]));
        match case {
            0 => caller.close(),
            1 => drop(called),
            _ => ports[0].stop(),
        }
        let read = waits.join().unwrap();
        match case {
            2 => assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionAborted),
            _ => assert_eq!(read.unwrap(), 0),
        }
    }
}

#[test]
fn whoever_is_dropped_before_a_word_was_said_is_told_so() {
    let ports = [Port::new(true), Port::new(true)];
    let mut caller = ports[0].call(&ports[1]).unwrap();
    caller.write_all(b"hello").unwrap();
    drop(ports[1].accept());
    caller.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(caller.read(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_read_waits_no_longer_than_it_was_told() {
    let (_ports, [mut caller, _called]) = pair();
    caller.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    assert_eq!(caller.read(&mut [0; 10]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_closer_ends_a_connection_that_is_being_made_and_one_that_is_not_begun() {
    let [port, silent] = [Port::new(true), Port::new(true)];
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = nobody.local_addr().unwrap();
    let closer = Arc::new(Closer::default());
    thread::scope(|scope| {
        let calls = scope.spawn(|| Stream::connect_utp(addr, &port.utp, SOON, &closer).map(drop).unwrap_err());
        nobody.recv(&mut [0; 100]).unwrap();
        closer.close();
        assert_eq!(calls.join().unwrap().kind(), ErrorKind::ConnectionAborted);
    });
    let error = Stream::connect_utp(silent.addr, &port.utp, SOON, &closer).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
}

#[test]
fn a_call_that_is_lost_is_made_again_as_somebody_else() {
    let port = Port::new(true);
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = nobody.local_addr().unwrap();
    let error = Stream::connect_utp(addr, &port.utp, Duration::from_secs(4), &Closer::default()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    nobody.set_nonblocking(true).unwrap();
    let mut packet = [0; 100];
    let mut next = || {
        let length = nobody.recv(&mut packet).ok()?;
        Some(crate::wire::utp::Header::decode(&packet[..length]).unwrap())
    };
    let said: Vec<_> = std::iter::from_fn(&mut next).collect();
    let calls: Vec<_> = said.iter().filter(|header| header.kind == crate::wire::utp::Kind::Syn).collect();
    let [first, second] = calls[..] else { panic!("{said:?}") };
    assert_ne!((first.connection_id, first.seq_nr), (second.connection_id, second.seq_nr));
}

#[test]
fn whoever_takes_nobody_in_says_so_at_once() {
    let ports = [Port::new(true), Port::new(false)];
    assert_eq!(ports[0].call(&ports[1]).map(drop).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn after_the_end_of_a_port_nobody_can_be_called_from_there() {
    let mut ports = [Port::new(true), Port::new(true)];
    ports[0].stop();
    assert_eq!(ports[0].call(&ports[1]).map(drop).unwrap_err().kind(), ErrorKind::ConnectionAborted);
}

#[test]
fn many_connections_live_at_one_port() {
    let ports = [Port::new(true), Port::new(true)];
    let streams: Vec<_> = (0..50u8)
        .map(|number| {
            let mut caller = ports[0].call(&ports[1]).unwrap();
            caller.write_all(&[number]).unwrap();
            (caller, ports[1].accept())
        })
        .collect();
    for (number, (mut caller, mut called)) in streams.into_iter().enumerate().rev() {
        let mut said = [0; 1];
        for stream in [&caller, &called] {
            stream.set_read_timeout(Some(SOON)).unwrap();
        }
        called.read_exact(&mut said).unwrap();
        assert_eq!(usize::from(said[0]), number);
        called.write_all(&said).unwrap();
        caller.read_exact(&mut said).unwrap();
        assert_eq!(usize::from(said[0]), number);
    }
}
