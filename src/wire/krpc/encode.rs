//! Messages to datagrams: canonical bencode, and never more than fits.

use std::net::SocketAddr;

use super::node::compact_len;
use super::{Body, MAX_DATAGRAM_LEN, Message, Method, Query, RemoteError, Reply, Want, encode_compact_nodes};
use crate::wire::tracker::{Family, encode_compact_peers};

/// The most bytes written of the message of an error.
const MAX_MESSAGE_LEN: usize = 200;

impl Message {
    /// The datagram: at most [`MAX_DATAGRAM_LEN`] bytes. Of a reply that would be longer as many `values`, then `samples`,
    /// then `nodes` are left out as it takes, from the end; token, item and filters always fit.
    ///
    /// The bounds of [`MAX_TRANSACTION_LEN`](super::MAX_TRANSACTION_LEN) and [`MAX_TOKEN_LEN`](super::MAX_TOKEN_LEN) are
    /// the caller's to keep.
    pub fn encode(&self) -> Vec<u8> {
        let Body::Reply(reply) = &self.body else { return self.encode_cut(Cut::NOTHING) };
        let mut cut = Cut {
            values: reply.values.len(),
            samples: reply.samples.as_ref().map_or(0, |samples| samples.samples.len()),
            nodes: reply.nodes.len(),
        };
        loop {
            let datagram = self.encode_cut(cut);
            let excess = datagram.len().saturating_sub(MAX_DATAGRAM_LEN);
            if excess == 0 || !cut.shorten(excess) {
                return datagram;
            }
        }
    }

    fn encode_cut(&self, cut: Cut) -> Vec<u8> {
        let mut out = Writer { out: Vec::with_capacity(512) };
        out.open('d');
        if let Body::Query(query) = &self.body {
            out.key("a");
            write_arguments(query, &mut out);
        }
        if let Body::Error(RemoteError { code, message }) = &self.body {
            out.key("e");
            out.open('l');
            out.int(code.number());
            // Whole characters, so that it reads back as it was written.
            let len = (0..=message.len().min(MAX_MESSAGE_LEN)).rev().find(|len| message.is_char_boundary(*len));
            out.bytes(&message.as_bytes()[..len.unwrap_or(0)]);
            out.end();
        }
        if let Some(ip) = self.ip {
            out.key("ip");
            out.bytes(&compact(ip));
        }
        if let Body::Query(Query { method, .. }) = &self.body {
            out.key("q");
            out.bytes(method.name().unwrap_or("unknown").as_bytes());
        }
        if let Body::Reply(reply) = &self.body {
            out.key("r");
            write_reply(reply, cut, &mut out);
        }
        if self.read_only {
            out.entry_int("ro", 1);
        }
        out.entry("t", &self.transaction);
        if let Some(version) = &self.version {
            out.entry("v", version);
        }
        let kind = match &self.body {
            Body::Query(_) => b"q",
            Body::Reply(_) => b"r",
            Body::Error(_) => b"e",
        };
        out.entry("y", kind);
        out.end();
        out.out
    }
}

/// How many of its entries a reply keeps.
#[derive(Clone, Copy)]
struct Cut {
    values: usize,
    samples: usize,
    nodes: usize,
}

impl Cut {
    const NOTHING: Self = Self { values: 0, samples: 0, nodes: 0 };

    /// Gives up entries of one kind so that about `excess` bytes go; `false` where there is none to give up.
    fn shorten(&mut self, excess: usize) -> bool {
        // The least that an entry takes, but for IPv6: the next round cuts less than it might, never more than it must.
        for (kept, len) in [(&mut self.values, 21), (&mut self.samples, 20), (&mut self.nodes, compact_len(Family::V6))]
        {
            if *kept > 0 {
                *kept -= excess.div_ceil(len).min(*kept);
                return true;
            }
        }
        false
    }
}

fn write_arguments(query: &Query, out: &mut Writer) {
    out.open('d');
    match &query.method {
        Method::Put { item, cas, token } => {
            if let Some(cas) = cas.filter(|_| item.signed.is_some()) {
                out.entry_int("cas", cas);
            }
            out.entry("id", query.id.as_bytes());
            if let Some(signed) = &item.signed {
                out.entry("k", &signed.key);
                if !signed.salt.is_empty() {
                    out.entry("salt", &signed.salt);
                }
                out.entry_int("seq", signed.seq);
                out.entry("sig", &signed.signature);
            }
            out.entry("token", token);
            out.entry_raw("v", item.value.as_bencode());
        }
        Method::Ping => out.entry("id", query.id.as_bytes()),
        Method::FindNode { target, want }
        | Method::SampleInfohashes { target, want }
        | Method::Unknown { target: Some(target), want } => {
            out.entry("id", query.id.as_bytes());
            out.entry("target", target.as_bytes());
            write_want(*want, out);
        }
        Method::Unknown { target: None, want } => {
            out.entry("id", query.id.as_bytes());
            write_want(*want, out);
        }
        Method::Get { target, seq, want } => {
            out.entry("id", query.id.as_bytes());
            if let Some(seq) = seq {
                out.entry_int("seq", *seq);
            }
            out.entry("target", target.as_bytes());
            write_want(*want, out);
        }
        Method::GetPeers { info_hash, want, noseed, scrape } => {
            out.entry("id", query.id.as_bytes());
            out.entry("info_hash", info_hash.as_bytes());
            if *noseed {
                out.entry_int("noseed", 1);
            }
            if *scrape {
                out.entry_int("scrape", 1);
            }
            write_want(*want, out);
        }
        Method::AnnouncePeer { info_hash, port, implied_port, token, seed } => {
            out.entry("id", query.id.as_bytes());
            if *implied_port {
                out.entry_int("implied_port", 1);
            }
            out.entry("info_hash", info_hash.as_bytes());
            out.entry_int("port", (*port).into());
            if *seed {
                out.entry_int("seed", 1);
            }
            out.entry("token", token);
        }
    }
    out.end();
}

fn write_want(want: Want, out: &mut Writer) {
    if want != Want::default() {
        out.key("want");
        out.open('l');
        for (name, wanted) in [(b"n4", want.v4), (b"n6", want.v6)] {
            if wanted {
                out.bytes(name);
            }
        }
        out.end();
    }
}

fn write_reply(reply: &Reply, cut: Cut, out: &mut Writer) {
    out.open('d');
    if let Some(scrape) = &reply.scrape {
        out.entry("BFpe", scrape.peers.as_bytes());
        out.entry("BFsd", scrape.seeds.as_bytes());
    }
    out.entry("id", reply.id.as_bytes());
    if let Some(samples) = &reply.samples {
        out.entry_int("interval", samples.interval.as_secs().min(i64::MAX as u64) as i64);
    }
    let signed = reply.item.as_ref().and_then(|item| item.signed.as_ref());
    if let Some(signed) = signed {
        out.entry("k", &signed.key);
    }
    for (key, family) in [("nodes", Family::V4), ("nodes6", Family::V6)] {
        let mut compact = Vec::new();
        encode_compact_nodes(&reply.nodes[..cut.nodes], family, &mut compact);
        if !compact.is_empty() {
            out.entry(key, &compact);
        }
    }
    if let Some(samples) = &reply.samples {
        out.entry_int("num", samples.num.min(i64::MAX as u64) as i64);
        let hashes: Vec<u8> = samples.samples[..cut.samples].iter().flat_map(|hash| *hash.as_bytes()).collect();
        out.entry("samples", &hashes);
    }
    if let Some(seq) = signed.map(|signed| signed.seq).or(reply.seq) {
        out.entry_int("seq", seq);
    }
    if let Some(signed) = signed {
        out.entry("sig", &signed.signature);
    }
    if let Some(token) = &reply.token {
        out.entry("token", token);
    }
    if let Some(item) = &reply.item {
        out.entry_raw("v", item.value.as_bencode());
    }
    let values = &reply.values[..cut.values];
    if !values.is_empty() {
        out.key("values");
        out.open('l');
        values.iter().for_each(|peer| out.bytes(&compact(*peer)));
        out.end();
    }
    out.end();
}

/// 6 or 18 bytes.
fn compact(addr: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(18);
    encode_compact_peers([addr], Family::from(addr.ip()), &mut bytes);
    bytes
}

/// Bencode, written in the order of the calls: keys must come sorted.
struct Writer {
    out: Vec<u8>,
}

impl Writer {
    fn open(&mut self, kind: char) {
        self.out.push(kind as u8);
    }

    fn end(&mut self) {
        self.out.push(b'e');
    }

    fn key(&mut self, key: &str) {
        self.bytes(key.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend(format!("{}:", bytes.len()).bytes());
        self.out.extend_from_slice(bytes);
    }

    fn int(&mut self, int: i64) {
        self.out.extend(format!("i{int}e").bytes());
    }

    fn entry(&mut self, key: &str, bytes: &[u8]) {
        self.key(key);
        self.bytes(bytes);
    }

    fn entry_int(&mut self, key: &str, int: i64) {
        self.key(key);
        self.int(int);
    }

    fn entry_raw(&mut self, key: &str, bencode: &[u8]) {
        self.key(key);
        self.out.extend_from_slice(bencode);
    }
}
