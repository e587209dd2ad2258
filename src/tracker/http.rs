//! The tracker's HTTP: bytes of a request to a [`Request`], answers to bytes (BEP 3, 7, 23, 48). No sockets here.
//! An info-hash is taken from the bytes of the query and never passes through text.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use percent_encoding::percent_decode;

use super::swarms::{Announce, Counts, Peer};
use crate::bencode::Item;
use crate::metainfo::InfoHash;
use crate::wire::handshake::PeerId;
use crate::wire::tracker::{Event, Family, encode_compact_peers};

/// The most peers in an answer, and how many when the client does not say.
const MAX_WANTED: usize = 200;
const DEFAULT_WANTED: usize = 50;

/// The most torrents in one scrape.
const MAX_SCRAPE: usize = 100;

/// The most header lines of a request.
const MAX_HEADERS: usize = 64;

/// What a client asks.
#[derive(Debug)]
pub(super) enum Request {
    Announce { announce: Announce, form: Form },
    Scrape(Vec<InfoHash>),
}

/// How the peers of an answer are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// 6 or 18 bytes for each (BEP 23, BEP 7).
    Compact,
    /// A dictionary for each (BEP 3).
    Dictionaries { with_ids: bool },
}

/// Why a request is not served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    #[error("not an HTTP request that this tracker understands")]
    Http,
    #[error("only GET is served")]
    Method,
    #[error("nothing is served at this path; ask for /announce or /scrape")]
    Path,
    #[error("the parameter {0} is missing or invalid")]
    Parameter(&'static str),
    #[error("a full scrape is not served; name the torrents by info_hash")]
    FullScrape,
}

/// The request in these bytes, from a client at `from`; `None` while the header has not ended.
pub(super) fn parse(bytes: &[u8], from: IpAddr) -> Result<Option<Request>, RequestError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    if request.parse(bytes).map_err(|_| RequestError::Http)?.is_partial() {
        return Ok(None);
    }
    if request.method != Some("GET") {
        return Err(RequestError::Method);
    }
    let target = request.path.ok_or(RequestError::Http)?.as_bytes();
    let (path, query) = split_at_byte(target, b'?');
    match path {
        b"/announce" => parse_announce(query, from).map(Some),
        b"/scrape" => parse_scrape(query).map(Some),
        _ => Err(RequestError::Path),
    }
}

/// The answer to an announce.
pub(super) fn announce_reply(interval: Duration, counts: Counts, peers: &[Peer], form: Form) -> Vec<u8> {
    let seconds = Item::Int(interval.as_secs() as i64);
    let compact = |family| {
        let mut list = Vec::new();
        encode_compact_peers(peers.iter().map(|peer| peer.addr), family, &mut list);
        Item::Bytes(list.into())
    };
    let (v4, v6) = match form {
        Form::Compact => {
            (compact(Family::V4), peers.iter().any(|peer| peer.addr.is_ipv6()).then(|| compact(Family::V6)))
        }
        Form::Dictionaries { with_ids } => {
            (Item::List(peers.iter().map(|peer| dictionary(peer, with_ids)).collect()), None)
        }
    };
    let body = Item::dict([
        ("complete", Some(Item::Int(counts.seeders as i64))),
        ("downloaded", Some(Item::Int(counts.downloaded as i64))),
        ("incomplete", Some(Item::Int(counts.leechers as i64))),
        ("interval", Some(seconds)),
        ("peers", Some(v4)),
        ("peers6", v6),
    ]);
    response("200 OK", &body)
}

/// The answer to a scrape.
pub(super) fn scrape_reply(torrents: &[(InfoHash, Counts)]) -> Vec<u8> {
    let files = torrents.iter().map(|(info_hash, counts)| {
        let entry = Item::dict([
            ("complete", Some(Item::Int(counts.seeders as i64))),
            ("downloaded", Some(Item::Int(counts.downloaded as i64))),
            ("incomplete", Some(Item::Int(counts.leechers as i64))),
        ]);
        (Cow::Borrowed(info_hash.as_bytes().as_slice()), entry)
    });
    response("200 OK", &Item::dict([("files", Some(Item::Dict(files.collect())))]))
}

/// The answer to a request that is not served. Clients read the reason from the body.
pub(super) fn failure(error: &RequestError) -> Vec<u8> {
    let status = match error {
        RequestError::Method => "405 Method Not Allowed",
        RequestError::Path => "404 Not Found",
        _ => "400 Bad Request",
    };
    response(status, &Item::dict([("failure reason", Some(error.to_string().into()))]))
}

fn parse_announce(query: &[u8], from: IpAddr) -> Result<Request, RequestError> {
    let number = |name| match value(query, name) {
        None => Ok(None),
        Some(bytes) => parse_number(&bytes).map(Some).ok_or(RequestError::Parameter(name)),
    };
    let array = |name| -> Result<[u8; 20], RequestError> {
        let bytes = value(query, name).ok_or(RequestError::Parameter(name))?;
        bytes.as_ref().try_into().map_err(|_| RequestError::Parameter(name))
    };
    let flag = |name| value(query, name).as_deref() == Some(b"1");
    let info_hash = InfoHash::new(array("info_hash")?);
    let id = PeerId::new(array("peer_id")?);
    let port = number("port")?.and_then(|port| u16::try_from(port).ok()).ok_or(RequestError::Parameter("port"))?;
    let event = match value(query, "event").as_deref() {
        None | Some(b"" | b"empty") => None,
        Some(b"started") => Some(Event::Started),
        Some(b"completed") => Some(Event::Completed),
        // A partial seed (BEP 21) is a leecher that announces.
        Some(b"paused") => None,
        Some(b"stopped") => Some(Event::Stopped),
        Some(_) => return Err(RequestError::Parameter("event")),
    };
    // Some clients send -1 for "as you like".
    let wanted = match value(query, "numwant").as_deref() {
        None | Some(b"" | b"-1") => DEFAULT_WANTED,
        Some(bytes) => parse_number(bytes).ok_or(RequestError::Parameter("numwant"))?.min(MAX_WANTED as u64) as usize,
    };
    let form = if flag("compact") { Form::Compact } else { Form::Dictionaries { with_ids: !flag("no_peer_id") } };
    // A client that does not say what it lacks is taken for a leecher.
    let left = number("left")?.unwrap_or(u64::MAX);
    let peer = Peer { id, addr: SocketAddr::new(from.to_canonical(), port) };
    Ok(Request::Announce { announce: Announce { info_hash, peer, left, event, wanted }, form })
}

fn parse_scrape(query: &[u8]) -> Result<Request, RequestError> {
    let hashes: Vec<_> = values(query, "info_hash")
        .take(MAX_SCRAPE)
        .map(|bytes| bytes.as_ref().try_into().map(InfoHash::new).map_err(|_| RequestError::Parameter("info_hash")))
        .collect::<Result<_, _>>()?;
    if hashes.is_empty() { Err(RequestError::FullScrape) } else { Ok(Request::Scrape(hashes)) }
}

/// The first value of a parameter, percent-decoded.
fn value<'a>(query: &'a [u8], name: &'a str) -> Option<Cow<'a, [u8]>> {
    values(query, name).next()
}

fn values<'a>(query: &'a [u8], name: &'a str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    let pairs = query.split(|&byte| byte == b'&').map(|pair| split_at_byte(pair, b'='));
    pairs.filter(move |(key, _)| *key == name.as_bytes()).map(|(_, value)| percent_decode(value).into())
}

/// What is before and after the first such byte.
fn split_at_byte(bytes: &[u8], separator: u8) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&byte| byte == separator) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

fn parse_number(digits: &[u8]) -> Option<u64> {
    if digits.first()?.is_ascii_digit() { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

fn dictionary(peer: &Peer, with_id: bool) -> Item<'_> {
    Item::dict([
        ("ip", Some(peer.addr.ip().to_string().into())),
        ("peer id", with_id.then(|| Item::bytes(peer.id.as_bytes()))),
        ("port", Some(Item::Int(peer.addr.port().into()))),
    ])
}

fn response(status: &str, body: &Item<'_>) -> Vec<u8> {
    let body = body.to_bytes();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    [head.into_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
    /// An info-hash that is not UTF-8, escaped as clients do it: some bytes raw, some in lower case.
    const HASH: &str = "%FF%fe%00abc%20%26%3D%25%80%81%82%83%84%85%86%87%88%89";

    fn parse_target(target: &str) -> Result<Option<Request>, RequestError> {
        parse(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes(), FROM)
    }

    fn announced(query: &str) -> (Announce, Form) {
        let target = format!("/announce?info_hash={HASH}&peer_id=-RW0001-abcdefghijkl&port=6881&{query}");
        match parse_target(&target) {
            Ok(Some(Request::Announce { announce, form })) => (announce, form),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_binary_info_hash_arrives_byte_for_byte() {
        let (announce, _) = announced("left=1");
        assert_eq!(announce.info_hash.as_bytes(), b"\xff\xfe\0abc &=%\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89");
        assert_eq!(announce.peer.addr, SocketAddr::new(FROM, 6881));
    }

    #[test]
    fn the_parameters_of_an_announce_are_read() {
        let (announce, form) = announced("left=0&event=completed&numwant=3&compact=1");
        assert_eq!((announce.left, announce.event, announce.wanted), (0, Some(Event::Completed), 3));
        assert_eq!(form, Form::Compact);
        let (announce, form) = announced("numwant=1000000&no_peer_id=1");
        assert_eq!((announce.left, announce.wanted), (u64::MAX, MAX_WANTED));
        assert_eq!(form, Form::Dictionaries { with_ids: false });
        assert_eq!(announced("numwant=-1").0.wanted, DEFAULT_WANTED);
    }

    #[test]
    fn a_request_that_is_cut_short_is_waited_for() {
        let whole = format!("GET /scrape?info_hash={HASH} HTTP/1.1\r\nHost: x\r\n\r\n");
        for length in 0..whole.len() {
            assert!(parse(&whole.as_bytes()[..length], FROM).unwrap().is_none());
        }
        assert!(matches!(parse(whole.as_bytes(), FROM), Ok(Some(Request::Scrape(hashes))) if hashes.len() == 1));
    }

    #[test]
    fn bad_requests_are_named() {
        let error = |target: &str| parse_target(target).unwrap_err();
        assert_eq!(error("/"), RequestError::Path);
        assert_eq!(error("/scrape"), RequestError::FullScrape);
        assert_eq!(error("/scrape?info_hash=short"), RequestError::Parameter("info_hash"));
        assert_eq!(error("/announce?info_hash=short"), RequestError::Parameter("info_hash"));
        let most = format!("/announce?info_hash={HASH}&peer_id=-RW0001-abcdefghijkl");
        assert_eq!(error(&most), RequestError::Parameter("port"));
        assert_eq!(error(&format!("{most}&port=65536")), RequestError::Parameter("port"));
        assert_eq!(error(&format!("{most}&port=1&left=-1")), RequestError::Parameter("left"));
        assert_eq!(error(&format!("{most}&port=1&event=x")), RequestError::Parameter("event"));
        assert_eq!(parse(b"POST /announce HTTP/1.1\r\n\r\n", FROM).unwrap_err(), RequestError::Method);
        assert_eq!(parse(b"\x16\x03\x01\x02\0\x01\0\r\n\r\n", FROM).unwrap_err(), RequestError::Http);
    }

    #[test]
    fn a_scrape_answers_under_the_binary_info_hash() {
        let counts = Counts { seeders: 1, leechers: 2, downloaded: 3 };
        let reply = scrape_reply(&[(InfoHash::new([0x80; 20]), counts)]);
        let expected =
            [b"d5:filesd20:".as_slice(), &[0x80; 20], b"d8:completei1e10:downloadedi3e10:incompletei2eeee"].concat();
        assert!(reply.ends_with(&expected));
    }

    #[test]
    fn a_failure_has_its_status_and_its_reason() {
        let reply = String::from_utf8(failure(&RequestError::Parameter("port"))).unwrap();
        assert!(reply.starts_with("HTTP/1.1 400 "));
        assert!(reply.ends_with("d14:failure reason40:the parameter port is missing or invalide"));
    }
}
