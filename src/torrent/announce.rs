//! The announcer of a torrent, as owners and searches for metadata start, hear and stop it.

use std::sync::Arc;

use super::handle::{Event, State};
use super::inbox::Inbox;
use super::shared::Shared;
use super::{Resources, STACK};
use crate::discovery::{Announcer, Counters, Setup, Timing, TrackerFact, TrackerState};
use crate::peer::Traffic;

/// What is said to be left as long as nobody knows: a tracker takes nothing left for a seed, which it names no seeds.
const LEFT_UNKNOWN: u64 = 16 * 1024;

/// Starts to announce to these tiers, and to scrape those who answer where that is wanted; what comes of it goes to the
/// owner's inbox.
pub(super) fn start(
    shared: &Arc<Shared>,
    resources: &Resources,
    tiers: Vec<Vec<String>>,
    scrape: bool,
) -> Option<Announcer> {
    let inbox = shared.inbox.clone();
    let facts = move |fact| {
        inbox.send(Inbox::Tracker(fact)).ok();
    };
    let started = Announcer::start(Setup { scrape, ..setup(shared, resources, tiers) }, facts);
    started.inspect_err(|error| log::error!("{}: no announce thread: {error}", shared.name())).ok()
}

/// Stops it. An owner does not wait for trackers; a thread of its own does.
pub(super) fn stop(announcer: Announcer, resources: &Resources) {
    let grace = resources.config.trackers.stop_grace;
    let stop = move || announcer.stop(grace);
    if let Err(error) = resources.crew.spawn("announce-stop".into(), STACK, stop) {
        log::debug!("trackers are not told of the stop: {error}");
    }
}

/// Says what a tracker said.
pub(super) fn tell(shared: &Shared, fact: &TrackerFact) {
    let message = match fact {
        TrackerFact::Peers { url, peers } => {
            let message = format!("{url}: {} {}", peers.len(), if peers.len() == 1 { "peer" } else { "peers" });
            log::info!("{message}");
            message
        }
        TrackerFact::ExternalIp { .. } => return,
        TrackerFact::Failed { url, message } | TrackerFact::Warning { url, message } => {
            log::warn!("{url}: {message}");
            format!("{url}: {message}")
        }
    };
    shared.tell(&Event::Tracker(message));
}

/// Whether a tracker that has not answered yet may still bring peers.
pub(super) fn is_asked(announcer: &Announcer) -> bool {
    let trackers = announcer.snapshot();
    let any = |state| trackers.iter().any(|tracker| tracker.state == state);
    let answered = any(TrackerState::Working) || any(TrackerState::Failed);
    any(TrackerState::Announcing) || (any(TrackerState::Untried) && !answered)
}

fn setup(shared: &Arc<Shared>, resources: &Resources, tiers: Vec<Vec<String>>) -> Setup {
    let counters = {
        let shared = Arc::clone(shared);
        move || {
            let stats = &shared.snapshot().stats;
            Counters {
                uploaded: Traffic::read(&shared.traffic.up),
                downloaded: Traffic::read(&shared.traffic.down),
                left: match stats.state {
                    State::Metadata { .. } => LEFT_UNKNOWN,
                    _ => stats.wanted.saturating_sub(stats.done),
                },
            }
        }
    };
    Setup {
        info_hash: shared.info_hash,
        peer_id: resources.our_id,
        port: Arc::clone(&resources.outside_port),
        tiers,
        counters: Arc::new(counters),
        scrape: false,
        num_want: resources.config.trackers.numwant,
        user_agent: concat!("ropewalk/", env!("CARGO_PKG_VERSION")).to_owned(),
        bind: resources.config.listen.bind.clone(),
        encryption: resources.config.peers.encryption,
        timing: Timing::default(),
        tls: resources.tls.clone(),
        key: resources.key_for_trackers,
        seed: fastrand::u64(..),
    }
}
