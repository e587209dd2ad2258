//! The bytes of a .torrent file, untrusted, to what [`Metainfo`](super::Metainfo) hands out.
//!
//! It owns which fields must be there and what each may be. It refuses what a download cannot do without (the typed
//! errors); of optional fields it takes what has the right type and leaves the rest.

use std::collections::HashSet;
use std::net::Ipv6Addr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use sha1::{Digest, Sha1};

use super::names::{BITCOMET_PADDING, Names, repair};
use super::{Attributes, FileEntry, InfoHash, Layout, MAX_PIECE_LENGTH, MetainfoError, UnknownKeys};
use crate::bencode::{self, Value};

/// What systems take as a path (`PATH_MAX`), and a bound on how deep folders can be nested.
const MAX_PATH: usize = 4096;

/// Nodes that are taken from a file: each may cost a name lookup.
const MAX_NODES: usize = 16;

/// The keys of the file's dictionary that are read, or known from BEP 52 and carried for others.
const TOP_KEYS: [&[u8]; 12] = [
    b"announce",
    b"announce-list",
    b"comment",
    b"comment.utf-8",
    b"created by",
    b"creation date",
    b"encoding",
    b"httpseeds",
    b"info",
    b"nodes",
    b"piece layers",
    b"url-list",
];

/// The same for the info dictionary.
const INFO_KEYS: [&[u8]; 11] = [
    b"attr",
    b"file tree",
    b"files",
    b"length",
    b"meta version",
    b"name",
    b"name.utf-8",
    b"piece length",
    b"pieces",
    b"private",
    b"source",
];

/// What a .torrent file says. The ranges are of its bytes.
pub(super) struct Parsed {
    pub(super) info: Range<usize>,
    /// The hashes, 20 bytes for each piece of the layout.
    pub(super) pieces: Range<usize>,
    pub(super) info_hash: InfoHash,
    pub(super) name: String,
    pub(super) layout: Arc<Layout>,
    pub(super) multi_file: bool,
    pub(super) private: bool,
    pub(super) trackers: Vec<Vec<String>>,
    pub(super) web_seeds: Vec<String>,
    pub(super) http_seeds: Vec<String>,
    pub(super) nodes: Vec<String>,
    pub(super) comment: Option<String>,
    pub(super) created_by: Option<String>,
    pub(super) creation_date: Option<i64>,
    pub(super) encoding: Option<String>,
    pub(super) source: Option<String>,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, MetainfoError> {
    let (tree, rest) = bencode::decode(bytes)?;
    // Editors and downloads add line ends; more than that is a file of something else.
    if !rest.trim_ascii().is_empty() {
        return Err(MetainfoError::TrailingBytes { count: rest.len() });
    }
    let top = tree.root();
    if !top.is_dict() {
        return Err(wrong_type("(the whole file)", "a dictionary"));
    }
    let info = field(top, "info", "info")?;
    if !info.is_dict() {
        return Err(wrong_type("info", "a dictionary"));
    }
    let pieces = pieces(info)?;
    let name = preferred(info, "name.utf-8", "name", Value::as_bytes).ok_or_else(|| match info.get("name") {
        Some(_) => wrong_type("info.name", "a string"),
        None => missing("info.name"),
    })?;
    let name = repair(name);
    let piece_length = number(info, "piece length", "info.piece length", 1, u64::from(MAX_PIECE_LENGTH))?;
    let files = files(info, &name)?;
    let multi_file = info.get("files").is_some();
    // The cast holds: the number is at most MAX_PIECE_LENGTH.
    let layout = Layout::new(files, piece_length as u32).ok_or(MetainfoError::TooLarge)?;
    if layout.total_len() == 0 {
        return Err(MetainfoError::Empty);
    }
    if pieces.len() / 20 != layout.piece_count() as usize {
        return Err(MetainfoError::HashCount { expected: layout.piece_count(), found: pieces.len() / 20 });
    }
    let text = |value: Option<Value<'_>>| value.and_then(Value::as_bytes).map(readable);
    Ok(Parsed {
        info: info.span(),
        pieces,
        info_hash: InfoHash::new(Sha1::digest(info.raw()).into()),
        name,
        layout: Arc::new(layout),
        multi_file,
        private: info.get("private").and_then(Value::as_int).is_some_and(|flag| flag != 0),
        trackers: trackers(top),
        web_seeds: top.get("url-list").map(urls).unwrap_or_default(),
        http_seeds: top.get("httpseeds").map(urls).unwrap_or_default(),
        nodes: top.get("nodes").map(nodes).unwrap_or_default(),
        comment: preferred(top, "comment.utf-8", "comment", Value::as_bytes).map(readable),
        created_by: text(top.get("created by")),
        creation_date: top.get("creation date").and_then(Value::as_int),
        encoding: text(top.get("encoding")),
        source: text(info.get("source")),
    })
}

/// The keys of bytes that were parsed before which have no use here.
pub(super) fn unknown_keys(bytes: &[u8]) -> UnknownKeys {
    let Ok((tree, _)) = bencode::decode(bytes) else {
        return UnknownKeys::default();
    };
    let unknown = |dict: Value<'_>, known: &[&[u8]]| {
        let keys = dict.entries().map(|(key, _)| key).filter(|key| !known.contains(key));
        keys.map(readable).collect()
    };
    let info = tree.root().get("info");
    UnknownKeys {
        top: unknown(tree.root(), &TOP_KEYS),
        info: info.map(|info| unknown(info, &INFO_KEYS)).unwrap_or_default(),
    }
}

/// Where the hashes stand.
fn pieces(info: Value<'_>) -> Result<Range<usize>, MetainfoError> {
    let Some(pieces) = info.get("pieces") else {
        let v2 = info.get("file tree").is_some() || info.get("meta version").is_some();
        return Err(if v2 { MetainfoError::V2Only } else { missing("info.pieces") });
    };
    let hashes = pieces.as_bytes().ok_or_else(|| wrong_type("info.pieces", "a string"))?;
    if !hashes.len().is_multiple_of(20) {
        return Err(MetainfoError::PiecesLength { len: hashes.len() });
    }
    // A string ends where its content does.
    let end = pieces.span().end;
    Ok(end - hashes.len()..end)
}

/// The files, their offsets not yet set.
fn files(info: Value<'_>, name: &str) -> Result<Vec<FileEntry>, MetainfoError> {
    match (info.get("length"), info.get("files")) {
        (Some(_), Some(_)) => Err(MetainfoError::LengthAndFiles),
        (None, None) => Err(missing("info.length` or `info.files")),
        (Some(_), None) => {
            let len = number(info, "length", "info.length", 0, i64::MAX as u64)?;
            // One file that were padding or a link would leave nothing to download.
            let attributes = Attributes { padding: false, symlink: false, ..attributes(info) };
            Ok(vec![FileEntry { path: name.into(), len, offset: 0, attributes }])
        }
        (None, Some(files)) if !files.is_list() => Err(wrong_type("info.files", "a list")),
        (None, Some(files)) => {
            let mut names = Names::default();
            let entries: Result<Vec<_>, _> =
                files.items().enumerate().map(|(at, file)| entry(file, at, name, &mut names)).collect();
            entries.and_then(|entries| if entries.is_empty() { Err(MetainfoError::NoFiles) } else { Ok(entries) })
        }
    }
}

/// File number `at` of a multi-file torrent.
fn entry(file: Value<'_>, at: usize, root: &str, names: &mut Names) -> Result<FileEntry, MetainfoError> {
    let named = |field: &str| format!("info.files[{at}].{field}");
    if !file.is_dict() {
        return Err(wrong_type(format!("info.files[{at}]"), "a dictionary"));
    }
    let mut attributes = attributes(file);
    // BEP 47: the length of a link is zero, and may be left out. A link that has one would shift all that follows for
    // some clients and not for others.
    let len = match file.get("length") {
        None if attributes.symlink => 0,
        _ => number(file, "length", &named("length"), 0, if attributes.symlink { 0 } else { i64::MAX as u64 })?,
    };
    let path = preferred(file, "path.utf-8", "path", |path| path.is_list().then_some(path));
    let last = path.and_then(|path| path.items().last()).and_then(Value::as_bytes);
    attributes.padding |= last.is_some_and(|last| last.starts_with(BITCOMET_PADDING));
    if attributes.padding {
        // BEP 47: its path does not matter, and may be left out. No file is made of it, so it collides with nothing.
        let path = [root, ".pad", &len.to_string()].iter().collect();
        return Ok(FileEntry { path, len, offset: 0, attributes });
    }
    let path = path.ok_or_else(|| match file.get("path") {
        Some(_) => wrong_type(named("path"), "a list of strings"),
        None => missing(named("path")),
    })?;
    let mut components = vec![root.to_owned()];
    let mut room = MAX_PATH.saturating_sub(root.len());
    for name in path.items() {
        let name = name.as_bytes().ok_or_else(|| wrong_type(named("path"), "a list of strings"))?;
        let name = repair(name);
        room = room.checked_sub(name.len() + 1).ok_or_else(|| MetainfoError::PathTooLong { field: named("path") })?;
        components.push(name);
    }
    match components.split_last_mut() {
        Some((name, folders @ [_, ..])) => {
            names.place(folders, name).map_err(|_| MetainfoError::TooManyCollisions)?;
        }
        _ => return Err(missing(named("path"))),
    }
    Ok(FileEntry { path: PathBuf::from_iter(components), len, offset: 0, attributes })
}

/// The `attr` of a file (BEP 47); unknown letters are let pass.
fn attributes(file: Value<'_>) -> Attributes {
    let letters = file.get("attr").and_then(Value::as_bytes).unwrap_or_default();
    Attributes {
        padding: letters.contains(&b'p'),
        executable: letters.contains(&b'x'),
        hidden: letters.contains(&b'h'),
        symlink: letters.contains(&b'l'),
    }
}

/// BEP 12. A list of strings instead of lists is met in the wild: each is a tier of its own.
fn trackers(top: Value<'_>) -> Vec<Vec<String>> {
    let mut seen = HashSet::new();
    let mut tier = |value: Value<'_>| {
        let tier: Vec<_> = urls(value).into_iter().filter(|url| seen.insert(url.clone())).collect();
        Some(tier).filter(|tier| !tier.is_empty())
    };
    let list = top.get("announce-list");
    let tiers: Vec<_> = list.into_iter().flat_map(Value::items).filter_map(&mut tier).collect();
    if tiers.is_empty() { top.get("announce").and_then(tier).into_iter().collect() } else { tiers }
}

/// The URLs of a string or of a list of strings; empty ones left out.
fn urls(value: Value<'_>) -> Vec<String> {
    let one = (!value.is_list()).then_some(value);
    let texts = one.into_iter().chain(value.items()).filter_map(Value::as_str);
    texts.map(str::trim).filter(|url| !url.is_empty()).map(String::from).collect()
}

/// The nodes of the DHT that a file names as `[host, port]` (BEP 5), the first few of them.
fn nodes(value: Value<'_>) -> Vec<String> {
    let node = |pair: Value<'_>| {
        let mut parts = pair.items();
        let (host, port) = (parts.next()?.as_str()?.trim(), parts.next()?.as_int()?);
        let port = u16::try_from(port).ok().filter(|&port| port != 0)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<Ipv6Addr>() {
            Ok(ip) => Some(format!("[{ip}]:{port}")),
            Err(_) => (!bare.is_empty() && !bare.contains(':')).then(|| format!("{bare}:{port}")),
        }
    };
    value.items().filter_map(node).take(MAX_NODES).collect()
}

/// What `first` says where it is usable, else what `second` does.
fn preferred<'t, T>(dict: Value<'t>, first: &str, second: &str, as_type: fn(Value<'t>) -> Option<T>) -> Option<T> {
    dict.get(first).and_then(as_type).or_else(|| dict.get(second).and_then(as_type))
}

fn number(dict: Value<'_>, key: &str, name: &str, min: u64, max: u64) -> Result<u64, MetainfoError> {
    let value = field(dict, key, name)?;
    if !value.raw().starts_with(b"i") {
        return Err(wrong_type(name, "an integer"));
    }
    let int = value.as_int().and_then(|int| u64::try_from(int).ok()).filter(|int| (min..=max).contains(int));
    int.ok_or_else(|| MetainfoError::OutOfRange { field: name.into(), min, max })
}

fn field<'t>(dict: Value<'t>, key: &str, name: &str) -> Result<Value<'t>, MetainfoError> {
    dict.get(key).ok_or_else(|| missing(name))
}

/// Text for people, safe to print: `U+FFFD` for what is not UTF-8 and for control characters, line ends and tabs kept.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let keep = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    text.chars().map(|c| if keep(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

fn missing(field: impl Into<String>) -> MetainfoError {
    MetainfoError::Missing { field: field.into() }
}

fn wrong_type(field: impl Into<String>, expected: &'static str) -> MetainfoError {
    MetainfoError::WrongType { field: field.into(), expected }
}

#[cfg(test)]
mod tests;
