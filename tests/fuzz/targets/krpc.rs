//! What nodes of the DHT send: bounded, the same again after being encoded and decoded, and never more than a datagram.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ropewalk::wire::item::{MAX_SALT_LEN, MAX_VALUE_LEN, UnverifiedItem};
use ropewalk::wire::krpc::{
    Body, MAX_DATAGRAM_LEN, MAX_RECEIVED_LEN, MAX_SAMPLE_INTERVAL, MAX_TOKEN_LEN, MAX_TRANSACTION_LEN, Message, Method,
    Reply,
};

fuzz_target!(|data: &[u8]| {
    let message = match Message::decode(data) {
        Ok(message) => message,
        Err(error) => {
            let Some(answer) = error.answer() else { return };
            assert_eq!(Message::decode(&answer.encode()), Ok(answer));
            return;
        }
    };
    assert!(data.len() <= MAX_RECEIVED_LEN && message.transaction.len() <= MAX_TRANSACTION_LEN);
    match &message.body {
        Body::Query(query) => match &query.method {
            Method::AnnouncePeer { token, .. } => assert!(token.len() <= MAX_TOKEN_LEN),
            Method::Put { item, token, .. } => {
                assert!(token.len() <= MAX_TOKEN_LEN);
                self::item(item);
            }
            _ => {}
        },
        Body::Reply(reply) => self::reply(reply),
        Body::Error(error) => {
            assert!(error.message.chars().count() <= 200 && !error.message.chars().any(char::is_control))
        }
    }
    let datagram = message.encode();
    assert!(datagram.len() <= MAX_DATAGRAM_LEN, "{}", datagram.len());
    let again = Message::decode(&datagram).expect("what was encoded decodes");
    // What was cut, or is written in one way only, is so for good.
    assert_eq!(again.encode(), datagram);
});

fn reply(reply: &Reply) {
    assert!(reply.values.iter().chain(reply.nodes.iter().map(|node| &node.addr)).all(|addr| addr.port() != 0));
    assert!(reply.token.as_ref().is_none_or(|token| token.len() <= MAX_TOKEN_LEN));
    assert!(reply.samples.as_ref().is_none_or(|samples| samples.interval <= MAX_SAMPLE_INTERVAL));
    if let Some(scrape) = &reply.scrape {
        assert!(scrape.seeds.estimate().is_finite() && scrape.peers.estimate() >= 0.0);
    }
    reply.item.iter().for_each(item);
}

fn item(item: &UnverifiedItem) {
    assert!(item.value.as_bencode().len() <= MAX_VALUE_LEN);
    assert!(item.signed.as_ref().is_none_or(|signed| signed.salt.len() <= MAX_SALT_LEN && signed.seq >= 0));
    let target = item.target();
    if let Ok(item) = item.clone().verify() {
        assert_eq!(item.target(), target);
    }
}
