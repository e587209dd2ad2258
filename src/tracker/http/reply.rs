//! Answers to bytes (BEP 3, 7, 23, 24, 31, 48). They are appended to what is there, and nothing is allocated once there is
//! room enough. Keys of dictionaries are written in order, as bencode wants them.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::request::{Ending, Form, RequestError};
use crate::metainfo::InfoHash;
use crate::tracker::store::{Counts, Reply};

/// The first line of an answer.
pub(super) type Status = &'static str;

pub(super) const OK: Status = "200 OK";

/// What an announce is answered with, beside the peers.
pub(super) struct Announced {
    pub(super) interval: Duration,
    pub(super) client: IpAddr,
    pub(super) form: Form,
}

/// The body of an answer to an announce.
pub(super) fn announced(body: &mut Vec<u8>, announced: &Announced, reply: &Reply) {
    let Counts { seeders, leechers, downloaded } = reply.counts;
    body.push(b'd');
    integer(body, "complete", seeders.into());
    integer(body, "downloaded", downloaded.into());
    key(body, "external ip");
    match announced.client {
        IpAddr::V4(ip) => string(body, &ip.octets()),
        IpAddr::V6(ip) => string(body, &ip.octets()),
    }
    integer(body, "incomplete", leechers.into());
    integer(body, "interval", announced.interval.as_secs());
    key(body, "peers");
    match announced.form {
        Form::Compact => {
            string(body, &reply.v4);
            if !reply.v6.is_empty() {
                key(body, "peers6");
                string(body, &reply.v6);
            }
        }
        Form::Dictionaries => dictionaries(body, reply),
    }
    body.push(b'e');
}

/// The body of an answer to a scrape, of torrents in order.
pub(super) fn scraped(body: &mut Vec<u8>, torrents: impl IntoIterator<Item = (InfoHash, Counts)>) {
    body.extend_from_slice(b"d5:filesd");
    for (info_hash, counts) in torrents {
        string(body, info_hash.as_bytes());
        body.push(b'd');
        integer(body, "complete", counts.seeders.into());
        integer(body, "downloaded", counts.downloaded.into());
        integer(body, "incomplete", counts.leechers.into());
        body.push(b'e');
    }
    body.extend_from_slice(b"ee");
}

/// The body of an answer to what is not served, and when to ask again (BEP 31, in minutes).
pub(super) fn failure(body: &mut Vec<u8>, reason: impl std::fmt::Display, retry: Option<Duration>) {
    let reason = reason.to_string();
    body.push(b'd');
    key(body, "failure reason");
    string(body, reason.as_bytes());
    if let Some(retry) = retry {
        integer(body, "retry in", retry.as_secs().div_ceil(60).max(1));
    }
    body.push(b'e');
}

/// The status for what is not understood. Where it is the torrent's client that is to read the reason, it is in an answer
/// that is a success to HTTP: many clients look no further otherwise.
pub(super) fn status(error: RequestError) -> Status {
    match error {
        RequestError::Http | RequestError::Proxy => "400 Bad Request",
        RequestError::TooLong => "431 Request Header Fields Too Large",
        RequestError::Method => "405 Method Not Allowed",
        RequestError::Path => "404 Not Found",
        RequestError::Parameter(_) | RequestError::FullScrape => OK,
    }
}

/// A whole answer with this body, of which `kind` is the type and further header lines.
pub(super) fn response(out: &mut Vec<u8>, status: Status, kind: &str, body: &[u8], ending: Ending) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_bytes());
    out.extend_from_slice(b"\r\nContent-Type: ");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\r\nContent-Length: ");
    decimal(out, body.len() as u64);
    out.extend_from_slice(match ending {
        Ending::Stay => b"\r\n\r\n".as_slice(),
        Ending::StayAsAsked => b"\r\nConnection: keep-alive\r\n\r\n",
        Ending::Close => b"\r\nConnection: close\r\n\r\n",
    });
    out.extend_from_slice(body);
}

fn dictionaries(body: &mut Vec<u8>, reply: &Reply) {
    body.push(b'l');
    let mut ids = reply.ids.iter();
    let mut peer = |ip: IpAddr, port: [u8; 2]| {
        let mut text = Text { bytes: [0; 48], len: 0 };
        // An address has 39 characters at most.
        let _ = write!(text, "{ip}");
        body.push(b'd');
        key(body, "ip");
        string(body, text.as_bytes());
        if let Some(id) = ids.next() {
            key(body, "peer id");
            string(body, id.as_bytes());
        }
        integer(body, "port", u16::from_be_bytes(port).into());
        body.push(b'e');
    };
    for &[a, b, c, d, high, low] in reply.v4.as_chunks::<6>().0 {
        peer([a, b, c, d].into(), [high, low]);
    }
    for endpoint in reply.v6.as_chunks::<18>().0 {
        let [ip @ .., high, low] = *endpoint;
        peer(Ipv6Addr::from(ip).into(), [high, low]);
    }
    body.push(b'e');
}

fn key(out: &mut Vec<u8>, key: &str) {
    string(out, key.as_bytes());
}

fn integer(out: &mut Vec<u8>, name: &str, number: u64) {
    key(out, name);
    out.push(b'i');
    decimal(out, number);
    out.push(b'e');
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    decimal(out, bytes.len() as u64);
    out.push(b':');
    out.extend_from_slice(bytes);
}

fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// An address in text, without an allocation.
struct Text {
    bytes: [u8; 48],
    len: usize,
}

impl Text {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let to = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(std::fmt::Error)?;
        to.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::handshake::PeerId;

    const COUNTS: Counts = Counts { seeders: 1, leechers: 20, downloaded: 300 };

    fn body(form: Form, reply: &Reply) -> String {
        let mut body = Vec::new();
        let client = [192, 0, 2, 7].into();
        announced(&mut body, &Announced { interval: Duration::from_secs(1800), client, form }, reply);
        body.iter().map(|byte| byte.escape_ascii().to_string()).collect()
    }

    #[test]
    fn a_compact_answer_has_both_families() {
        let v6 = [[0x20, 1].as_slice(), &[0; 14], &[0x1a, 0xe1]].concat();
        let reply = Reply { counts: COUNTS, v4: vec![10, 0, 0, 1, 0x1a, 0xe1], v6, ..Reply::default() };
        let start =
            "d8:completei1e10:downloadedi300e11:external ip4:\\xc0\\x00\\x02\\x0710:incompletei20e8:intervali1800e";
        assert_eq!(
            body(Form::Compact, &reply),
            format!("{start}5:peers6:\\n\\x00\\x00\\x01\\x1a\\xe16:peers618: \\x01{}\\x1a\\xe1e", "\\x00".repeat(14))
        );
        assert_eq!(body(Form::Compact, &Reply { counts: COUNTS, ..Reply::default() }), format!("{start}5:peers0:e"));
    }

    #[test]
    fn dictionaries_have_ids_where_there_are_any() {
        let v6 = [[0x20, 1].as_slice(), &[0; 13], &[9, 0, 80]].concat();
        let ids = vec![PeerId::new([b'a'; 20]), PeerId::new([b'b'; 20])];
        let mut reply = Reply { counts: COUNTS, v6, ids, ..Reply::default() };
        reply.v4.extend([10, 0, 0, 1, 0, 80]);
        let said = body(Form::Dictionaries, &reply);
        let first = "d2:ip8:10.0.0.17:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti80ee";
        let second = "d2:ip7:2001::97:peer id20:bbbbbbbbbbbbbbbbbbbb4:porti80ee";
        assert!(said.ends_with(&format!("5:peersl{first}{second}ee")), "{said}");
        reply.ids.clear();
        let said = body(Form::Dictionaries, &reply);
        assert!(said.ends_with("5:peersld2:ip8:10.0.0.14:porti80eed2:ip7:2001::94:porti80eeee"), "{said}");
    }

    #[test]
    fn a_scrape_answers_under_the_binary_info_hash() {
        let mut body = Vec::new();
        scraped(&mut body, [(InfoHash::new([0x80; 20]), COUNTS)]);
        let expected =
            [b"d5:filesd20:".as_slice(), &[0x80; 20], b"d8:completei1e10:downloadedi300e10:incompletei20eeee"].concat();
        assert_eq!(body, expected);
    }

    #[test]
    fn a_failure_has_its_reason_and_says_when_to_ask_again() {
        let mut body = Vec::new();
        failure(&mut body, "no", Some(Duration::from_secs(61)));
        assert_eq!(body, b"d14:failure reason2:no8:retry ini2ee");
        let mut out = Vec::new();
        response(&mut out, status(RequestError::Path), "text/plain", &body, Ending::Close);
        let head =
            b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 36\r\nConnection: close\r\n\r\n";
        assert_eq!(out, [head.as_slice(), &body].concat());
    }
}
