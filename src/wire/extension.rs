//! The extension protocol (BEP 10): its handshake, and the small messages of BEP 21 and 54.
//!
//! It owns which extension has which name and the bounds on what a handshake may hold; it refuses a payload that is no
//! dictionary, and leaves out single entries that make no sense. Whether a peer is believed is for the caller.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{compact_ip, display_text};
use crate::bencode::{self, Item, Value};

/// The id, in a message of the extension protocol, of the handshake itself.
pub const HANDSHAKE_ID: u8 = 0;

/// The longest extension handshake that is read; real ones have a few hundred bytes.
const MAX_HANDSHAKE_LEN: usize = 64 * 1024;

/// The most characters kept of a peer's name for its client.
const MAX_CLIENT_CHARS: usize = 64;

/// The most unknown extensions kept of one handshake, and the longest name of one in bytes.
const MAX_UNKNOWN: usize = 32;
const MAX_NAME_LEN: usize = 64;

/// The extensions that this client knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Extension {
    /// Metadata from peers: `ut_metadata` (BEP 9).
    Metadata,
    /// Peer exchange: `ut_pex` (BEP 11).
    Pex,
    /// A piece is no longer there: `lt_donthave` (BEP 54).
    DontHave,
    /// Whether the sender downloads: `upload_only` (the message form of BEP 21's entry).
    UploadOnly,
    /// Help through address translation: `ut_holepunch` (BEP 55).
    Holepunch,
}

impl Extension {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Metadata, Self::Pex, Self::DontHave, Self::UploadOnly, Self::Holepunch];

    /// The name in a handshake's `m`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Metadata => "ut_metadata",
            Self::Pex => "ut_pex",
            Self::DontHave => "lt_donthave",
            Self::UploadOnly => "upload_only",
            Self::Holepunch => "ut_holepunch",
        }
    }
}

/// Which extension has which id in messages *to* the peer that sent this map (BEP 10's `m`).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ExtensionMap {
    /// By name, unknown extensions included. Id 0 says that an extension is switched off.
    ids: BTreeMap<String, u8>,
}

impl ExtensionMap {
    /// The id of an extension; `None` where the peer does not speak it.
    pub fn id(&self, extension: Extension) -> Option<u8> {
        self.ids.get(extension.name()).copied().filter(|id| *id != 0)
    }

    /// The extension that has this id; `None` where it is unknown.
    pub fn extension(&self, id: u8) -> Option<Extension> {
        Extension::ALL.into_iter().find(|extension| self.id(*extension) == Some(id))
    }

    /// Gives an extension an id; 0 switches it off.
    pub fn set(&mut self, extension: Extension, id: u8) {
        self.ids.insert(extension.name().to_owned(), id);
    }

    /// Takes over what a later handshake of the same peer says; what it does not name stays as it was (BEP 10).
    pub fn update(&mut self, later: &Self) {
        for (name, id) in &later.ids {
            let room = self.unknown().count() < MAX_UNKNOWN;
            if room || self.ids.contains_key(name) || is_known(name) {
                self.ids.insert(name.clone(), *id);
            }
        }
    }

    /// The names and ids of the extensions that this client does not know.
    pub fn unknown(&self) -> impl Iterator<Item = (&str, u8)> {
        self.ids.iter().filter(|(name, _)| !is_known(name)).map(|(name, id)| (name.as_str(), *id))
    }

    fn decode(m: Value<'_>) -> Self {
        let mut map = Self::default();
        let mut unknown = 0;
        for (name, id) in m.entries() {
            let (Ok(name), Some(Ok(id))) = (std::str::from_utf8(name), id.as_int().map(u8::try_from)) else { continue };
            let known = is_known(name);
            if !known && (unknown == MAX_UNKNOWN || name.len() > MAX_NAME_LEN) {
                continue;
            }
            unknown += usize::from(!known);
            map.ids.entry(name.to_owned()).or_insert(id);
        }
        map
    }

    fn item(&self) -> Item<'_> {
        let ids = self.ids.iter().map(|(name, id)| (Cow::Borrowed(name.as_bytes()), Item::Int((*id).into())));
        Item::Dict(ids.collect())
    }
}

impl FromIterator<(Extension, u8)> for ExtensionMap {
    fn from_iter<I: IntoIterator<Item = (Extension, u8)>>(ids: I) -> Self {
        let mut map = Self::default();
        ids.into_iter().for_each(|(extension, id)| map.set(extension, id));
        map
    }
}

/// What a peer says of itself after the handshake (BEP 10). Every entry is optional, and a claim.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ExtensionHandshake {
    /// `m`: the ids by which the sender wants to be sent extension messages.
    pub m: ExtensionMap,
    /// `e`: whether the sender prefers encrypted connections (BEP 11).
    pub e: Option<bool>,
    /// `p`: the TCP port that the sender listens on.
    pub p: Option<u16>,
    /// `v`: the client's name and version; at most 64 characters, none of them control characters.
    pub v: Option<String>,
    /// `yourip`: the address that the sender sees the receiver at.
    pub yourip: Option<IpAddr>,
    /// `ipv4`: the sender's IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// `ipv6`: the sender's IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// `reqq`: how many requests the sender keeps in its queue, at least 1.
    pub reqq: Option<u32>,
    /// `upload_only`: whether the sender wants no more pieces (BEP 21).
    pub upload_only: Option<bool>,
    /// `metadata_size`: the length in bytes of the torrent's `info` dictionary, at least 1 (BEP 9).
    pub metadata_size: Option<u32>,
}

impl ExtensionHandshake {
    /// Reads the payload of a message with id [`HANDSHAKE_ID`]. An entry of the wrong type or out of range is left out;
    /// unknown entries and bytes after the dictionary are ignored.
    pub fn decode(payload: &[u8]) -> Result<Self, ExtensionError> {
        if payload.len() > MAX_HANDSHAKE_LEN {
            return Err(ExtensionError::TooLong { len: payload.len() });
        }
        let (tree, _trailing) = bencode::decode(payload)?;
        let root = tree.root();
        if !root.is_dict() {
            return Err(ExtensionError::NotADictionary);
        }
        let positive =
            |key: &str| root.get(key)?.as_int().and_then(|int| u32::try_from(int).ok()).filter(|int| *int > 0);
        let bytes = |key: &str| root.get(key)?.as_bytes();
        let flag = |key: &str| root.get(key)?.as_int().map(|int| int != 0);
        Ok(Self {
            m: root.get("m").map(ExtensionMap::decode).unwrap_or_default(),
            e: flag("e"),
            p: positive("p").and_then(|port| u16::try_from(port).ok()),
            v: bytes("v").map(|name| display_text(name, MAX_CLIENT_CHARS)).filter(|name| !name.is_empty()),
            yourip: bytes("yourip").and_then(compact_ip),
            ipv4: bytes("ipv4").and_then(|ip| <[u8; 4]>::try_from(ip).ok()).map(Ipv4Addr::from),
            ipv6: bytes("ipv6").and_then(|ip| <[u8; 16]>::try_from(ip).ok()).map(Ipv6Addr::from),
            reqq: positive("reqq"),
            upload_only: flag("upload_only"),
            metadata_size: positive("metadata_size"),
        })
    }

    /// The payload to send in a message with id [`HANDSHAKE_ID`].
    pub fn encode(&self) -> Vec<u8> {
        let int = |int: u32| Item::Int(int.into());
        let octets = |octets: &[u8]| Item::Bytes(octets.to_vec().into());
        Item::dict([
            ("e", self.e.map(|prefers| int(prefers.into()))),
            ("m", Some(self.m.item())),
            ("p", self.p.map(|port| int(port.into()))),
            ("v", self.v.as_deref().map(Item::from)),
            (
                "yourip",
                self.yourip.map(|ip| match ip {
                    IpAddr::V4(ip) => octets(&ip.octets()),
                    IpAddr::V6(ip) => octets(&ip.octets()),
                }),
            ),
            ("ipv4", self.ipv4.map(|ip| octets(&ip.octets()))),
            ("ipv6", self.ipv6.map(|ip| octets(&ip.octets()))),
            ("reqq", self.reqq.map(int)),
            ("upload_only", self.upload_only.map(|only| int(only.into()))),
            ("metadata_size", self.metadata_size.map(int)),
        ])
        .to_bytes()
    }
}

/// The payload of an `lt_donthave` message (BEP 54): the piece that the sender no longer has.
pub fn encode_dont_have(piece: u32) -> [u8; 4] {
    piece.to_be_bytes()
}

/// The piece that an `lt_donthave` message names (BEP 54).
pub fn decode_dont_have(payload: &[u8]) -> Result<u32, ExtensionError> {
    payload.try_into().map(u32::from_be_bytes).map_err(|_| ExtensionError::Length {
        extension: Extension::DontHave.name(),
        len: payload.len(),
        expected: 4,
    })
}

/// The payload of an `upload_only` message, as libtorrent has it: one byte, 1 where the sender wants no more pieces.
pub fn encode_upload_only(upload_only: bool) -> [u8; 1] {
    [upload_only.into()]
}

/// Whether the sender of an `upload_only` message wants no more pieces.
pub fn decode_upload_only(payload: &[u8]) -> Result<bool, ExtensionError> {
    match payload {
        [upload_only] => Ok(*upload_only != 0),
        _ => Err(ExtensionError::Length { extension: Extension::UploadOnly.name(), len: payload.len(), expected: 1 }),
    }
}

/// Why the payload of an extension message cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtensionError {
    /// A handshake much longer than any real one.
    #[error("extension handshake of {len} bytes, at most {MAX_HANDSHAKE_LEN} are accepted")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A handshake that is not bencode.
    #[error("extension handshake that is not bencode")]
    Bencode(#[from] bencode::DecodeError),
    /// A handshake that is another value.
    #[error("extension handshake that is not a dictionary")]
    NotADictionary,
    /// A message of another length than its extension gives it.
    #[error("{extension} message of {len} bytes, it has {expected}")]
    Length {
        /// The extension's name.
        extension: &'static str,
        /// The length of the payload in bytes.
        len: usize,
        /// The length that it must have.
        expected: usize,
    },
}

fn is_known(name: &str) -> bool {
    Extension::ALL.iter().any(|extension| extension.name() == name)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{
        Extension, ExtensionError, ExtensionHandshake, ExtensionMap, MAX_UNKNOWN, decode_dont_have, decode_upload_only,
        encode_dont_have, encode_upload_only,
    };

    #[test]
    fn a_handshake_as_libtorrent_sends_it_is_understood() {
        let payload = b"d12:complete_agoi1e1:md11:lt_donthavei7e10:share_modei8e11:upload_onlyi3e12:ut_holepunchi4e\
            11:ut_metadatai2e6:ut_pexi1ee13:metadata_sizei31235e1:pi6881e4:reqqi500e11:upload_onlyi1e\
            1:v17:libtorrent/2.0.116:yourip4:\x7f\0\0\x01e";
        let handshake = ExtensionHandshake::decode(payload).unwrap();
        assert_eq!(handshake.m.id(Extension::Metadata), Some(2));
        assert_eq!(handshake.m.id(Extension::Pex), Some(1));
        assert_eq!(handshake.m.id(Extension::DontHave), Some(7));
        assert_eq!(handshake.m.extension(3), Some(Extension::UploadOnly));
        assert_eq!(handshake.m.extension(8), None);
        assert_eq!(handshake.m.unknown().collect::<Vec<_>>(), [("share_mode", 8)]);
        assert_eq!(handshake.p, Some(6881));
        assert_eq!(handshake.v.as_deref(), Some("libtorrent/2.0.11"));
        assert_eq!(handshake.yourip, Some(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(handshake.reqq, Some(500));
        assert_eq!(handshake.upload_only, Some(true));
        assert_eq!(handshake.metadata_size, Some(31235));
    }

    #[test]
    fn entries_that_make_no_sense_are_left_out() {
        let payload = b"d4:ipv43:abc4:ipv64:abcd1:md6:ut_pexi256e11:ut_metadatai-1e11:lt_donthave1:ae\
            13:metadata_sizei-5e1:pi65536e4:reqqi0e11:upload_only1:11:vi5e6:yourip5:abcdee";
        assert_eq!(ExtensionHandshake::decode(payload), Ok(ExtensionHandshake::default()));
        assert_eq!(ExtensionHandshake::decode(b"d1:mi1eetrailing"), Ok(ExtensionHandshake::default()));
    }

    #[test]
    fn a_client_name_is_cut_and_made_harmless() {
        let mut payload = b"d1:v1000:\x1b".to_vec();
        payload.extend([b'x'; 999]);
        payload.push(b'e');
        let name = ExtensionHandshake::decode(&payload).unwrap().v.unwrap();
        assert_eq!(name, format!("\u{fffd}{}", "x".repeat(63)));
    }

    #[test]
    fn what_is_no_dictionary_is_refused() {
        assert!(matches!(ExtensionHandshake::decode(b""), Err(ExtensionError::Bencode(_))));
        assert!(matches!(ExtensionHandshake::decode(b"d1:m"), Err(ExtensionError::Bencode(_))));
        assert!(matches!(ExtensionHandshake::decode(&[b'l'; 1000]), Err(ExtensionError::Bencode(_))));
        assert_eq!(ExtensionHandshake::decode(b"le"), Err(ExtensionError::NotADictionary));
        assert_eq!(ExtensionHandshake::decode(&[b'd'; 70_000]), Err(ExtensionError::TooLong { len: 70_000 }));
    }

    #[test]
    fn unknown_extensions_are_kept_up_to_a_bound() {
        let mut payload = b"d1:md".to_vec();
        for number in 0..100 {
            payload.extend(format!("5:zz{number:03}i{number}e").bytes());
        }
        payload.extend(b"6:ut_pexi9eee");
        let mut map = ExtensionHandshake::decode(&payload).unwrap().m;
        assert_eq!(map.unknown().count(), MAX_UNKNOWN);
        assert_eq!(map.id(Extension::Pex), Some(9));
        map.update(&ExtensionHandshake::decode(b"d1:md5:otheri1eee").unwrap().m);
        assert_eq!(map.unknown().count(), MAX_UNKNOWN);
    }

    #[test]
    fn a_later_handshake_adds_and_switches_off() {
        let mut map = ExtensionMap::from_iter([(Extension::Pex, 1), (Extension::Metadata, 2)]);
        map.update(&ExtensionMap::from_iter([(Extension::Pex, 0), (Extension::DontHave, 3)]));
        assert_eq!(map.id(Extension::Pex), None);
        assert_eq!(map.extension(0), None);
        assert_eq!(map.id(Extension::Metadata), Some(2));
        assert_eq!(map.id(Extension::DontHave), Some(3));
    }

    #[test]
    fn small_messages_have_exactly_their_length() {
        assert_eq!(encode_dont_have(0x0102_0304), [1, 2, 3, 4]);
        assert_eq!(decode_dont_have(&[1, 2, 3, 4]), Ok(0x0102_0304));
        assert_eq!(decode_dont_have(&[1, 2, 3]).unwrap_err().to_string(), "lt_donthave message of 3 bytes, it has 4");
        assert_eq!(decode_upload_only(&encode_upload_only(true)), Ok(true));
        assert_eq!(decode_upload_only(&encode_upload_only(false)), Ok(false));
        assert!(decode_upload_only(&[]).is_err() && decode_upload_only(&[1, 1]).is_err());
    }

    proptest! {
        #[test]
        fn a_handshake_survives_the_way_there_and_back(
            pex: u8, p in 1u16.., v in "[ -~\u{e4}\u{20ac}]{1,64}", yourip: IpAddr, ipv4: [u8; 4], ipv6: [u8; 16],
            reqq in 1u32.., upload_only: bool, e: bool, metadata_size in 1u32.., some: [bool; 9],
        ) {
            let handshake = ExtensionHandshake {
                m: ExtensionMap::from_iter([(Extension::Pex, pex)]),
                e: some[8].then_some(e),
                p: some[0].then_some(p),
                v: some[1].then_some(v),
                yourip: some[2].then_some(yourip),
                ipv4: some[3].then(|| ipv4.into()),
                ipv6: some[4].then(|| ipv6.into()),
                reqq: some[5].then_some(reqq),
                upload_only: some[6].then_some(upload_only),
                metadata_size: some[7].then_some(metadata_size),
            };
            let payload = handshake.encode();
            prop_assert_eq!(ExtensionHandshake::decode(&payload), Ok(handshake));
            for cut in 0..payload.len() {
                prop_assert!(ExtensionHandshake::decode(&payload[..cut]).is_err());
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), dict in "d(1:[mpv]|[i0-9e:]|6:yourip)*e") {
            let _ = ExtensionHandshake::decode(&bytes);
            let _ = ExtensionHandshake::decode(dict.as_bytes());
            let _ = (decode_dont_have(&bytes), decode_upload_only(&bytes));
        }
    }
}
