//! What the owner knows of a connected peer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::exchange::Acquaintance;
use super::twins::Doubt;
use crate::bits::Bits;
use crate::metainfo::PieceIndex;
use crate::peer::{Interest, Link};
use crate::policy::{RateMeter, Standing};
use crate::wire::extension::ExtensionMap;

/// What the owner knows of a connected peer.
pub(super) struct Peer {
    pub(super) link: Arc<Link>,
    pub(super) has: Bits,
    pub(super) client: String,
    pub(super) choking_us: bool,
    pub(super) interested_in_us: bool,
    pub(super) we_interested: bool,
    /// What it was last known to be to us.
    pub(super) interest: Interest,
    /// Since when we answer its requests, and what it had been sent before.
    pub(super) unchoked: Option<(Instant, u64)>,
    pub(super) upload_only: bool,
    /// Its extension handshake has come.
    pub(super) introduced: bool,
    /// The ids by which it wants to be sent messages of extensions.
    pub(super) extensions: ExtensionMap,
    pub(super) prefers_encryption: bool,
    /// Who told whom of other peers.
    pub(super) acquaintance: Acquaintance,
    pub(super) allowed_fast: Option<Bits>,
    /// The blocks of work it could take, where there was none for it.
    pub(super) hungry: Option<u32>,
    /// Haves that it had no room for.
    pub(super) pending_haves: Vec<PieceIndex>,
    /// Of the haves that wait for all, how many it was told of when it came.
    pub(super) known_haves: usize,
    /// Where a peer that called us can be called.
    pub(super) listens: Option<SocketAddr>,
    /// Pieces that it refused to send, and until when it is not asked for them.
    pub(super) refused: HashMap<u32, Instant>,
    pub(super) snubs: u32,
    /// It has an older connection that may be dead.
    pub(super) doubt: Option<Doubt>,
    /// We let it go through no fault of its own.
    pub(super) dismissed: bool,
    /// The blocks that it had delivered at the last look.
    pub(super) delivered: u64,
    pub(super) down: (RateMeter, u64),
    pub(super) up: (RateMeter, u64),
    pub(super) last_block: Option<Instant>,
    /// How it behaved before, as of the last look at the records.
    pub(super) standing: Standing,
}

impl Peer {
    pub(super) fn new(link: Arc<Link>, pieces: u32) -> Self {
        Self {
            has: Bits::new(pieces),
            client: link.peer_id.client_name(),
            choking_us: true,
            interested_in_us: false,
            we_interested: false,
            interest: Interest::Nothing,
            unchoked: None,
            upload_only: false,
            introduced: false,
            extensions: ExtensionMap::default(),
            prefers_encryption: false,
            acquaintance: Acquaintance::new(link.addr),
            allowed_fast: None,
            hungry: None,
            pending_haves: Vec::new(),
            known_haves: 0,
            listens: None,
            refused: HashMap::new(),
            snubs: 0,
            doubt: None,
            dismissed: false,
            delivered: 0,
            down: (RateMeter::new(), 0),
            up: (RateMeter::new(), 0),
            last_block: None,
            standing: Standing::Unknown,
            link,
        }
    }

    /// Ends the connection because we pause, or because neither has anything for the other.
    pub(super) fn dismiss(&mut self) {
        self.dismissed = true;
        self.link.close();
    }

    pub(super) fn is_seed(&self) -> bool {
        self.has.is_full() || self.upload_only
    }

    /// Whether it would send us this piece now.
    pub(super) fn sends(&self, piece: u32) -> bool {
        self.has.get(piece)
            && !self.refused.contains_key(&piece)
            && (!self.choking_us || self.allowed_fast.as_ref().is_some_and(|allowed| allowed.get(piece)))
    }
}
