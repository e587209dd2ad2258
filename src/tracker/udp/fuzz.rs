//! Packets from a fuzz target, answered by a desk of their own.

use std::net::SocketAddr;
use std::time::Instant;

use super::desk::{Client, Desk};
use super::ids::ConnectionIds;
use crate::tracker::config::{AccessConfig, TrackerConfig};
use crate::tracker::memory::Memory;
use crate::tracker::service::Service;

/// A packet from a fuzz target.
pub struct FuzzPacket<'a> {
    /// What is sent.
    pub bytes: &'a mut [u8],
    /// Whether it comes over IPv6.
    pub v6: bool,
    /// Whether the connection id of its sender is put into it.
    pub known: bool,
    /// Whether it goes to a tracker that wants the key [`FUZZ_KEY`].
    pub keyed: bool,
}

/// The key of a tracker that has one.
pub const FUZZ_KEY: &str = "k";

/// Has packets answered one after the other, each by what it is sent.
pub(crate) fn answer<'a>(packets: impl Iterator<Item = FuzzPacket<'a>>) -> Vec<Vec<Vec<u8>>> {
    let now = Instant::now();
    let ids = ConnectionIds::new([1, 2], now);
    let desk = |key: Option<&str>| {
        let key = key.map(|key| key.parse().expect("a key"));
        let config =
            TrackerConfig { access: AccessConfig { key, ..AccessConfig::default() }, ..TrackerConfig::default() };
        let store = Memory::new(&Default::default(), 1, now);
        let service = Service::new(config, Box::new(store), &[]).expect("no lists that cannot be read");
        Desk::new(service, ids)
    };
    let (mut open, mut closed) = (desk(None), desk(Some(FUZZ_KEY)));
    let answered = |FuzzPacket { bytes: packet, v6, known, keyed }: FuzzPacket<'_>| {
        let desk = if keyed { &mut closed } else { &mut open };
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
