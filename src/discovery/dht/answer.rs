//! Answers to the queries of others (BEP 5, 32, 33, 42, 43, 44, 51).
//!
//! Each query gets one datagram at most, to where it came from, and each source so many bytes a second at most: whoever
//! writes somebody else's address on queries gets little out of it. Nothing is stored without a valid token.

use std::net::SocketAddr;
use std::time::Instant;

use crate::metainfo::InfoHash;
use crate::wire::item::{ItemError, Outdated, UnverifiedItem};
use crate::wire::krpc::{ErrorCode, Message, Method, NodeId, NodeInfo, Query, Reply, Samples, Want};
use crate::wire::tracker::Family;

use super::ours::Use;
use super::side::Side;
use super::table::K;
use super::{Dht, MAX_QUEUED, VERSION, index};

/// How many peers an answer names at most: some 400 bytes of IPv4, 630 of IPv6.
const MAX_VALUES_V4: usize = 50;
const MAX_VALUES_V6: usize = 30;

/// What looking at a signature costs, in bytes of answers.
const SIGNATURE_COST: usize = 500;

impl Dht {
    pub(super) fn handle_query(
        &mut self,
        from: SocketAddr,
        transaction: Vec<u8>,
        query: Query,
        read_only: bool,
        now: Instant,
    ) {
        if self.settings.read_only {
            return;
        }
        if !self.limits.allows(from, now) || self.transmits.len() >= MAX_QUEUED {
            self.dropped += 1;
            return;
        }
        let answer = match self.reply_to(from, query.method, now) {
            Ok(reply) => Message::reply(transaction, reply),
            Err((code, message)) => Message::error(transaction, code, message),
        };
        self.send_answer(from, answer, now);
        let Some(side) = &mut self.sides[index(from)] else { return };
        let node = NodeInfo { id: query.id, addr: from };
        side.table.asked(&node, now);
        // BEP 43: read-only nodes belong in nobody's table.
        if !read_only && side.wants_check(&node, now) {
            self.ask(from, Method::Ping, Use::Check, now);
        }
    }

    /// Sends an answer, or drops it where its receiver has had enough.
    pub(super) fn send_answer(&mut self, to: SocketAddr, mut answer: Message, now: Instant) {
        if self.settings.read_only || self.transmits.len() >= MAX_QUEUED || !self.limits.allows(to, now) {
            return;
        }
        answer.version = Some(VERSION);
        answer.ip = Some(to);
        let bytes = answer.encode();
        self.limits.charge(to, bytes.len(), now);
        self.answered += 1;
        self.transmits.push_back((to, bytes));
    }

    fn reply_to(&mut self, from: SocketAddr, method: Method, now: Instant) -> Result<Reply, (ErrorCode, String)> {
        let at = index(from);
        let family = Family::from(from.ip());
        // There is a side: datagrams of other families are not looked at.
        let Some(side) = &mut self.sides[at] else { return Err((ErrorCode::Server, String::new())) };
        let mut reply = Reply::new(side.table.own());
        match method {
            Method::Ping => {}
            Method::FindNode { target, want } | Method::Unknown { target: Some(target), want } => {
                self.add_nodes(&mut reply, &target, want, family);
            }
            Method::Unknown { target: None, .. } => {
                return Err((ErrorCode::MethodUnknown, "unknown query".to_owned()));
            }
            Method::GetPeers { info_hash, want, noseed, scrape } => {
                let max = if family == Family::V4 { MAX_VALUES_V4 } else { MAX_VALUES_V6 };
                if scrape {
                    // 512 bytes of filters are enough for one answer.
                    reply.scrape = side.peers.filters(&info_hash).cloned().map(Box::new);
                }
                if reply.scrape.is_none() {
                    reply.values = side.peers.peers(&info_hash, noseed, max, self.rng.usize(..));
                }
                reply.token = Some(self.tokens.issue(from.ip(), now).to_vec());
                self.add_nodes(&mut reply, &info_hash.into(), want, family);
            }
            Method::AnnouncePeer { info_hash, port, implied_port, token, seed } => {
                check_token(self.tokens.accepts(&token, from.ip(), now))?;
                let port = if implied_port { from.port() } else { port };
                side.peers.announce(info_hash, SocketAddr::new(from.ip(), port), seed, now);
            }
            Method::Get { target, seq, want } => {
                if let Some(item) = self.items.get(&target) {
                    // Whoever has this version, or a later one, is told the number only.
                    reply.seq = item.seq();
                    if seq.is_none() || item.seq() > seq {
                        reply.item = Some(item.as_unverified().clone());
                    }
                }
                reply.token = Some(self.tokens.issue(from.ip(), now).to_vec());
                self.add_nodes(&mut reply, &target, want, family);
            }
            Method::Put { item, cas, token } => {
                check_token(self.tokens.accepts(&token, from.ip(), now))?;
                self.put(from, item, cas, now)?;
            }
            Method::SampleInfohashes { target, want } => {
                reply.samples = Some(sample(side, &mut self.rng, now));
                self.add_nodes(&mut reply, &target, want, family);
            }
        }
        Ok(reply)
    }

    fn add_nodes(&self, reply: &mut Reply, target: &NodeId, want: Want, family: Family) {
        let want = want.or(family);
        for side in self.sides.iter().flatten().filter(|side| want.of(side.family)) {
            side.table.closest(target, K, &mut reply.nodes);
        }
    }

    fn put(
        &mut self,
        from: SocketAddr,
        item: UnverifiedItem,
        cas: Option<i64>,
        now: Instant,
    ) -> Result<(), (ErrorCode, String)> {
        self.limits.charge(from, SIGNATURE_COST, now);
        let item = item.verify().map_err(|error| {
            let code = match error {
                ItemError::Signature => ErrorCode::Signature,
                ItemError::SaltTooLong { .. } => ErrorCode::SaltTooLong,
                ItemError::ValueTooLong { .. } => ErrorCode::ValueTooLong,
                _ => ErrorCode::Protocol,
            };
            (code, error.to_string())
        })?;
        self.items.put(item, cas, now).map_err(|outdated| {
            let code = match outdated {
                Outdated::Swapped { .. } => ErrorCode::Swapped,
                Outdated::Sequence { .. } => ErrorCode::Sequence,
            };
            (code, outdated.to_string())
        })
    }
}

fn check_token(valid: bool) -> Result<(), (ErrorCode, String)> {
    if valid { Ok(()) } else { Err((ErrorCode::Protocol, "token is not valid any more, or not yours".to_owned())) }
}

fn sample(side: &mut Side, rng: &mut fastrand::Rng, now: Instant) -> Samples {
    let num = side.peers.info_hashes() as u64;
    let (samples, interval): (&[InfoHash], _) = side.peers.sample(rng, now);
    // Where these are all, there is nothing to wait for but news.
    Samples { interval, num, samples: samples.to_vec() }
}
