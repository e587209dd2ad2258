//! A connection that hears whatever somebody makes up.

use std::time::{Duration, Instant};

use super::connection::{Connection, PAYLOAD};
use super::ends::Ends;
use crate::wire::utp::{Header, Packet};

/// What a connection keeps at the most: what waits to be read, and once more what is early, with room for the next packet.
const MOST: usize = 3 << 20;

/// Has a connection, dialled or else called by the first packet, hear packets and use what it is given. Each is preceded by
/// its length (2 bytes) and by how long it comes after the one before it, in units of 16 ms (1 byte). Panics where the
/// connection sends without end, keeps too much, or has something due that is never done.
pub(crate) fn hear(dialled: bool, mut bytes: &[u8]) {
    let mut now = Instant::now();
    let mut ends = Ends::default();
    let mut connection = dialled.then(|| Connection::call(100, 1, now));
    ends.outgoing.extend([7; 5 * PAYLOAD]);
    while let Some(([high, low, pause], rest)) = bytes.split_first_chunk() {
        let (packet, rest) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes([*high, *low]))));
        bytes = rest;
        now += Duration::from_millis(16 * u64::from(*pause));
        match &mut connection {
            None => connection = Header::decode(packet).ok().map(|header| Connection::answer(&header, 1, now)),
            Some(connection) => {
                if let Ok(packet) = Packet::decode(packet) {
                    connection.handle_packet(&packet, usize::MAX, &mut ends, now);
                }
            }
        }
        let Some(connection) = &mut connection else { continue };
        connection.handle_use(&mut ends, now);
        if connection.poll_timeout().is_some_and(|at| at <= now) {
            connection.handle_timeout(&mut ends, now);
        }
        let mut out = Vec::new();
        for sent in 0.. {
            assert!(sent < 1000, "it sends without end");
            out.clear();
            if !connection.poll_transmit(&mut ends, now, &mut out) {
                break;
            }
            Packet::decode(&out).expect("what is sent can be read");
        }
        assert!(connection.poll_timeout().is_none_or(|at| at > now), "what is due is done");
        assert!(ends.incoming.len() + ends.early <= MOST);
        // A slow reader.
        let read = ends.incoming.len().min(1000);
        ends.incoming.drain(..read);
    }
}
