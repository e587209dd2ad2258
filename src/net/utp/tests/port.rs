//! All connections of a port, by the packets that come and go; no thread serves it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use crate::config::Bind;
use crate::net::udp::{Protocol, UdpPort};
use crate::net::utp::UtpStream;
use crate::net::utp::connection::Connection;
use crate::net::utp::ends::Ends;
use crate::net::utp::pipe::Bell;
use crate::net::utp::port::{CALLERS, Connections};
use crate::wire::utp::{Header, Kind, Packet};

struct Port {
    connections: Connections,
    calls: Receiver<(UtpStream, SocketAddr)>,
    now: Instant,
    // Its waker is of no use without it.
    _port: UdpPort,
}

impl Port {
    fn new() -> Self {
        let port = UdpPort::bind(Some(&Bind::Addr([127, 0, 0, 1].into())), 0).unwrap();
        let (sender, calls) = bounded(4);
        let connections = Connections::new(Arc::new(Bell::new(port.waker())), Some(sender), [1, 2]);
        Self { connections, calls, now: Instant::now(), _port: port }
    }

    fn hear(&mut self, from: SocketAddr, packet: &[u8]) {
        self.connections.handle_datagram(from, packet, self.now);
    }

    /// The next packet.
    fn next(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        let mut out = Vec::new();
        let to = self.connections.poll_transmit(self.now, &mut out)?;
        Some((to, out))
    }

    /// All that there is to send.
    fn sends(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let sent = std::iter::from_fn(|| self.next()).collect();
        self.connections.handle_lull();
        sent
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.connections.handle_wake(self.now);
        self.connections.handle_timeout(self.now);
        self.sends();
    }
}

fn addr(number: u16) -> SocketAddr {
    SocketAddr::from(([11, 0, (number >> 8) as u8, number as u8], 6881))
}

/// What a connection sends, one packet after the other.
fn said(connection: &mut Connection, ends: &mut Ends, now: Instant) -> Vec<Vec<u8>> {
    let next = || {
        let mut out = Vec::new();
        connection.poll_transmit(ends, now, &mut out).then_some(out)
    };
    std::iter::from_fn(next).collect()
}

/// Calls from there and says something; what is told after that.
fn call(port: &mut Port, from: SocketAddr) -> (Connection, Ends) {
    let (mut caller, mut ends) = (Connection::call(10, 20, port.now), Ends::default());
    ends.outgoing.extend(b"hello");
    for _ in 0..2 {
        said(&mut caller, &mut ends, port.now).iter().for_each(|packet| port.hear(from, packet));
        for (to, answer) in port.sends() {
            assert_eq!(to, from);
            caller.handle_packet(&Packet::decode(&answer).unwrap(), usize::MAX, &mut ends, port.now);
        }
    }
    (caller, ends)
}

fn header(kind: Kind, connection_id: u16, ack_nr: u16) -> [u8; 20] {
    Header { kind, connection_id, timestamp: 1, difference: 1, window: 1 << 20, seq_nr: 30, ack_nr }.encode()
}

#[test]
fn a_caller_is_handed_on_once_it_has_spoken_and_nothing_of_it_is_left_when_it_is_dropped() {
    let mut port = Port::new();
    port.hear(addr(1), &header(Kind::Syn, 10, 0));
    assert_eq!(port.sends().len(), 1);
    assert!(port.calls.is_empty());
    call(&mut port, addr(2));
    let (stream, from) = port.calls.try_recv().unwrap();
    assert_eq!(from, addr(2));
    assert_eq!(port.connections.sizes(), [2, 1]);
    drop(stream);
    port.wait(Duration::from_secs(11));
    assert_eq!(port.connections.sizes(), [0, 0], "the silent one and the one that was dropped");
}

#[test]
fn callers_that_say_nothing_give_way_to_later_ones() {
    let mut port = Port::new();
    for number in 0..2 * CALLERS as u16 {
        port.hear(addr(number), &header(Kind::Syn, 10, 0));
    }
    port.sends();
    assert_eq!(port.connections.sizes(), [CALLERS, CALLERS]);
    call(&mut port, addr(60_000));
    assert_eq!(port.calls.len(), 1);
    assert_eq!(port.connections.sizes(), [CALLERS, CALLERS - 1]);
}

#[test]
fn callers_that_nobody_takes_in_are_closed() {
    let mut port = Port::new();
    let callers: Vec<_> = (0..6).map(|number| call(&mut port, addr(number))).collect();
    assert_eq!(port.calls.len(), 4);
    port.wait(Duration::ZERO);
    assert_eq!(port.connections.sizes(), [4, 0]);
    drop(callers);
}

#[test]
fn a_reset_is_for_a_connection_by_the_id_of_either_side() {
    for id in [10, 11] {
        let mut port = Port::new();
        call(&mut port, addr(1));
        // Somebody else's, one that no connection has, and one about what was never sent.
        port.hear(addr(2), &header(Kind::Reset, id, 0));
        port.hear(addr(1), &header(Kind::Reset, 12, 0));
        assert_eq!(port.connections.sizes(), [1, 0]);
        let sent = port.connections.next_number(addr(1), 11);
        port.hear(addr(1), &header(Kind::Reset, id, sent.wrapping_add(1)));
        assert_eq!(port.connections.sizes(), [1, 0]);
        port.hear(addr(1), &header(Kind::Reset, id, sent.wrapping_sub(1)));
        port.sends();
        assert_eq!(port.connections.sizes(), [0, 0]);
    }
}

#[test]
fn whoever_draws_resets_holds_up_no_connection() {
    let mut port = Port::new();
    let (mut caller, mut ends) = call(&mut port, addr(1));
    for number in 100..300 {
        port.hear(addr(number), &header(Kind::Data, 10, 0));
    }
    ends.outgoing.extend([7; 100]);
    said(&mut caller, &mut ends, port.now).iter().for_each(|packet| port.hear(addr(1), packet));
    let first: Vec<_> = (0..3).map(|_| port.next().unwrap().0).collect();
    assert!(first.contains(&addr(1)), "{first:?}");
    let rest = port.sends();
    assert!(rest.len() > 150 && rest.iter().all(|(_, packet)| Header::decode(packet).unwrap().kind == Kind::Reset));
}

#[test]
fn at_the_end_peers_are_told_and_nobody_can_be_called() {
    let mut port = Port::new();
    call(&mut port, addr(1));
    port.connections.handle_end(port.now);
    let told = port.sends();
    let kinds: Vec<_> = told.iter().map(|(to, packet)| (*to, Header::decode(packet).unwrap().kind)).collect();
    assert_eq!(kinds, [(addr(1), Kind::Reset)]);
    assert_eq!(port.connections.sizes(), [0, 0]);
}
