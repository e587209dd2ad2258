//! Packets from a fuzz target, answered by a desk of their own.

use std::net::SocketAddr;
use std::time::Instant;

use super::desk::{Client, Desk};
use super::ids::ConnectionIds;
use crate::tracker::config::TrackerConfig;
use crate::tracker::memory::Memory;
use crate::tracker::service::Service;

/// Has packets answered one after the other, each by what it is sent. Whether each is from IPv6, and whether the connection id
/// of its sender is to be put into it, is said with it.
pub(crate) fn answer<'a>(packets: impl Iterator<Item = (&'a mut [u8], bool, bool)>) -> Vec<Vec<Vec<u8>>> {
    let now = Instant::now();
    let ids = ConnectionIds::new([1, 2], now);
    let config = TrackerConfig::default();
    let store = Memory::new(&Default::default(), 1, now);
    let service = Service::new(config, Box::new(store), &[]).expect("no lists that cannot be read");
    let mut desk = Desk::new(service, ids);
    let answered = |(packet, v6, known): (&mut [u8], bool, bool)| {
        let addr: SocketAddr = if v6 { "[2001:db8::1]:9" } else { "192.0.2.1:9" }.parse().expect("an address");
        let from = Client { addr, at: None };
        if let (true, Some(id)) = (known, packet.first_chunk_mut()) {
            *id = ids.give(addr.ip(), now).to_be_bytes();
        }
        let mut answers = Vec::new();
        let mut send = |answer: &[u8], to| {
            assert_eq!(to, from);
            answers.push(answer.to_vec());
        };
        desk.take(packet, from, now, &mut send);
        desk.answer(now, &mut send);
        answers
    };
    packets.map(answered).collect()
}
