//! The port with protocols that only echo, count or flood.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicUsize;
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::*;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SOON: Duration = Duration::from_secs(10);

/// Sends back what begins with `first`, and tells what it was told.
struct Echo {
    first: u8,
    told: Sender<&'static str>,
    out: Vec<(SocketAddr, Vec<u8>)>,
    due: Option<Instant>,
}

impl Protocol for Echo {
    fn claims(&self, first: u8) -> bool {
        first == self.first
    }

    fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], _: Instant) {
        self.out.push((from, bytes.to_vec()));
    }

    fn handle_wake(&mut self, now: Instant) {
        self.due = Some(now);
        self.told.send("wake").unwrap();
    }

    fn handle_timeout(&mut self, _: Instant) {
        self.due = None;
        self.told.send("timeout").unwrap();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    fn poll_transmit(&mut self, _: Instant, out: &mut Vec<u8>) -> Option<SocketAddr> {
        let (to, bytes) = self.out.pop()?;
        out.extend(bytes);
        Some(to)
    }

    fn handle_end(&mut self, _: Instant) {
        self.told.send("end").unwrap();
    }
}

fn echo(first: u8) -> (Box<dyn Protocol>, Receiver<&'static str>) {
    let (told, tells) = unbounded();
    (Box::new(Echo { first, told, out: Vec::new(), due: None }), tells)
}

#[test]
fn a_datagram_goes_to_the_protocol_that_claims_its_first_byte() {
    let port = UdpPort::bind(Some(&Bind::Addr(LOCAL)), 0).unwrap();
    let (addr, waker) = (port.addrs()[0], port.waker());
    let thread = thread::spawn(move || port.run(&mut [echo(b'd').0, echo(1).0]));
    let socket = UdpSocket::bind((LOCAL, 0)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut buffer = [0; 16];
    // Nobody's, and an empty one: no answer, and no harm.
    for bytes in [&b"x"[..], b"", b"d1", b"\x01two"] {
        socket.send_to(bytes, addr).unwrap();
    }
    let mut answers: Vec<_> = (0..2)
        .map(|_| {
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(from, addr);
            buffer[..len].to_vec()
        })
        .collect();
    answers.sort();
    assert_eq!(answers, [b"\x01two".to_vec(), b"d1".to_vec()]);
    waker.stop();
    thread.join().unwrap();
}

#[test]
fn a_wake_is_heard_then_what_is_due_is_done_and_a_stop_ends_the_thread() {
    let port = UdpPort::bind(Some(&Bind::Addr(LOCAL)), 0).unwrap();
    let waker = port.waker();
    let (protocol, tells) = echo(0);
    let thread = thread::spawn(move || port.run(&mut [protocol]));
    for _ in 0..3 {
        waker.wake();
        assert_eq!(tells.recv_timeout(SOON), Ok("wake"));
        assert_eq!(tells.recv_timeout(SOON), Ok("timeout"));
    }
    waker.stop();
    thread.join().unwrap();
    assert_eq!(tells.try_iter().collect::<Vec<_>>(), ["end"]);
}

/// Always has something to send, and counts it.
struct Flood {
    to: SocketAddr,
    sent: Arc<AtomicUsize>,
}

impl Protocol for Flood {
    fn claims(&self, _: u8) -> bool {
        false
    }

    fn handle_datagram(&mut self, _: SocketAddr, _: &[u8], _: Instant) {}

    fn handle_wake(&mut self, _: Instant) {}

    fn handle_timeout(&mut self, _: Instant) {}

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn poll_transmit(&mut self, _: Instant, out: &mut Vec<u8>) -> Option<SocketAddr> {
        out.extend([7; 1000]);
        self.sent.fetch_add(1, Ordering::Relaxed);
        Some(self.to)
    }

    fn handle_end(&mut self, _: Instant) {}
}

#[test]
fn whoever_always_has_something_to_send_does_not_keep_others_from_it() {
    let mut port = UdpPort::bind(Some(&Bind::Addr(LOCAL)), 0).unwrap();
    let nobody = UdpSocket::bind((LOCAL, 0)).unwrap();
    let counts = [(); 3].map(|()| Arc::<AtomicUsize>::default());
    let flood = |sent: &Arc<AtomicUsize>| {
        Box::new(Flood { to: nobody.local_addr().unwrap(), sent: Arc::clone(sent) }) as Box<dyn Protocol>
    };
    let mut floods = counts.each_ref().map(flood);
    for turn in 0..30 {
        // What the system had no room for takes the place of what one of them would send.
        let bytes = vec![7; 1000];
        port.held = (turn % 2 == 0).then(|| Burst { place: 9, to: port.addrs[0], bytes, each: 1000 });
        port.transmit(&mut floods);
    }
    let counts = counts.map(|count| count.load(Ordering::Relaxed));
    assert!(counts.iter().all(|count| count * 4 > counts.iter().sum()), "{counts:?}");
}

#[test]
fn several_datagrams_go_by_one_call_as_far_as_they_are_alike() {
    let to = SocketAddr::from(([127, 0, 0, 1], 9));
    let burst = |lengths: &[usize]| Burst { place: 0, to, bytes: vec![0; lengths.iter().sum()], each: lengths[0] };
    assert!(burst(&[100]).takes(100, 64) && burst(&[100, 100]).takes(60, 64));
    assert!(!burst(&[100]).takes(101, 64), "a longer one");
    assert!(!burst(&[100, 60]).takes(60, 64) && !burst(&[100, 60]).takes(100, 64), "after a shorter one");
    assert!(!burst(&[100]).takes(100, 1), "the system takes one at a time");
    assert!(!burst(&[1000; 60]).takes(1000, 64), "too many bytes");
    assert!(!burst(&[100]).takes(0, 64) && !burst(&[0]).takes(0, 64), "empty ones have no end");
}

#[test]
fn a_stop_before_the_start_is_not_forgotten() {
    let port = UdpPort::bind(Some(&Bind::Addr(LOCAL)), 0).unwrap();
    port.waker().stop();
    port.run(&mut []);
}

#[test]
fn one_port_serves_both_families_where_there_are_two() {
    let port = UdpPort::bind(None, 0).unwrap();
    let ports: Vec<_> = port.addrs().iter().map(SocketAddr::port).collect();
    assert!(ports.iter().all(|&port| port == ports[0] && port != 0), "{ports:?}");
}
