//! The announces of local service discovery (BEP 14): HTTP in shape, one datagram each.
//!
//! ```text
//! BT-SEARCH * HTTP/1.1␍␊
//! Host: 239.192.152.143:6771␍␊
//! Port: 6881␍␊
//! Infohash: 0123456789abcdef0123456789abcdef01234567␍␊     one for each torrent
//! cookie: 7d0b5ce1␍␊                                        may be missing
//! ␍␊
//! ␍␊
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU16;

use crate::metainfo::InfoHash;

/// Where announces go over IPv4.
pub const GROUP_V4: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(239, 192, 152, 143)), GROUP_PORT);

/// Where announces go over IPv6, without the scope that says by which interface.
pub const GROUP_V6: SocketAddr =
    SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0xefc0, 0x988f), GROUP_PORT, 0, 0));

const GROUP_PORT: u16 = 6771;

/// The longest datagram that an announce may be, in bytes: it is not to be split on its way.
pub const MAX_DATAGRAM: usize = 1400;

/// Torrents of one announce; what it names beyond them is not read. So many fit into [`MAX_DATAGRAM`], of ours.
pub const MAX_TORRENTS: usize = 24;

/// The longest cookie that is kept, in bytes.
const MAX_COOKIE: usize = 64;

const FIRST_LINE: &str = "BT-SEARCH * HTTP/1.1";

/// Somebody on the local network has these torrents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// Where the sender listens; the address is that of the datagram.
    pub port: NonZeroU16,
    /// At least one.
    pub torrents: Vec<InfoHash>,
    /// By which a sender knows its own announces.
    pub cookie: Option<String>,
}

/// Why a datagram is not an announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnnounceError {
    /// It does not begin with `BT-SEARCH * HTTP/1.1`.
    #[error("not an announce of local service discovery")]
    NotSearch,
    /// A header is not text.
    #[error("a header is not text")]
    NotText,
    /// There is no `Port`, or it is no port.
    #[error("no port")]
    NoPort,
    /// There is no `Infohash` that is one.
    #[error("no info-hash")]
    NoTorrent,
}

impl Announce {
    /// Reads a datagram. Names of headers are read in either case; other headers and whatever follows an empty line are
    /// left out, as are info-hashes of another length than 40 digits.
    pub fn decode(datagram: &[u8]) -> Result<Self, AnnounceError> {
        let mut lines = datagram.split(|&byte| byte == b'\n').map(|line| line.trim_ascii());
        if lines.next().is_none_or(|line| line != FIRST_LINE.as_bytes()) {
            return Err(AnnounceError::NotSearch);
        }
        let (mut port, mut torrents, mut cookie) = (None, Vec::new(), None);
        for line in lines.take_while(|line| !line.is_empty()) {
            let line = std::str::from_utf8(line).map_err(|_| AnnounceError::NotText)?;
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match name.trim_end().to_ascii_lowercase().as_str() {
                "port" => port = value.parse().ok(),
                "infohash" if torrents.len() < MAX_TORRENTS => {
                    torrents.extend(value.parse::<InfoHash>().ok().filter(|new| !torrents.contains(new)));
                }
                "cookie" if value.len() <= MAX_COOKIE => cookie = Some(value.to_owned()),
                _ => {}
            }
        }
        let port = port.ok_or(AnnounceError::NoPort)?;
        if torrents.is_empty() {
            return Err(AnnounceError::NoTorrent);
        }
        Ok(Self { port, torrents, cookie })
    }

    /// The datagram that goes to `group`.
    pub fn encode(&self, group: SocketAddr) -> Vec<u8> {
        // The scope of an address means nothing to others.
        let group = SocketAddr::new(group.ip(), group.port());
        let mut text = format!("{FIRST_LINE}\r\nHost: {group}\r\nPort: {}\r\n", self.port);
        for torrent in &self.torrents {
            text += &format!("Infohash: {torrent}\r\n");
        }
        if let Some(cookie) = &self.cookie {
            text += &format!("cookie: {cookie}\r\n");
        }
        (text + "\r\n\r\n").into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn the_longest_announce_of_ours_is_not_split_on_its_way_and_read_back_whole() {
        let torrents: Vec<_> = (0..MAX_TORRENTS as u8).map(|at| InfoHash::new([at; 20])).collect();
        let announce = Announce { port: NonZeroU16::MAX, torrents, cookie: Some("89abcdef".into()) };
        for group in [GROUP_V4, GROUP_V6] {
            let bytes = announce.encode(group);
            assert!(bytes.len() <= MAX_DATAGRAM, "{}", bytes.len());
            assert_eq!(Announce::decode(&bytes), Ok(announce.clone()));
        }
    }

    #[test]
    fn it_is_written_as_the_specification_has_it() {
        let torrents = vec![HASH.parse().unwrap()];
        let announce = Announce { port: NonZeroU16::new(6881).unwrap(), torrents, cookie: None };
        let expected = format!(
            "BT-SEARCH * HTTP/1.1\r\nHost: [ff15::efc0:988f]:6771\r\nPort: 6881\r\nInfohash: {HASH}\r\n\r\n\r\n"
        );
        assert_eq!(String::from_utf8(announce.encode(GROUP_V6)).unwrap(), expected);
    }

    #[test]
    fn what_other_clients_write_is_read_and_what_is_wrong_refused() {
        let read = |headers: &str| Announce::decode(format!("BT-SEARCH * HTTP/1.1\r\n{headers}").as_bytes());
        let upper = HASH.to_uppercase();
        let good =
            read(&format!("HOST: x\r\nINFOHASH: {upper}\r\nport:1\r\nInfohash: short\r\nInfohash: {HASH}\r\n\r\n"));
        assert_eq!(good.unwrap().torrents.len(), 1);
        assert_eq!(read(&format!("Infohash: {HASH}\r\n\r\n")), Err(AnnounceError::NoPort));
        assert_eq!(read(&format!("Port: 0\r\nInfohash: {HASH}\r\n\r\n")), Err(AnnounceError::NoPort));
        assert_eq!(read(&format!("Port: 65536\r\nInfohash: {HASH}\r\n\r\n")), Err(AnnounceError::NoPort));
        assert_eq!(read("Port: 1\r\n\r\n"), Err(AnnounceError::NoTorrent));
        assert_eq!(read(&format!("Port: 1\r\n\r\nInfohash: {HASH}")), Err(AnnounceError::NoTorrent));
        assert_eq!(Announce::decode(b"BT-SEARCH * HTTP/1.1\r\n\xff: 1"), Err(AnnounceError::NotText));
        assert_eq!(Announce::decode(b"M-SEARCH * HTTP/1.1\r\n"), Err(AnnounceError::NotSearch));
        let many: String = (0..100).map(|at| format!("Infohash: {at:040x}\r\n")).collect();
        assert_eq!(read(&format!("Port: 1\r\n{many}\r\n")).unwrap().torrents.len(), MAX_TORRENTS);
        let long = "x".repeat(1000);
        assert_eq!(read(&format!("Port: 1\r\ncookie: {long}\r\nInfohash: {HASH}\r\n\r\n")).unwrap().cookie, None);
    }

    proptest! {
        #[test]
        fn anything_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Announce::decode(&bytes);
            let _ = Announce::decode(&[b"BT-SEARCH * HTTP/1.1\r\n", &bytes[..]].concat());
        }
    }
}
