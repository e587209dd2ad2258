//! Whom the owner trusts: what it remembers of peers and is told by others who met them, who is banned or blocked, and who
//! goes for somebody better.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use url::{Host, Url};

use super::door::USELESS_AFTER;
use super::handle::Event;
use super::peer::Peer;
use super::{Owner, Resources};
use crate::config::Bind;
use crate::net::local_addresses;
use crate::peer::{Callee, PeerError, PeerKey, Traffic};
use crate::policy::{AddressBook, Deed, Record, Source, Standing, Surroundings};

/// What holds while the metadata is looked for, too.
impl Resources {
    /// Has a book take in addresses that `teller` named.
    pub(super) fn take_in(&self, book: &mut AddressBook, source: Source, teller: Option<IpAddr>, addrs: &[SocketAddr]) {
        let (now, today) = (Instant::now(), SystemTime::now());
        let standings: Vec<Standing> = {
            let reputation = self.reputation.lock();
            addrs.iter().map(|&addr| reputation.standing(addr, today)).collect()
        };
        for (&addr, standing) in addrs.iter().zip(standings) {
            if standing == Standing::Cheat {
                book.set_standing(addr, standing);
            }
            if book.add_told(addr, source, teller, now) {
                book.set_standing(addr, standing);
            }
        }
    }

    /// The next address to dial that nobody has been cheated at meanwhile, in this torrent or another.
    pub(super) fn next_to_dial(&self, book: &mut AddressBook, now: Instant) -> Option<Callee> {
        loop {
            let addr = book.next(now)?;
            if self.standing(addr) != Standing::Cheat {
                return Some(Callee { addr, plaintext_only: book.is_plaintext_only(addr) });
            }
            book.not_dialled(addr, now);
            book.ban(addr);
        }
    }

    /// Whether somebody at an address may be a peer.
    pub(super) fn welcomes(&self, book: &AddressBook, addr: SocketAddr) -> bool {
        !book.is_banned(addr) && !book.is_blocked(addr) && self.standing(addr) != Standing::Cheat
    }

    pub(super) fn note(&self, addr: SocketAddr, deed: Deed) {
        self.reputation.lock().note(addr, deed, SystemTime::now());
    }

    /// What is remembered of the peer at an address.
    pub(super) fn record(&self, addr: SocketAddr) -> Option<Record> {
        self.reputation.lock().record(addr, SystemTime::now())
    }

    fn standing(&self, addr: SocketAddr) -> Standing {
        self.reputation.lock().standing(addr, SystemTime::now())
    }
}

impl Owner {
    /// Takes in addresses of peers, and dials. `teller` is who named them, where that has an address.
    pub(super) fn found(&mut self, source: Source, teller: Option<IpAddr>, addrs: &[SocketAddr]) {
        self.resources.take_in(&mut self.book, source, teller, addrs);
        self.dial();
    }

    /// Finds out which addresses can be reached from where we are.
    pub(super) fn look_around(&mut self) {
        self.book.set_surroundings(surroundings(&self.resources));
    }

    /// Whether somebody at an address may be a peer.
    pub(super) fn welcomes(&self, addr: SocketAddr) -> bool {
        self.resources.welcomes(&self.book, addr)
    }

    pub(super) fn standing(&self, addr: SocketAddr) -> Standing {
        self.resources.standing(addr)
    }

    /// What is remembered of the peer at an address.
    pub(super) fn record(&self, addr: SocketAddr) -> Option<Record> {
        self.resources.record(addr)
    }

    pub(super) fn note(&self, addr: SocketAddr, deed: Deed) {
        self.resources.note(addr, deed);
    }

    /// A peer is gone: what remains.
    pub(super) fn remember(&self, peer: &Peer, why: &PeerError) {
        let traffic = &peer.link.traffic;
        let useful = Traffic::read(&traffic.down).saturating_sub(Traffic::read(&traffic.wasted));
        if useful > 0 {
            self.note(peer.link.addr, Deed::Useful(useful));
        }
        if why.is_fault() {
            self.note(peer.link.addr, Deed::Fault);
        }
    }

    /// Looks up how the peers behaved elsewhere, and parts from those who lied there.
    pub(super) fn look_at_records(&mut self) {
        let today = SystemTime::now();
        let mut cheats = Vec::new();
        {
            let reputation = self.resources.reputation.lock();
            for peer in self.peers.values_mut() {
                peer.standing = reputation.standing(peer.link.addr, today);
                if peer.standing == Standing::Cheat {
                    cheats.push(peer.link.addr);
                }
            }
        }
        for addr in cheats {
            self.part_from(addr, "it lied in another torrent");
        }
    }

    /// Bans a peer that lied, here and in all torrents, and ends its connections.
    pub(super) fn ban(&mut self, addr: SocketAddr) {
        if !self.book.is_banned(addr) {
            self.note(addr, Deed::Lie);
        }
        self.part_from(addr, "it sent wrong bytes");
    }

    fn part_from(&mut self, addr: SocketAddr, why: &str) {
        if self.book.is_banned(addr) {
            return;
        }
        log::warn!("{addr}: banned: {why}");
        self.book.ban(addr);
        self.shared.tell(&Event::PeerBanned(addr));
        for peer in self.peers.values().filter(|peer| self.book.is_banned(peer.link.addr)) {
            peer.link.close();
        }
    }

    /// The session's filter is another one: ends what is blocked now.
    pub(super) fn filter_changed(&mut self) {
        self.book.set_filter(Arc::clone(&self.resources.filter.read()));
        for peer in self.peers.values().filter(|peer| self.book.is_blocked(peer.link.addr)) {
            log::info!("{}: dropped: it is blocked", peer.link.addr);
            peer.link.close();
        }
        for (_, closer) in self.dialling.values().filter(|(addr, _)| self.book.is_blocked(*addr)) {
            closer.close();
        }
    }

    /// Ends the idle connection with the worst canonical priority, for a caller with a better one (BEP 40): so a newcomer
    /// finds a place in a swarm where everybody is full, and a crowd of callers takes no more than its share. `false` where
    /// there is none, or where one went just now.
    pub(super) fn replace_worse(&mut self, newcomer: SocketAddr) -> bool {
        let Some(priority) = self.book.priority(newcomer) else { return false };
        let now = Instant::now();
        let is_idle = |peer: &Peer| {
            !peer.dismissed
                && !self.book.is_manual(peer.link.addr)
                && now.duration_since(peer.link.born()) >= USELESS_AFTER
                && peer.down.0.rate(now) + peer.up.0.rate(now) == 0
        };
        let idle = self.peers.iter().filter(|(_, peer)| is_idle(peer));
        let idle: Vec<(PeerKey, u32)> =
            idle.filter_map(|(&key, peer)| Some((key, self.book.priority(peer.link.addr)?))).collect();
        let Some(loser) = self.swaps.loser(priority, idle, now) else { return false };
        if let Some(peer) = self.peers.get_mut(&loser) {
            log::debug!("{}: makes room for {newcomer}, which has the better priority", peer.link.addr);
            peer.dismiss();
        }
        true
    }
}

/// Where we are, as the address book wants to know it.
pub(super) fn surroundings(resources: &Resources) -> Surroundings {
    let bind = resources.config.listen.bind.as_ref();
    let bound = bind.and_then(|bind| if let Bind::Addr(ip) = bind { Some(*ip) } else { None });
    Surroundings::of(&local_addresses(bind), bound, resources.port)
}

/// The address in a URL, where it has one instead of a name.
pub(super) fn address_of(url: &str) -> Option<IpAddr> {
    match Url::parse(url).ok()?.host()? {
        Host::Ipv4(ip) => Some(ip.into()),
        Host::Ipv6(ip) => Some(ip.into()),
        // Of `udp://` URLs the host is never more than a name to the parser.
        Host::Domain("localhost") => Some([127, 0, 0, 1].into()),
        Host::Domain(name) => name.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::address_of;

    #[test]
    fn a_tracker_may_have_an_address_for_a_name() {
        for (url, ip) in [
            ("http://127.0.0.1:80/announce", Some("127.0.0.1")),
            ("udp://127.0.0.1:80", Some("127.0.0.1")),
            ("udp://[::1]:80/x", Some("::1")),
            ("http://[::1]:80/x", Some("::1")),
            ("http://localhost:6969/", Some("127.0.0.1")),
            ("http://tracker.example/", None),
            ("nonsense", None),
        ] {
            assert_eq!(address_of(url), ip.map(|ip| ip.parse().unwrap()), "{url}");
        }
    }
}
