//! Requests from bytes (BEP 3, 7, 23, 24, 27, 48). No sockets here. An info-hash is taken from the bytes of the query and
//! never passes through text.
//!
//! Another protocol that begins with an HTTP request, as WebSocket does, begins at [`Head`], too: what comes behind the head
//! is then its business.

use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};

use crate::metainfo::InfoHash;
use crate::tracker::network::IpNetwork;
use crate::tracker::store::Announce;
use crate::wire::handshake::PeerId;
use crate::wire::tracker::Event;

/// The most header lines of a request.
const MAX_HEADERS: usize = 64;

/// The head of a request, and where it came from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head<'a> {
    /// Its bytes, the empty line included.
    pub(super) len: usize,
    pub(super) path: &'a [u8],
    pub(super) query: &'a [u8],
    pub(super) client: IpAddr,
    pub(super) ending: Ending,
}

/// What is to come of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It stays, as HTTP/1.1 has it where nobody says otherwise.
    Stay,
    /// It stays because the client asked for it, who is to be told so (HTTP/1.0).
    StayAsAsked,
    Close,
}

/// What a client asks of a tracker.
#[derive(Debug)]
pub(super) enum Query {
    Announce(Announce, Form),
    /// Its torrents are in the list that was given for them; without any it is for all that there are.
    Scrape,
}

/// How the peers of an answer are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// 6 or 18 bytes for each (BEP 23, BEP 7).
    Compact,
    /// A dictionary for each (BEP 3).
    Dictionaries,
}

/// Why a request is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    #[error("not an HTTP request that this tracker understands")]
    Http,
    #[error("the head of the request is too long")]
    TooLong,
    #[error("only GET is served, without a body")]
    Method,
    #[error("nothing is served at this path; ask for /announce or /scrape")]
    Path,
    #[error("a proxy did not say where the request came from")]
    Proxy,
    #[error("the parameter {0} is missing or invalid")]
    Parameter(&'static str),
    #[error("a full scrape is not served; name the torrents by info_hash")]
    FullScrape,
}

impl<'a> Head<'a> {
    /// The head that these bytes begin with, from a connection that `from` made; `None` where it has not ended. Where one of
    /// `proxies` made the connection, or is said to have passed the request on, the client is who it says.
    pub(super) fn parse(bytes: &'a [u8], from: IpAddr, proxies: &[IpNetwork]) -> Result<Option<Self>, RequestError> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut []);
        let len = match request.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(RequestError::TooLong),
            Err(_) => return Err(RequestError::Http),
        };
        if request.method != Some("GET") {
            return Err(RequestError::Method);
        }
        let mut ending = if request.version == Some(0) { Ending::Close } else { Ending::Stay };
        for header in request.headers.iter() {
            match header.name {
                name if name.eq_ignore_ascii_case("connection") => {
                    if header.value.eq_ignore_ascii_case(b"close") {
                        ending = Ending::Close;
                    } else if ending == Ending::Close && header.value.eq_ignore_ascii_case(b"keep-alive") {
                        ending = Ending::StayAsAsked;
                    }
                }
                // What follows would be taken for the next request.
                name if name.eq_ignore_ascii_case("transfer-encoding") => return Err(RequestError::Method),
                name if name.eq_ignore_ascii_case("content-length") && header.value != b"0" => {
                    return Err(RequestError::Method);
                }
                _ => {}
            }
        }
        let client = client(from, request.headers, proxies)?;
        let (path, query) = split_at_byte(request.path.ok_or(RequestError::Http)?.as_bytes(), b'?');
        Ok(Some(Self { len, path, query, client, ending }))
    }

    /// What it asks; the torrents of a scrape are put into `torrents`, at most so many. The peers that an announce wants are
    /// `wanted` of what it says.
    pub(super) fn query(
        &self,
        torrents: &mut Vec<InfoHash>,
        most: usize,
        wanted: impl FnOnce(Option<u64>) -> usize,
    ) -> Result<Query, RequestError> {
        match self.path {
            b"/announce" => self.announce(wanted),
            b"/scrape" => {
                torrents.clear();
                let values = pairs(self.query).filter(|(name, _)| *name == b"info_hash").map(|(_, value)| value);
                for value in values.take(most) {
                    torrents.push(InfoHash::new(decode(value).ok_or(RequestError::Parameter("info_hash"))?));
                }
                // A dictionary has its keys once and in order.
                torrents.sort_unstable_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
                torrents.dedup();
                Ok(Query::Scrape)
            }
            _ => Err(RequestError::Path),
        }
    }

    fn announce(&self, wanted: impl FnOnce(Option<u64>) -> usize) -> Result<Query, RequestError> {
        let (mut info_hash, mut peer_id, mut port, mut left, mut asked) = (None, None, None, None, None);
        let (mut uploaded, mut downloaded, mut key, mut event) = (0, 0, 0, None);
        // Whoever does not say gets the short form, which is all that many clients read; BEP 23 suggests it.
        let (mut compact, mut no_peer_id) = (true, false);
        let number = |digits, name| parse_number(digits).ok_or(RequestError::Parameter(name));
        for (name, value) in pairs(self.query) {
            match name {
                b"info_hash" => info_hash = Some(decode(value).ok_or(RequestError::Parameter("info_hash"))?),
                b"peer_id" => peer_id = Some(decode(value).ok_or(RequestError::Parameter("peer_id"))?),
                b"port" => port = parse_number(value).and_then(|port| u16::try_from(port).ok()),
                b"left" => left = Some(number(value, "left")?),
                b"uploaded" => uploaded = number(value, "uploaded")?,
                b"downloaded" => downloaded = number(value, "downloaded")?,
                b"compact" => compact = value != b"0",
                b"no_peer_id" => no_peer_id = value == b"1",
                b"key" => key = parse_key(value),
                // Some clients send -1 for "as you like".
                b"numwant" => asked = if matches!(value, b"" | b"-1") { None } else { Some(number(value, "numwant")?) },
                b"event" => {
                    event = match value {
                        // A partial seed (BEP 21) is a leecher that announces.
                        b"" | b"empty" | b"paused" => None,
                        b"started" => Some(Event::Started),
                        b"completed" => Some(Event::Completed),
                        b"stopped" => Some(Event::Stopped),
                        _ => return Err(RequestError::Parameter("event")),
                    }
                }
                _ => {}
            }
        }
        let port = port.ok_or(RequestError::Parameter("port"))?;
        let announce = Announce {
            info_hash: InfoHash::new(info_hash.ok_or(RequestError::Parameter("info_hash"))?),
            peer_id: PeerId::new(peer_id.ok_or(RequestError::Parameter("peer_id"))?),
            addr: SocketAddr::new(self.client, port),
            key,
            // A client that does not say what it lacks is taken for a leecher.
            left: left.unwrap_or(u64::MAX),
            uploaded,
            downloaded,
            event,
            wanted: wanted(asked),
            both_families: true,
            with_ids: !compact && !no_peer_id,
        };
        Ok(Query::Announce(announce, if compact { Form::Compact } else { Form::Dictionaries }))
    }
}

/// Where a request comes from: the address next to us that is not a proxy's, or the furthest where all are.
fn client(from: IpAddr, headers: &[httparse::Header<'_>], proxies: &[IpNetwork]) -> Result<IpAddr, RequestError> {
    let is_proxy = |ip: IpAddr| proxies.iter().any(|proxy| proxy.contains(ip));
    if !is_proxy(from) {
        return Ok(from);
    }
    let named = headers.iter().rev().filter(|header| header.name.eq_ignore_ascii_case("x-forwarded-for"));
    let mut client = from;
    for name in named.flat_map(|header| header.value.rsplit(|&byte| byte == b',')) {
        client = parse_address(name.trim_ascii()).ok_or(RequestError::Proxy)?;
        if !is_proxy(client) {
            break;
        }
    }
    Ok(client)
}

/// An address as proxies write it, some with a port behind it.
fn parse_address(name: &[u8]) -> Option<IpAddr> {
    let name = std::str::from_utf8(name).ok()?;
    let ip = name.parse().or_else(|_| name.parse::<SocketAddr>().map(|addr| addr.ip()));
    let bare = |_| name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or("").parse();
    ip.or_else(bare).ok().map(|ip: IpAddr| ip.to_canonical())
}

fn pairs(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    query.split(|&byte| byte == b'&').map(|pair| split_at_byte(pair, b'='))
}

/// What is before and after the first such byte.
fn split_at_byte(bytes: &[u8], separator: u8) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&byte| byte == separator) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

/// Twenty bytes, any of them escaped.
fn decode(value: &[u8]) -> Option<[u8; 20]> {
    let (mut decoded, mut rest) = ([0; 20], value);
    for byte in &mut decoded {
        (*byte, rest) = match *rest {
            [b'%', high, low, ref rest @ ..] => (hex(high)? << 4 | hex(low)?, rest),
            [b'%', ..] | [] => return None,
            [byte, ref rest @ ..] => (byte, rest),
        };
    }
    rest.is_empty().then_some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}

fn parse_number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let add = |number: u64, &digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    };
    digits.iter().try_fold(0, add)
}

/// A number for a client's key. Clients that speak UDP, too, send there what they write here in hexadecimal; for other keys
/// any number does that another key is unlikely to have.
fn parse_key(value: &[u8]) -> u32 {
    let digits = || value.iter().try_fold(0, |number, &digit| Some(number << 4 | u32::from(hex(digit)?)));
    match value.len() {
        0 => Some(0),
        1..=8 => digits(),
        _ => None,
    }
    .unwrap_or_else(|| crc32c::crc32c(value).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
    /// An info-hash that is not UTF-8, escaped as clients do it: some bytes raw, some in lower case.
    const HASH: &str = "%FF%fe%00abc%20%26%3D%25%80%81%82%83%84%85%86%87%88%89";

    fn asked(target: &str) -> Result<(Query, Vec<InfoHash>), RequestError> {
        let text = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        let head = Head::parse(text.as_bytes(), FROM, &[])?.unwrap();
        let mut torrents = Vec::new();
        let query = head.query(&mut torrents, 100, |asked| asked.unwrap_or(50).min(200) as usize)?;
        Ok((query, torrents))
    }

    fn announced(query: &str) -> (Announce, Form) {
        let target = format!("/announce?info_hash={HASH}&peer_id=-RW0001-abcdefghijkl&port=6881&{query}");
        match asked(&target) {
            Ok((Query::Announce(announce, form), _)) => (announce, form),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_binary_info_hash_arrives_byte_for_byte() {
        let (announce, _) = announced("left=1");
        assert_eq!(announce.info_hash.as_bytes(), b"\xff\xfe\0abc &=%\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89");
        assert_eq!(announce.addr, SocketAddr::new(FROM, 6881));
    }

    #[test]
    fn the_parameters_of_an_announce_are_read() {
        let (announce, form) = announced("left=0&event=completed&numwant=3&compact=1&uploaded=5&downloaded=6&key=2A");
        assert_eq!((announce.left, announce.event, announce.wanted), (0, Some(Event::Completed), 3));
        assert_eq!((announce.uploaded, announce.downloaded, announce.key), (5, 6, 42));
        assert_eq!((form, announce.with_ids), (Form::Compact, false));
        let (announce, form) = announced("numwant=1000000&compact=0&no_peer_id=1");
        assert_eq!((announce.left, announce.wanted), (u64::MAX, 200));
        assert_eq!((form, announce.with_ids), (Form::Dictionaries, false));
        assert!(announced("compact=0").0.with_ids);
        assert_eq!(announced("numwant=-1").0.wanted, 50);
    }

    #[test]
    fn peers_are_compact_unless_the_client_wants_dictionaries() {
        for (query, form) in [("", Form::Compact), ("compact=", Form::Compact), ("compact=0", Form::Dictionaries)] {
            let (announce, given) = announced(query);
            assert_eq!((given, announce.with_ids), (form, form == Form::Dictionaries), "{query}");
        }
    }

    #[test]
    fn an_address_in_the_query_is_not_believed() {
        let (announce, _) = announced("ip=198.51.100.1&ipv4=198.51.100.1&ipv6=2001:db8::1");
        assert_eq!(announce.addr, SocketAddr::new(FROM, 6881));
    }

    #[test]
    fn keys_are_told_apart() {
        let key = |text: &str| announced(&format!("key={text}")).0.key;
        assert_eq!((key("DEADBEEF"), key("")), (0xdead_beef, 0));
        assert_ne!(key("DEADBEEF0"), key("DEADBEEF1"));
        assert_ne!(key("xyz"), key("zyx"));
    }

    #[test]
    fn a_request_that_is_cut_short_is_waited_for() {
        let whole = format!("GET /scrape?info_hash={HASH} HTTP/1.1\r\nHost: x\r\n\r\n");
        for length in 0..whole.len() {
            assert_eq!(Head::parse(&whole.as_bytes()[..length], FROM, &[]), Ok(None));
        }
        let next = format!("{whole}GET ");
        assert_eq!(Head::parse(next.as_bytes(), FROM, &[]).unwrap().unwrap().len, whole.len());
    }

    #[test]
    fn a_scrape_names_each_torrent_once_and_in_order() {
        let (_, torrents) =
            asked(&format!("/scrape?info_hash={HASH}&info_hash={}&info_hash={HASH}", "a".repeat(20))).unwrap();
        assert_eq!(torrents.iter().map(|hash| hash.as_bytes()[0]).collect::<Vec<_>>(), [b'a', 0xff]);
        let many = format!("/scrape?{}", format!("info_hash={HASH}&").repeat(150));
        assert_eq!(asked(&many).unwrap().1.len(), 1);
        assert!(asked("/scrape").unwrap().1.is_empty());
    }

    #[test]
    fn bad_requests_are_named() {
        let error = |target: &str| asked(target).unwrap_err();
        assert_eq!(error("/"), RequestError::Path);
        assert_eq!(error("/scrape?info_hash=short"), RequestError::Parameter("info_hash"));
        assert_eq!(error("/announce?info_hash=short"), RequestError::Parameter("info_hash"));
        for escape in ["%", "%f", "%fg", "%%20"] {
            let hash = format!("{}{escape}", "a".repeat(19));
            assert_eq!(error(&format!("/scrape?info_hash={hash}")), RequestError::Parameter("info_hash"), "{escape}");
        }
        let most = format!("/announce?info_hash={HASH}&peer_id=-RW0001-abcdefghijkl");
        assert_eq!(error(&most), RequestError::Parameter("port"));
        assert_eq!(error(&format!("{most}&port=65536")), RequestError::Parameter("port"));
        assert_eq!(error(&format!("{most}&port=1&left=-1")), RequestError::Parameter("left"));
        assert_eq!(error(&format!("{most}&port=1&left=18446744073709551616")), RequestError::Parameter("left"));
        assert_eq!(error(&format!("{most}&port=1&event=x")), RequestError::Parameter("event"));
        let refused = |bytes: &[u8]| Head::parse(bytes, FROM, &[]).unwrap_err();
        assert_eq!(refused(b"POST /announce HTTP/1.1\r\n\r\n"), RequestError::Method);
        assert_eq!(refused(b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n"), RequestError::Method);
        assert_eq!(refused(b"GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"), RequestError::Method);
        assert_eq!(refused(b"\x16\x03\x01\x02\0\x01\0\r\n\r\n"), RequestError::Http);
        assert_eq!(
            refused(format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65)).as_bytes()),
            RequestError::TooLong
        );
    }

    #[test]
    fn a_connection_stays_where_both_want_it() {
        let ending = |version: &str, header: &str| {
            let text = format!("GET /announce HTTP/{version}\r\n{header}\r\n");
            Head::parse(text.as_bytes(), FROM, &[]).unwrap().unwrap().ending
        };
        assert_eq!(ending("1.1", ""), Ending::Stay);
        assert_eq!(ending("1.1", "Connection: Keep-Alive\r\n"), Ending::Stay);
        assert_eq!(ending("1.1", "connection: Close\r\n"), Ending::Close);
        assert_eq!(ending("1.0", ""), Ending::Close);
        assert_eq!(ending("1.0", "Connection: keep-alive\r\n"), Ending::StayAsAsked);
    }

    #[test]
    fn only_proxies_say_where_a_request_came_from() {
        let client = |from: &str, headers: &str| {
            let proxies = ["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
            let text = format!("GET / HTTP/1.1\r\n{headers}\r\n");
            let head = Head::parse(text.as_bytes(), from.parse().unwrap(), &proxies);
            head.map(|head| head.unwrap().client.to_string())
        };
        let is =
            |from: &str, headers: &str, is: &str| assert_eq!(client(from, headers), Ok(is.to_owned()), "{headers}");
        is("192.0.2.7", "X-Forwarded-For: 203.0.113.1\r\n", "192.0.2.7");
        is("10.0.0.1", "X-Forwarded-For: 203.0.113.1\r\n", "203.0.113.1");
        is("10.0.0.1", "x-forwarded-for: 198.51.100.9, 203.0.113.1,10.1.1.1\r\n", "203.0.113.1");
        is("10.0.0.1", "X-Forwarded-For: 203.0.113.2\r\nX-Forwarded-For: 203.0.113.1\r\n", "203.0.113.1");
        is("::1", "X-Forwarded-For: 2001:db8::1\r\n", "2001:db8::1");
        is("::1", "X-Forwarded-For: [2001:db8::1]:443\r\n", "2001:db8::1");
        is("::1", "X-Forwarded-For: [2001:db8::1]\r\n", "2001:db8::1");
        is("::1", "X-Forwarded-For: ::ffff:203.0.113.1\r\n", "203.0.113.1");
        is("10.0.0.1", "X-Forwarded-For: 203.0.113.1:1234\r\n", "203.0.113.1");
        is("10.0.0.1", "X-Forwarded-For: 10.0.0.3, 10.0.0.2\r\n", "10.0.0.3");
        is("10.0.0.1", "", "10.0.0.1");
        assert_eq!(client("10.0.0.1", "X-Forwarded-For: unknown\r\n"), Err(RequestError::Proxy));
        assert_eq!(client("10.0.0.1", "X-Forwarded-For: 203.0.113.1,\r\n"), Err(RequestError::Proxy));
    }
}
