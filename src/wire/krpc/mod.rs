//! KRPC, the messages between the nodes of the DHT: bencoded dictionaries, one in each datagram.
//!
//! It owns their layout: BEP 5, and what came later: IPv6 (32), scrape (33), the asker's address (42), read-only nodes
//! (43), items (44), samples (51). It refuses sockets, clocks and randomness, and to judge whether an id, an address or a
//! token is to be believed.
//!
//! ```text
//! d                                    every message          queries by name (q)       a: arguments besides id
//!   1:a d 2:id ... e                   arguments of a query   ping
//!   1:e l i201e 7:message e            an error               find_node                 target
//!   2:ip 6:......                      where we see you       get_peers                 info_hash, noseed, scrape
//!   1:q 4:ping                         name of the query      announce_peer             info_hash, implied_port,
//!   1:r d 2:id ... e                   a reply                                          name, port, seed, token
//!   2:ro i1e                           never ask me           get                       target, seq
//!   1:t 2:aa                           transaction            put                       v, token; k, seq, sig, salt, cas
//!   1:v 4:RW01                         client and version     sample_infohashes         target
//!   1:y 1:q                            q, r or e              all that name nodes       want
//! e
//! ```
//!
//! Decoding takes what real nodes send: keys in any order, keys that nobody knows, parts that are missing or make no sense
//! where they are not needed. It keeps within the datagram's length, and bencode's bounds on depth and number.

mod bloom;
mod decode;
mod encode;
mod node;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

pub use self::bloom::{BLOOM_LEN, BloomFilter};
pub use self::decode::DecodeError;
pub use self::node::{Distance, ID_BITS, NodeId, NodeInfo, ParseNodeIdError, compact_nodes, encode_compact_nodes};
use super::item::UnverifiedItem;
use super::tracker::Family;
use crate::metainfo::InfoHash;

/// The longest datagram that is written, in bytes: it passes every path to the nodes of the world in one packet.
pub const MAX_DATAGRAM_LEN: usize = 1400;

/// The longest datagram that is read, in bytes.
pub const MAX_RECEIVED_LEN: usize = 2048;

/// The longest transaction id that is taken, in bytes. Most have 2 or 4.
pub const MAX_TRANSACTION_LEN: usize = 32;

/// The longest token that is taken, in bytes. Most have 4 to 20.
pub const MAX_TOKEN_LEN: usize = 128;

/// The longest interval between samples that BEP 51 allows.
pub const MAX_SAMPLE_INTERVAL: Duration = Duration::from_secs(21600);

/// One message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// `t`: the reply has that of its query; at most [`MAX_TRANSACTION_LEN`] bytes.
    pub transaction: Vec<u8>,
    /// What it says.
    pub body: Body,
    /// `v`: the sender's client and version: two letters and two bytes.
    pub version: Option<[u8; 4]>,
    /// `ip`: the address that the sender of a reply or an error sees the receiver at (BEP 42); with port 0 where it says
    /// none.
    pub ip: Option<SocketAddr>,
    /// `ro`: the sender of a query answers none itself, and belongs in nobody's table (BEP 43).
    pub read_only: bool,
}

impl Message {
    /// A query, without version.
    pub fn query(transaction: impl Into<Vec<u8>>, id: NodeId, method: Method) -> Self {
        Self::new(transaction.into(), Body::Query(Query { id, method }))
    }

    /// A reply to a query, without version or the asker's address.
    pub fn reply(transaction: impl Into<Vec<u8>>, reply: Reply) -> Self {
        Self::new(transaction.into(), Body::Reply(reply))
    }

    /// An error in place of a reply, without version or the asker's address.
    pub fn error(transaction: impl Into<Vec<u8>>, code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(transaction.into(), Body::Error(RemoteError { code, message: message.into() }))
    }

    fn new(transaction: Vec<u8>, body: Body) -> Self {
        Self { transaction, body, version: None, ip: None, read_only: false }
    }
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// `q`: a question.
    Query(Query),
    /// `r`: an answer.
    Reply(Reply),
    /// `e`: why there is no answer.
    Error(RemoteError),
}

/// A question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    /// The id that the sender gives itself.
    pub id: NodeId,
    /// What it asks.
    pub method: Method,
}

/// What a query asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Method {
    /// Whether the receiver is there.
    Ping,
    /// Which nodes are near an id.
    FindNode {
        /// The id.
        target: NodeId,
        /// Of which families.
        want: Want,
    },
    /// Which peers a torrent has, and which nodes are near it.
    GetPeers {
        /// The torrent.
        info_hash: InfoHash,
        /// Of which families the nodes should be.
        want: Want,
        /// Whether seeds had better be left out (BEP 33).
        noseed: bool,
        /// Whether the reply should tell how many there are (BEP 33).
        scrape: bool,
    },
    /// The sender is a peer of a torrent.
    AnnouncePeer {
        /// The torrent.
        info_hash: InfoHash,
        /// The TCP port of the peer; the one of the datagram where `implied_port` is set.
        port: u16,
        /// Whether the peer's port is that which the datagram comes from.
        implied_port: bool,
        /// From the receiver's reply to a `get_peers`.
        token: Vec<u8>,
        /// Whether the peer is a seed (BEP 33).
        seed: bool,
    },
    /// The item that is stored under a target, and nodes near it (BEP 44).
    Get {
        /// The target.
        target: NodeId,
        /// The version that the sender has: only a later one is worth sending.
        seq: Option<i64>,
        /// Of which families the nodes should be.
        want: Want,
    },
    /// An item to store (BEP 44).
    Put {
        /// The item; nobody has looked at its signature.
        item: UnverifiedItem,
        /// The version that the sender believes to replace.
        cas: Option<i64>,
        /// From the receiver's reply to a `get`.
        token: Vec<u8>,
    },
    /// Some of the torrents that the receiver knows peers of, and nodes near an id (BEP 51).
    SampleInfohashes {
        /// The id.
        target: NodeId,
        /// Of which families the nodes should be.
        want: Want,
    },
    /// Something that this client does not know.
    Unknown {
        /// `target` or `info_hash`: with one of them the query may be answered like `find_node`, so that later
        /// specifications can look things up through nodes that never heard of them.
        target: Option<NodeId>,
        /// Of which families the nodes should be.
        want: Want,
    },
}

impl Method {
    /// `q`: the name of the query; `None` where it is not known.
    pub fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Ping => "ping",
            Self::FindNode { .. } => "find_node",
            Self::GetPeers { .. } => "get_peers",
            Self::AnnouncePeer { .. } => "announce_peer",
            Self::Get { .. } => "get",
            Self::Put { .. } => "put",
            Self::SampleInfohashes { .. } => "sample_infohashes",
            Self::Unknown { .. } => return None,
        })
    }
}

/// `want`: of which families nodes are asked for (BEP 32). Neither means that of the datagram; see [`or`](Self::or).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Want {
    /// `n4`: those with IPv4 addresses.
    pub v4: bool,
    /// `n6`: those with IPv6 addresses.
    pub v6: bool,
}

impl Want {
    /// Both families.
    pub const BOTH: Self = Self { v4: true, v6: true };

    /// What is wanted of this family.
    pub fn of(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// The same where it says anything, else the family that the query came by.
    pub fn or(self, family: Family) -> Self {
        match (self, family) {
            (Self { v4: false, v6: false }, Family::V4) => Self { v4: true, v6: false },
            (Self { v4: false, v6: false }, Family::V6) => Self { v4: false, v6: true },
            _ => self,
        }
    }
}

/// An answer. Which parts it has depends on the query, and on the node that answers: what does not fit is to be ignored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The id that the sender gives itself.
    pub id: NodeId,
    /// `nodes` and `nodes6`: nodes near what was asked for, of both families, the nearest first. A key is written
    /// where there are nodes of its family.
    pub nodes: Vec<NodeInfo>,
    /// `values`: peers of the torrent; never with port 0 where they were decoded.
    pub values: Vec<SocketAddr>,
    /// `token`: to be sent back with an announce or a put; at most [`MAX_TOKEN_LEN`] bytes.
    pub token: Option<Vec<u8>>,
    /// `BFsd` and `BFpe`: which addresses are seeds and peers of the torrent (BEP 33).
    pub scrape: Option<Box<Scrape>>,
    /// `v`, with `k`, `seq` and `sig` where it is mutable: an item (BEP 44). Its salt is empty: whoever asked knows it.
    pub item: Option<UnverifiedItem>,
    /// `seq`: the version of the item, also where it is not worth sending (BEP 44). To write it beside an `item` is
    /// needless.
    pub seq: Option<i64>,
    /// `samples`, `num` and `interval`: some of the torrents that the sender knows peers of (BEP 51).
    pub samples: Option<Samples>,
}

impl Reply {
    /// A reply that says no more than that the node is there.
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            nodes: Vec::new(),
            values: Vec::new(),
            token: None,
            scrape: None,
            item: None,
            seq: None,
            samples: None,
        }
    }

    /// The nodes of one family.
    pub fn nodes_of(&self, family: Family) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.iter().filter(move |node| Family::from(node.addr.ip()) == family)
    }
}

/// The seeds and peers of a torrent, as sets that can be united (BEP 33).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Scrape {
    /// `BFsd`: the seeds.
    pub seeds: BloomFilter,
    /// `BFpe`: the peers that are no seeds.
    pub peers: BloomFilter,
}

/// Some of the torrents that a node knows peers of (BEP 51).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Samples {
    /// `interval`: how long until the node gives others; at most [`MAX_SAMPLE_INTERVAL`].
    pub interval: Duration,
    /// `num`: how many it knows.
    pub num: u64,
    /// `samples`: some of them.
    pub samples: Vec<InfoHash>,
}

/// An error that a node sends in place of a reply.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("error {} from the node: {message}", code.number())]
pub struct RemoteError {
    /// What kind it is.
    pub code: ErrorCode,
    /// In the node's words; at most 200 characters, none of them control characters.
    pub message: String,
}

/// The kinds of errors (BEP 5, 44).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorCode {
    /// 201: none of the others.
    Generic,
    /// 202: the node cannot answer.
    Server,
    /// 203: the query makes no sense, or its token is not valid.
    Protocol,
    /// 204: the node does not know the query.
    MethodUnknown,
    /// 205: the value is too long.
    ValueTooLong,
    /// 206: the signature is wrong.
    Signature,
    /// 207: the salt is too long.
    SaltTooLong,
    /// 301: another version is stored than `cas` says.
    Swapped,
    /// 302: a later version is stored.
    Sequence,
    /// Any other number.
    Other(i64),
}

impl ErrorCode {
    const KNOWN: [(i64, Self); 9] = [
        (201, Self::Generic),
        (202, Self::Server),
        (203, Self::Protocol),
        (204, Self::MethodUnknown),
        (205, Self::ValueTooLong),
        (206, Self::Signature),
        (207, Self::SaltTooLong),
        (301, Self::Swapped),
        (302, Self::Sequence),
    ];

    /// The number that stands for it.
    pub fn number(self) -> i64 {
        match self {
            Self::Other(number) => number,
            // Every other kind is in the table.
            _ => Self::KNOWN.iter().find(|(_, code)| *code == self).map_or(201, |(number, _)| *number),
        }
    }
}

impl From<i64> for ErrorCode {
    fn from(number: i64) -> Self {
        Self::KNOWN.iter().find(|(known, _)| *known == number).map_or(Self::Other(number), |(_, code)| *code)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

#[cfg(test)]
mod tests;
