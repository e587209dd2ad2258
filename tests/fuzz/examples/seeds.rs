//! Writes the seeds of every target into `corpus/TARGET/NAME.seed`.
//!
//! `cargo run --manifest-path tests/fuzz/Cargo.toml --example seeds`

use std::num::NonZeroU16;
use std::path::Path;

use ropewalk::metainfo::{Content, Creation, InfoHash, NewFile};
use ropewalk::wire::extension::{Extension, ExtensionHandshake};
use ropewalk::wire::handshake::{Handshake, PeerId, Reserved};
use ropewalk::wire::item::{Item, ItemValue};
use ropewalk::wire::krpc;
use ropewalk::wire::lsd::{Announce, GROUP_V4, GROUP_V6};
use ropewalk::wire::message::Message;
use ropewalk::wire::metadata::{MetadataLen, MetadataMessage};
use ropewalk::wire::pex::{Contact, PexFlags, PexMessage};
use ropewalk::wire::tracker::udp::{Request, Response, ScrapeEntry};
use ropewalk::wire::tracker::{AnnounceRequest, Crypto, Event, Family};
use ropewalk::wire::utp::{Header, Kind, Packet, SelectiveAck};
use sha1::{Digest, Sha1};

type Seed = (&'static str, Vec<u8>);

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let targets = [
        ("bencode", bencode()),
        ("metainfo", metainfo()),
        ("wire", wire()),
        ("pex", pex()),
        ("mse", mse()),
        ("utp", utp()),
        ("tracker", tracker()),
        ("tracker_http", tracker_http()),
        ("tracker_udp", tracker_udp()),
        ("resume", resume()),
        ("blocklist", blocklist()),
        ("magnet", magnet()),
        ("metadata", metadata()),
        ("krpc", krpc()),
        ("lsd", lsd()),
    ];
    for (target, seeds) in targets {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            std::fs::write(folder.join(format!("{name}.seed")), bytes)?;
        }
    }
    Ok(())
}

fn blocklist() -> Vec<Seed> {
    let p2p = b"# a list\nSome Net:1.2.3.0-1.2.3.255\na: b-c:001.2.3.0-1.2.3.255\nSix:2001:db8::1-2001:db8::9\n";
    let dat = b"001.002.003.004 - 001.002.003.009 , 100 , Some, Net\r\n005.0.0.0 - 005.0.0.255 , 200 , let pass\r\n";
    let plain = b"\xef\xbb\xbf1.2.3.4\n1.2.3.0/24 # a comment\n::/0\n2001:db8::/32\n1.2.3.4-1.2.3.9\n0.0.0.0/0\n";
    // Packed by gzip: "1.2.3.4\n".
    let gzip =
        [31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 51, 212, 51, 210, 51, 214, 51, 225, 2, 0, 196, 223, 54, 15, 8, 0, 0, 0];
    vec![
        ("p2p", p2p.to_vec()),
        ("dat", dat.to_vec()),
        ("plain", plain.to_vec()),
        ("gzip", gzip.to_vec()),
        ("page", b"<html>\n<body>404</body>".to_vec()),
        ("zip", b"PK\x03\x04".to_vec()),
        (
            "peers",
            b"ropewalk peers 1\n9.9.9.9:0 1048576 0.5 0 1.25 1700000000\n[2001:db8::1]:0 1 0 0 0 1\nx\n".to_vec(),
        ),
    ]
}

fn lsd() -> Vec<Seed> {
    let torrents = vec![InfoHash::new([0x5a; 20]), InfoHash::new([0xa5; 20])];
    let announce = Announce { port: NonZeroU16::MIN, torrents, cookie: Some("8f3a11c2".into()) };
    let others =
        b"BT-SEARCH * HTTP/1.1\r\nhost: x\r\nPORT:6881\r\nINFOHASH: 0123456789ABCDEF0123456789ABCDEF01234567\r\n\r\n";
    vec![("v4", announce.encode(GROUP_V4)), ("v6", announce.encode(GROUP_V6)), ("others", others.to_vec())]
}

fn magnet() -> Vec<Seed> {
    let hash = "0123456789abcdef0123456789abcdef01234567";
    let with = |rest: &str| format!("magnet:?xt=urn:btih:{hash}{rest}").into_bytes();
    vec![
        ("bare", hash.as_bytes().to_vec()),
        ("base32", b"magnet:?xt=urn:btih:64DZYZWMUAVLIWJUXGDIK4QGAAIN7SL6".to_vec()),
        ("v2", format!("magnet:?xt=urn:btmh:1220{}", "ab".repeat(32)).into_bytes()),
        ("hosts", with("&x.pe=192.0.2.7:1&x.pe=[2001:db8::1]:2&x.pe=host.example:3&dht=node.example:4")),
        (
            "urls",
            with("&tr.1=http%3A%2F%2Fa.example%2F%3Fb%3Dc&tr=udp://u.example:1&ws=https://w.example/x+y&dn=a+%C3%A4"),
        ),
        ("select", with("&so=0,2-4,3-9,10&so=9999999,7-4,-1,")),
        ("broken", with("&tr=%zz&dn=%ff&xt=urn:sha1:x&=&a==b&so=%2d")),
    ]
}

fn metadata() -> Vec<Seed> {
    let total = MetadataLen::new(5).expect("a length");
    let info = b"d6:lengthi1e4:name1:x12:piece lengthi16384e6:pieces20:hhhhhhhhhhhhhhhhhhhhe".to_vec();
    vec![
        ("request", MetadataMessage::Request { piece: 3 }.encode()),
        ("data", MetadataMessage::Data { piece: 0, total, bytes: b"hello" }.encode()),
        ("reject", MetadataMessage::Reject { piece: 3 }.encode()),
        ("unknown", b"d8:msg_typei7e5:piecei0ee".to_vec()),
        ("huge", b"d8:msg_typei1e5:piecei4294967295e10:total_sizei4294967295eex".to_vec()),
        ("more-than-info", [&info[..], b"8:url-list1:x"].concat()),
        ("info", info),
    ]
}

fn bencode() -> Vec<Seed> {
    vec![
        ("all-types", b"d1:ai-42e1:bl0:3:xyzi0ee1:cd1:dleee".to_vec()),
        ("unsorted", b"d1:bi1e1:ai2e1:bi3eetrailing".to_vec()),
        ("nested", [b"l".repeat(33), b"e".repeat(33)].concat()),
        ("nested-as-deep-as-may-be", [b"l".repeat(32), b"e".repeat(32)].concat()),
        ("long-string", [b"1000:".as_slice(), &[b'x'; 1000]].concat()),
        ("huge-length", b"99999999999999999999:x".to_vec()),
        ("big-integers", b"li9223372036854775807ei-9223372036854775808ei9223372036854775808ee".to_vec()),
        ("needless-zeros", b"li007e01:aee".to_vec()),
        ("cut", b"d1:al".to_vec()),
    ]
}

fn metainfo() -> Vec<Seed> {
    let file = |len| Content::File { len, executable: true };
    let new = |path: &str, len| NewFile { path: path.into(), len, executable: path.ends_with(".sh") };
    let files = vec![new("a/b.txt", 20_000), new("a/empty", 0), new("run.sh", 40_000), new("\u{e4}/last", 1)];
    let mut full = Creation::new("folder", Content::Folder(files.clone()), 1 << 14);
    full.align = true;
    full.private = true;
    full.trackers =
        vec![vec!["http://a.example/announce".into(), "udp://b.example:80".into()], vec!["http://c".into()]];
    full.web_seeds = vec!["http://w.example/".into(), "http://x.example/".into()];
    full.comment = Some("a comment\nin two lines".into());
    full.created_by = Some("ropewalk".into());
    full.creation_date = Some(1_700_000_000);
    full.source = Some("mark".into());
    let make = |creation: Creation| {
        let prepared = creation.prepare().expect("a torrent");
        prepared.finish(&vec![b'h'; prepared.layout().piece_count() as usize * 20]).expect("its hashes")
    };
    let one = |info: &str| {
        // The hash of the only piece goes in between.
        format!(
            "d4:infod{}e8:url-list5:http:9:httpseedsl1:xee",
            info.replace("PIECES", "6:pieces20:hhhhhhhhhhhhhhhhhhhh")
        )
        .into_bytes()
    };
    vec![
        ("one-file", make(Creation::new("one.bin", file(100_000), 1 << 15))),
        ("one-byte-pieces", make(Creation::new("tiny", file(9), 1))),
        ("folder", make(Creation::new("folder", Content::Folder(files), 1 << 14))),
        ("everything", make(full)),
        (
            "escapes",
            one(
                "5:filesld6:lengthi1e4:pathl2:..1:/eed6:lengthi1e4:pathl3:CON0:1:.eee4:name2:..12:piece lengthi9ePIECES",
            ),
        ),
        (
            "collisions",
            one("5:filesld6:lengthi1e4:pathl1:aeed6:lengthi1e4:pathl1:Aeed6:lengthi1e4:pathl1:a1:beee4:name1:n\
                12:piece lengthi9ePIECES"),
        ),
        (
            "padding-link-and-utf-8",
            one("5:filesld4:attr1:p6:lengthi2eed4:attr2:lh4:pathl1:lee\
                d6:lengthi3e4:pathl1:\u{1}e10:path.utf-8l2:\u{e4}eee4:name1:n10:name.utf-82:\u{e4}12:piece lengthi9ePIECES"),
        ),
        (
            "bitcomet-padding",
            one("5:filesld6:lengthi1e4:pathl1:aeed6:lengthi8e4:pathl21:_____padding_file_0__eee4:name1:n\
                12:piece lengthi9ePIECES"),
        ),
        ("unsorted", one("PIECES4:name1:n6:lengthi9e12:piece lengthi9e6:lengthi8e7:privatei1e3:new0:")),
        ("v2-only", one("9:file treede12:meta versioni2e4:name1:n12:piece lengthi16384e")),
        (
            "overflow",
            one("5:filesld6:lengthi9223372036854775807e4:pathl1:aeed6:lengthi9223372036854775807e4:pathl1:beee\
            4:name1:n12:piece lengthi9ePIECES"),
        ),
    ]
}

fn wire() -> Vec<Seed> {
    let handshake = Handshake {
        reserved: Reserved::NONE.with_extended().with_fast().with_dht(),
        info_hash: InfoHash::new([7; 20]),
        peer_id: PeerId::new(*b"-LT20B0-abcdefghijkl"),
    };
    let extension = ExtensionHandshake {
        m: [(Extension::Pex, 1), (Extension::Metadata, 2), (Extension::UploadOnly, 0)].into_iter().collect(),
        e: Some(true),
        p: Some(6881),
        v: Some("libtorrent 2.0.11".into()),
        yourip: Some([127, 0, 0, 1].into()),
        ipv4: Some([10, 0, 0, 1].into()),
        ipv6: Some([8; 16].into()),
        reqq: Some(500),
        upload_only: Some(true),
        metadata_size: Some(20_000),
    }
    .encode();
    // Behind the torrent's number of pieces.
    let stream = |pieces: u16, messages: &[Message<'_>]| {
        let mut out = pieces.to_be_bytes().to_vec();
        messages.iter().for_each(|message| message.encode_into(&mut out));
        out
    };
    let (index, begin, len) = (3, 16384, 16384);
    vec![
        ("handshake", handshake.encode().to_vec()),
        ("extension-handshake", extension.clone()),
        ("extension-unknown", b"d1:md7:foo_barei9e6:ut_pexi300ee1:pi0e1:v3:\x1b[m4:reqqi-1e6:yourip3:abce".to_vec()),
        (
            "first-messages",
            stream(
                19,
                &[
                    Message::Extended { id: 0, payload: &extension },
                    Message::Bitfield(&[0xff, 0, 0xe0]),
                    Message::KeepAlive,
                    Message::Unchoke,
                    Message::Interested,
                    Message::Request { index, begin, len },
                ],
            ),
        ),
        (
            "fast",
            stream(
                19,
                &[
                    Message::HaveAll,
                    Message::HaveNone,
                    Message::AllowedFast(4),
                    Message::Suggest(5),
                    Message::Reject { index, begin, len },
                ],
            ),
        ),
        (
            "blocks",
            stream(
                19,
                &[
                    Message::Piece { index, begin, data: b"payload" },
                    Message::Piece { index, begin: 0, data: b"" },
                    Message::Cancel { index, begin, len },
                    Message::Have(18),
                    Message::Choke,
                    Message::NotInterested,
                    Message::Port(6881),
                    Message::Extended { id: 3, payload: b"\0\0\0\x04" },
                    Message::Extended { id: 4, payload: b"\x01" },
                    Message::Unknown { id: 99 },
                ],
            ),
        ),
        ("bitfield-without-metadata", stream(0, &[Message::Bitfield(&[0xff; 40])])),
        ("too-long", b"\0\x13\xff\xff\xff\xff\x05".to_vec()),
        ("piece-too-long", b"\0\x13\0\x02\0\x0a\x07\0\0\0\0\0\0\0\0".to_vec()),
    ]
}

/// Behind a byte that says from where it comes.
fn pex() -> Vec<Seed> {
    let addr = |text: &str| text.parse().expect("an address");
    let contact = |text, flags| Contact { addr: addr(text), flags: PexFlags::from_byte(flags) };
    let message = |from: u8, added, dropped| [vec![from], PexMessage { added, dropped }.encode()].concat();
    let both = vec![contact("5.6.7.8:6881", 0x12), contact("[2a00::1]:6881", 0), contact("10.0.0.1:1", 0x0d)];
    let many = (0..60).map(|n| Contact { addr: ([6, 0, 0, n], 6881).into(), flags: PexFlags::REACHABLE }).collect();
    vec![
        ("both-families", message(2, both.clone(), vec![addr("5.6.7.9:1"), addr("[2a00::2]:1")])),
        (
            "this-machine",
            message(0, vec![contact("127.0.0.1:1", 0), contact("127.0.0.1:2", 2)], vec![addr("127.0.0.1:2")]),
        ),
        ("many", message(1, many, Vec::new())),
        ("flags-missing", b"\x02d5:added12:\x01\x02\x03\x04\0\0\x05\x06\x07\x08\0\x017:added.f1:\x02e".to_vec()),
        ("four-in-six", b"\x02d6:added618:\0\0\0\0\0\0\0\0\0\0\xff\xff\x05\x06\x07\x08\0\x01e".to_vec()),
        ("other-types", b"\x01d5:addedi1e7:added.fle6:added6de7:dropped1:x3:fooi1ee".to_vec()),
        ("cut", b"\x02d5:added12:\x01\x02".to_vec()),
    ]
}

/// Modes, portions, where the second mask begins, and the masks.
fn mse() -> Vec<Seed> {
    let flip = |at: usize| [vec![0; at], vec![1]].concat();
    vec![
        ("plaintext", vec![0, 255, 0]),
        ("rc4", vec![1, 1, 0]),
        ("rc4-with-first-words", vec![2 | (60 << 2), 7, 0]),
        ("another-key", [vec![0, 100, 255], flip(50)].concat()),
        ("another-answer", [vec![0, 100, 0], flip(50)].concat()),
        ("late-in-the-call", [vec![0, 100, 255], flip(700)].concat()),
        ("late-in-the-answer", [vec![0, 100, 0], flip(500)].concat()),
    ]
}

fn utp() -> Vec<Seed> {
    let packet = |pause: u8, kind, numbers: (u16, u16), selective: &[u8], payload: &[u8]| {
        let (seq_nr, ack_nr) = numbers;
        let connection_id = if kind == Kind::Syn { 99 } else { 100 };
        let (timestamp, difference, window) = (1000, 20_000, 1 << 20);
        let header = Header { kind, connection_id, timestamp, difference, window, seq_nr, ack_nr };
        let mut bytes = Vec::new();
        Packet { header, selective: SelectiveAck::new(selective), payload }.encode_into(&mut bytes);
        [&(bytes.len() as u16).to_be_bytes()[..], &[pause], &bytes].concat()
    };
    let syn = packet(0, Kind::Syn, (500, 0), &[], &[]);
    let data = |number: u16| packet(1, Kind::Data, (500 + number, 0), &[], &[number as u8; 300]);
    let ack = |number: u16, selective: &[u8]| packet(2, Kind::State, (500, number), selective, &[]);
    let fin = |number: u16| packet(1, Kind::Fin, (500 + number, 4), &[], &[]);
    vec![
        ("called", [vec![0], syn.clone(), data(1), data(2), ack(4, &[]), fin(3)].concat()),
        ("called-and-lost-some", [vec![0], syn.clone(), data(1), data(3), data(5), data(2), fin(6), data(4)].concat()),
        ("called-and-reset", [vec![0], syn.clone(), data(1), packet(1, Kind::Reset, (0, 4), &[], &[])].concat()),
        ("called-and-silent", [vec![0], syn, packet(255, Kind::State, (0, 0), &[], &[]).repeat(40)].concat()),
        ("dialled", [vec![1], ack(1, &[]), ack(3, &[]), data(0), data(1), fin(2), ack(6, &[])].concat()),
        ("dialled-and-lost-some", [vec![1], ack(1, &[]), ack(1, &[0b111, 0, 0, 0]), ack(6, &[])].concat()),
        ("dialled-and-repeated", [vec![1], ack(1, &[]).repeat(6)].concat()),
        ("dialled-and-refused", [vec![1], packet(0, Kind::Reset, (0, 1), &[], &[])].concat()),
    ]
}

fn tracker() -> Vec<Seed> {
    let peers = vec!["10.0.0.1:6881".parse().expect("an address"), "[2001:db8::1]:1".parse().expect("an address")];
    let announce = AnnounceRequest {
        info_hash: InfoHash::new([7; 20]),
        peer_id: PeerId::new(*b"-RW0100-abcdefghijkl"),
        port: 6881,
        uploaded: 1,
        downloaded: 2,
        left: 3,
        event: Some(Event::Started),
        numwant: Some(200),
        key: 4,
        tracker_id: None,
        ipv4: Some([10, 0, 0, 2].into()),
        ipv6: None,
        crypto: Crypto::None,
    };
    let (transaction_id, connection_id) = (1, 2);
    let response = Response::Announce { transaction_id, interval: 1800, leechers: 1, seeders: 2, peers };
    let entry = ScrapeEntry { seeders: 1, completed: 2, leechers: 3 };
    let url_data = b"/announce?key=value".to_vec();
    vec![
        (
            "http-compact",
            b"d8:completei5e11:external ip4:\x01\x02\x03\x0410:incompletei7e8:intervali1800e12:min intervali60e\
                5:peers12:\x0a\0\0\x01\x1a\xe1\x0a\0\0\x02\0\x016:peers618: \x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1a\xe1\
                10:tracker id3:abc15:warning message2:hie"
                .to_vec(),
        ),
        (
            "http-dictionaries",
            b"d8:intervali60e5:peersld2:ip9:127.0.0.17:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti1eed2:ip3:::14:porti2eeee".to_vec(),
        ),
        ("http-failure", b"d14:failure reason10:Overloaded8:retry in1:5e".to_vec()),
        ("http-failure-for-ever", b"d14:failure reason4:gone8:retry in5:nevere".to_vec()),
        ("http-page", b"<html><body>404 Not Found</body></html>".to_vec()),
        ("udp-connect", Request::Connect { transaction_id }.encode()),
        ("udp-announce", Request::Announce { connection_id, transaction_id, announce, url_data }.encode()),
        (
            "udp-scrape",
            Request::Scrape { connection_id, transaction_id, info_hashes: vec![InfoHash::new([7; 20]); 2] }.encode(),
        ),
        ("udp-connected", Response::Connect { transaction_id, connection_id }.encode(Family::V4)),
        ("udp-announced", response.encode(Family::V4)),
        ("udp-announced-6", response.encode(Family::V6)),
        ("udp-scraped", Response::Scrape { transaction_id, torrents: vec![entry; 2] }.encode(Family::V4)),
        ("udp-error", Response::Error { transaction_id, message: "not here".into() }.encode(Family::V4)),
    ]
}

fn tracker_http() -> Vec<Seed> {
    let hash = "%FF%fe%00abc%20%26%3D%25%80%81%82%83%84%85%86%87%88%89";
    let peer = "peer_id=-RW0100-abcdefghijkl&port=6881";
    let numbers = "uploaded=1&downloaded=2&left=3&key=DEADBEEF&numwant=5&event=started";
    let announce = format!("GET /announce?info_hash={hash}&{peer}&{numbers}&compact=1 HTTP/1.1\r\nHost: x\r\n\r\n");
    let scrape =
        format!("GET /scrape?info_hash={hash}&info_hash={} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "a".repeat(20));
    let forwarded = "X-Forwarded-For: 192.0.2.1, [2001:db8::1]:80\r\nx-forwarded-for: 198.51.100.7\r\n";
    vec![
        ("announce", announce.clone().into()),
        ("dictionaries", format!("GET /announce?info_hash={hash}&{peer}&no_peer_id=1 HTTP/1.0\r\n\r\n").into()),
        ("scrape", scrape.clone().into()),
        ("full-scrape", b"GET /scrape HTTP/1.1\r\n\r\n".to_vec()),
        ("forwarded", format!("GET /announce?info_hash={hash}&{peer} HTTP/1.1\r\n{forwarded}\r\n").into()),
        ("pipelined", [announce.clone(), scrape, announce].concat().into()),
        ("body", b"GET /announce HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc".to_vec()),
        ("post", b"POST /announce HTTP/1.1\r\n\r\n".to_vec()),
        ("page", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ]
}

fn tracker_udp() -> Vec<Seed> {
    let announce = |number: u8, left, event| {
        let announce = AnnounceRequest {
            info_hash: InfoHash::new([7; 20]),
            peer_id: PeerId::new([number; 20]),
            port: number.into(),
            uploaded: 1 << 20,
            downloaded: 2 << 20,
            left,
            event,
            numwant: Some(5),
            key: number.into(),
            tracker_id: None,
            ipv4: None,
            ipv6: None,
            crypto: Crypto::None,
        };
        let url_data: &[u8] = match number {
            1 => b"/k/announce?key=value",
            2 => b"/announce?key=value",
            _ => b"",
        };
        let url_data = url_data.to_vec();
        Request::Announce { connection_id: 0, transaction_id: number.into(), announce, url_data }.encode()
    };
    let scrape =
        Request::Scrape { connection_id: 0, transaction_id: 9, info_hashes: vec![InfoHash::new([7; 20]); 2] }.encode();
    let connect = Request::Connect { transaction_id: 1 }.encode();
    // What is said with each packet: see the target.
    let packets = |flags: u16, packets: &[&[u8]]| {
        packets.iter().flat_map(|packet| [&(flags | packet.len() as u16).to_be_bytes(), *packet].concat()).collect()
    };
    let swarm = [
        announce(1, 3, Some(Event::Started)),
        announce(2, 0, Some(Event::Completed)),
        announce(3, 3, None),
        announce(1, 0, None),
        announce(2, 0, Some(Event::Stopped)),
        scrape.clone(),
    ];
    let swarm: Vec<_> = swarm.iter().map(Vec::as_slice).collect();
    vec![
        ("connect", packets(0, &[&connect])),
        ("swarm", packets(0x8000, &swarm)),
        ("swarm-6", packets(0xc000, &swarm)),
        ("without-id", packets(0, &swarm)),
        ("keyed", packets(0xa000, &swarm)),
        ("malformed-options", packets(0xa000, &[swarm[0], &[swarm[0], &b"\x02\x05/"[..]].concat()])),
        ("port-0", packets(0x8000, &[&announce(0, 1, None)])),
        ("cut", packets(0x8000, &[&swarm[0][..97], &scrape[..15]])),
    ]
}

fn krpc() -> Vec<Seed> {
    use krpc::{ErrorCode, Message, Method, NodeId, NodeInfo, Reply, Samples, Want};
    let (id, want) = (NodeId::new([1; 20]), Want::BOTH);
    let info_hash = InfoHash::new([7; 20]);
    let addrs = ["10.0.0.1:6881", "[2001:db8::1]:1"].map(|addr| addr.parse().expect("an address"));
    let value = || ItemValue::from_bytes(b"Hello World!").expect("a short value");
    let item = Item::sign(&[5; 32], b"foobar", 1, value()).expect("a short salt").as_unverified().clone();
    let token = || b"aoeusnth".to_vec();
    let query = |method| Message { version: Some(*b"RW01"), ..Message::query("aa", id, method) }.encode();
    let reply = |reply| Message { ip: Some(addrs[0]), ..Message::reply("aa", reply) }.encode();
    let found = || Reply {
        nodes: addrs.iter().map(|addr| NodeInfo { id, addr: *addr }).collect(),
        token: Some(token()),
        ..Reply::new(id)
    };
    let samples = Samples { interval: std::time::Duration::from_secs(60), num: 9, samples: vec![info_hash; 2] };
    let announce = Method::AnnouncePeer { info_hash, port: 6881, implied_port: true, token: token(), seed: true };
    let salted = Method::Put { item: item.clone(), cas: Some(0), token: token() };
    let immutable = Item::immutable(value()).as_unverified().clone();
    vec![
        ("ping", query(Method::Ping)),
        ("ping-read-only", Message { read_only: true, ..Message::query("aa", id, Method::Ping) }.encode()),
        ("find-node", query(Method::FindNode { target: id, want })),
        ("get-peers", query(Method::GetPeers { info_hash, want, noseed: true, scrape: true })),
        ("announce-peer", query(announce)),
        ("get", query(Method::Get { target: id, seq: Some(1), want })),
        ("put", query(salted)),
        ("put-immutable", query(Method::Put { item: immutable.clone(), cas: None, token: token() })),
        ("sample-infohashes", query(Method::SampleInfohashes { target: id, want })),
        ("unknown", query(Method::Unknown { target: Some(id), want })),
        ("pong", reply(Reply::new(id))),
        ("peers", reply(Reply { values: addrs.to_vec(), ..found() })),
        ("scraped", reply(Reply { scrape: Some(Box::default()), ..found() })),
        ("item", reply(Reply { item: Some(item), ..found() })),
        ("item-immutable", reply(Reply { item: Some(immutable), ..found() })),
        ("samples", reply(Reply { samples: Some(samples), ..found() })),
        ("error", Message::error("aa", ErrorCode::Generic, "A Generic Error Ocurred").encode()),
        ("no-arguments", b"d1:q9:get_peers1:t2:aa1:y1:qe".to_vec()),
        ("unsorted", b"d1:y1:q1:t1:x2:roi1e1:q4:ping1:ad2:id20:abcdefghij01234567893:zzzli1eeeetrailing".to_vec()),
    ]
}

/// Journals of the torrent in `targets/resume.rs`: three files, in 20 pieces.
fn resume() -> Vec<Seed> {
    let journal = |clean: u8, verified: [u8; 3], stamps: &[u32], parts: bool| {
        let stamp = [100_000u64.to_be_bytes(), 1_700_000_000_000_000_000u64.to_be_bytes()].concat();
        let mut out = b"ropewalk-resume\n\x01".to_vec();
        out.extend([[7; 20].as_slice(), &[1; 16], &[clean]].concat());
        for number in [1_700_000_000_000_000_000u64, 10_000_000_000, 5, 6] {
            out.extend(number.to_be_bytes());
        }
        out.extend(PIECES.to_be_bytes());
        out.extend([verified, [0; 3]].concat());
        out.extend(3u32.to_be_bytes());
        out.extend([0, 1, 2]);
        out.extend((stamps.len() as u32).to_be_bytes());
        stamps.iter().for_each(|file| out.extend([&file.to_be_bytes(), stamp.as_slice()].concat()));
        out.push(parts.into());
        out.extend(parts.then_some(stamp).into_iter().flatten());
        let checksum = Sha1::digest(&out);
        out.extend(checksum);
        out
    };
    let whole = journal(1, [0xff, 0xff, 0xf0], &[0, 1, 2], true);
    vec![
        ("new", journal(0, [0; 3], &[], false)),
        ("clean", whole.clone()),
        ("some-files", journal(0, [0x81, 0, 0x10], &[0, 2], false)),
        ("spare-bit", journal(0, [0, 0, 1], &[], false)),
        ("out-of-order", journal(0, [0; 3], &[2, 1], false)),
        ("no-such-file", journal(0, [0; 3], &[3], false)),
        ("cut", whole[..whole.len() - 30].to_vec()),
    ]
}

const PIECES: u32 = 1_300_000u32.div_ceil(1 << 16);
