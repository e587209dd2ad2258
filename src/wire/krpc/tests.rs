use std::time::Duration;

use super::{Body, DecodeError, ErrorCode, Message, Method, NodeId, Reply, Want};

const QUERIER: NodeId = NodeId::new(*b"abcdefghij0123456789");
const RESPONDER: NodeId = NodeId::new(*b"mnopqrstuvwxyz123456");

#[test]
fn the_examples_of_bep_5_are_read_and_written() {
    let info_hash = RESPONDER.into();
    let queries: [(&[u8], Method); 5] = [
        (b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe", Method::Ping),
        (
            b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q9:find_node1:t2:aa1:y1:qe",
            Method::FindNode { target: RESPONDER, want: Want::default() },
        ),
        (
            b"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers1:t2:aa1:y1:qe",
            Method::GetPeers { info_hash, want: Want::default(), noseed: false, scrape: false },
        ),
        (
            b"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz1234566:noseedi1e6:scrapei1e\
            4:wantl2:n42:n6ee1:q9:get_peers1:t2:aa1:y1:qe",
            Method::GetPeers { info_hash, want: Want::BOTH, noseed: true, scrape: true },
        ),
        (
            b"d1:ad2:id20:abcdefghij012345678912:implied_porti1e9:info_hash20:mnopqrstuvwxyz1234564:porti6881e\
            5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe",
            Method::AnnouncePeer {
                info_hash,
                port: 6881,
                implied_port: true,
                token: b"aoeusnth".to_vec(),
                seed: false,
            },
        ),
    ];
    for (datagram, method) in queries {
        let message = Message::query("aa", QUERIER, method);
        assert_eq!(message.encode().escape_ascii().to_string(), datagram.escape_ascii().to_string());
        assert_eq!(Message::decode(datagram), Ok(message));
    }
}

#[test]
fn a_reply_with_peers_is_read_and_written() {
    let datagram = b"d1:rd2:id20:abcdefghij01234567895:token8:aoeusnth6:valuesl6:axje.u6:idhtnmee1:t2:aa1:y1:re";
    let reply = Reply {
        token: Some(b"aoeusnth".to_vec()),
        values: vec!["97.120.106.101:11893".parse().unwrap(), "105.100.104.116:28269".parse().unwrap()],
        ..Reply::new(QUERIER)
    };
    let message = Message::reply("aa", reply);
    assert_eq!(Message::decode(datagram), Ok(message.clone()));
    assert_eq!(message.encode(), datagram);
}

#[test]
fn an_error_is_read_and_written() {
    let datagram = b"d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee";
    let message = Message::error("aa", ErrorCode::Generic, "A Generic Error Ocurred");
    assert_eq!(Message::decode(datagram), Ok(message.clone()));
    assert_eq!(message.encode(), datagram);
}

#[test]
fn a_query_that_makes_no_sense_has_an_answer() {
    let datagram = b"d1:ad2:id20:abcdefghij0123456789e1:q9:get_peers1:t2:aa1:y1:qe";
    let error = Message::decode(datagram).unwrap_err();
    assert!(matches!(error, DecodeError::Query { code: ErrorCode::Protocol, .. }));
    assert_eq!(error.answer().unwrap().encode(), b"d1:eli203e24:no info_hash of 20 bytese1:t2:aa1:y1:ee");
    let reply =
        Message::decode(b"d1:rd8:intervali99999999e2:id20:abcdefghij01234567893:numi5e7:samples0:e1:t0:1:y1:re");
    let Ok(Message { body: Body::Reply(reply), .. }) = reply else { panic!("{reply:?}") };
    assert_eq!(reply.samples.unwrap().interval, Duration::from_secs(21600));
}
