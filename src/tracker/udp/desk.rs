//! Where packets are read and answered, without sockets: those of a batch are taken in, then all are answered by as few calls
//! of the store as it takes.
//!
//! Who has no valid connection id gets nothing but that, in a packet of the size of the one that asks for it. So nobody can
//! have something larger than what he sends sent to somebody else.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use super::ids::ConnectionIds;
use crate::metainfo::InfoHash;
use crate::tracker::service::{Refusal, Service};
use crate::tracker::statistics::{Counter, Tally, Transport};
use crate::tracker::store::{Announce, Counts, Reply};
use crate::wire::tracker::AnnounceRequest;
use crate::wire::tracker::udp::{MAX_SCRAPE, RequestRef, ResponseRef, ScrapeEntry, url_parts};

/// The longest payload of an answer: what passes everywhere in one piece (RFC 8200, less the headers of IPv6 and UDP).
const MAX_ANSWER: usize = 1280 - 40 - 8;

/// The length of an answer to an announce without its peers.
const ANNOUNCE_HEAD: usize = 20;

/// One thread's desk.
pub(super) struct Desk {
    service: Arc<Service>,
    ids: ConnectionIds,
    announces: Vec<Announce>,
    /// Who made each of them.
    announcers: Vec<Asker>,
    /// The info-hashes of all scrapes.
    hashes: Vec<InfoHash>,
    /// Who asked for how many of them, in order.
    scrapers: Vec<(Asker, usize)>,
    reply: Reply,
    entries: Vec<ScrapeEntry>,
    packet: Vec<u8>,
    tally: Tally,
}

/// Who asks, and where it sent its packet: answers have to come from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) addr: SocketAddr,
    /// `None` where the socket has only one address.
    pub(super) at: Option<IpAddr>,
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
struct Asker {
    client: Client,
    transaction_id: u32,
}

impl Desk {
    pub(super) fn new(service: Arc<Service>, ids: ConnectionIds) -> Self {
        Self {
            service,
            ids,
            announces: Vec::new(),
            announcers: Vec::new(),
            hashes: Vec::new(),
            scrapers: Vec::new(),
            reply: Reply::default(),
            entries: Vec::with_capacity(MAX_SCRAPE),
            packet: Vec::with_capacity(MAX_ANSWER),
            tally: Tally::default(),
        }
    }

    /// Takes a packet in. It is answered now by `send`, or with all others by [`Self::answer`], or not at all.
    pub(super) fn take(&mut self, packet: &[u8], client: Client, now: Instant, send: &mut impl FnMut(&[u8], Client)) {
        let from = client.addr;
        let Ok(request) = RequestRef::decode(packet) else { return self.tally.count(Counter::Malformed) };
        match request {
            RequestRef::Connect { transaction_id } => {
                self.tally.count(Counter::Connections);
                let connection_id = self.ids.give(from.ip(), now);
                self.send(ResponseRef::Connect { transaction_id, connection_id }, client, send);
            }
            RequestRef::Announce { connection_id, .. } | RequestRef::Scrape { connection_id, .. }
                if !self.ids.is_valid(connection_id, from.ip(), now) =>
            {
                self.tally.count(Counter::ConnectionId);
            }
            RequestRef::Announce { transaction_id, announce, options, .. } => {
                let announce = self.checked(&announce, from);
                let asker = Asker { client, transaction_id };
                let admitted = self.look_at_url(options, from.ip(), now);
                match admitted.and_then(|()| self.service.admit(&announce, now)) {
                    Ok(()) => {
                        self.announces.push(announce);
                        self.announcers.push(asker);
                    }
                    Err(refusal) => self.refuse(asker, refusal.counter(), &refusal.to_string(), send),
                }
            }
            RequestRef::Scrape { transaction_id, info_hashes, .. } => {
                let asker = Asker { client, transaction_id };
                let admitted = if self.service.access.is_keyed() {
                    Err(self.service.refused(Refusal::KeylessScrape, from.ip(), now))
                } else {
                    self.service.admit_from(from.ip(), now)
                };
                match admitted {
                    Ok(()) => {
                        self.hashes.extend(info_hashes.iter().copied().map(InfoHash::new));
                        self.scrapers.push((asker, info_hashes.len()));
                    }
                    Err(refusal) => self.refuse(asker, refusal.counter(), &refusal.to_string(), send),
                }
            }
        }
    }

    /// Answers what waits.
    pub(super) fn answer(&mut self, now: Instant, send: &mut impl FnMut(&[u8], Client)) {
        self.answer_announces(now, send);
        self.answer_scrapes(now, send);
        self.service.statistics.add(Transport::Udp, &mut self.tally);
    }

    fn answer_announces(&mut self, now: Instant, send: &mut impl FnMut(&[u8], Client)) {
        if self.announces.is_empty() {
            return;
        }
        let Self { service, announces, announcers, reply, packet, tally, .. } = self;
        service.store.announce(announces, now, reply, &mut |number, reply| {
            let Asker { client, transaction_id } = announcers[number];
            packet.clear();
            match reply {
                Ok(Reply { counts, v4, v6, again, .. }) => {
                    let interval = again.unwrap_or(service.config.interval).as_secs();
                    let interval = u32::try_from(interval).unwrap_or(u32::MAX);
                    tally.count(Counter::Announces);
                    let peers = if client.addr.is_ipv4() { v4 } else { v6 };
                    let (leechers, seeders) = (counts.leechers, counts.seeders);
                    ResponseRef::Announce { transaction_id, interval, leechers, seeders, peers }.encode_into(packet);
                }
                Err(unavailable) => {
                    tally.count(Counter::Unavailable);
                    ResponseRef::Error { transaction_id, message: &unavailable.why }.encode_into(packet);
                }
            }
            send(packet, client);
        });
        announces.clear();
        announcers.clear();
    }

    fn answer_scrapes(&mut self, now: Instant, send: &mut impl FnMut(&[u8], Client)) {
        if self.scrapers.is_empty() {
            return;
        }
        let scraped = self.service.store.scrape(&self.hashes, now);
        let mut at = 0;
        for number in 0..self.scrapers.len() {
            let (Asker { client, transaction_id }, amount) = self.scrapers[number];
            let asked = at..at + amount;
            at += amount;
            match &scraped {
                Ok(counts) => {
                    self.tally.count(Counter::Scrapes);
                    self.entries.clear();
                    for (info_hash, counts) in self.hashes[asked.clone()].iter().zip(&counts[asked]) {
                        // As if nobody took part: the answer has a place for each that was asked for.
                        let is_served = self.service.access.allows(info_hash);
                        let served = if is_served { *counts } else { Counts::default() };
                        self.entries.push(ScrapeEntry {
                            seeders: served.seeders,
                            completed: served.downloaded,
                            leechers: served.leechers,
                        });
                    }
                    self.packet.clear();
                    ResponseRef::Scrape { transaction_id, torrents: &self.entries }.encode_into(&mut self.packet);
                    send(&self.packet, client);
                }
                Err(unavailable) => {
                    self.refuse(Asker { client, transaction_id }, Counter::Unavailable, &unavailable.why, send);
                }
            }
        }
        self.hashes.clear();
        self.scrapers.clear();
    }

    /// Whether the options behind an announce have the URL with the key, where there is one; else they are not looked at.
    fn look_at_url(&self, options: &[u8], from: IpAddr, now: Instant) -> Result<(), Refusal> {
        let access = &self.service.access;
        if !access.is_keyed() {
            return Ok(());
        }
        let refusal = if url_parts(options).any(|part| part.is_err()) {
            Refusal::Options
        } else if !access.is_announce_url(url_parts(options).flatten()) {
            Refusal::Key
        } else {
            return Ok(());
        };
        Err(self.service.refused(refusal, from, now))
    }

    /// What a client says of itself, with its address as it is: the one that is named in the packet is not looked at.
    fn checked(&self, request: &AnnounceRequest, from: SocketAddr) -> Announce {
        let fits = (MAX_ANSWER - ANNOUNCE_HEAD) / if from.is_ipv4() { 6 } else { 18 };
        Announce {
            info_hash: request.info_hash,
            peer_id: request.peer_id,
            addr: SocketAddr::new(from.ip(), request.port),
            key: request.key,
            left: request.left,
            uploaded: request.uploaded,
            downloaded: request.downloaded,
            event: request.event,
            wanted: self.service.wanted(request.numwant.map(u64::from)).min(fits),
            both_families: false,
            with_ids: false,
        }
    }

    fn refuse(&mut self, asker: Asker, counter: Counter, why: &str, send: &mut impl FnMut(&[u8], Client)) {
        self.tally.count(counter);
        let Asker { client, transaction_id } = asker;
        self.send(ResponseRef::Error { transaction_id, message: why }, client, send);
    }

    fn send(&mut self, response: ResponseRef<'_>, to: Client, send: &mut impl FnMut(&[u8], Client)) {
        self.packet.clear();
        response.encode_into(&mut self.packet);
        send(&self.packet, to);
    }
}
