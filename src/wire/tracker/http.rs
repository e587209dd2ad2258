//! Announces over HTTP: the URL to get, and the reply to read (BEP 3, 7, 23, 24, 31).
//!
//! It owns the query and the reply's dictionary; it refuses HTTP itself, which is for the caller.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use url::Url;

use super::{AnnounceReply, AnnounceRequest, Crypto, Event, Family, MAX_PEERS, compact_peers};
use crate::bencode::{self, Value};
use crate::wire::{compact_ip, display_text};

/// The longest reply that is read, in bytes: a caller need not receive more.
pub const MAX_REPLY_LEN: usize = 1 << 20;

/// The most characters kept of a message from a tracker.
pub(super) const MAX_MESSAGE_CHARS: usize = 512;

/// The longest tracker id that is kept and sent back.
const MAX_TRACKER_ID_LEN: usize = 512;

/// All but RFC 3986's unreserved characters.
pub(super) const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The URL that announces to `tracker`: its own URL, query included, with the request's query behind it.
pub fn announce_url(tracker: &Url, request: &AnnounceRequest) -> String {
    let mut url = tracker.clone();
    url.set_fragment(None);
    // As text: `Url::query_pairs_mut` would take the binary info-hash for UTF-8.
    let separator = match url.query() {
        None => "?",
        Some(query) if query.is_empty() || query.ends_with('&') => "",
        Some(_) => "&",
    };
    format!("{url}{separator}{}", announce_query(request))
}

/// The query of an announce, without `?` in front; it asks for compact replies (BEP 23).
pub fn announce_query(request: &AnnounceRequest) -> String {
    let escaped = |bytes: &[u8]| percent_encode(bytes, ESCAPED).to_string();
    let mut query = format!(
        "info_hash={}&peer_id={}&port={}&uploaded={}&downloaded={}&left={}&compact=1&key={:08X}",
        escaped(request.info_hash.as_bytes()),
        escaped(request.peer_id.as_bytes()),
        request.port,
        request.uploaded,
        request.downloaded,
        request.left,
        request.key,
    );
    let event = request.event.map(|event| match event {
        Event::Started => "started",
        Event::Completed => "completed",
        Event::Stopped => "stopped",
        Event::Paused => "paused",
    });
    let optional = [
        ("event", event.map(str::to_owned)),
        ("numwant", request.numwant.map(|numwant| numwant.to_string())),
        ("trackerid", request.tracker_id.as_deref().map(escaped)),
        ("ipv4", request.ipv4.map(|ip| ip.to_string())),
        ("ipv6", request.ipv6.map(|ip| escaped(ip.to_string().as_bytes()))),
        ("supportcrypto", (request.crypto != Crypto::None).then(|| "1".to_owned())),
        ("requirecrypto", (request.crypto == Crypto::Required).then(|| "1".to_owned())),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            query.extend(["&", name, "=", &value]);
        }
    }
    query
}

/// What a tracker answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The announce was taken.
    Announced(AnnounceReply),
    /// The announce was refused: `failure reason`.
    Refused {
        /// Why, in the tracker's words; at most 512 characters, none of them control characters.
        reason: String,
        /// When to try again, where the tracker says so (BEP 31).
        retry: Option<Retry>,
    },
}

/// When a refused announce may be repeated (BEP 31).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// After this time.
    After(Duration),
    /// Never: this is no tracker.
    Never,
}

impl Reply {
    /// Reads the body of a reply, whatever its status was: trackers send `failure reason` with 200 and with 400.
    /// Bytes after the dictionary are ignored.
    pub fn decode(body: &[u8]) -> Result<Self, ReplyError> {
        if body.len() > MAX_REPLY_LEN {
            return Err(ReplyError::TooLong { len: body.len() });
        }
        let begins = || display_text(body, 60);
        let (tree, _trailing) =
            bencode::decode(body).map_err(|source| ReplyError::Bencode { begins: begins(), source })?;
        let root = tree.root();
        if !root.is_dict() {
            return Err(ReplyError::NotADictionary { begins: begins() });
        }
        let message = |key: &str| root.get(key)?.as_bytes().map(|text| display_text(text, MAX_MESSAGE_CHARS));
        if let Some(reason) = message("failure reason") {
            return Ok(Self::Refused { reason, retry: root.get("retry in").and_then(retry) });
        }
        let count = |key: &str| root.get(key)?.as_int().and_then(|int| u32::try_from(int).ok());
        let seconds = |key: &str| root.get(key)?.as_int().and_then(seconds);
        Ok(Self::Announced(AnnounceReply {
            interval: seconds("interval"),
            min_interval: seconds("min interval"),
            tracker_id: root
                .get("tracker id")
                .and_then(Value::as_bytes)
                .filter(|id| id.len() <= MAX_TRACKER_ID_LEN)
                .map(<[u8]>::to_vec),
            seeders: count("complete"),
            leechers: count("incomplete"),
            downloaded: count("downloaded"),
            external_ip: root.get("external ip").and_then(Value::as_bytes).and_then(compact_ip),
            warning: message("warning message"),
            peers: peers(root),
        }))
    }
}

/// Why a body is no reply of a tracker.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// Much longer than any real reply.
    #[error("reply of {len} bytes, at most {MAX_REPLY_LEN} are accepted")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Not bencode; often a web page.
    #[error("reply is not from a tracker, it begins with {begins:?}")]
    Bencode {
        /// The first characters of the body.
        begins: String,
        /// Where it goes wrong.
        source: bencode::DecodeError,
    },
    /// Another value.
    #[error("reply is not a dictionary, it begins with {begins:?}")]
    NotADictionary {
        /// The first characters of the body.
        begins: String,
    },
}

/// The peers of a reply: `peers`, compact or as dictionaries, and `peers6`.
fn peers(root: Value<'_>) -> Vec<SocketAddr> {
    let compact = |key: &str, family| {
        let bytes = root.get(key).and_then(Value::as_bytes).unwrap_or_default();
        compact_peers(bytes, family)
    };
    let dictionaries = root.get("peers").into_iter().flat_map(Value::items).filter_map(|peer| {
        // A host name (BEP 3 allows one) does not parse: to look it up is more than a stranger may ask for.
        let ip: IpAddr = peer.get("ip")?.as_str()?.parse().ok()?;
        let port = u16::try_from(peer.get("port")?.as_int()?).ok().filter(|port| *port != 0)?;
        Some(SocketAddr::new(ip.to_canonical(), port))
    });
    compact("peers", Family::V4).chain(compact("peers6", Family::V6)).chain(dictionaries).take(MAX_PEERS).collect()
}

/// A number of seconds that is not negative; more than 32 bits hold is as good as for ever.
fn seconds(int: i64) -> Option<Duration> {
    u64::try_from(int).ok().map(|seconds| Duration::from_secs(seconds.min(u32::MAX.into())))
}

/// `retry in`: minutes, as an integer or (in BEP 31's example) as digits, or "never".
fn retry(value: Value<'_>) -> Option<Retry> {
    if value.as_bytes() == Some(b"never") {
        return Some(Retry::Never);
    }
    let minutes = value.as_int().or_else(|| value.as_str()?.trim().parse().ok()).filter(|minutes| *minutes > 0)?;
    seconds(minutes.saturating_mul(60)).map(Retry::After)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use url::Url;

    use super::{Reply, ReplyError, Retry, announce_query, announce_url};
    use crate::metainfo::InfoHash;
    use crate::wire::handshake::PeerId;
    use crate::wire::tracker::{AnnounceReply, AnnounceRequest, Crypto, Event, MAX_PEERS};

    fn request() -> AnnounceRequest {
        AnnounceRequest {
            info_hash: InfoHash::new(
                *b"\x12\x34\x56\x78\x9a\xbc\xde\xf1\x23\x45\x67\x89\xab\xcd\xef\x12\x34\x56\x78\x9a",
            ),
            peer_id: PeerId::ropewalk(*b"0123456789.~"),
            port: 6881,
            uploaded: 1,
            downloaded: 2,
            left: u64::MAX,
            event: None,
            numwant: None,
            key: 0xbeef,
            tracker_id: None,
            ipv4: None,
            ipv6: None,
            crypto: Crypto::None,
        }
    }

    const QUERY: &str = "info_hash=%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A&peer_id=-RW0100-0123456789.~\
        &port=6881&uploaded=1&downloaded=2&left=18446744073709551615&compact=1&key=0000BEEF";

    fn announced(body: &[u8]) -> AnnounceReply {
        match Reply::decode(body) {
            Ok(Reply::Announced(announced)) => announced,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_query_escapes_binary_values_byte_by_byte() {
        assert_eq!(announce_query(&request()), QUERY);
        let full = AnnounceRequest {
            event: Some(Event::Started),
            numwant: Some(50),
            tracker_id: Some(b"a&b\xff".to_vec()),
            ipv4: Some([1, 2, 3, 4].into()),
            ipv6: Some("2001:db8::1".parse().unwrap()),
            ..request()
        };
        assert_eq!(
            announce_query(&full),
            format!("{QUERY}&event=started&numwant=50&trackerid=a%26b%FF&ipv4=1.2.3.4&ipv6=2001%3Adb8%3A%3A1")
        );
    }

    #[test]
    fn the_query_says_whether_connections_are_encrypted() {
        for (crypto, said) in [
            (Crypto::None, ""),
            (Crypto::Supported, "&supportcrypto=1"),
            (Crypto::Required, "&supportcrypto=1&requirecrypto=1"),
        ] {
            assert_eq!(announce_query(&AnnounceRequest { crypto, ..request() }), format!("{QUERY}{said}"));
        }
    }

    #[test]
    fn the_query_goes_behind_that_of_the_tracker() {
        for (tracker, begins) in [
            ("http://t.example/announce", "http://t.example/announce?"),
            ("http://t.example", "http://t.example/?"),
            ("http://t.example/announce?", "http://t.example/announce?"),
            ("https://t.example:8443/a?pass=x%20y&z", "https://t.example:8443/a?pass=x%20y&z&"),
            ("http://t.example/a?pass=x&", "http://t.example/a?pass=x&"),
            ("http://t.example/a?pass=%ff#part", "http://t.example/a?pass=%ff&"),
        ] {
            assert_eq!(announce_url(&Url::parse(tracker).unwrap(), &request()), format!("{begins}{QUERY}"));
        }
    }

    #[test]
    fn a_compact_reply_is_read_with_both_families() {
        let body = b"d8:completei5e10:downloadedi9e11:external ip4:\x01\x02\x03\x0410:incompletei7e8:intervali1800e\
            12:min intervali60e5:peers12:\x0a\0\0\x01\x1a\xe1\x0a\0\0\x02\0\0\
            6:peers618: \x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1a\xe110:tracker id3:abc15:warning message5:hi\n\x1b!e";
        assert_eq!(
            announced(body),
            AnnounceReply {
                interval: Some(Duration::from_secs(1800)),
                min_interval: Some(Duration::from_secs(60)),
                tracker_id: Some(b"abc".to_vec()),
                seeders: Some(5),
                leechers: Some(7),
                downloaded: Some(9),
                external_ip: Some([1, 2, 3, 4].into()),
                warning: Some("hi\u{fffd}\u{fffd}!".to_owned()),
                peers: vec!["10.0.0.1:6881".parse().unwrap(), "[2001:db8::1]:6881".parse().unwrap()],
            }
        );
    }

    #[test]
    fn a_list_of_dictionaries_is_read_without_its_host_names() {
        let body =
            b"d8:intervali60e5:peersld2:ip9:127.0.0.17:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti1eed2:ip3:::14:porti2ee\
            d2:ip11:example.com4:porti3eed2:ip7:1.2.3.44:porti0eed2:ip7:1.2.3.44:porti65536eed2:ip7:1.2.3.4ei9e0:ee";
        assert_eq!(announced(body).peers, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
    }

    #[test]
    fn missing_senseless_and_unsorted_entries_do_no_harm() {
        assert_eq!(announced(b"de"), AnnounceReply::default());
        assert_eq!(announced(b"d8:intervali-1e8:completei-1e5:peersi1e11:external ip3:abce"), AnnounceReply::default());
        assert_eq!(announced(b"d5:peers0:8:intervali60eetrailing").interval, Some(Duration::from_secs(60)));
        assert_eq!(
            announced(b"d8:intervali9223372036854775807ee").interval,
            Some(Duration::from_secs(u32::MAX.into()))
        );
    }

    #[test]
    fn no_more_peers_are_kept_than_the_bound() {
        let mut body = format!("d5:peers{}:", 6 * 5000).into_bytes();
        body.extend([1; 6 * 5000]);
        body.push(b'e');
        assert_eq!(announced(&body).peers.len(), MAX_PEERS);
    }

    #[test]
    fn a_refusal_says_why_and_when_to_try_again() {
        let refused = |body: &[u8]| match Reply::decode(body) {
            Ok(Reply::Refused { reason, retry }) => (reason, retry),
            other => panic!("{other:?}"),
        };
        let five = Some(Retry::After(Duration::from_secs(300)));
        assert_eq!(refused(b"d14:failure reason2:no8:intervali9ee"), ("no".to_owned(), None));
        assert_eq!(refused(b"d14:failure reason10:Overloaded8:retry in1:5e"), ("Overloaded".to_owned(), five));
        assert_eq!(refused(b"d14:failure reason0:8:retry ini5ee"), (String::new(), five));
        assert_eq!(refused(b"d14:failure reason0:8:retry in5:nevere").1, Some(Retry::Never));
        assert_eq!(refused(b"d14:failure reason0:8:retry ini-5ee").1, None);
        assert_eq!(
            refused(b"d14:failure reason0:8:retry ini9223372036854775807ee").1,
            Some(Retry::After(Duration::from_secs(u32::MAX.into())))
        );
    }

    #[test]
    fn what_is_no_reply_is_shown_by_its_beginning() {
        let error = Reply::decode(b"<html><body>404 Not Found</body></html>").unwrap_err();
        assert_eq!(
            error.to_string(),
            "reply is not from a tracker, it begins with \"<html><body>404 Not Found</body></html>\""
        );
        assert_eq!(Reply::decode(b"le"), Err(ReplyError::NotADictionary { begins: "le".to_owned() }));
        assert!(matches!(Reply::decode(b""), Err(ReplyError::Bencode { .. })));
        assert_eq!(Reply::decode(&vec![b'l'; 1 << 21]), Err(ReplyError::TooLong { len: 1 << 21 }));
    }

    #[test]
    fn a_reply_cut_short_at_any_byte_is_an_error() {
        let body = b"d8:intervali60e5:peersld2:ip9:127.0.0.14:porti1eee6:peers60:e";
        assert!(Reply::decode(body).is_ok());
        for cut in 0..body.len() {
            assert!(Reply::decode(&body[..cut]).is_err());
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), value in vec(any::<u8>(), 0..40)) {
            let _ = Reply::decode(&bytes);
            for key in ["peers", "peers6", "external ip", "failure reason", "retry in", "tracker id"] {
                let mut body = format!("d{}:{key}{}:", key.len(), value.len()).into_bytes();
                body.extend(&value);
                body.push(b'e');
                Reply::decode(&body).unwrap();
            }
        }

        #[test]
        fn an_escaped_hash_decodes_to_itself(info_hash: [u8; 20]) {
            let query = announce_query(&AnnounceRequest { info_hash: InfoHash::new(info_hash), ..request() });
            let (escaped, _) = query.strip_prefix("info_hash=").unwrap().split_once('&').unwrap();
            prop_assert_eq!(percent_encoding::percent_decode_str(escaped).collect::<Vec<_>>(), info_hash);
        }
    }
}
