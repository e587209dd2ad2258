//! The packets of the UDP tracker protocol (BEP 15) with the URL of BEP 41, as client and as tracker.
//!
//! It owns their layout; it refuses a packet too short for its kind, and ignores what follows, as BEP 15 wants.
//! When to send again, and whether a transaction or connection id is the right one, is for a machine to know.
//!
//! ```text
//! request                                          response
//! 0   8  connection id, or the magic to connect    0  4  action
//! 8   4  action                                    4  4  transaction id
//! 12  4  transaction id                            8     by action
//! 16     by action
//! ```

use std::net::{Ipv4Addr, SocketAddr};

use url::Url;

use super::{AnnounceRequest, Crypto, Event, Family, MAX_PEERS, compact_peers, encode_compact_peers};
use crate::metainfo::InfoHash;
use crate::wire::handshake::PeerId;
use crate::wire::{Reader, Truncated, display_text};

/// What stands in the place of the connection id of a connect request.
const PROTOCOL_ID: u64 = 0x0417_2710_1980;

/// The most torrents in one scrape: what fits into a packet of an ordinary path (BEP 15).
pub const MAX_SCRAPE: usize = 74;

/// The longest URL that is put together from the options of an announce.
const MAX_URL_LEN: usize = 2048;

/// The most characters kept of a tracker's error.
const MAX_MESSAGE_CHARS: usize = 512;

/// The numbers that stand for what a packet is about.
mod action {
    pub(super) const CONNECT: u32 = 0;
    pub(super) const ANNOUNCE: u32 = 1;
    pub(super) const SCRAPE: u32 = 2;
    pub(super) const ERROR: u32 = 3;
}

/// The types of the options behind an announce (BEP 41).
mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NOP: u8 = 1;
    pub(super) const URL_DATA: u8 = 2;
}

/// What a client sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Asks for a connection id.
    Connect {
        /// Drawn at random; the response has the same.
        transaction_id: u32,
    },
    /// Announces.
    Announce {
        /// What the response to `Connect` gave.
        connection_id: u64,
        /// Drawn at random; the response has the same.
        transaction_id: u32,
        /// What to announce; its tracker id, IPv6 address and [`Event::Paused`] have no place here and are not sent.
        announce: AnnounceRequest,
        /// Path and query of the tracker's URL (BEP 41), see [`url_data`]; nothing of it is sent where it is empty, and no
        /// more than 2048 bytes are read.
        url_data: Vec<u8>,
    },
    /// Asks for the numbers of some torrents.
    Scrape {
        /// What the response to `Connect` gave.
        connection_id: u64,
        /// Drawn at random; the response has the same.
        transaction_id: u32,
        /// The torrents, at most [`MAX_SCRAPE`]; those beyond are not sent, and not read.
        info_hashes: Vec<InfoHash>,
    },
}

impl Request {
    /// The packet.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Connect { transaction_id } => request_head(PROTOCOL_ID, action::CONNECT, *transaction_id),
            Self::Announce { connection_id, transaction_id, announce, url_data } => {
                let mut out = request_head(*connection_id, action::ANNOUNCE, *transaction_id);
                encode_announce(announce, &mut out);
                for chunk in url_data.chunks(u8::MAX.into()) {
                    out.extend([option::URL_DATA, chunk.len() as u8]);
                    out.extend(chunk);
                }
                out
            }
            Self::Scrape { connection_id, transaction_id, info_hashes } => {
                let mut out = request_head(*connection_id, action::SCRAPE, *transaction_id);
                info_hashes.iter().take(MAX_SCRAPE).for_each(|info_hash| out.extend(info_hash.as_bytes()));
                out
            }
        }
    }

    /// Reads a packet that a client sent.
    pub fn decode(packet: &[u8]) -> Result<Self, PacketError> {
        Ok(match RequestRef::decode(packet)? {
            RequestRef::Connect { transaction_id } => Self::Connect { transaction_id },
            RequestRef::Announce { connection_id, transaction_id, announce, options } => {
                let mut url_data = Vec::new();
                for part in url_parts(options) {
                    url_data.extend(part?.iter().take(MAX_URL_LEN - url_data.len()));
                }
                Self::Announce { connection_id, transaction_id, announce, url_data }
            }
            RequestRef::Scrape { connection_id, transaction_id, info_hashes } => {
                let info_hashes = info_hashes.iter().copied().map(InfoHash::new).collect();
                Self::Scrape { connection_id, transaction_id, info_hashes }
            }
        })
    }

    /// The number that its response will have.
    pub fn transaction_id(&self) -> u32 {
        match self {
            Self::Connect { transaction_id }
            | Self::Announce { transaction_id, .. }
            | Self::Scrape { transaction_id, .. } => *transaction_id,
        }
    }
}

/// A [`Request`] that lies where it was received: reading it allocates nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RequestRef<'a> {
    /// Asks for a connection id.
    Connect {
        /// Drawn at random; the response has the same.
        transaction_id: u32,
    },
    /// Announces.
    Announce {
        /// What the response to `Connect` gave.
        connection_id: u64,
        /// Drawn at random; the response has the same.
        transaction_id: u32,
        /// What to announce.
        announce: AnnounceRequest,
        /// What is behind it, unread (BEP 41): see [`url_parts`].
        options: &'a [u8],
    },
    /// Asks for the numbers of some torrents.
    Scrape {
        /// What the response to `Connect` gave.
        connection_id: u64,
        /// Drawn at random; the response has the same.
        transaction_id: u32,
        /// The info-hashes, at most [`MAX_SCRAPE`]; those beyond are not read.
        info_hashes: &'a [[u8; 20]],
    },
}

impl<'a> RequestRef<'a> {
    /// Reads a packet that a client sent.
    pub fn decode(packet: &'a [u8]) -> Result<Self, PacketError> {
        let mut reader = Reader::new(packet);
        let connection_id = reader.u64()?;
        let action = reader.u32()?;
        let transaction_id = reader.u32()?;
        match action {
            action::CONNECT if connection_id == PROTOCOL_ID => Ok(Self::Connect { transaction_id }),
            action::CONNECT => Err(PacketError::NotTheProtocol),
            action::ANNOUNCE => {
                let announce = decode_announce(&mut reader)?;
                Ok(Self::Announce { connection_id, transaction_id, announce, options: reader.rest() })
            }
            action::SCRAPE => {
                let (hashes, _incomplete) = reader.rest().as_chunks();
                let info_hashes = &hashes[..hashes.len().min(MAX_SCRAPE)];
                Ok(Self::Scrape { connection_id, transaction_id, info_hashes })
            }
            action => Err(PacketError::Action { action }),
        }
    }
}

/// What a tracker sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// Gives a connection id.
    Connect {
        /// That of the request.
        transaction_id: u32,
        /// To be sent with other requests within a minute.
        connection_id: u64,
    },
    /// Answers an announce.
    Announce {
        /// That of the request.
        transaction_id: u32,
        /// How long to wait before the next announce, in seconds.
        interval: u32,
        /// How many peers have not all of it.
        leechers: u32,
        /// How many peers have all of it.
        seeders: u32,
        /// Other peers, never with port 0; at most [`MAX_PEERS`] are read.
        peers: Vec<SocketAddr>,
    },
    /// Answers a scrape.
    Scrape {
        /// That of the request.
        transaction_id: u32,
        /// As many as in the request, in its order; at most [`MAX_SCRAPE`] are read.
        torrents: Vec<ScrapeEntry>,
    },
    /// Refuses a request.
    Error {
        /// That of the request.
        transaction_id: u32,
        /// Why; of a received packet at most 512 characters, none of them control characters.
        message: String,
    },
}

/// The numbers of one torrent.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ScrapeEntry {
    /// How many peers have all of it.
    pub seeders: u32,
    /// How many peers have ever completed it.
    pub completed: u32,
    /// How many peers have not all of it.
    pub leechers: u32,
}

impl Response {
    /// The packet, to go to a client of this address family: peers of the other one are left out.
    pub fn encode(&self, family: Family) -> Vec<u8> {
        let (mut out, mut peers) = (Vec::new(), Vec::new());
        let response = match self {
            Self::Connect { transaction_id, connection_id } => {
                ResponseRef::Connect { transaction_id: *transaction_id, connection_id: *connection_id }
            }
            Self::Announce { transaction_id, interval, leechers, seeders, peers: addrs } => {
                encode_compact_peers(addrs.iter().copied(), family, &mut peers);
                ResponseRef::Announce {
                    transaction_id: *transaction_id,
                    interval: *interval,
                    leechers: *leechers,
                    seeders: *seeders,
                    peers: &peers,
                }
            }
            Self::Scrape { transaction_id, torrents } => {
                ResponseRef::Scrape { transaction_id: *transaction_id, torrents }
            }
            Self::Error { transaction_id, message } => ResponseRef::Error { transaction_id: *transaction_id, message },
        };
        response.encode_into(&mut out);
        out
    }

    /// Reads a packet that came from a tracker of this address family.
    pub fn decode(packet: &[u8], family: Family) -> Result<Self, PacketError> {
        let mut reader = Reader::new(packet);
        let action = reader.u32()?;
        let transaction_id = reader.u32()?;
        match action {
            action::CONNECT => Ok(Self::Connect { transaction_id, connection_id: reader.u64()? }),
            action::ANNOUNCE => Ok(Self::Announce {
                transaction_id,
                interval: reader.u32()?,
                leechers: reader.u32()?,
                seeders: reader.u32()?,
                peers: compact_peers(reader.rest(), family).take(MAX_PEERS).collect(),
            }),
            action::SCRAPE => {
                let torrents = std::iter::from_fn(|| scrape_entry(&mut reader).ok()).take(MAX_SCRAPE).collect();
                Ok(Self::Scrape { transaction_id, torrents })
            }
            action::ERROR => {
                Ok(Self::Error { transaction_id, message: display_text(reader.rest(), MAX_MESSAGE_CHARS) })
            }
            action => Err(PacketError::Action { action }),
        }
    }

    /// The number of the request that it answers.
    pub fn transaction_id(&self) -> u32 {
        match self {
            Self::Connect { transaction_id, .. }
            | Self::Announce { transaction_id, .. }
            | Self::Scrape { transaction_id, .. }
            | Self::Error { transaction_id, .. } => *transaction_id,
        }
    }
}

/// A [`Response`] to be written whose parts lie elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseRef<'a> {
    /// Gives a connection id.
    Connect {
        /// That of the request.
        transaction_id: u32,
        /// To be sent with other requests within a minute.
        connection_id: u64,
    },
    /// Answers an announce.
    Announce {
        /// That of the request.
        transaction_id: u32,
        /// How long to wait before the next announce, in seconds.
        interval: u32,
        /// How many peers have not all of it.
        leechers: u32,
        /// How many peers have all of it.
        seeders: u32,
        /// Other peers as a compact list of the client's address family.
        peers: &'a [u8],
    },
    /// Answers a scrape.
    Scrape {
        /// That of the request.
        transaction_id: u32,
        /// As many as in the request, in its order.
        torrents: &'a [ScrapeEntry],
    },
    /// Refuses a request.
    Error {
        /// That of the request.
        transaction_id: u32,
        /// Why.
        message: &'a str,
    },
}

impl ResponseRef<'_> {
    /// Appends the packet.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Connect { transaction_id, connection_id } => {
                put(&[action::CONNECT, transaction_id], out);
                out.extend_from_slice(&connection_id.to_be_bytes());
            }
            Self::Announce { transaction_id, interval, leechers, seeders, peers } => {
                put(&[action::ANNOUNCE, transaction_id, interval, leechers, seeders], out);
                out.extend_from_slice(peers);
            }
            Self::Scrape { transaction_id, torrents } => {
                put(&[action::SCRAPE, transaction_id], out);
                torrents.iter().for_each(|torrent| put(&[torrent.seeders, torrent.completed, torrent.leechers], out));
            }
            Self::Error { transaction_id, message } => {
                put(&[action::ERROR, transaction_id], out);
                out.extend_from_slice(message.as_bytes());
            }
        }
    }
}

/// Path and query of a tracker's URL, which a UDP announce would otherwise not carry (BEP 41).
pub fn url_data(tracker: &Url) -> Vec<u8> {
    let mut data = tracker.path().to_owned();
    if let Some(query) = tracker.query() {
        data.push('?');
        data.push_str(query);
    }
    data.into_bytes()
}

/// What the options behind an announce tell of the tracker's URL: its path and query, part by part (BEP 41). An option that is
/// longer than the packet is an error, and the last part.
pub fn url_parts(options: &[u8]) -> impl Iterator<Item = Result<&[u8], Truncated>> {
    let mut rest = Reader::new(options);
    std::iter::from_fn(move || {
        let part = url_part(&mut rest).transpose();
        if !matches!(part, Some(Ok(_))) {
            rest = Reader::new(&[]);
        }
        part
    })
}

/// Why a packet is none of this protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// Too short for what it is about.
    #[error("UDP tracker packet is too short")]
    Truncated(#[from] Truncated),
    /// About something that BEP 15 does not know.
    #[error("UDP tracker packet with unknown action {action}")]
    Action {
        /// The action's number.
        action: u32,
    },
    /// A connect request without the protocol's magic number.
    #[error("UDP connect request without the protocol's magic number")]
    NotTheProtocol,
}

fn request_head(connection_id: u64, action: u32, transaction_id: u32) -> Vec<u8> {
    let mut out = connection_id.to_be_bytes().to_vec();
    put(&[action, transaction_id], &mut out);
    out
}

fn put(numbers: &[u32], out: &mut Vec<u8>) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
}

/// Bytes 16 to 98 of an announce.
fn encode_announce(announce: &AnnounceRequest, out: &mut Vec<u8>) {
    out.extend(announce.info_hash.as_bytes());
    out.extend(announce.peer_id.as_bytes());
    for count in [announce.downloaded, announce.left, announce.uploaded] {
        out.extend(count.to_be_bytes());
    }
    let event = match announce.event {
        None | Some(Event::Paused) => 0,
        Some(Event::Completed) => 1,
        Some(Event::Started) => 2,
        Some(Event::Stopped) => 3,
    };
    let ip = announce.ipv4.map_or(0, Ipv4Addr::to_bits);
    // A signed number on the wire, -1 for the tracker's own default.
    let numwant = announce.numwant.map_or(u32::MAX, |numwant| numwant.min(i32::MAX as u32));
    put(&[event, ip, announce.key, numwant], out);
    out.extend(announce.port.to_be_bytes());
}

fn decode_announce(reader: &mut Reader<'_>) -> Result<AnnounceRequest, Truncated> {
    let info_hash = InfoHash::new(reader.array()?);
    let peer_id = PeerId::new(reader.array()?);
    let (downloaded, left, uploaded) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let event = match reader.u32()? {
        1 => Some(Event::Completed),
        2 => Some(Event::Started),
        3 => Some(Event::Stopped),
        _ => None,
    };
    let ipv4 = Some(Ipv4Addr::from_bits(reader.u32()?)).filter(|ip| !ip.is_unspecified());
    let key = reader.u32()?;
    let numwant = Some(reader.u32()?).filter(|numwant| *numwant <= i32::MAX as u32);
    let port = reader.u16()?;
    Ok(AnnounceRequest {
        info_hash,
        peer_id,
        port,
        uploaded,
        downloaded,
        left,
        event,
        numwant,
        key,
        tracker_id: None,
        ipv4,
        ipv6: None,
        crypto: Crypto::None,
    })
}

/// The next option that tells of the URL; `None` after the last.
fn url_part<'a>(rest: &mut Reader<'a>) -> Result<Option<&'a [u8]>, Truncated> {
    while !rest.is_empty() {
        match rest.u8()? {
            option::END => return Ok(None),
            option::NOP => {}
            // All others have a length.
            kind => {
                let len = rest.u8()?;
                let data = rest.take(len.into())?;
                if kind == option::URL_DATA {
                    return Ok(Some(data));
                }
            }
        }
    }
    Ok(None)
}

fn scrape_entry(reader: &mut Reader<'_>) -> Result<ScrapeEntry, Truncated> {
    Ok(ScrapeEntry { seeders: reader.u32()?, completed: reader.u32()?, leechers: reader.u32()? })
}

#[cfg(test)]
mod tests;
