//! Whom the owner dials, whom it admits, and who makes room for others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Admission, Owner, Phase};
use crate::net::Closer;
use crate::peer::{STACK, Traffic, dial};

/// A peer that neither wants nor has anything may be replaced after this long, where there are too many.
pub(super) const USELESS_AFTER: Duration = Duration::from_secs(60);
/// Callers from one address, loopback aside: who wants to fill our places needs many addresses.
pub(super) const PER_ADDRESS: usize = 8;

/// How many peers are dialled in a row, and how long the next ones wait then: starting threads and shaking hands takes the
/// processor's time, and the first of them would have to share it with all.
const DIALS: usize = 8;
const DIAL_PACE: Duration = Duration::from_millis(3);

impl Owner {
    /// Dials as many peers as limits and the book allow.
    pub(super) fn dial(&mut self) {
        let now = Instant::now();
        if !matches!(self.phase, Phase::Running) || self.dial_on.is_some_and(|at| at > now) {
            return;
        }
        let Some(context) = self.context.clone() else { return };
        let mut dialled = 0;
        while self.peers.len() + self.dialling.len() < self.resources.config.peers.per_torrent {
            if dialled == DIALS {
                self.dial_on = Some(now + DIAL_PACE);
                return;
            }
            dialled += 1;
            let Some(to) = self.resources.next_to_dial(&mut self.book, now) else { return };
            let addr = to.addr;
            let key = self.resources.key();
            let closer = Arc::new(Closer::default());
            let thread = {
                let (context, roster, closer, crew) = (
                    Arc::clone(&context),
                    Arc::clone(&self.roster),
                    Arc::clone(&closer),
                    Arc::clone(&self.resources.crew),
                );
                move || dial(key, to, context, roster, closer, crew)
            };
            if let Err(error) = self.resources.crew.spawn(format!("rx-{addr}"), STACK, thread) {
                // It is tried again at each look around, and is the same each time.
                let level =
                    if std::mem::replace(&mut self.no_threads, true) { log::Level::Debug } else { log::Level::Warn };
                log::log!(level, "{addr} is not dialled, nor are others for now: {error}");
                self.book.not_dialled(addr, now);
                return;
            }
            self.no_threads = false;
            self.dialling.insert(key, (addr, closer));
        }
    }

    /// Whether somebody who called us may become a peer.
    pub(super) fn admit(&mut self, addr: SocketAddr, closer: Arc<Closer>) -> Option<Admission> {
        if !matches!(self.phase, Phase::Running) || !self.welcomes(addr) {
            return None;
        }
        let same = self.peers.values().filter(|peer| peer.link.addr.ip() == addr.ip()).count();
        if same >= PER_ADDRESS && !addr.ip().is_loopback() {
            return None;
        }
        let full = self.peers.len() + self.dialling.len() >= self.resources.config.peers.per_torrent;
        if full && !self.replace_useless() && !self.replace_worse(addr) {
            return None;
        }
        let context = self.context.clone()?;
        let key = self.resources.key();
        self.dialling.insert(key, (addr, closer));
        Some(Admission::Peer { key, context, roster: Arc::clone(&self.roster) })
    }

    /// Ends the longest useless connection, for somebody who may be of use. `false` where there is none.
    fn replace_useless(&mut self) -> bool {
        let now = Instant::now();
        let useless = self.peers.values_mut().filter(|peer| {
            let traffic = &peer.link.traffic;
            !peer.dismissed
                && !peer.we_interested
                && !peer.interested_in_us
                && now.duration_since(peer.link.born()) >= USELESS_AFTER
                && Traffic::read(&traffic.down) + Traffic::read(&traffic.up) == 0
        });
        let Some(longest) = useless.min_by_key(|peer| peer.link.born()) else { return false };
        longest.dismiss();
        true
    }
}
