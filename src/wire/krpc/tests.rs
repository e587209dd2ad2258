use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{
    BloomFilter, Body, DecodeError, ErrorCode, MAX_DATAGRAM_LEN, MAX_TOKEN_LEN, MAX_TRANSACTION_LEN, Message, Method,
    NodeId, NodeInfo, Query, RemoteError, Reply, Samples, Scrape, Want,
};
use crate::bencode::{self, Value};
use crate::metainfo::InfoHash;
use crate::wire::item::{Item, ItemValue, MAX_SALT_LEN, Signed, UnverifiedItem};
use crate::wire::tracker::Family;

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
    let long = format!("1:ad2:id20:abcdefghij01234567895:token1:x1:v1000:{}e1:q3:put", "x".repeat(1000));
    let salt = format!("1:ad2:id20:abcdefghij01234567891:k1:x4:salt65:{}1:v1:xe1:q3:put", "x".repeat(65));
    for (rest, code, message) in [
        ("1:ade1:q4:ping", 203, "no id of 20 bytes"),
        ("1:q4:ping", 203, "no arguments"),
        ("1:ad2:id20:abcdefghij0123456789e1:qi1e", 203, "no query name"),
        ("1:ad2:id20:abcdefghij0123456789e1:q9:get_peers", 203, "no info_hash of 20 bytes"),
        ("1:ad2:id20:abcdefghij01234567896:target3:abce1:q3:get", 203, "no target of 20 bytes"),
        ("1:ad2:id20:abcdefghij01234567894:porti0ee1:q13:announce_peer", 203, "no port"),
        ("1:ad2:id20:abcdefghij0123456789e1:q3:put", 203, "no value"),
        ("1:ad2:id20:abcdefghij01234567891:v1:xe1:q3:put", 203, "no token"),
        ("1:ad2:id20:abcdefghij01234567891:k1:x1:v1:xe1:q3:put", 203, "a mutable item needs k, seq and sig"),
        (&long, 205, "value too long"),
        (&salt, 207, "salt too long"),
    ] {
        let error = Message::decode(format!("d{rest}1:t2:aa1:y1:qe").as_bytes()).unwrap_err();
        assert_eq!(error.answer(), Some(Message::error("aa", ErrorCode::from(code), message)));
    }
}

#[test]
fn what_cannot_be_answered_is_refused() {
    for (datagram, error) in [
        (b"d1:q4:ping1:y1:qe".as_slice(), DecodeError::NoTransaction),
        (b"d1:t33:0000000000000000000000000000000001:y1:qe", DecodeError::NoTransaction),
        (b"d1:t2:aae", DecodeError::Kind),
        (b"d1:t2:aa1:y1:xe", DecodeError::Kind),
        (b"d1:rde1:t2:aa1:y1:re", DecodeError::NoId),
        (b"le", DecodeError::NotADictionary),
        (&[b'd'; 2049], DecodeError::TooLong { len: 2049 }),
    ] {
        assert_eq!(Message::decode(datagram), Err(error.clone()));
        assert_eq!(error.answer(), None);
    }
    assert!(matches!(Message::decode(b"not bencode"), Err(DecodeError::Bencode(_))));
    assert!(matches!(Message::decode(&[b"d1:a".as_slice(), &[b'l'; 2000]].concat()), Err(DecodeError::Bencode(_))));
}

#[test]
fn unsorted_unknown_and_senseless_parts_do_no_harm() {
    let datagram = b"d1:y1:q1:t1:x1:v7:unknown3:zzzli1ee2:ip3:abc2:roi1e1:q9:get_peers\
        1:ad4:wanti1e9:info_hash20:mnopqrstuvwxyz1234566:noseed3:yes2:id20:abcdefghij01234567895:tokeni1eee";
    let method = Method::GetPeers { info_hash: RESPONDER.into(), want: Want::default(), noseed: false, scrape: false };
    assert_eq!(
        Message::decode(&[datagram.as_slice(), b"trailing"].concat()),
        Ok(Message { read_only: true, ..Message::query("x", QUERIER, method) })
    );
    let datagram = b"d1:rd2:id20:mnopqrstuvwxyz1234565:nodes5:short6:nodes6i1e1:k3:abc1:v1:x4:BFsd3:abc\
        6:valuesli1e3:abc6:\x01\x02\x03\x04\0\x006:\x01\x02\x03\x04\0\x09e3:seq1:xe1:t1:x1:y1:re";
    let reply = Reply { values: vec!["1.2.3.4:9".parse().unwrap()], ..Reply::new(RESPONDER) };
    assert_eq!(Message::decode(datagram), Ok(Message::reply("x", reply)));
}

#[test]
fn errors_of_any_shape_are_errors() {
    for (error, code, message) in [
        ("li204e3:abce", ErrorCode::MethodUnknown, "abc"),
        ("li999ee", ErrorCode::Other(999), ""),
        ("l3:abce", ErrorCode::Generic, ""),
        ("i203e", ErrorCode::Generic, ""),
        ("li202e3:a\nbe", ErrorCode::Server, "a\u{fffd}b"),
    ] {
        let datagram = format!("d1:e{error}1:t1:x1:y1:ee");
        assert_eq!(Message::decode(datagram.as_bytes()), Ok(Message::error("x", code, message)), "{datagram}");
    }
}

#[test]
fn an_unknown_query_keeps_what_it_looks_for() {
    for key in ["target", "info_hash"] {
        let datagram = format!(
            "d1:ad2:id20:abcdefghij0123456789{}:{key}20:mnopqrstuvwxyz123456e1:q4:vote1:t1:x1:y1:qe",
            key.len()
        );
        let method = Method::Unknown { target: Some(RESPONDER), want: Want::default() };
        assert_eq!(Message::decode(datagram.as_bytes()), Ok(Message::query("x", QUERIER, method)));
    }
}

#[test]
fn peers_in_one_string_are_taken_apart() {
    let datagram =
        b"d1:rd2:id20:mnopqrstuvwxyz1234566:valuesl12:\x01\x02\x03\x04\0\x09\x05\x06\x07\x08\0\x0aee1:t1:x1:y1:re";
    let values = vec!["1.2.3.4:9".parse().unwrap(), "5.6.7.8:10".parse().unwrap()];
    assert_eq!(Message::decode(datagram), Ok(Message::reply("x", Reply { values, ..Reply::new(RESPONDER) })));
}

#[test]
fn nobody_is_told_which_family_where_the_query_says_none() {
    let (v4, v6) = (Want { v4: true, v6: false }, Want { v4: false, v6: true });
    assert_eq!((Want::default().or(Family::V4), Want::default().or(Family::V6)), (v4, v6));
    assert_eq!((v6.or(Family::V4), Want::BOTH.or(Family::V6)), (v6, Want::BOTH));
    assert!(v4.of(Family::V4) && !v4.of(Family::V6));
}

#[test]
fn a_reply_is_cut_to_one_datagram_and_keeps_what_matters() {
    let node = |number: u8, addr: &str| NodeInfo { id: NodeId::new([number; 20]), addr: addr.parse().unwrap() };
    let nodes: Vec<_> =
        (0..16).map(|number| node(number, if number % 2 == 0 { "1.2.3.4:5" } else { "[2001:db8::1]:5" })).collect();
    let value = ItemValue::from_bytes(&[b'x'; 996]).unwrap();
    let item = Item::sign(&[1; 32], b"", i64::MAX, value).unwrap().as_unverified().clone();
    let full = Reply {
        nodes: nodes.clone(),
        values: vec!["1.2.3.4:5".parse().unwrap(); 1000],
        token: Some(vec![7; MAX_TOKEN_LEN]),
        scrape: Some(Box::default()),
        samples: Some(Samples { interval: Duration::ZERO, num: 5, samples: vec![InfoHash::new([9; 20]); 1000] }),
        ..Reply::new(RESPONDER)
    };
    let cut = |reply: Reply| {
        let datagram = Message { ip: Some("[::1]:1".parse().unwrap()), ..Message::reply([0; 32], reply) }.encode();
        assert!(datagram.len() <= MAX_DATAGRAM_LEN, "{}", datagram.len());
        let Ok(Message { body: Body::Reply(reply), .. }) = Message::decode(&datagram) else { panic!() };
        (reply, MAX_DATAGRAM_LEN - datagram.len())
    };
    let (reply, spare) = cut(full.clone());
    assert_eq!((reply.nodes.len(), reply.values.len()), (16, 0));
    assert!(reply.samples.is_some_and(|samples| samples.num == 5 && spare < 20), "{spare} spare");
    let (reply, spare) = cut(Reply { samples: None, ..full.clone() });
    assert!(!reply.values.is_empty() && spare < 21, "{} values, {spare} spare", reply.values.len());
    assert_eq!((reply.nodes.len(), &reply.token, &reply.scrape), (16, &full.token, &full.scrape));
    let (reply, _) = cut(Reply { item: Some(item.clone()), scrape: None, samples: None, ..full });
    assert_eq!((reply.item.as_ref(), reply.seq), (Some(&item), Some(i64::MAX)));
    assert!(reply.values.is_empty() && reply.nodes.len() < 16);
}

fn socket_addr() -> impl Strategy<Value = SocketAddr> {
    let real = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip.to_canonical(), port);
    (any::<IpAddr>(), 1u16..).prop_map(real)
}

fn want() -> impl Strategy<Value = Want> {
    any::<(bool, bool)>().prop_map(|(v4, v6)| Want { v4, v6 })
}

fn id() -> impl Strategy<Value = NodeId> {
    any::<[u8; 20]>().prop_map(NodeId::new)
}

fn token() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=MAX_TOKEN_LEN)
}

fn item(max_salt: usize) -> impl Strategy<Value = UnverifiedItem> {
    let value = vec(any::<u8>(), 0..300).prop_map(|bytes| ItemValue::from_bytes(&bytes).unwrap());
    let signed = (any::<[u8; 32]>(), vec(any::<u8>(), 0..=max_salt), 0i64.., any::<[u8; 64]>())
        .prop_map(|(key, salt, seq, signature)| Signed { key, salt, seq, signature });
    (value, option::of(signed)).prop_map(|(value, signed)| UnverifiedItem { value, signed })
}

fn method() -> impl Strategy<Value = Method> {
    let hash = || any::<[u8; 20]>().prop_map(InfoHash::new);
    prop_oneof![
        Just(Method::Ping),
        (id(), want()).prop_map(|(target, want)| Method::FindNode { target, want }),
        (hash(), want(), any::<[bool; 2]>()).prop_map(|(info_hash, want, [noseed, scrape])| Method::GetPeers {
            info_hash,
            want,
            noseed,
            scrape
        }),
        (hash(), 1u16.., token(), any::<[bool; 2]>()).prop_map(|(info_hash, port, token, [implied_port, seed])| {
            Method::AnnouncePeer { info_hash, port, implied_port, token, seed }
        }),
        (id(), option::of(any::<i64>()), want()).prop_map(|(target, seq, want)| Method::Get { target, seq, want }),
        (item(MAX_SALT_LEN), option::of(any::<i64>()), token()).prop_map(|(item, cas, token)| {
            let cas = cas.filter(|_| item.signed.is_some());
            Method::Put { item, cas, token }
        }),
        (id(), want()).prop_map(|(target, want)| Method::SampleInfohashes { target, want }),
        (option::of(id()), want()).prop_map(|(target, want)| Method::Unknown { target, want }),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    let nodes = vec((id(), socket_addr()).prop_map(|(id, addr)| NodeInfo { id, addr }), 0..8).prop_map(|mut nodes| {
        // They come back as IPv4 and IPv6, each in its order.
        nodes.sort_by_key(|node| node.addr.is_ipv6());
        nodes
    });
    let filter = || any::<[u8; 32]>().prop_map(|part| BloomFilter::new(std::array::from_fn(|at| part[at % 32])));
    let scrape = (filter(), filter()).prop_map(|(seeds, peers)| Box::new(Scrape { seeds, peers }));
    let samples = (0u64..=21600, 0u64..=i64::MAX as u64, vec(any::<[u8; 20]>().prop_map(InfoHash::new), 0..5))
        .prop_map(|(seconds, num, samples)| Samples { interval: Duration::from_secs(seconds), num, samples });
    let item = option::of(item(0));
    let parts = (id(), nodes, vec(socket_addr(), 0..8), option::of(token()), item, option::of(0i64..));
    (parts, option::of(scrape), option::of(samples)).prop_map(
        |((id, nodes, values, token, item, seq), scrape, samples)| {
            let seq = item.as_ref().and_then(|item| item.signed.as_ref()).map(|signed| signed.seq).or(seq);
            // Not everything at once, which would not fit.
            let scrape = scrape.filter(|_| item.is_none());
            Reply { id, nodes, values, token, scrape, item, seq, samples }
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let error = (any::<i64>(), "[ -~]{0,200}")
        .prop_map(|(code, message)| Body::Error(RemoteError { code: ErrorCode::from(code), message }));
    let body = prop_oneof![
        (id(), method()).prop_map(|(id, method)| Body::Query(Query { id, method })),
        reply().prop_map(Body::Reply),
        error,
    ];
    let transaction = vec(any::<u8>(), 0..=MAX_TRANSACTION_LEN);
    (transaction, body, option::of(any::<[u8; 4]>()), option::of(socket_addr()), any::<bool>())
        .prop_map(|(transaction, body, version, ip, read_only)| Message { transaction, body, version, ip, read_only })
}

proptest! {
    #[test]
    fn a_message_survives_the_way_there_and_back(message in message()) {
        let datagram = message.encode();
        prop_assert!(datagram.len() <= MAX_DATAGRAM_LEN);
        prop_assert_eq!(Message::decode(&datagram), Ok(message));
        // What is written is canonical: nothing changes where it is written by what sorts.
        let (tree, rest) = bencode::decode(&datagram).unwrap();
        prop_assert!(rest.is_empty());
        prop_assert_eq!(canonical(tree.root()).to_bytes(), datagram);
    }

    #[test]
    fn random_bytes_never_panic(
        bytes in vec(any::<u8>(), 0..200),
        dict in "d(1:[aertvyq]|1:[qre]|2:id|20:abcdefghij0123456789|[0-9dlie:]|6:values|5:nodes)*e",
    ) {
        let _ = Message::decode(&bytes);
        let _ = Message::decode(dict.as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_message_cut_short_is_none(message in message()) {
        let datagram = message.encode();
        for cut in 0..datagram.len() {
            prop_assert!(Message::decode(&datagram[..cut]).is_err());
        }
    }
}

fn canonical(value: Value<'_>) -> bencode::Item<'_> {
    if let Some(int) = value.as_int() {
        return int.into();
    }
    if let Some(bytes) = value.as_bytes() {
        return bencode::Item::bytes(bytes);
    }
    match value.is_list() {
        true => bencode::Item::List(value.items().map(canonical).collect()),
        false => bencode::Item::Dict(value.entries().map(|(key, value)| (key.into(), canonical(value))).collect()),
    }
}
