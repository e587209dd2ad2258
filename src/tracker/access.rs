//! What is served, and to whom: lists of info-hashes from files, read at the start and again when asked to, and the key that
//! the path of an announce URL must have.

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use parking_lot::RwLock;

use super::config::AccessConfig;
use crate::metainfo::InfoHash;

/// What to do about a list that is none.
const FORM: &str = "a list has an info-hash a line, 40 hexadecimal digits, and comments behind #";

/// The lists in force.
#[derive(Debug)]
pub(super) struct Access {
    config: AccessConfig,
    /// Written by a reload; read by all servers' threads for one look-up.
    lists: RwLock<Lists>,
}

#[derive(Debug)]
struct Lists {
    /// `None` allows all.
    allowed: Option<HashSet<InfoHash>>,
    denied: HashSet<InfoHash>,
}

impl Access {
    pub(super) fn new(config: AccessConfig) -> io::Result<Self> {
        let lists = RwLock::new(Lists::read(&config)?);
        Ok(Self { config, lists })
    }

    pub(super) fn allows(&self, info_hash: &InfoHash) -> bool {
        if self.config.allow.is_none() && self.config.deny.is_none() {
            return true;
        }
        let lists = self.lists.read();
        lists.allowed.as_ref().is_none_or(|allowed| allowed.contains(info_hash)) && !lists.denied.contains(info_hash)
    }

    /// Whether there is a key.
    pub(super) fn is_keyed(&self) -> bool {
        self.config.key.is_some()
    }

    /// What is asked for, of a path with the key in front of it; `None` where that is missing. Without a key it is the path.
    pub(super) fn endpoint<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        match &self.config.key {
            None => Some(path),
            Some(key) => path.strip_prefix(b"/")?.strip_prefix(key.as_str().as_bytes()),
        }
    }

    /// The path at which announces are served.
    pub(super) fn announce_path(&self) -> String {
        self.config.key.iter().flat_map(|key| ["/", key.as_str()]).chain(["/announce"]).collect()
    }

    /// Whether this is a path, perhaps with a query behind it, at which announces are served.
    pub(super) fn is_announce_url<'a>(&self, parts: impl Iterator<Item = &'a [u8]>) -> bool {
        let path = parts.flatten().copied().take_while(|&byte| byte != b'?');
        let key = self.config.key.iter().flat_map(|key| ["/", key.as_str()]);
        path.eq(key.chain(["/announce"]).flat_map(str::bytes))
    }

    /// Reads the files again. Where one cannot be read, or has a line that is none, the old lists stay in force.
    pub(super) fn reload(&self) -> io::Result<()> {
        let lists = Lists::read(&self.config)?;
        *self.lists.write() = lists;
        Ok(())
    }
}

impl Lists {
    fn read(config: &AccessConfig) -> io::Result<Self> {
        let allowed = config.allow.as_deref().map(read).transpose()?;
        let denied = config.deny.as_deref().map(read).transpose()?.unwrap_or_default();
        Ok(Self { allowed, denied })
    }
}

fn read(file: &Path) -> io::Result<HashSet<InfoHash>> {
    let name = file.display();
    // Without the system's kind of error: a file that may not be read is not to be taken for a port that may not be used.
    let text = fs::read_to_string(file).map_err(|error| {
        io::Error::other(match error.kind() {
            ErrorKind::InvalidData => format!("{name} is not a list of torrents, for it is no text: {FORM}"),
            ErrorKind::NotFound => format!("there is no list {name}; make it, or name another file: {FORM}"),
            _ => format!("cannot read the list {name}: {error}"),
        })
    })?;
    let lines = (1..).zip(text.lines()).map(|(number, line)| (number, line.split('#').next().unwrap_or("").trim()));
    let parse = |(number, line): (usize, &str)| {
        line.parse().map_err(|_| io::Error::other(format!("{name}, line {number}: not an info-hash; {FORM}")))
    };
    lines.filter(|(_, line)| !line.is_empty()).map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(byte: u8) -> InfoHash {
        InfoHash::new([byte; 20])
    }

    #[test]
    fn with_a_key_only_paths_with_it_are_served() {
        let open = Access::new(AccessConfig::default()).unwrap();
        assert_eq!(open.endpoint(b"/announce"), Some(&b"/announce"[..]));
        assert_eq!((open.is_keyed(), open.announce_path()), (false, "/announce".to_owned()));
        let key = Some("sesame".parse().unwrap());
        let access = Access::new(AccessConfig { key, ..AccessConfig::default() }).unwrap();
        assert_eq!((access.is_keyed(), access.announce_path()), (true, "/sesame/announce".to_owned()));
        assert_eq!(access.endpoint(b"/sesame/scrape"), Some(&b"/scrape"[..]));
        for path in ["/announce", "/sesam/announce", "/x/sesame/announce", "sesame/announce", "/", ""] {
            assert_eq!(access.endpoint(path.as_bytes()), None, "{path}");
        }
        let is_served = |parts: &[&str]| access.is_announce_url(parts.iter().map(|part| part.as_bytes()));
        assert!(is_served(&["/sesame/announce"]) && is_served(&["/ses", "", "ame/announce?/", "x"]));
        for parts in [&["/sesame/announce/"][..], &["/sesame/", "announc"], &["?/sesame/announce"], &["/announce"], &[]]
        {
            assert!(!is_served(parts), "{parts:?}");
        }
    }

    #[test]
    fn without_lists_all_torrents_are_served() {
        assert!(Access::new(AccessConfig::default()).unwrap().allows(&hash(1)));
    }

    #[test]
    fn what_is_denied_is_not_served_even_if_it_is_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let (allow, deny) = (folder.path().join("allow"), folder.path().join("deny"));
        fs::write(&allow, format!("# two of ours\n{}\n\n  {} # the other\r\n", hash(1), hash(2))).unwrap();
        fs::write(&deny, hash(2).to_string().to_uppercase()).unwrap();
        let access = Access::new(AccessConfig { allow: Some(allow), deny: Some(deny), key: None }).unwrap();
        assert_eq!([1, 2, 3].map(|byte| access.allows(&hash(byte))), [true, false, false]);
    }

    #[test]
    fn a_reload_takes_new_lists_and_keeps_the_old_where_a_file_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let deny = folder.path().join("deny");
        fs::write(&deny, "").unwrap();
        let access = Access::new(AccessConfig { deny: Some(deny.clone()), ..AccessConfig::default() }).unwrap();
        assert!(access.allows(&hash(1)));
        fs::write(&deny, hash(1).to_string()).unwrap();
        access.reload().unwrap();
        assert!(!access.allows(&hash(1)));
        fs::write(&deny, "\nnonsense\n").unwrap();
        let error = access.reload().unwrap_err().to_string();
        assert!(error.contains("deny, line 2: not an info-hash; a list has"), "{error}");
        fs::write(&deny, [0xff, 0]).unwrap();
        let error = access.reload().unwrap_err().to_string();
        assert!(error.contains("deny is not a list of torrents, for it is no text: a list has"), "{error}");
        fs::remove_file(&deny).unwrap();
        access.reload().unwrap_err();
        fs::create_dir(&deny).unwrap();
        let error = access.reload().unwrap_err();
        assert!(error.kind() == io::ErrorKind::Other && error.to_string().contains("deny: "), "{error:?}");
        assert!(!access.allows(&hash(1)));
    }
}
