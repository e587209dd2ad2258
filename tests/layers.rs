//! The rules of the source tree that no compiler holds: imports point downward only, unsafe code has its place, and no
//! async runtime comes in, not even for a test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The modules of the crate from the bottom up. A module imports from those on lower lines, and from none on its own.
const LAYERS: &[&[&str]] = &[
    &["bits", "bencode", "crew"],
    &["metainfo"],
    &["hash"],
    &["wire", "policy"],
    // What a user may say, in the words of `policy`.
    &["config"],
    &["net", "storage"],
    &["peer", "discovery"],
    &["torrent"],
    &["session"],
    &["tracker", "create", "dht", "download", "fetch", "verify"],
    &["cli"],
    // They declare and re-export.
    &["lib", "main", "fuzzing"],
];

/// The only files that may contain unsafe code.
const UNSAFE: &[&str] = &["storage/map.rs", "hash/lanes.rs"];

/// What opens a socket or asks for a name, and the only files that may: all others go through them, so that `--bind` holds
/// for every socket. The tracker server is asked for an address of its own, and for where its Redis is.
const SOCKETS: &[(&str, &[&str])] = &[
    ("Socket::new(", &["net/bind.rs", "tracker/http/listen.rs", "tracker/udp/mod.rs"]),
    ("Socket::pair(", &[]),
    ("TcpStream::connect", &[]),
    ("TcpListener::bind", &[]),
    ("UdpSocket::bind", &[]),
    ("net::socket(", &[]),
    ("to_socket_addrs()", &["discovery/resolve.rs", "cli/network.rs", "cli/dht/ask.rs"]),
    ("Agent::", &["discovery/http.rs", "fetch.rs"]),
    ("get_connection", &["tracker/redis/lane.rs", "tracker/redis/nodes.rs"]),
    ("ureq::get", &[]),
];

const RUNTIMES: &[&str] = &[
    "actix-rt",
    "async-executor",
    "async-global-executor",
    "async-io",
    "async-std",
    "compio",
    "embassy-executor",
    "futures-executor",
    "glommio",
    "monoio",
    "smol",
    "tokio",
];

#[test]
fn imports_point_downward_only() {
    let wrong: Vec<_> = sources().iter().flat_map(|source| upward(&source.path, &source.code)).collect();
    assert!(wrong.is_empty(), "imports that do not point downward:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stays_in_its_files() {
    for source in sources().iter().filter(|source| !UNSAFE.contains(&source.path.as_str())) {
        assert!(!has_word(&source.code, "unsafe"), "unsafe code in src/{}", source.path);
    }
}

#[test]
fn sockets_are_opened_in_one_place() {
    let mut seen = BTreeSet::new();
    for source in sources().iter().filter(|source| !source.path.contains("tests")) {
        let code = source.code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (what, allowed) in SOCKETS.iter().filter(|(what, _)| code.contains(what)) {
            assert!(allowed.contains(&source.path.as_str()), "{what} in src/{}: see net/bind.rs", source.path);
            seen.insert((what, source.path.clone()));
        }
    }
    let allowed: usize = SOCKETS.iter().map(|(_, allowed)| allowed.len()).sum();
    assert_eq!(seen.len(), allowed, "places that may open sockets and do not any more: {seen:?}");
}

#[test]
fn nothing_is_left_undone() {
    for source in sources() {
        for word in ["todo!", "unimplemented!", "dbg!"] {
            assert!(!source.code.contains(word), "{word} in src/{}", source.path);
        }
    }
}

#[test]
fn no_async_runtime_is_locked() {
    for lock in ["Cargo.lock", "tests/fuzz/Cargo.lock"] {
        let text = std::fs::read_to_string(root().join(lock)).unwrap();
        let locked: BTreeSet<_> =
            text.lines().filter_map(|line| line.strip_prefix("name = ")).map(|name| name.trim_matches('"')).collect();
        assert!(locked.contains("ropewalk"), "{lock} can be read");
        let runtimes: Vec<_> = RUNTIMES.iter().filter(|name| locked.contains(**name)).collect();
        assert!(runtimes.is_empty(), "{lock} has {runtimes:?}");
    }
}

#[test]
fn the_rule_on_imports_sees_every_way_to_write_one() {
    for (path, code) in [
        ("policy/picker.rs", "use crate::session::Session;"),
        ("policy/picker.rs", "pub(crate) use crate::{bits::Bits, peer::{Link, Valve}};"),
        ("policy/picker.rs", "fn f() { crate::torrent::start(); }"),
        ("policy/picker.rs", "use super::super::torrent;"),
        ("policy/mod.rs", "use super::config::Config;"),
        ("policy/picker/tests.rs", "use super::super::super::wire::Reader;"),
        ("config.rs", "use super::{net, policy::Priority};"),
        ("config.rs", "use crate::Session;"),
        ("unheard_of.rs", ""),
    ] {
        assert_eq!(upward(path, code).len(), 1, "{path}: {code}");
    }
    for (path, code) in [
        ("policy/picker.rs", "use crate::{bits::Bits, metainfo::{Layout, PieceIndex}};"),
        ("policy/picker.rs", "use super::super::bits;"),
        ("policy/picker.rs", "use super::window::Window; use crate::policy::Priority;"),
        ("policy/picker.rs", "pub(in crate::policy) fn f() {}"),
        ("session.rs", "use super::torrent::State;"),
        ("lib.rs", "pub use session::Session;"),
    ] {
        assert_eq!(upward(path, code), [""; 0], "{path}: {code}");
    }
}

/// A file below `src`.
struct Source {
    /// Its path there.
    path: String,
    /// Its text without comments.
    code: String,
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut folders = vec![src.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let code = without_comments(&std::fs::read_to_string(&path).unwrap());
                let path = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
                sources.push(Source { path, code });
            }
        }
    }
    assert!(sources.len() > 20, "the sources are found");
    sources
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// Cuts line comments off, and whatever follows `//` in a string, which is no code either.
fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// What a file imports and should not, in words.
fn upward(path: &str, code: &str) -> Vec<String> {
    let names: Vec<_> = path.trim_end_matches(".rs").split('/').collect();
    let own = names[0];
    let Some(layer) = layer(own) else {
        return vec![format!("src/{path}: `{own}` has no layer in tests/layers.rs")];
    };
    if layer == LAYERS.len() - 1 {
        return Vec::new();
    }
    // How many modules deep the file's own is: so many `super` lead to the root of the crate.
    let depth = names.iter().filter(|name| **name != "mod").count();
    let mut imports = paths_after(code, "crate::");
    // Where code is nested deeper, so many lead elsewhere, to what has the name of a module of the root at the worst.
    let from_root = paths_after(code, &"super::".repeat(depth));
    imports.extend(from_root.into_iter().filter(|import| self::layer(import).is_some()));
    let describe = |import: &str| match self::layer(import) {
        _ if import == own => None,
        Some(other) if other < layer => None,
        Some(_) => Some(format!("src/{path} ({own}): imports {import}")),
        None => Some(format!("src/{path}: imports `{import}` through the root of the crate, which hides its layer")),
    };
    imports.iter().filter_map(|import| describe(import)).collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The first names after every `start` in the code; of `start{a::b, c}` both `a` and `c`.
fn paths_after(code: &str, start: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(start) {
        // `mycrate::` is another word, and `super::super::` is looked for at its full length.
        let before = &code[..at];
        if before.ends_with(|c: char| c.is_alphanumeric() || c == '_') || before.ends_with("super::") {
            continue;
        }
        let rest = &code[at + start.len()..];
        match rest.strip_prefix('{') {
            None => found.insert(first_name(rest)),
            Some(group) => {
                let mut depth = 0;
                let ends = |c: char| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    depth < 0
                };
                let group = &group[..group.find(ends).unwrap_or(group.len())];
                let mut depth = 0;
                let between = |c: char| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    c == ',' && depth == 0
                };
                found.extend(group.split(between).map(first_name));
                true
            }
        };
    }
    found.remove("");
    found.remove("super");
    found
}

fn first_name(path: &str) -> String {
    path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}
