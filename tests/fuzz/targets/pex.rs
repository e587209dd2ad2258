//! What a peer tells of other peers: bounded, the same again after being encoded and decoded, and no more is kept of it
//! than may be, none of which leads where nobody is.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use ropewalk::policy::{Hearsay, may_name};
use ropewalk::wire::pex::{MAX_CONTACTS, PexFlags, PexMessage};

fuzz_target!(|data: &[u8]| {
    // The first byte: from where it comes.
    let Some((&from, payload)) = data.split_first() else { return };
    let Ok(message) = PexMessage::decode(payload) else { return };
    assert!(message.added.len() <= MAX_CONTACTS && message.dropped.len() <= MAX_CONTACTS);
    let mut addrs = message.added.iter().map(|contact| contact.addr).chain(message.dropped.iter().copied());
    assert!(addrs.all(|addr| addr.port() != 0));
    // IPv4 in IPv6 becomes IPv4 and comes first the next time.
    let mut sorted = message.clone();
    sorted.added.sort_by_key(|contact| contact.addr.is_ipv6());
    sorted.dropped.sort_by_key(SocketAddr::is_ipv6);
    assert_eq!(PexMessage::decode(&message.encode()).as_ref(), Ok(&sorted));

    let sender = [[127, 0, 0, 1], [192, 168, 0, 1], [8, 8, 8, 8]][usize::from(from) % 3];
    let sender = IpAddr::from(sender);
    let mut hearsay = Hearsay::default();
    let others = || message.added.iter().map(|contact| (contact.addr, contact.flags.has(PexFlags::UPLOAD_ONLY)));
    for by in [1, 2, 1, 1] {
        hearsay.named(by, sender, others());
        assert!(hearsay.len() <= 400);
    }
    hearsay.dropped(2, &message.dropped);
    let most = hearsay.len();
    let mut taken = hearsay.take(most, true);
    taken.extend(hearsay.take(most, false));
    assert!(taken.len() == most && hearsay.is_empty());
    assert!(taken.iter().all(|&(by, addr)| by < 3 && may_name(sender, addr)));
});
