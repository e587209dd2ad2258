//! What the owner does about peers: those who come, what they say, those who go.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::Event;
use super::peer::Peer;
use super::{Owner, Phase};
use crate::bits::Bits;
use crate::config::Encryption;
use crate::metainfo::PieceIndex;
use crate::net;
use crate::peer::{
    DONT_HAVE_ID, Fact, Interest, Link, METADATA_ID, Outgoing, PEX_ID, PeerError, PeerKey, Protection, REQUEST_QUEUE,
    Said, Traffic, UPLOAD_ONLY_ID,
};
use crate::policy::{Deed, Source};
use crate::wire::extension::{Extension, ExtensionHandshake, ExtensionMap};
use crate::wire::message::Message;
use crate::wire::metadata::MetadataLen;

/// How long a peer is not asked for a piece that it refused to send.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// Peers that are gone and of which the address is remembered, for what they sent before.
const DEPARTED: usize = 256;

impl Owner {
    pub(super) fn handle_peer(&mut self, fact: Fact) {
        match fact {
            Fact::Unreachable { key, addr, why } => {
                self.dialling.remove(&key);
                // It may have learnt to encrypt, or somebody else may be there by now.
                self.book.set_plaintext_only(addr, false);
                if matches!(why, PeerError::Ourselves) {
                    self.book.learn_self(addr);
                } else if why.is_fault() {
                    self.note(addr, Deed::Fault);
                }
                let cut_off = matches!(&why, PeerError::Connect(error) if net::bind::is_cut_off(error));
                if matches!(self.phase, Phase::Running) && !cut_off {
                    self.book.missed(addr, why.miss(), Instant::now());
                } else {
                    // It was we who gave up, or who could not.
                    self.book.not_dialled(addr, Instant::now());
                }
                self.tell_gone(addr, &why);
                self.dial();
            }
            Fact::Joined(link) => self.joined(link),
            // It was already on its way when the metadata came: it waits with the others.
            Fact::Candidate { addr, .. } => {
                self.book.connected(addr);
                self.shared.tell(&Event::PeerConnected(addr));
            }
            // It says so again when it has become a peer.
            Fact::CandidateListens { .. } => {}
            Fact::CandidateGone { key, addr, why } => {
                self.dialling.remove(&key);
                if matches!(why, PeerError::Ourselves) {
                    self.book.learn_self(addr);
                } else if why.is_fault() {
                    self.note(addr, Deed::Fault);
                }
                for addr in self.listening.remove(&key).into_iter().chain([addr]) {
                    self.book.disconnected(addr, Instant::now(), matches!(why, PeerError::Stopped));
                }
                self.tell_gone(addr, &why);
                self.dial();
            }
            Fact::Liars(liars) => liars.into_iter().for_each(|liar| self.ban(liar)),
            // Two can bring the last piece at the same time.
            Fact::Metadata(_) => {}
            Fact::Said(key, said) => self.said(key, said),
            Fact::Hungry(key, blocks) => {
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.hungry = Some(blocks);
                    self.feed(key);
                }
            }
            Fact::Gone { key, why } => self.gone(key, &why),
            Fact::Stored { piece, from, audit } => self.stored(&piece, from, audit),
            Fact::Corrupt { piece, audit } => self.corrupt(&piece, audit),
            Fact::NotStored { piece, error } => {
                if self.desk.remove(&piece) {
                    self.picker.give_back(piece.index().get());
                    let bytes = self.shared.metainfo().layout().piece_len(piece.index());
                    Traffic::add(&self.traffic.wasted, u64::from(bytes));
                }
                self.fail_or_wait(&error);
            }
            Fact::Unreadable { error } => self.fail_or_wait(&error),
        }
    }

    fn joined(&mut self, link: Arc<Link>) {
        let key = link.key;
        self.dialling.remove(&key);
        let now = Instant::now();
        self.book.connected(link.addr);
        if !link.incoming {
            self.book.set_plaintext_only(link.addr, link.protection == Protection::None);
        }
        let full = self.peers.len() >= self.resources.config.peers.per_torrent;
        let doubt = if full || !matches!(self.phase, Phase::Running) || !self.welcomes(link.addr) {
            link.close();
            None
        } else {
            self.meet_twin(&link, now)
        };
        let pieces = self.shared.metainfo().layout().piece_count();
        log::debug!("{}: connected, {}", link.addr, link.peer_id.client_name());
        if !link.introduced {
            self.shared.tell(&Event::PeerConnected(link.addr));
        }
        self.introduce(&link);
        self.name_our_node(&link);
        self.shared.ledger.joined(Arc::clone(&link));
        let mut peer = Peer::new(link, pieces);
        peer.doubt = doubt;
        peer.listens = self.listening.remove(&key);
        peer.standing = self.standing(peer.link.addr);
        peer.known_haves = self.haves.len();
        self.peers.insert(key, peer);
        self.set_interest(key);
        self.next_choke = self.next_choke.min(now + super::status::ROUND);
    }

    /// The first messages to a peer: what we have, then who we are.
    fn introduce(&mut self, link: &Arc<Link>) {
        let mut out = Vec::new();
        let have = self.shared.have.read();
        let hide = self.super_seeder.is_some() && have.is_full();
        match (link.fast(), hide) {
            // It was told that we have nothing: each piece is news, and a bitfield may come only once (BEP 3, 6).
            _ if link.introduced => {}
            (true, false) if have.is_full() => Message::HaveAll.encode_into(&mut out),
            (true, _) if hide || have.count() == 0 => Message::HaveNone.encode_into(&mut out),
            (_, false) if have.count() > 0 => Message::Bitfield(have.as_wire()).encode_into(&mut out),
            _ => {}
        }
        if link.reserved.extended() {
            let our_ip = |v4| self.book.our_address(v4).filter(|_| link.addr.is_ipv4() != v4).map(|addr| addr.ip());
            let handshake = ExtensionHandshake {
                e: Some(self.resources.config.peers.encryption != Encryption::Off),
                m: self.our_extensions(),
                metadata_size: self.metadata_size(),
                p: Some(self.resources.told_port()).filter(|&port| port != 0),
                v: Some(format!("ropewalk {}", env!("CARGO_PKG_VERSION"))),
                yourip: Some(link.addr.ip()),
                // Of the family by which it does not see us already.
                ipv4: our_ip(true).and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }),
                ipv6: our_ip(false).and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None }),
                reqq: Some(REQUEST_QUEUE),
                upload_only: (self.finished && !hide).then_some(true),
            };
            Message::Extended { id: 0, payload: &handshake.encode() }.encode_into(&mut out);
        }
        let layout = self.shared.metainfo().layout();
        let news = have.iter().filter(|_| link.introduced && !hide).filter_map(|piece| layout.piece(piece));
        let news: Arc<[PieceIndex]> = news.collect();
        drop(have);
        link.send(Outgoing::Raw(out.into()));
        if !news.is_empty() {
            link.send(Outgoing::Have(news));
        }
        if let Some(seeder) = self.super_seeder.as_mut().filter(|_| hide)
            && let Some(piece) = seeder.joined(link.key.0)
            && let Some(piece) = self.shared.metainfo().layout().piece(piece)
        {
            link.send(Outgoing::Have([piece].into()));
        }
    }

    /// What we understand of extensions. Said once: it does not change while a connection lasts.
    fn our_extensions(&self) -> ExtensionMap {
        let always = [(Extension::UploadOnly, UPLOAD_ONLY_ID), (Extension::DontHave, DONT_HAVE_ID)];
        let metadata = self.metadata_size().map(|_| (Extension::Metadata, METADATA_ID));
        always.into_iter().chain(metadata).chain(self.exchanges().then_some((Extension::Pex, PEX_ID))).collect()
    }

    /// The length of the metadata, where it is given to others: a private torrent keeps it to itself.
    fn metadata_size(&self) -> Option<u32> {
        let metainfo = self.shared.metainfo();
        let len = u32::try_from(metainfo.info_bytes().len()).ok().and_then(MetadataLen::new);
        len.filter(|_| !metainfo.is_private()).map(MetadataLen::get)
    }

    /// Tells peers whether we download still (BEP 21), where that changed: those who keep us for our sake alone may go.
    pub(super) fn tell_upload_only(&self) {
        if self.super_seeder.is_some() {
            return;
        }
        for peer in self.peers.values() {
            let Some(id) = peer.extensions.id(Extension::UploadOnly) else { continue };
            let mut out = Vec::new();
            Message::Extended { id, payload: &[u8::from(self.finished)] }.encode_into(&mut out);
            peer.link.send(Outgoing::Raw(out.into()));
        }
    }

    fn said(&mut self, key: PeerKey, said: Said) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        match said {
            Said::Choke => {
                peer.choking_us = true;
                peer.hungry = None;
                self.let_go(key);
            }
            Said::Unchoke => {
                peer.choking_us = false;
                // Its writer may have been quicker to ask for work than its reader to say this.
                self.feed(key);
            }
            Said::Interested => {
                peer.interested_in_us = true;
                self.refill_slots = true;
            }
            Said::NotInterested => {
                peer.interested_in_us = false;
                // Its slot is free for somebody else.
                self.refill_slots |= peer.unchoked.is_some();
            }
            Said::Have(piece) => {
                if peer.has.set(piece.get()) {
                    self.picker.peer_has(piece.get());
                    self.reveal_after_have(key, piece);
                    self.look_at_pieces(key);
                }
            }
            Said::Pieces(has) => {
                self.picker.peer_left(&peer.has);
                peer.has = has;
                self.picker.peer_joined(&peer.has);
                self.reveal_after_pieces(key);
                self.look_at_pieces(key);
                self.grant_fast(key);
            }
            Said::AllowedFast(piece) => {
                let pieces = peer.has.len();
                peer.allowed_fast.get_or_insert_with(|| Bits::new(pieces)).set(piece.get());
                self.refeed = true;
            }
            Said::DontHave(piece) => {
                if peer.has.clear(piece.get()) {
                    self.picker.peer_lost(piece.get());
                    self.look_at_pieces(key);
                    // What it was asked for of this piece, others may bring.
                    self.refeed = true;
                }
            }
            Said::Refused(piece) => {
                peer.refused.insert(piece.get(), Instant::now() + REFUSED_FOR);
                self.refeed = true;
            }
            Said::Extension(handshake) => self.extension(key, *handshake),
            Said::Node(port) => self.learn_node(key, port),
            Said::UploadOnly(upload_only) => {
                peer.upload_only = upload_only;
                self.look_at_pieces(key);
            }
            Said::Exchange(message) => self.heard_of_others(key, &message),
        }
    }

    fn extension(&mut self, key: PeerKey, handshake: ExtensionHandshake) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(client) = handshake.v.filter(|client| !client.is_empty()) {
            peer.client = client;
        }
        peer.introduced = true;
        peer.extensions.update(&handshake.m);
        peer.prefers_encryption = handshake.e.unwrap_or(peer.prefers_encryption);
        if let Some(ours) = handshake.yourip {
            self.book.peer_sees_us(peer.link.addr, ours);
        }
        if let Some(upload_only) = handshake.upload_only {
            peer.upload_only = upload_only;
        }
        // A peer that called us names the port that it listens on: now it can be called back. Only the first one counts, or
        // each handshake that names another would leave an address that stays connected for ever.
        let listens = handshake.p.filter(|_| peer.link.incoming && peer.listens.is_none());
        if let Some(port) = listens {
            let addr = SocketAddr::new(peer.link.addr.ip(), port);
            peer.listens = Some(addr);
            self.book.add(addr, Source::Incoming, Instant::now());
            // Not to be dialled while it is connected.
            self.book.connected(addr);
        }
        self.look_at_pieces(key);
    }

    /// A peer's pieces changed: is it interesting, is it of any use?
    fn look_at_pieces(&mut self, key: PeerKey) {
        self.set_interest(key);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.is_seed() {
            peer.listens.into_iter().chain([peer.link.addr]).for_each(|addr| self.book.mark_seed(addr));
            // Two that have everything have little to say to each other.
            self.part_from_seeds(Instant::now());
        } else if peer.hungry.is_some() {
            self.feed(key);
        }
    }

    /// Keeps what we say of our interest true.
    fn set_interest(&mut self, key: PeerKey) {
        let looking = self.is_looking();
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let interested = !self.finished && !looking && self.picker.interesting(&peer.has);
        let interest = match interested {
            true => Interest::Wanted,
            false if self.finished => Interest::Complete,
            false => Interest::Nothing,
        };
        if std::mem::replace(&mut peer.interest, interest) != interest {
            peer.link.pipeline.lock().set_interest(interest, Instant::now());
        }
        if interested != peer.we_interested {
            let message = if interested { Outgoing::Interested } else { Outgoing::NotInterested };
            if peer.link.send(message) {
                peer.we_interested = interested;
            } else {
                peer.link.close();
            }
        }
        if interested && peer.hungry.is_some() {
            self.feed(key);
        }
    }

    pub(super) fn update_interest(&mut self) {
        let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        for key in keys {
            self.set_interest(key);
        }
    }

    /// A peer works on nothing any more: others may.
    pub(super) fn let_go(&mut self, key: PeerKey) {
        for piece in self.desk.let_go(key) {
            self.picker.give_back(piece.get());
        }
        self.refeed = true;
    }

    fn gone(&mut self, key: PeerKey, why: &PeerError) {
        self.dialling.remove(&key);
        let Some(peer) = self.peers.remove(&key) else { return };
        let now = Instant::now();
        self.shared.ledger.left(&peer.link, &peer.client, now);
        if self.departed.len() == DEPARTED {
            self.departed.pop_front();
        }
        self.departed.push_back((key, peer.link.addr));
        self.let_go(key);
        self.forget_hearsay(key);
        self.picker.peer_left(&peer.has);
        if let Some(seeder) = &mut self.super_seeder {
            seeder.left(key.0);
        }
        let useful = Traffic::read(&peer.link.traffic.down) + Traffic::read(&peer.link.traffic.up) > 0;
        self.remember(&peer, why);
        if why.is_fault() {
            log::info!("{}: dropped: {why}", peer.link.addr);
        }
        for addr in peer.listens.into_iter().chain([peer.link.addr]) {
            // The other connection of two between the same two lives on.
            if self.peers.values().any(|other| other.link.addr == addr || other.listens == Some(addr)) {
                continue;
            }
            self.book.disconnected(addr, now, (useful || peer.dismissed) && !why.is_fault());
        }
        if peer.dismissed && !self.finished {
            // By now it could be of use again.
            self.book.hurry();
        }
        self.tell_gone(peer.link.addr, why);
        self.refill_slots |= peer.unchoked.is_some();
        self.dial();
    }

    fn tell_gone(&self, addr: SocketAddr, why: &PeerError) {
        log::debug!("{addr}: gone: {why}");
        if self.shared.has_subscribers() {
            self.shared.tell(&Event::PeerGone { addr, why: why.to_string(), record: self.record(addr) });
        }
    }

    /// The address of a peer by key, connected or not any more.
    pub(super) fn addr_of(&self, key: PeerKey) -> Option<SocketAddr> {
        let departed = || self.departed.iter().find(|(gone, _)| *gone == key).map(|(_, addr)| *addr);
        self.peers.get(&key).map(|peer| peer.link.addr).or_else(departed)
    }
}
