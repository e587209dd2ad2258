//! The UDP tracker protocol (BEP 15) as a machine: who waits for what, sends it again when, and believes which answer.
//! It owns no socket and no clock. The packets are `wire::tracker::udp`'s.
//!
//! ```text
//! begin ──► Connecting ──connection id──► Announcing ──reply, error──► done
//!   │            ▲ │ ▲                        │ │ ▲
//!   │            └─┘ └────id expired──────────┘ └─┘ sent again after 15·2ⁿ s
//!   └── id still good ──────────────────────► Announcing
//! ```

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::metainfo::InfoHash;
use crate::wire::tracker::udp::{Request, Response, ScrapeEntry};
use crate::wire::tracker::{AnnounceReply, AnnounceRequest, Family};

/// How long a client may use a connection id after it has received it.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);

/// The most retransmissions of BEP 15: the last wait is 15·2⁸ s.
const MAX_RETRANSMITS: u32 = 8;

/// When a request is sent again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// The wait for the first answer; it doubles each time.
    pub(super) first_wait: Duration,
    /// How often the same request is sent again; more than 8 are 8.
    pub(super) retransmits: u32,
}

/// What a tracker is asked.
#[derive(Clone, Debug)]
pub(super) enum Errand {
    /// To count us in, and for peers.
    Announce {
        /// What it is told.
        announce: AnnounceRequest,
        /// Path and query of its URL (BEP 41).
        url_data: Vec<u8>,
    },
    /// How many peers this torrent has.
    Scrape(InfoHash),
}

/// What a tracker answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// To an announce.
    Announced(AnnounceReply),
    /// To a scrape.
    Scraped(ScrapeEntry),
}

/// Why an announce brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No answer to the last retransmission either.
    TimedOut,
    /// An error packet.
    Message(String),
}

/// A tracker at one address.
#[derive(Debug)]
pub(super) struct UdpTracker {
    remote: SocketAddr,
    rng: fastrand::Rng,
    connection: Option<Connection>,
    exchange: Option<Exchange>,
    outcome: Option<Result<Answer, Refusal>>,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    id: u64,
    good_until: Instant,
}

/// An announce that is not answered yet.
#[derive(Debug)]
struct Exchange {
    errand: Errand,
    schedule: Schedule,
    phase: Phase,
    transaction_id: u32,
    /// The n of 15·2ⁿ.
    retransmits: u32,
    /// An announce has been sent: from here on, asking for a connection id again counts as a retransmission.
    announced: bool,
    deadline: Instant,
    outbox: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Connecting,
    Announcing {
        connection_id: u64,
        /// The id was there before this exchange: the tracker may have forgotten it.
        old: bool,
    },
}

impl UdpTracker {
    pub(super) fn new(remote: SocketAddr, seed: u64) -> Self {
        Self { remote, rng: fastrand::Rng::with_seed(seed), connection: None, exchange: None, outcome: None }
    }

    /// Until when the connection id may be used, if there is one.
    pub(super) fn connected_until(&self) -> Option<Instant> {
        self.connection.map(|connection| connection.good_until)
    }

    /// Starts an announce or a scrape; what was under way is forgotten.
    pub(super) fn begin(&mut self, errand: Errand, schedule: Schedule, now: Instant) {
        let connection = self.good_connection(now);
        let mut exchange = Exchange {
            errand,
            schedule,
            phase: connection
                .map_or(Phase::Connecting, |connection| Phase::Announcing { connection_id: connection.id, old: true }),
            transaction_id: self.rng.u32(..),
            retransmits: 0,
            announced: false,
            deadline: now,
            outbox: None,
        };
        exchange.transmit(now);
        self.exchange = Some(exchange);
        self.outcome = None;
    }

    /// What came from `from`. Anything that is not an answer to the last request, from the tracker itself, is ignored.
    pub(super) fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let Some(exchange) = &mut self.exchange else { return };
        let canonical = |addr: SocketAddr| (addr.ip().to_canonical(), addr.port());
        if canonical(from) != canonical(self.remote) {
            return;
        }
        let Ok(response) = Response::decode(datagram, Family::from(self.remote.ip())) else { return };
        if response.transaction_id() != exchange.transaction_id {
            return;
        }
        match (response, exchange.phase) {
            (Response::Connect { connection_id, .. }, Phase::Connecting) => {
                self.connection = Some(Connection { id: connection_id, good_until: now + CONNECTION_LIFE });
                if !exchange.announced {
                    exchange.retransmits = 0;
                }
                exchange.enter(Phase::Announcing { connection_id, old: false }, self.rng.u32(..));
                exchange.transmit(now);
            }
            (Response::Announce { interval, leechers, seeders, peers, .. }, Phase::Announcing { .. })
                if matches!(exchange.errand, Errand::Announce { .. }) =>
            {
                self.finish(Ok(Answer::Announced(AnnounceReply {
                    interval: Some(Duration::from_secs(interval.into())),
                    seeders: Some(seeders),
                    leechers: Some(leechers),
                    peers,
                    ..AnnounceReply::default()
                })));
            }
            (Response::Scrape { torrents, .. }, Phase::Announcing { .. })
                if matches!(exchange.errand, Errand::Scrape(_)) =>
            {
                self.finish(torrents.first().copied().map(Answer::Scraped).ok_or_else(|| {
                    // The tracker owes one entry for each torrent.
                    Refusal::Message("an empty answer to a scrape".to_owned())
                }));
            }
            (Response::Error { .. }, Phase::Announcing { old: true, .. }) => {
                // The tracker may have been restarted and not know the id any more; its words do not tell reliably.
                self.connection = None;
                exchange.enter(Phase::Connecting, self.rng.u32(..));
                exchange.transmit(now);
            }
            (Response::Error { message, .. }, _) => {
                self.connection = None;
                self.finish(Err(Refusal::Message(message)));
            }
            _ => {}
        }
    }

    /// Sends again, or gives up, if it is time to.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let expired = self.good_connection(now).is_none();
        let Some(exchange) = self.exchange.as_mut().filter(|exchange| exchange.deadline <= now) else { return };
        if exchange.retransmits >= exchange.schedule.retransmits.min(MAX_RETRANSMITS) {
            return self.finish(Err(Refusal::TimedOut));
        }
        exchange.retransmits += 1;
        if expired && matches!(exchange.phase, Phase::Announcing { .. }) {
            exchange.enter(Phase::Connecting, self.rng.u32(..));
        }
        exchange.transmit(now);
    }

    /// A datagram to send to the tracker.
    pub(super) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.exchange.as_mut()?.outbox.take()
    }

    /// When [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.exchange.as_ref().map(|exchange| exchange.deadline)
    }

    /// How the announce ended; once.
    pub(super) fn poll_outcome(&mut self) -> Option<Result<Answer, Refusal>> {
        self.outcome.take()
    }

    fn good_connection(&mut self, now: Instant) -> Option<Connection> {
        self.connection = self.connection.filter(|connection| now < connection.good_until);
        self.connection
    }

    fn finish(&mut self, outcome: Result<Answer, Refusal>) {
        self.exchange = None;
        self.outcome = Some(outcome);
    }
}

impl Exchange {
    /// From here on another request is sent, under a transaction id of its own.
    fn enter(&mut self, phase: Phase, transaction_id: u32) {
        self.phase = phase;
        self.transaction_id = transaction_id;
    }

    /// Puts the phase's request into the outbox. A repeated one keeps its transaction id, so that a late answer to an
    /// earlier copy counts.
    fn transmit(&mut self, now: Instant) {
        let transaction_id = self.transaction_id;
        let request = match self.phase {
            Phase::Connecting => Request::Connect { transaction_id },
            Phase::Announcing { connection_id, .. } => {
                self.announced = true;
                match self.errand.clone() {
                    Errand::Announce { announce, url_data } => {
                        Request::Announce { connection_id, transaction_id, announce, url_data }
                    }
                    Errand::Scrape(info_hash) => {
                        Request::Scrape { connection_id, transaction_id, info_hashes: vec![info_hash] }
                    }
                }
            }
        };
        self.outbox = Some(request.encode());
        self.deadline = now + self.schedule.first_wait.saturating_mul(1 << self.retransmits.min(MAX_RETRANSMITS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metainfo::InfoHash;
    use crate::wire::handshake::PeerId;
    use crate::wire::tracker::{Crypto, Event};

    const SECOND: Duration = Duration::from_secs(1);
    const BEP_15: Schedule = Schedule { first_wait: Duration::from_secs(15), retransmits: 8 };

    /// A tracker's side of the machine, on a clock that only moves when told to.
    struct Pair {
        start: Instant,
        now: Instant,
        machine: UdpTracker,
    }

    impl Pair {
        fn new() -> Self {
            let start = Instant::now();
            Self { start, now: start, machine: UdpTracker::new(remote(), 3) }
        }

        fn begin(&mut self) {
            let errand = Errand::Announce { announce: announce(), url_data: b"/announce?x=1".to_vec() };
            self.machine.begin(errand, BEP_15, self.now);
        }

        /// The next datagram, with the clock moved to when it is due, and the seconds since the start.
        fn sent(&mut self) -> Option<(u64, Request)> {
            loop {
                if let Some(datagram) = self.machine.poll_transmit() {
                    return Some(((self.now - self.start).as_secs(), Request::decode(&datagram).unwrap()));
                }
                self.now = self.machine.poll_timeout()?;
                self.machine.handle_timeout(self.now);
            }
        }

        fn answer(&mut self, response: Response) {
            self.machine.handle_datagram(remote(), &response.encode(Family::V4), self.now);
        }

        fn connect(&mut self, connection_id: u64) {
            let (_, request) = self.sent().unwrap();
            assert!(matches!(request, Request::Connect { .. }), "{request:?}");
            self.answer(Response::Connect { transaction_id: request.transaction_id(), connection_id });
        }

        fn announced(&mut self) -> (u64, u32) {
            match self.sent().unwrap().1 {
                Request::Announce { connection_id, transaction_id, announce: sent, url_data } => {
                    assert_eq!(url_data, b"/announce?x=1");
                    assert_eq!(sent, announce());
                    (connection_id, transaction_id)
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn remote() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 6969))
    }

    fn announce() -> AnnounceRequest {
        AnnounceRequest {
            info_hash: InfoHash::new([1; 20]),
            peer_id: PeerId::new([2; 20]),
            port: 6881,
            uploaded: 1,
            downloaded: 2,
            left: 3,
            event: Some(Event::Started),
            numwant: Some(50),
            key: 4,
            tracker_id: None,
            ipv4: None,
            ipv6: None,
            crypto: Crypto::None,
        }
    }

    fn reply(transaction_id: u32) -> Response {
        let peers = vec![SocketAddr::from(([10, 0, 0, 1], 1))];
        Response::Announce { transaction_id, interval: 1800, leechers: 1, seeders: 2, peers }
    }

    #[test]
    fn an_announce_connects_first_and_brings_peers() {
        let mut pair = Pair::new();
        pair.begin();
        pair.connect(77);
        let (connection_id, transaction_id) = pair.announced();
        assert_eq!(connection_id, 77);
        pair.answer(reply(transaction_id));
        let Some(Ok(Answer::Announced(reply))) = pair.machine.poll_outcome() else { panic!() };
        assert_eq!(reply.interval, Some(1800 * SECOND));
        assert_eq!((reply.seeders, reply.leechers, reply.peers.len()), (Some(2), Some(1), 1));
        assert_eq!((pair.machine.poll_transmit(), pair.machine.poll_timeout()), (None, None));
    }

    #[test]
    fn a_scrape_brings_numbers_and_takes_no_other_answer() {
        let mut pair = Pair::new();
        pair.machine.begin(Errand::Scrape(InfoHash::new([1; 20])), BEP_15, pair.now);
        pair.connect(77);
        let (_, request) = pair.sent().unwrap();
        let Request::Scrape { connection_id: 77, transaction_id, info_hashes } = request else { panic!("{request:?}") };
        assert_eq!(info_hashes, [InfoHash::new([1; 20])]);
        pair.answer(reply(transaction_id));
        assert_eq!(pair.machine.poll_outcome(), None);
        let entry = ScrapeEntry { seeders: 1, completed: 2, leechers: 3 };
        pair.answer(Response::Scrape { transaction_id, torrents: vec![entry] });
        assert_eq!(pair.machine.poll_outcome(), Some(Ok(Answer::Scraped(entry))));
    }

    #[test]
    fn a_connect_without_answer_is_sent_again_on_bep_15s_schedule_and_then_given_up() {
        let mut pair = Pair::new();
        pair.begin();
        let sent: Vec<_> = std::iter::from_fn(|| pair.sent()).collect();
        let times: Vec<_> = sent.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [0, 15, 45, 105, 225, 465, 945, 1905, 3825]);
        assert!(sent.iter().all(|(_, request)| *request == sent[0].1));
        assert_eq!((pair.now - pair.start).as_secs(), 7665);
        assert_eq!(pair.machine.poll_outcome(), Some(Err(Refusal::TimedOut)));
    }

    #[test]
    fn an_announce_without_answer_asks_for_a_new_connection_id_once_the_old_one_has_expired() {
        let mut pair = Pair::new();
        pair.begin();
        pair.connect(77);
        let mut sent = Vec::new();
        for _ in 0..5 {
            let (at, request) = pair.sent().unwrap();
            sent.push((at, matches!(request, Request::Connect { .. })));
        }
        assert_eq!(sent, [(0, false), (15, false), (45, false), (105, true), (225, true)]);
        let waits = pair.machine.poll_timeout().unwrap();
        pair.answer(Response::Connect {
            transaction_id: pair.machine.exchange.as_ref().unwrap().transaction_id,
            connection_id: 78,
        });
        assert_eq!(pair.announced().0, 78);
        // The schedule goes on where it was: a tracker that only answers connects does not hold us for ever.
        assert_eq!(pair.machine.poll_timeout(), Some(waits));
    }

    #[test]
    fn a_connection_id_is_used_for_one_minute() {
        let mut pair = Pair::new();
        pair.begin();
        pair.connect(77);
        let transaction_id = pair.announced().1;
        pair.answer(reply(transaction_id));
        pair.now += 59 * SECOND;
        pair.begin();
        let (connection_id, transaction_id) = pair.announced();
        assert_eq!(connection_id, 77);
        pair.answer(reply(transaction_id));
        pair.now += SECOND;
        pair.begin();
        pair.connect(78);
        assert_eq!(pair.announced().0, 78);
    }

    #[test]
    fn answers_of_others_and_to_other_requests_are_ignored() {
        let mut pair = Pair::new();
        pair.begin();
        let transaction_id = pair.sent().unwrap().1.transaction_id();
        let connect = |transaction_id| Response::Connect { transaction_id, connection_id: 9 };
        let right = connect(transaction_id).encode(Family::V4);
        pair.machine.handle_datagram(SocketAddr::from(([192, 0, 2, 2], 6969)), &right, pair.now);
        pair.machine.handle_datagram(SocketAddr::from(([192, 0, 2, 1], 6970)), &right, pair.now);
        for cut in 0..right.len() {
            pair.machine.handle_datagram(remote(), &right[..cut], pair.now);
        }
        pair.answer(connect(transaction_id.wrapping_add(1)));
        pair.answer(reply(transaction_id));
        assert_eq!((pair.machine.poll_transmit(), pair.machine.poll_outcome()), (None, None));
        pair.answer(connect(transaction_id));
        assert_eq!(pair.announced().0, 9);
    }

    #[test]
    fn an_error_packet_ends_the_announce_in_the_trackers_words() {
        let mut pair = Pair::new();
        pair.begin();
        pair.connect(77);
        let transaction_id = pair.announced().1;
        pair.answer(Response::Error { transaction_id, message: "unregistered".into() });
        assert_eq!(pair.machine.poll_outcome(), Some(Err(Refusal::Message("unregistered".into()))));
    }

    #[test]
    fn an_old_connection_id_that_is_refused_is_renewed_once() {
        let mut pair = Pair::new();
        pair.begin();
        pair.connect(77);
        let transaction_id = pair.announced().1;
        pair.answer(reply(transaction_id));
        pair.begin();
        let (connection_id, transaction_id) = pair.announced();
        assert_eq!(connection_id, 77);
        let refused = |transaction_id| Response::Error { transaction_id, message: "unknown connection id".into() };
        pair.answer(refused(transaction_id));
        pair.connect(78);
        let (connection_id, transaction_id) = pair.announced();
        assert_eq!(connection_id, 78);
        pair.answer(refused(transaction_id));
        assert!(matches!(pair.machine.poll_outcome(), Some(Err(Refusal::Message(_)))));
    }
}
