//! Clients by their peer ids (BEP 20).
//!
//! It owns the styles in which clients write name and version into an id, and the tables of those that are met. It refuses
//! to believe any of it: an id is whatever its owner wants it to be.

/// The client that such a peer id belongs to, with its version; where style or client is not known, the id in printable
/// form. Printable ASCII always, at most some 40 characters.
pub(super) fn name_of(id: &[u8; 20]) -> String {
    azureus_name(id)
        .or_else(|| dashed_name(id))
        .or_else(|| shadow_name(id))
        .or_else(|| own_style_name(id))
        .unwrap_or_else(|| printable(id.trim_ascii_end()))
}

/// Bytes as printable ASCII, the others as dots: safe for a terminal and for a log.
pub(super) fn printable(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { '.' }).collect()
}

/// `-XXabcd-`: two characters for the client, four for the version.
fn azureus_name(id: &[u8; 20]) -> Option<String> {
    let [b'-', code @ .., b'-'] = id.first_chunk::<8>()? else { return None };
    let (code, version) = code.split_first_chunk::<2>()?;
    let version: &[u8; 4] = version.try_into().ok()?;
    if !code.iter().chain(version).all(u8::is_ascii_graphic) {
        return None;
    }
    let known = AZUREUS.iter().find(|(known, ..)| *known == code);
    Some(match known {
        Some((_, name, style)) => match style.version(version) {
            Some(version) => format!("{name} {version}"),
            None => format!("{name} {}", printable(version)),
        },
        None => printable(&id[..8]),
    })
}

/// `A2-1-37-0-` (aria2), `M7-10-5-` (BitTorrent's own) and `Q1-23-0-` (Queen Bee): numbers between dashes.
fn dashed_name(id: &[u8; 20]) -> Option<String> {
    let (name, rest) = match id.as_slice() {
        [b'A', b'2', b'-', rest @ ..] => ("aria2", rest),
        [b'M', rest @ ..] => ("BitTorrent", rest),
        [b'Q', rest @ ..] => ("Queen Bee", rest),
        _ => return None,
    };
    let mut numbers = Vec::new();
    for field in rest.split(|&byte| byte == b'-').take(3) {
        if field.is_empty() || field.len() > 3 || !field.iter().all(u8::is_ascii_digit) {
            return None;
        }
        numbers.push(printable(field));
    }
    (numbers.len() == 3).then(|| format!("{name} {}", numbers.join(".")))
}

/// `T03I-----`, Shadow's style: a letter for the client, up to five characters for the version, each a number, filled up
/// with dashes. Some clients write other things into the three behind them; then too much would be taken for this style.
fn shadow_name(id: &[u8; 20]) -> Option<String> {
    let ([letter, version @ ..], rest) = id.split_first_chunk::<6>()?;
    let (_, name) = SHADOW.iter().find(|(known, _)| known == letter)?;
    let len = version.iter().position(|&byte| byte == b'-').unwrap_or(version.len());
    if !rest.starts_with(b"---") || len == 0 || version[len..].iter().any(|&byte| byte != b'-') {
        return None;
    }
    let numbers: Option<Vec<_>> = version[..len].iter().map(|&byte| shadow_digit(byte)).collect();
    Some(format!("{name} {}", numbers?.iter().map(u32::to_string).collect::<Vec<_>>().join(".")))
}

/// Clients that have a style of their own.
fn own_style_name(id: &[u8; 20]) -> Option<String> {
    let digits = |range: std::ops::Range<usize>| {
        let digits = &id[range];
        digits.iter().all(u8::is_ascii_digit).then(|| printable(digits))
    };
    match id.as_slice() {
        // A build's number.
        [b'O', b'P', ..] => Some(format!("Opera {}", digits(2..6)?)),
        // Three digits, and `d` for a debug build.
        [b'X', b'B', b'T', a, b, c, b'-' | b'd', ..] if digits(3..6).is_some() => {
            Some(format!("XBT Client {}.{}.{}", a - b'0', b - b'0', c - b'0'))
        }
        [b'e', b'x', b'b', b'c', major, minor, ..] if *major < 100 && *minor < 100 => {
            let name = if id[6..].starts_with(b"LORD") { "BitLord" } else { "BitComet" };
            Some(format!("{name} {major}.{minor:02}"))
        }
        [b'-', b'M', b'L', version @ ..] => {
            let len = version.iter().position(|&byte| byte == b'-')?;
            let is_version = len > 0 && version[..len].iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
            is_version.then(|| format!("MLDonkey {}", printable(&version[..len])))
        }
        _ => None,
    }
}

/// How a client writes its version into four characters.
#[derive(Clone, Copy)]
enum VersionStyle {
    /// One character each for three numbers; the fourth is a mark of the build.
    Three,
    /// One character each for four numbers.
    Four,
    /// Two decimal digits each for two numbers, the second a decimal fraction (`0205` is 2.05).
    Decimal,
    /// Two decimal digits each for two numbers (`0205` is 2.5).
    Pairs,
    /// Transmission: as `Three` since 4.0, before that one digit and two (`2940` is 2.94).
    Transmission,
}

impl VersionStyle {
    /// The version as text; `None` where a character has no value.
    fn version(self, version: &[u8; 4]) -> Option<String> {
        let [a, b, c, d] = version.map(digit);
        Some(match self {
            Self::Transmission if a? < 4 => format!("{}.{}{}", a?, b?, c?),
            Self::Three | Self::Transmission => format!("{}.{}.{}", a?, b?, c?),
            Self::Four => format!("{}.{}.{}.{}", a?, b?, c?, d?),
            Self::Decimal => format!("{}.{}{}", a? * 10 + b?, c?, d?),
            Self::Pairs => format!("{}.{}", a? * 10 + b?, c? * 10 + d?),
        })
    }
}

/// The clients of Azureus style that are met today; their codes are BEP 20's or those that they send.
const AZUREUS: &[(&[u8; 2], &str, VersionStyle)] = &[
    (b"7T", "aTorrent", VersionStyle::Three),
    (b"AG", "Ares", VersionStyle::Four),
    (b"AR", "Arctic", VersionStyle::Four),
    (b"AZ", "Vuze", VersionStyle::Four),
    (b"BC", "BitComet", VersionStyle::Decimal),
    (b"BI", "BiglyBT", VersionStyle::Four),
    (b"BL", "BitLord", VersionStyle::Three),
    (b"BT", "BitTorrent", VersionStyle::Three),
    (b"BW", "BitWombat", VersionStyle::Four),
    (b"DE", "Deluge", VersionStyle::Three),
    (b"FD", "Free Download Manager", VersionStyle::Three),
    (b"FL", "Folx", VersionStyle::Three),
    (b"FW", "FrostWire", VersionStyle::Three),
    (b"GT", "anacrolix/torrent", VersionStyle::Three),
    (b"HL", "Halite", VersionStyle::Three),
    (b"JT", "jtorrent", VersionStyle::Four),
    (b"KT", "KTorrent", VersionStyle::Three),
    (b"LP", "Lphant", VersionStyle::Pairs),
    (b"LT", "libtorrent", VersionStyle::Three),
    (b"Lr", "LibreTorrent", VersionStyle::Three),
    (b"MO", "MonoTorrent", VersionStyle::Three),
    (b"PI", "PicoTorrent", VersionStyle::Three),
    (b"RN", "rain", VersionStyle::Three),
    (b"RW", "ropewalk", VersionStyle::Three),
    (b"SD", "Thunder", VersionStyle::Four),
    (b"ST", "SymTorrent", VersionStyle::Four),
    (b"TL", "Tribler", VersionStyle::Three),
    (b"TR", "Transmission", VersionStyle::Transmission),
    (b"TX", "Tixati", VersionStyle::Decimal),
    (b"UE", "uTorrent Embedded", VersionStyle::Three),
    (b"UM", "uTorrent Mac", VersionStyle::Three),
    (b"UT", "uTorrent", VersionStyle::Three),
    (b"UW", "uTorrent Web", VersionStyle::Three),
    (b"WD", "WebTorrent Desktop", VersionStyle::Pairs),
    (b"WW", "WebTorrent", VersionStyle::Pairs),
    (b"XL", "Xunlei", VersionStyle::Four),
    (b"XT", "XanTorrent", VersionStyle::Four),
    (b"ZT", "ZipTorrent", VersionStyle::Four),
    (b"lt", "libTorrent (rakshasa)", VersionStyle::Three),
    (b"qB", "qBittorrent", VersionStyle::Three),
    (b"rQ", "rqbit", VersionStyle::Three),
];

/// The clients of Shadow's style (BEP 20).
const SHADOW: &[(u8, &str)] = &[
    (b'A', "ABC"),
    (b'O', "Osprey Permaseed"),
    (b'Q', "BTQueue"),
    (b'R', "Tribler"),
    (b'S', "Shadow"),
    (b'T', "BitTornado"),
    (b'U', "UPnP NAT BitTorrent"),
];

/// The value of a version's character: letters go on after 9, in either case.
fn digit(character: u8) -> Option<u32> {
    char::from(character).to_digit(36)
}

/// The value of a version's character in Shadow's style: digits, then letters of both cases, then the dot.
fn shadow_digit(character: u8) -> Option<u32> {
    Some(u32::from(match character {
        b'0'..=b'9' => character - b'0',
        b'A'..=b'Z' => character - b'A' + 10,
        b'a'..=b'z' => character - b'a' + 36,
        b'.' => 62,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use crate::wire::handshake::PeerId;

    #[test]
    fn known_clients_are_named_with_their_versions() {
        for (id, name) in [
            (b"-LT2110-............", "libtorrent 2.1.1"),
            (b"-LT20B0-............", "libtorrent 2.0.11"),
            (b"-lt0D80-............", "libTorrent (rakshasa) 0.13.8"),
            (b"-TR2940-............", "Transmission 2.94"),
            (b"-TR300Z-............", "Transmission 3.00"),
            (b"-TR4060-............", "Transmission 4.0.6"),
            (b"-qB4650-............", "qBittorrent 4.6.5"),
            (b"-DE211s-............", "Deluge 2.1.1"),
            (b"-UT355W-............", "uTorrent 3.5.5"),
            (b"-BT7a5S-............", "BitTorrent 7.10.5"),
            (b"-AZ5760-............", "Vuze 5.7.6.0"),
            (b"-BC0189-............", "BitComet 1.89"),
            (b"-WW0102-............", "WebTorrent 1.2"),
            (b"-rQ8100-............", "rqbit 8.1.0"),
            (b"-RW0100-............", "ropewalk 0.1.0"),
            (b"A2-1-37-0-..........", "aria2 1.37.0"),
            (b"M7-10-5--...........", "BitTorrent 7.10.5"),
            (b"-LT2.10-............", "libtorrent 2.10"),
            (b"-ML2.7.2-...........", "MLDonkey 2.7.2"),
            (b"Q1-23-0-............", "Queen Bee 1.23.0"),
            (b"S58B-----...........", "Shadow 5.8.11"),
            (b"T03I-----...........", "BitTornado 0.3.18"),
            (b"A310-----...........", "ABC 3.1.0"),
            (b"R34------...........", "Tribler 3.4"),
            (b"OP7685..............", "Opera 7685"),
            (b"XBT054d-............", "XBT Client 0.5.4"),
            (b"exbc\x00\x38............LO", "BitComet 0.56"),
            (b"exbc\x01\x00LORD..........", "BitLord 1.00"),
        ] {
            assert_eq!(PeerId::new(*id).client_name(), name, "{}", PeerId::new(*id));
        }
    }

    #[test]
    fn unknown_clients_are_shown_in_printable_form() {
        assert_eq!(PeerId::new(*b"-ZY1234-\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b").client_name(), "-ZY1234-");
        assert_eq!(
            PeerId::new(*b"\x1b[31mhello\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").client_name(),
            ".[31mhello.........."
        );
        // Nearly one of a known style.
        for id in [b"S58B....-...........", b"S--------...........", b"S5-B-----...........", b"X58B-----..........."] {
            assert_eq!(PeerId::new(*id).client_name(), PeerId::new(*id).to_string());
        }
        assert_eq!(PeerId::new(*b"My own id, by hand..").to_string(), "My.own.id,.by.hand..");
    }

    proptest! {
        #[test]
        fn any_peer_id_has_a_short_printable_name(id in any::<[u8; 20]>(), prefix in "[ -~]{8}") {
            let mut styled = id;
            styled[..8].copy_from_slice(prefix.as_bytes());
            for id in [id, styled] {
                let name = PeerId::new(id).client_name();
                prop_assert!(name.len() <= 40 && name.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{name:?}");
            }
        }
    }
}
