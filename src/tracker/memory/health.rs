//! The largest swarms, for people to look at.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use super::Memory;
use super::swarm::Swarm;
use crate::metainfo::InfoHash;
use crate::tracker::store::SwarmHealth;
use crate::wire::handshake::PeerId;

/// Peers of a swarm whose clients are looked at. Others are taken to be like them.
const CLIENTS_OF: usize = 10_000;

/// Clients that are told apart; the rarest are left out.
const CLIENTS: usize = 20;

impl Memory {
    /// The largest swarms, at most `most`, the largest first.
    pub(super) fn largest(&self, most: usize, tick: u32) -> Vec<SwarmHealth> {
        let mut largest = BinaryHeap::with_capacity(most + 1);
        for shard in &self.shards {
            for swarm in shard.lock().swarms() {
                largest.push((Reverse(swarm.len()), swarm.info_hash));
                if largest.len() > most {
                    largest.pop();
                }
            }
        }
        let in_order = largest.into_sorted_vec().into_iter();
        in_order.filter_map(|(_, info_hash)| self.health_of(&info_hash, tick)).collect()
    }

    fn health_of(&self, info_hash: &InfoHash, tick: u32) -> Option<SwarmHealth> {
        let (mut health, ids) = {
            let shard = self.shard(info_hash).lock();
            let swarm = shard.get(info_hash)?;
            (health(swarm, tick), swarm.ids(CLIENTS_OF).collect::<Vec<_>>())
        };
        // Names are made without the lock.
        let peers = health.counts.seeders + health.counts.leechers;
        health.clients = clients(&ids, peers);
        Some(health)
    }
}

fn health(swarm: &Swarm, tick: u32) -> SwarmHealth {
    let (up_rate, down_rate) = swarm.rates(tick);
    SwarmHealth {
        info_hash: swarm.info_hash,
        counts: swarm.counts(),
        seen: Duration::from_secs(tick.saturating_sub(swarm.seen).into()),
        up_rate,
        down_rate,
        clients: Vec::new(),
    }
}

/// The clients of `peers` peers, as far as these tell.
fn clients(ids: &[PeerId], peers: u32) -> Vec<(String, u32)> {
    let mut counts = HashMap::new();
    for id in ids {
        *counts.entry(id.client_name()).or_insert(0_u32) += 1;
    }
    let scaled = |count: u32| (u64::from(count) * u64::from(peers) / ids.len() as u64) as u32;
    let mut clients: Vec<_> = counts.into_iter().map(|(name, count)| (name, scaled(count))).collect();
    clients.sort_by(|(one, few), (other, many)| many.cmp(few).then_with(|| one.cmp(other)));
    clients.truncate(CLIENTS);
    clients
}
