//! Datagrams to messages.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{
    BloomFilter, Body, ErrorCode, MAX_RECEIVED_LEN, MAX_SAMPLE_INTERVAL, MAX_TOKEN_LEN, MAX_TRANSACTION_LEN, Message,
    Method, NodeId, Query, RemoteError, Reply, Samples, Scrape, Want, compact_nodes,
};
use crate::bencode::{self, Value};
use crate::metainfo::InfoHash;
use crate::wire::item::{ItemError, ItemValue, MAX_SALT_LEN, Signed, UnverifiedItem};
use crate::wire::tracker::{Family, compact_peers};
use crate::wire::{compact_ip, display_text};

/// The most characters kept of the message of an error.
const MAX_MESSAGE_CHARS: usize = 200;

impl Message {
    /// Reads a datagram. Bytes after the dictionary are ignored.
    pub fn decode(datagram: &[u8]) -> Result<Self, DecodeError> {
        if datagram.len() > MAX_RECEIVED_LEN {
            return Err(DecodeError::TooLong { len: datagram.len() });
        }
        let (tree, _trailing) = bencode::decode(datagram)?;
        let root = tree.root();
        if !root.is_dict() {
            return Err(DecodeError::NotADictionary);
        }
        let transaction = bytes(root, "t").filter(|t| t.len() <= MAX_TRANSACTION_LEN);
        let transaction = transaction.ok_or(DecodeError::NoTransaction)?.to_vec();
        let body = match bytes(root, "y") {
            Some(b"q") => match query(root) {
                Ok(query) => Body::Query(query),
                Err((code, message)) => return Err(DecodeError::Query { transaction, code, message }),
            },
            Some(b"r") => Body::Reply(root.get("r").and_then(reply).ok_or(DecodeError::NoId)?),
            Some(b"e") => Body::Error(error(root.get("e"))),
            _ => return Err(DecodeError::Kind),
        };
        Ok(Self {
            transaction,
            body,
            version: bytes(root, "v").and_then(|version| version.try_into().ok()),
            ip: bytes(root, "ip").and_then(own_address),
            read_only: flag(root, "ro"),
        })
    }
}

/// Why a datagram is no message.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Longer than any real message.
    #[error("datagram of {len} bytes, at most {MAX_RECEIVED_LEN} are accepted")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Not bencode.
    #[error("datagram that is not bencode")]
    Bencode(#[from] bencode::DecodeError),
    /// Another value.
    #[error("datagram that is not a dictionary")]
    NotADictionary,
    /// No transaction id, or one that is too long.
    #[error("message without a transaction id that can be used")]
    NoTransaction,
    /// Neither query nor reply nor error.
    #[error("message that is neither query nor reply nor error")]
    Kind,
    /// A reply without the sender's id.
    #[error("reply without the id of its sender")]
    NoId,
    /// A query that makes no sense; there is an [`answer`](Self::answer) to it.
    #[error("query that makes no sense: {message}")]
    Query {
        /// Its transaction id.
        transaction: Vec<u8>,
        /// The error to answer with.
        code: ErrorCode,
        /// What is wrong with it.
        message: &'static str,
    },
}

impl DecodeError {
    /// The message to answer with, where there is somebody who understands it.
    pub fn answer(&self) -> Option<Message> {
        match self {
            Self::Query { transaction, code, message } => Some(Message::error(transaction.clone(), *code, *message)),
            _ => None,
        }
    }
}

/// What is wrong with a query, as it is told to whoever asked.
type Refusal = (ErrorCode, &'static str);

fn query(root: Value<'_>) -> Result<Query, Refusal> {
    let protocol = |message| (ErrorCode::Protocol, message);
    let name = bytes(root, "q").ok_or(protocol("no query name"))?;
    let args = root.get("a").filter(|args| args.is_dict()).ok_or(protocol("no arguments"))?;
    let id = node_id(args, "id").ok_or(protocol("no id of 20 bytes"))?;
    let target = || node_id(args, "target").ok_or(protocol("no target of 20 bytes"));
    let info_hash = || node_id(args, "info_hash").map(InfoHash::from).ok_or(protocol("no info_hash of 20 bytes"));
    let token = || token(args).map(<[u8]>::to_vec).ok_or(protocol("no token"));
    let want = || want(args);
    let method = match name {
        b"ping" => Method::Ping,
        b"find_node" => Method::FindNode { target: target()?, want: want() },
        b"get_peers" => Method::GetPeers {
            info_hash: info_hash()?,
            want: want(),
            noseed: flag(args, "noseed"),
            scrape: flag(args, "scrape"),
        },
        b"announce_peer" => {
            let implied_port = flag(args, "implied_port");
            let port = int(args, "port").and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
            if port == 0 && !implied_port {
                return Err(protocol("no port"));
            }
            Method::AnnouncePeer {
                info_hash: info_hash()?,
                port,
                implied_port,
                token: token()?,
                seed: flag(args, "seed"),
            }
        }
        b"get" => Method::Get { target: target()?, seq: int(args, "seq"), want: want() },
        b"put" => Method::Put { item: put_item(args)?, cas: int(args, "cas"), token: token()? },
        b"sample_infohashes" => Method::SampleInfohashes { target: target()?, want: want() },
        _ => Method::Unknown { target: target().ok().or_else(|| info_hash().ok().map(NodeId::from)), want: want() },
    };
    Ok(Query { id, method })
}

/// The item of a `put`. One with a key is mutable, and needs all that belongs to that.
fn put_item(args: Value<'_>) -> Result<UnverifiedItem, Refusal> {
    let protocol = |message| (ErrorCode::Protocol, message);
    let value = args.get("v").ok_or(protocol("no value"))?;
    let value = ItemValue::from_bencode(value.raw()).map_err(|error| match error {
        ItemError::ValueTooLong { .. } => (ErrorCode::ValueTooLong, "value too long"),
        _ => protocol("no value"),
    })?;
    let Some(key) = args.get("k") else { return Ok(UnverifiedItem { value, signed: None }) };
    let salt = bytes(args, "salt").unwrap_or_default();
    if salt.len() > MAX_SALT_LEN {
        return Err((ErrorCode::SaltTooLong, "salt too long"));
    }
    let signed = signed(key, args, salt).ok_or(protocol("a mutable item needs k, seq and sig"))?;
    Ok(UnverifiedItem { value, signed: Some(signed) })
}

fn signed(key: Value<'_>, parts: Value<'_>, salt: &[u8]) -> Option<Signed> {
    Some(Signed {
        key: key.as_bytes()?.try_into().ok()?,
        salt: salt.to_vec(),
        // BEP 44 lets a negative one be refused, and libtorrent does.
        seq: int(parts, "seq").filter(|seq| *seq >= 0)?,
        signature: bytes(parts, "sig")?.try_into().ok()?,
    })
}

fn reply(parts: Value<'_>) -> Option<Reply> {
    let nodes = |key, family| compact_nodes(bytes(parts, key).unwrap_or_default(), family);
    Some(Reply {
        id: node_id(parts, "id")?,
        nodes: nodes("nodes", Family::V4).chain(nodes("nodes6", Family::V6)).collect(),
        values: parts.get("values").map(values).unwrap_or_default(),
        token: token(parts).map(<[u8]>::to_vec),
        scrape: scrape(parts).map(Box::new),
        item: item(parts),
        seq: int(parts, "seq"),
        samples: samples(parts),
    })
}

/// Peers: a string each (BEP 5, 32); from some old nodes all of them in one.
fn values(values: Value<'_>) -> Vec<SocketAddr> {
    let each = values.items().filter_map(Value::as_bytes).flat_map(|value| {
        let family = if value.len() == 18 { Family::V6 } else { Family::V4 };
        compact_peers(value, family)
    });
    each.collect()
}

fn scrape(parts: Value<'_>) -> Option<Scrape> {
    let filter = |key| bytes(parts, key)?.try_into().ok().map(BloomFilter::new);
    Some(Scrape { seeds: filter("BFsd")?, peers: filter("BFpe")? })
}

/// The item of a reply; none where a part is missing or wrong.
fn item(parts: Value<'_>) -> Option<UnverifiedItem> {
    let value = ItemValue::from_bencode(parts.get("v")?.raw()).ok()?;
    let signed = match parts.get("k") {
        Some(key) => Some(signed(key, parts, &[])?),
        None => None,
    };
    Some(UnverifiedItem { value, signed })
}

fn samples(parts: Value<'_>) -> Option<Samples> {
    let samples = bytes(parts, "samples")?;
    let seconds = int(parts, "interval").and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
    Some(Samples {
        interval: Duration::from_secs(seconds).min(MAX_SAMPLE_INTERVAL),
        num: int(parts, "num").and_then(|num| u64::try_from(num).ok()).unwrap_or(0),
        samples: samples.as_chunks().0.iter().map(|hash| InfoHash::new(*hash)).collect(),
    })
}

/// A list of code and message; nodes send other things too.
fn error(error: Option<Value<'_>>) -> RemoteError {
    let part = |at| error.and_then(|error| error.items().nth(at));
    let code = part(0).and_then(Value::as_int).map_or(ErrorCode::Generic, ErrorCode::from);
    let message = part(1).and_then(Value::as_bytes).unwrap_or_default();
    RemoteError { code, message: display_text(message, MAX_MESSAGE_CHARS) }
}

/// An address and a port (BEP 42), from some nodes an address alone.
fn own_address(bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = match bytes {
        [ip @ .., high, low] if matches!(ip.len(), 4 | 16) => (ip, u16::from_be_bytes([*high, *low])),
        ip => (ip, 0),
    };
    let ip: IpAddr = compact_ip(ip)?;
    Some(SocketAddr::new(ip.to_canonical(), port))
}

fn want(args: Value<'_>) -> Want {
    let names = |name: &[u8]| args.get("want").is_some_and(|want| want.items().any(|w| w.as_bytes() == Some(name)));
    Want { v4: names(b"n4"), v6: names(b"n6") }
}

fn token(dict: Value<'_>) -> Option<&[u8]> {
    bytes(dict, "token").filter(|token| token.len() <= MAX_TOKEN_LEN)
}

fn node_id(dict: Value<'_>, key: &str) -> Option<NodeId> {
    bytes(dict, key)?.try_into().ok()
}

fn bytes<'t>(dict: Value<'t>, key: &str) -> Option<&'t [u8]> {
    dict.get(key)?.as_bytes()
}

fn int(dict: Value<'_>, key: &str) -> Option<i64> {
    dict.get(key)?.as_int()
}

fn flag(dict: Value<'_>, key: &str) -> bool {
    int(dict, key).is_some_and(|int| int != 0)
}
