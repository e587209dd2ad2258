//! What trackers send, over HTTP and UDP, and what clients send to a UDP tracker: bounded, and the same again after
//! being encoded and decoded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ropewalk::wire::tracker::http::{Reply, Retry};
use ropewalk::wire::tracker::udp::{MAX_SCRAPE, Request, Response};
use ropewalk::wire::tracker::{Family, MAX_PEERS};

fuzz_target!(|data: &[u8]| {
    http(data);
    for family in [Family::V4, Family::V6] {
        response(data, family);
    }
    if let Ok(request) = Request::decode(data) {
        assert_eq!(Request::decode(&request.encode()).as_ref(), Ok(&request));
    }
});

fn http(data: &[u8]) {
    match Reply::decode(data) {
        Ok(Reply::Announced(reply)) => {
            assert!(reply.peers.len() <= MAX_PEERS && reply.peers.iter().all(|peer| peer.port() != 0));
            assert!(reply.tracker_id.is_none_or(|id| id.len() <= 512));
            reply.warning.as_deref().inspect(|warning| message(warning));
        }
        Ok(Reply::Refused { reason, retry }) => {
            message(&reason);
            assert!(!matches!(retry, Some(Retry::After(time)) if time.is_zero()));
        }
        Err(error) => assert!(error.to_string().chars().count() < 400),
    }
}

fn response(data: &[u8], family: Family) {
    let Ok(response) = Response::decode(data, family) else { return };
    match &response {
        Response::Connect { .. } => {}
        Response::Announce { peers, .. } => {
            assert!(peers.len() <= MAX_PEERS && peers.iter().all(|peer| peer.port() != 0));
            if peers.iter().any(|peer| Family::from(peer.ip()) != family) {
                return; // Mapped addresses are IPv4 ones, which a packet to IPv6 cannot have.
            }
        }
        Response::Scrape { torrents, .. } => assert!(torrents.len() <= MAX_SCRAPE),
        Response::Error { message, .. } => self::message(message),
    }
    assert_eq!(Response::decode(&response.encode(family), family).as_ref(), Ok(&response));
}

/// A message for people.
fn message(text: &str) {
    assert!(text.chars().count() <= 512 && !text.chars().any(char::is_control), "{text:?}");
}
