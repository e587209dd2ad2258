//! Scrapes over HTTP: how many peers a torrent has, without becoming one of them (BEP 48).
//!
//! It owns the URL to get and the reply to read; over UDP a scrape is a packet like others ([`udp`](super::udp)).

use percent_encoding::percent_encode;
use url::Url;

use super::http::{ESCAPED, MAX_MESSAGE_CHARS, MAX_REPLY_LEN};
use super::udp::ScrapeEntry;
use crate::bencode;
use crate::metainfo::InfoHash;
use crate::wire::display_text;

/// The URL that asks `tracker` about a torrent: its own, with `scrape` in place of the `announce` that the last part of
/// the path begins with. `None` where it begins otherwise: such a tracker answers no scrapes.
pub fn scrape_url(tracker: &Url, info_hash: InfoHash) -> Option<String> {
    let mut url = tracker.clone();
    url.set_fragment(None);
    let (parents, last) = url.path().rsplit_once('/')?;
    let path = format!("{parents}/scrape{}", last.strip_prefix("announce")?);
    url.set_path(&path);
    // As text: `Url::query_pairs_mut` would take the binary info-hash for UTF-8.
    let separator = match url.query() {
        None => "?",
        Some(query) if query.is_empty() || query.ends_with('&') => "",
        Some(_) => "&",
    };
    Some(format!("{url}{separator}info_hash={}", percent_encode(info_hash.as_bytes(), ESCAPED)))
}

/// Reads what a tracker answers about a torrent, whatever the status was. A number that is missing is 0.
pub fn decode_scrape(body: &[u8], info_hash: InfoHash) -> Result<ScrapeEntry, ScrapeError> {
    if body.len() > MAX_REPLY_LEN {
        return Err(ScrapeError::TooLong { len: body.len() });
    }
    let (tree, _trailing) = bencode::decode(body)?;
    let root = tree.root();
    if let Some(reason) = root.get("failure reason").and_then(|reason| reason.as_bytes()) {
        return Err(ScrapeError::Refused { reason: display_text(reason, MAX_MESSAGE_CHARS) });
    }
    let entry = root.get("files").and_then(|files| files.get(info_hash.as_bytes())).ok_or(ScrapeError::Unknown)?;
    let count = |key: &str| entry.get(key).and_then(|count| u32::try_from(count.as_int()?).ok()).unwrap_or(0);
    Ok(ScrapeEntry { seeders: count("complete"), completed: count("downloaded"), leechers: count("incomplete") })
}

/// Why a body tells nothing of a torrent.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScrapeError {
    /// Much longer than any real reply.
    #[error("reply of {len} bytes, at most {MAX_REPLY_LEN} are accepted")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Not bencode; often a web page.
    #[error("reply is not from a tracker")]
    Bencode(#[from] bencode::DecodeError),
    /// The scrape was refused: `failure reason`.
    #[error("the tracker refuses: {reason}")]
    Refused {
        /// Why, in the tracker's words; at most 512 characters, none of them control characters.
        reason: String,
    },
    /// The reply does not have the torrent.
    #[error("the tracker does not know the torrent")]
    Unknown,
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};
    use url::Url;

    use super::{ScrapeError, decode_scrape, scrape_url};
    use crate::metainfo::InfoHash;
    use crate::wire::tracker::udp::ScrapeEntry;

    #[test]
    fn the_url_is_that_of_bep_48() {
        let hash = InfoHash::new(*b"\x12\x34\x56\x78\x9a\xbc\xde\xf1\x23\x45\x67\x89\xab\xcd\xef\x12\x34\x56\x78\x9a");
        let escaped = "info_hash=%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A";
        for (announce, scrape) in [
            ("http://t.example/announce", Some("http://t.example/scrape?")),
            ("http://t.example/x/announce", Some("http://t.example/x/scrape?")),
            ("http://t.example/announce.php", Some("http://t.example/scrape.php?")),
            ("http://t.example/announce?x2%0644", Some("http://t.example/scrape?x2%0644&")),
            ("https://t.example:8443/pass/announce?a=b&", Some("https://t.example:8443/pass/scrape?a=b&")),
            ("http://t.example/a", None),
            ("http://t.example/", None),
            ("http://t.example/announce?x=2/4", Some("http://t.example/scrape?x=2/4&")),
            ("http://t.example/x%064announce", None),
        ] {
            let url = scrape_url(&Url::parse(announce).unwrap(), hash);
            assert_eq!(url, scrape.map(|scrape| format!("{scrape}{escaped}")), "{announce}");
        }
    }

    #[test]
    fn a_reply_tells_of_the_torrent_that_was_asked_for() {
        let hash = InfoHash::new([b'a'; 20]);
        let body = b"d5:filesd20:....................d8:completei5e10:downloadedi50e10:incompletei10ee\
            20:aaaaaaaaaaaaaaaaaaaad8:completei1e10:downloadedi-2eeee";
        assert_eq!(decode_scrape(body, hash), Ok(ScrapeEntry { seeders: 1, completed: 0, leechers: 0 }));
        let refused = decode_scrape(b"d14:failure reason3:no\ne", hash);
        assert_eq!(refused, Err(ScrapeError::Refused { reason: "no\u{fffd}".to_owned() }));
        assert_eq!(decode_scrape(b"d5:filesdee", hash), Err(ScrapeError::Unknown));
        assert_eq!(decode_scrape(b"de", hash), Err(ScrapeError::Unknown));
        assert_eq!(decode_scrape(b"le", hash), Err(ScrapeError::Unknown));
        assert!(matches!(decode_scrape(b"<html>", hash), Err(ScrapeError::Bencode(_))));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), hash: [u8; 20]) {
            let _ = decode_scrape(&bytes, InfoHash::new(hash));
        }
    }
}
