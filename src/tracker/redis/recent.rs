//! What was answered lately, for while Redis does not answer.
//!
//! It owns copies of replies, a bounded number of them, each of few peers. It refuses to give what is older than it was told.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::command::compact;
use crate::metainfo::InfoHash;
use crate::tracker::store::{Announce, Reply};
use crate::wire::tracker::Event;

/// The most peers of a copy.
const PEERS: usize = 50;

/// A copy younger than this is not replaced.
const FRESH: Duration = Duration::from_secs(1);

const SHARDS: usize = 16;

/// Copies by what was asked.
#[derive(Debug)]
pub(super) struct Recent {
    /// Each protects its part of the copies; taken by the servers' threads, for one announce.
    shards: Vec<Mutex<Shard>>,
    /// The most copies of a shard.
    most: usize,
    keep: Duration,
}

#[derive(Debug, Default)]
struct Shard {
    copies: HashMap<Asked, Copy>,
    /// In the order in which they came.
    order: VecDeque<Asked>,
}

/// Announces that are alike enough to have the same reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Asked {
    info_hash: InfoHash,
    is_seeder: bool,
    v6: bool,
    both_families: bool,
    with_ids: bool,
}

#[derive(Debug)]
struct Copy {
    reply: Reply,
    at: Instant,
}

impl Recent {
    pub(super) fn new(most: usize, keep: Duration) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, most: most.div_ceil(SHARDS), keep }
    }

    /// Keeps a copy.
    pub(super) fn note(&self, announce: &Announce, reply: &Reply, now: Instant) {
        if self.most == 0 || reply.v4.len() + reply.v6.len() == 0 {
            return;
        }
        let asked = Asked::new(announce);
        let mut shard = self.shard(&asked).lock();
        if let Some(copy) = shard.copies.get_mut(&asked) {
            if now.saturating_duration_since(copy.at) >= FRESH {
                copy.reply.clone_from(&shortened(reply));
                copy.at = now;
            }
            return;
        }
        if shard.order.len() >= self.most
            && let Some(oldest) = shard.order.pop_front()
        {
            shard.copies.remove(&oldest);
        }
        shard.order.push_back(asked);
        shard.copies.insert(asked, Copy { reply: shortened(reply), at: now });
    }

    /// Makes a reply of a copy. False where there is none, and for an event that is to be counted: that has to come again.
    pub(super) fn recall(&self, announce: &Announce, now: Instant, reply: &mut Reply) -> bool {
        if matches!(announce.event, Some(Event::Completed | Event::Stopped)) {
            return false;
        }
        let asked = Asked::new(announce);
        let shard = self.shard(&asked).lock();
        let Some(copy) = shard.copies.get(&asked) else { return false };
        if now.saturating_duration_since(copy.at) > self.keep {
            return false;
        }
        let (own, length) = compact(announce.addr);
        let own = &own[..length];
        let (v4, v6) = (copy.reply.v4.chunks_exact(6), copy.reply.v6.chunks_exact(18));
        let others = v4.chain(v6).enumerate().filter(|(_, addr)| *addr != own).take(announce.wanted);
        *reply = Reply { counts: copy.reply.counts, ..Reply::default() };
        for (n, addr) in others {
            if addr.len() == 6 { &mut reply.v4 } else { &mut reply.v6 }.extend_from_slice(addr);
            reply.ids.extend(copy.reply.ids.get(n));
        }
        true
    }

    fn shard(&self, asked: &Asked) -> &Mutex<Shard> {
        &self.shards[usize::from(asked.info_hash.as_bytes()[1]) % SHARDS]
    }
}

impl Asked {
    fn new(announce: &Announce) -> Self {
        Self {
            info_hash: announce.info_hash,
            is_seeder: announce.left == 0,
            v6: announce.addr.is_ipv6(),
            both_families: announce.both_families,
            with_ids: announce.with_ids,
        }
    }
}

fn shortened(reply: &Reply) -> Reply {
    let v4 = &reply.v4[..reply.v4.len().min(PEERS * 6)];
    let all_v4 = reply.v4.len() / 6;
    let left = PEERS - v4.len() / 6;
    let v6 = &reply.v6[..reply.v6.len().min(left * 18)];
    let ids = if reply.ids.is_empty() {
        Vec::new()
    } else {
        [&reply.ids[..v4.len() / 6], &reply.ids[all_v4..][..v6.len() / 18]].concat()
    };
    Reply { counts: reply.counts, v4: v4.to_vec(), v6: v6.to_vec(), ids, again: None }
}
