//! The bytes of commands and what answers mean.
//!
//! It owns the scripts, the names of keys and the layout of what goes in and out, which the scripts themselves describe. It
//! refuses to send anything.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use redis::Value;
use sha1::{Digest, Sha1};

use crate::metainfo::InfoHash;
use crate::tracker::store::{Announce, Counts, Reply, SwarmHealth, Totals};
use crate::wire::handshake::PeerId;
use crate::wire::tracker::Event;

/// Parts that the index has: on a cluster they are on several servers, and no command has to do with more than one.
pub(super) const INDEX_PARTS: u8 = 16;

/// The most swarms of one part of the index.
const INDEX_ROOM: usize = 1 << 16;

/// What the script of the announce has of a swarm as a whole.
const SWARM_LEN: usize = 52;

/// Scripts as this tracker has them: how long peers live is part of them.
#[derive(Debug)]
pub(super) struct Scripts {
    announce: Script,
    index: Script,
    health: Script,
    expiry: f64,
}

#[derive(Debug)]
struct Script {
    text: String,
    /// By which Redis knows it.
    sha1: String,
}

impl Scripts {
    pub(super) fn new(expiry: Duration, room: usize) -> Self {
        let expiry = expiry.as_secs().max(1);
        // As long as the keys of a swarm.
        let life = expiry + expiry.div_ceil(8) + 1;
        let announce = format!("local EXPIRY, ROOM = {expiry}, {room}\n{}", include_str!("announce.lua"));
        let index = format!("local LIFE, ROOM = {life}, {INDEX_ROOM}\n{}", include_str!("index.lua"));
        Self {
            announce: Script::new(announce),
            index: Script::new(index),
            health: Script::new(include_str!("health.lua").to_owned()),
            expiry: expiry as f64,
        }
    }

    /// Commands that make them known to a server.
    pub(super) fn load(&self) -> impl Iterator<Item = Vec<u8>> {
        [&self.announce, &self.index, &self.health].into_iter().map(|script| {
            let mut out = Vec::new();
            write(&mut out, &[b"SCRIPT", b"LOAD", script.text.as_bytes()]);
            out
        })
    }

    pub(super) fn announce(&self, announce: &Announce, random: u32, out: &mut Vec<u8>) {
        let role = match (announce.event, announce.left) {
            (Some(Event::Stopped), _) => b'x',
            (_, 0) => b's',
            _ => b'l',
        };
        let mut says = [0; 41];
        says[0] = role;
        says[1..21].copy_from_slice(announce.peer_id.as_bytes());
        says[21..25].copy_from_slice(&announce.key.to_be_bytes());
        says[25..33].copy_from_slice(&announce.uploaded.to_be_bytes());
        says[33..].copy_from_slice(&announce.downloaded.to_be_bytes());
        let completed = u8::from(announce.event == Some(Event::Completed));
        let options = completed + 2 * u8::from(announce.both_families) + 4 * u8::from(announce.with_ids);
        let mut asks = [0; 7];
        // More than some 3,000 of IPv6 would not fit the lengths in the answer.
        asks[..2].copy_from_slice(&(announce.wanted.min(1000) as u16).to_be_bytes());
        asks[2..6].copy_from_slice(&random.to_be_bytes());
        asks[6] = options;
        let (addr, length) = compact(announce.addr);
        let [members, v4, v6] = swarm_keys(&announce.info_hash);
        let sha1 = self.announce.sha1.as_bytes();
        write(out, &[b"EVALSHA", sha1, b"3", &members, &v4, &v6, &says, &addr[..length], &asks]);
    }

    pub(super) fn health(&self, info_hash: &InfoHash, out: &mut Vec<u8>) {
        let [members, v4, v6] = swarm_keys(info_hash);
        write(out, &[b"EVALSHA", self.health.sha1.as_bytes(), b"3", &members, &v4, &v6]);
    }

    /// Tells a part of the index the sizes of swarms, which may be none: its sums are the answer.
    pub(super) fn index(&self, part: u8, swarms: &[(InfoHash, Counts)], out: &mut Vec<u8>) {
        let keys = ["seen", "sizes", "counts"].map(|name| index_key(part, name));
        let counts: Vec<_> = swarms.iter().map(|(_, counts)| encode_counts(*counts)).collect();
        let mut arguments: Vec<&[u8]> = vec![b"EVALSHA", self.index.sha1.as_bytes(), b"3"];
        arguments.extend(keys.iter().map(String::as_bytes));
        for ((info_hash, _), counts) in swarms.iter().zip(&counts) {
            arguments.extend([info_hash.as_bytes().as_slice(), counts]);
        }
        write(out, &arguments);
    }

    /// `None` for a swarm that is not there any more, and for what is no answer.
    pub(super) fn read_health(&self, info_hash: InfoHash, answer: &Value) -> Option<SwarmHealth> {
        let Value::BulkString(bytes) = answer else { return None };
        let (ago, rest) = bytes.split_first_chunk()?;
        let (swarm, ids) = rest.split_at_checked(SWARM_LEN)?;
        let ago = f64::from(u32::from_be_bytes(*ago));
        let rate = |at| {
            let lately = f64::from_be_bytes(*swarm.get(at..)?.first_chunk()?);
            // A sum that fades over the time in which peers are forgotten.
            Some((lately * (-ago / self.expiry).exp() / self.expiry) as u64)
        };
        let counts = swarm_counts(swarm)?;
        let (ids, _) = ids.as_chunks::<{ PeerId::LEN }>();
        let mut clients = HashMap::<String, u32>::new();
        for id in ids {
            *clients.entry(PeerId::new(*id).client_name()).or_default() += 1;
        }
        // Those of many peers are taken to be like the others.
        let all = u64::from(counts.seeders) + u64::from(counts.leechers);
        let share = |some: u32| (u64::from(some) * all / ids.len() as u64).min(u32::MAX.into()) as u32;
        let mut clients: Vec<_> = clients.into_iter().map(|(name, some)| (name, share(some))).collect();
        clients.sort_by(|(a, more), (b, less)| less.cmp(more).then_with(|| a.cmp(b)));
        Some(SwarmHealth {
            info_hash,
            counts,
            seen: Duration::from_secs_f64(ago),
            up_rate: rate(8)?,
            down_rate: rate(16)?,
            clients,
        })
    }
}

impl Script {
    fn new(text: String) -> Self {
        let sha1 = Sha1::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { text, sha1 }
    }
}

/// What the answer to an announce says besides the reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags {
    /// The index should hear of this swarm.
    pub(super) index_due: bool,
    /// The peer was not kept.
    pub(super) no_room: bool,
}

/// Reads the answer to an announce into `reply`; `None` for what is none.
pub(super) fn read_reply(answer: &Value, reply: &mut Reply) -> Option<Flags> {
    let Value::BulkString(bytes) = answer else { return None };
    let (head, rest) = bytes.split_first_chunk::<17>()?;
    let counts = decode_counts(&head[1..13])?;
    let length = |at: usize| usize::from(u16::from_be_bytes([head[at], head[at + 1]]));
    let (v4, rest) = rest.split_at_checked(length(13))?;
    let (v6, ids) = rest.split_at_checked(length(15))?;
    reply.counts = counts;
    reply.v4.clear();
    reply.v4.extend_from_slice(v4);
    reply.v6.clear();
    reply.v6.extend_from_slice(v6);
    reply.ids.clear();
    reply.ids.extend(ids.as_chunks::<{ PeerId::LEN }>().0.iter().map(|id| PeerId::new(*id)));
    reply.again = None;
    Some(Flags { index_due: head[0] & 1 != 0, no_room: head[0] & 2 != 0 })
}

/// Asks for the sizes of a swarm.
pub(super) fn scrape(info_hash: &InfoHash, out: &mut Vec<u8>) {
    let [members, ..] = swarm_keys(info_hash);
    write(out, &[b"HGET", &members, b"m"]);
}

pub(super) fn read_scrape(answer: &Value) -> Option<Counts> {
    match answer {
        Value::Nil => Some(Counts::default()),
        Value::BulkString(swarm) => swarm_counts(swarm),
        _ => None,
    }
}

pub(super) fn read_totals(answer: &Value) -> Option<Totals> {
    let Value::BulkString(bytes) = answer else { return None };
    let [torrents, seeders, leechers] = bytes.as_chunks::<8>().0 else { return None };
    let number = |bytes: &[u8; 8]| u64::from_be_bytes(*bytes);
    Some(Totals { torrents: number(torrents), seeders: number(seeders), leechers: number(leechers), no_room: 0 })
}

/// Asks for a stretch of a part of the index, the largest swarms first.
pub(super) fn largest(part: u8, first: usize, count: usize, out: &mut Vec<u8>) {
    let (from, to) = (first.to_string(), (first + count - 1).to_string());
    write(out, &[b"ZREVRANGE", index_key(part, "sizes").as_bytes(), from.as_bytes(), to.as_bytes()]);
}

pub(super) fn read_largest(answer: &Value) -> Option<Vec<InfoHash>> {
    let Value::Array(entries) = answer else { return None };
    let info_hash = |entry: &Value| match entry {
        Value::BulkString(bytes) => Some(InfoHash::new(bytes.as_slice().try_into().ok()?)),
        _ => None,
    };
    entries.iter().map(info_hash).collect()
}

/// Asks what a part of the index has for these swarms.
pub(super) fn indexed(part: u8, info_hashes: &[InfoHash], out: &mut Vec<u8>) {
    let key = index_key(part, "counts");
    let mut arguments: Vec<&[u8]> = vec![b"HMGET", key.as_bytes()];
    arguments.extend(info_hashes.iter().map(|info_hash| info_hash.as_bytes().as_slice()));
    write(out, &arguments);
}

/// `None` for each that has gone meanwhile.
pub(super) fn read_indexed(answer: &Value) -> Option<Vec<Option<Counts>>> {
    let Value::Array(entries) = answer else { return None };
    let counts = |entry: &Value| match entry {
        Value::BulkString(bytes) => decode_counts(bytes),
        _ => None,
    };
    Some(entries.iter().map(counts).collect())
}

/// The part of the index that a swarm is in.
pub(super) fn index_part(info_hash: &InfoHash) -> u8 {
    info_hash.as_bytes()[0] % INDEX_PARTS
}

/// The slot of a cluster that a swarm's keys are in.
pub(super) fn swarm_slot(info_hash: &InfoHash) -> u16 {
    slot_of(&hex(info_hash))
}

/// The same for a part of the index.
pub(super) fn index_slot(part: u8) -> u16 {
    slot_of(format!("index:{part}").as_bytes())
}

/// Appends a command in the form in which Redis takes it.
pub(super) fn write(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    let number = |out: &mut Vec<u8>, kind: u8, number: usize| {
        let mut digits = [0; 20];
        let (mut at, mut rest) = (digits.len(), number);
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        out.push(kind);
        out.extend_from_slice(&digits[at..]);
        out.extend_from_slice(b"\r\n");
    };
    number(out, b'*', arguments.len());
    for argument in arguments {
        number(out, b'$', argument.len());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

/// An address as in a compact list, and its length.
pub(super) fn compact(addr: SocketAddr) -> ([u8; 18], usize) {
    let (mut bytes, port) = ([0; 18], addr.port().to_be_bytes());
    let length = match addr.ip() {
        IpAddr::V4(ip) => {
            bytes[..4].copy_from_slice(&ip.octets());
            6
        }
        IpAddr::V6(ip) => {
            bytes[..16].copy_from_slice(&ip.octets());
            18
        }
    };
    bytes[length - 2..length].copy_from_slice(&port);
    (bytes, length)
}

/// What is in braces decides on the slot, so that a swarm's keys are on one server.
fn swarm_keys(info_hash: &InfoHash) -> [[u8; 47]; 3] {
    let mut key = *b"rw:{0000000000000000000000000000000000000000}:m";
    key[4..44].copy_from_slice(&hex(info_hash));
    [b'm', b'4', b'6'].map(|last| {
        key[46] = last;
        key
    })
}

fn index_key(part: u8, name: &str) -> String {
    format!("rw:{{index:{part}}}:{name}")
}

fn hex(info_hash: &InfoHash) -> [u8; 40] {
    let mut hex = [0; 40];
    for (digits, byte) in hex.as_chunks_mut().0.iter_mut().zip(info_hash.as_bytes()) {
        *digits = [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
    }
    hex
}

/// CRC-16 as of XMODEM, which is what Redis Cluster goes by.
fn slot_of(tag: &[u8]) -> u16 {
    let mut crc = 0u16;
    for byte in tag {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc % super::nodes::SLOTS as u16
}

fn swarm_counts(swarm: &[u8]) -> Option<Counts> {
    let number = |at| Some(u32::from_be_bytes(*swarm.get(at..)?.first_chunk()?));
    // Times, rates; downloads; seeders, leechers and a cursor for each family.
    Some(Counts {
        downloaded: number(24)?,
        seeders: number(28)?.saturating_add(number(40)?),
        leechers: number(32)?.saturating_add(number(44)?),
    })
}

fn encode_counts(counts: Counts) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&counts.seeders.to_be_bytes());
    bytes[4..8].copy_from_slice(&counts.leechers.to_be_bytes());
    bytes[8..].copy_from_slice(&counts.downloaded.to_be_bytes());
    bytes
}

fn decode_counts(bytes: &[u8]) -> Option<Counts> {
    let [seeders, leechers, downloaded] = bytes.as_chunks().0 else { return None };
    let number = |bytes: &[u8; 4]| u32::from_be_bytes(*bytes);
    Some(Counts { seeders: number(seeders), leechers: number(leechers), downloaded: number(downloaded) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_to_the_slots_that_redis_says() {
        // By CLUSTER KEYSLOT of Redis 7.0.
        assert_eq!(slot_of(b"123456789"), 12739);
        assert_eq!(slot_of(b"foo"), 12182);
    }

    #[test]
    fn commands_are_written_with_their_lengths() {
        let mut out = Vec::new();
        write(&mut out, &[b"GET", b"", &[b'x'; 12]]);
        assert_eq!(out, b"*3\r\n$3\r\nGET\r\n$0\r\n\r\n$12\r\nxxxxxxxxxxxx\r\n");
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let mut reply = Reply::default();
        for bytes in [&b""[..], &[0; 16], &[255; 17], &[255; 40]] {
            assert!(read_reply(&Value::BulkString(bytes.to_vec()), &mut reply).is_none());
        }
        assert!(read_reply(&Value::Nil, &mut reply).is_none());
        assert!(read_scrape(&Value::BulkString(vec![0; 20])).is_none());
        assert!(read_totals(&Value::Int(1)).is_none());
    }
}
