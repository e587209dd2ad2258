//! Names from untrusted metainfo, made safe to create below a folder.
//!
//! It owns the repair of one name and the rule for names that collide. It never refuses a name: as in libtorrent, what
//! cannot be kept is replaced, so that a torrent with one bad name can still be had. It touches no file system.
//!
//! The repair of one name, on every platform alike, so that one torrent is one set of files everywhere:
//! - bytes that are not UTF-8, control characters (NUL among them), `/`, `\` and the characters that turn the direction
//!   of writing (they hide extensions) become `_`;
//! - an empty name, `.` and `..` become `_`: nothing leads out of the folder, and an absolute path becomes a relative one;
//! - the device names of Windows (`CON`, `nul`, `com1`, …) get a `_` in front; with an extension (`aux.c`) they are kept;
//! - a name of more than 255 bytes is cut, its extension kept.
//!
//! Two paths collide where they are equal but for upper and lower case, or where one is a file and the other a folder on
//! the way to a file. The later one gets a number before its extension (`a.txt`, then `a.1.txt`).

use std::collections::HashMap;

/// The longest name that common file systems take, in bytes.
const MAX_NAME: usize = 255;

/// The longest extension that cutting and numbering keep at the end of a name, in bytes, dot included.
const MAX_EXTENSION: usize = 16;

/// BitComet's padding, older than BEP 47, is known by its name's beginning only.
pub(super) const BITCOMET_PADDING: &[u8] = b"_____padding_file_";

/// One name of a path, repaired by the rules above; unchanged where it keeps to them.
pub(super) fn repair(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        out.extend(chunk.valid().chars().map(|c| if is_safe(c) { c } else { '_' }));
        if !chunk.invalid().is_empty() {
            out.push('_');
        }
    }
    if matches!(&out[..], "" | "." | "..") {
        return "_".into();
    }
    if is_reserved(&out) {
        out.insert(0, '_');
    }
    if out.len() > MAX_NAME { with_suffix(&out, "") } else { out }
}

/// The paths of one torrent so far, and which names each folder has taken.
#[derive(Default)]
pub(super) struct Names {
    /// By folder and lower-cased name. The hasher is keyed at random, so no torrent can choose its collisions.
    taken: HashMap<(u32, Box<str>), Taken>,
    folders: u32,
    failed: usize,
}

/// More numbers were tried than any torrent needs that was not made for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooManyCollisions;

/// A name that a folder has taken.
#[derive(Default)]
struct Taken {
    /// The folder of that name; where the name is a file's, the folder that stands in for it, and its name.
    folder: Option<(u32, Option<Box<str>>)>,
    /// The last number tried for others that wanted this name.
    number: u32,
}

impl Names {
    /// Adds a file whose path is `folders` and `file`, and renames what collides with an earlier one. Takes time in
    /// proportion to the path, over all calls together.
    pub(super) fn place(&mut self, folders: &mut [String], file: &mut String) -> Result<(), TooManyCollisions> {
        let mut at = 0;
        for name in folders {
            at = self.enter(at, name)?;
        }
        if self.taken.contains_key(&key(at, file)) {
            *file = self.free(at, file)?;
        }
        self.taken.insert(key(at, file), Taken::default());
        Ok(())
    }

    /// The folder `name` within a folder, new or not.
    fn enter(&mut self, parent: u32, name: &mut String) -> Result<u32, TooManyCollisions> {
        let wanted = key(parent, name);
        if let Some((folder, alias)) = self.taken.get(&wanted).and_then(|taken| taken.folder.as_ref()) {
            if let Some(alias) = alias {
                *name = alias.to_string();
            }
            return Ok(*folder);
        }
        // The root is 0. There are fewer folders than names, and fewer names than 32 bits count.
        self.folders += 1;
        let folder = self.folders;
        if self.taken.contains_key(&wanted) {
            *name = self.free(parent, name)?;
            let alias = Some(name.as_str().into());
            self.taken.entry(wanted).or_default().folder = Some((folder, alias));
        }
        self.taken.entry(key(parent, name)).or_default().folder = Some((folder, None));
        Ok(folder)
    }

    /// A name like `name`, which is taken, that is not.
    fn free(&mut self, parent: u32, name: &str) -> Result<String, TooManyCollisions> {
        let wanted = key(parent, name);
        let mut number = self.taken.get(&wanted).map_or(0, |taken| taken.number);
        loop {
            number += 1;
            let candidate = with_suffix(name, &format!(".{number}"));
            if !self.taken.contains_key(&key(parent, &candidate)) {
                self.taken.entry(wanted).or_default().number = number;
                return Ok(candidate);
            }
            // Long names that differ only where they are cut, and names that have the numbers already, would
            // otherwise take quadratic time.
            self.failed += 1;
            if self.failed > 1000 + 4 * self.taken.len() {
                return Err(TooManyCollisions);
            }
        }
    }
}

fn key(folder: u32, name: &str) -> (u32, Box<str>) {
    (folder, name.to_lowercase().into())
}

fn is_safe(c: char) -> bool {
    let turns_writing = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !(c.is_control() || c == '/' || c == '\\' || turns_writing)
}

fn is_reserved(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let numbered = |device| name.strip_prefix(device).is_some_and(|rest| matches!(rest.as_bytes(), [b'0'..=b'9']));
    matches!(&name[..], "con" | "prn" | "aux" | "nul" | "clock$" | "conin$" | "conout$")
        || numbered("com")
        || numbered("lpt")
}

/// The name with `suffix` before its extension, cut so that it fits.
fn with_suffix(name: &str, suffix: &str) -> String {
    let dot = name.rfind('.').filter(|&dot| dot > 0 && name.len() - dot <= MAX_EXTENSION);
    let (stem, extension) = name.split_at(dot.unwrap_or(name.len()));
    let room = MAX_NAME - suffix.len() - extension.len();
    let cut = (0..=room.min(stem.len())).rev().find(|&at| stem.is_char_boundary(at)).unwrap_or(0);
    format!("{}{suffix}{extension}", &stem[..cut])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{Names, TooManyCollisions, repair};

    fn placed(paths: &[&str]) -> Vec<String> {
        let mut names = Names::default();
        let place = |path: &&str| {
            let mut folders: Vec<_> = path.split('/').map(String::from).collect();
            let mut file = folders.pop().unwrap();
            names.place(&mut folders, &mut file).unwrap();
            folders.push(file);
            folders.join("/")
        };
        paths.iter().map(place).collect()
    }

    #[test]
    fn names_that_lead_elsewhere_or_cannot_be_created_are_repaired() {
        for (bad, good) in [
            ("", "_"),
            (".", "_"),
            ("..", "_"),
            ("/etc/passwd", "_etc_passwd"),
            ("..\\..\\x", ".._.._x"),
            ("C:\\x", "C:_x"),
            ("a\0b", "a_b"),
            ("a\nb\x7f", "a_b_"),
            ("cod\u{202e}gpj.exe", "cod_gpj.exe"),
            ("CON", "_CON"),
            ("lpt9", "_lpt9"),
        ] {
            assert_eq!(repair(bad.as_bytes()), good);
        }
        assert_eq!(repair(b"caf\xe9.txt"), "caf_.txt");
    }

    #[test]
    fn ordinary_names_are_kept() {
        for name in ["a", "...", ".hidden", "aux.c", "com10", "naïve – 漢字 (1)?:*.tar.gz", "a b "] {
            assert_eq!(repair(name.as_bytes()), name);
        }
    }

    #[test]
    fn a_long_name_is_cut_between_characters_and_keeps_its_extension() {
        let name = repair(format!("{}.torrent", "é".repeat(200)).as_bytes());
        assert!(name.len() <= 255 && name.len() > 250 && name.ends_with("é.torrent"));
        assert_eq!(repair("x".repeat(256).as_bytes()), "x".repeat(255));
    }

    #[test]
    fn equal_paths_are_numbered() {
        assert_eq!(
            placed(&["d/a.b", "d/a.b", "D/A.B", "d/a.1.b", "a.b"]),
            ["d/a.b", "d/a.1.b", "D/A.2.B", "d/a.1.1.b", "a.b"]
        );
    }

    #[test]
    fn a_file_that_others_have_as_a_folder_keeps_its_name_if_it_came_first() {
        assert_eq!(placed(&["a", "a/b", "A/c", "a.1", "a/b"]), ["a", "a.1/b", "a.1/c", "a.1.1", "a.1/b.1"]);
        assert_eq!(placed(&["a/b", "a", "a/c"]), ["a/b", "a.1", "a/c"]);
    }

    #[test]
    fn many_equal_names_take_linear_time() {
        let names = placed(&["f"; 20_000]);
        assert_eq!(names.last().unwrap(), "f.19999");
    }

    #[test]
    fn names_made_to_be_slow_are_refused() {
        let mut names = Names::default();
        let result = (0..4000).try_for_each(|i| {
            let name = format!("{}{i:015}", "x".repeat(240));
            names.place(&mut [], &mut name.clone())?;
            names.place(&mut [], &mut name.clone())
        });
        assert_eq!(result, Err(TooManyCollisions));
    }

    proptest! {
            #[test]
            fn a_repaired_name_is_one_safe_component_and_stays_as_it_is(name in any::<Vec<u8>>()) {
                let good = repair(&name);
                let mut components = std::path::Path::new(&good).components();
                prop_assert!(matches!(components.next(), Some(std::path::Component::Normal(_))));
                prop_assert_eq!(components.next(), None);
                prop_assert!(good.len() <= 255 && !good.contains('\0'));
                prop_assert_eq!(repair(good.as_bytes()), good);
            }

            #[test]
            fn placed_paths_never_collide(paths in proptest::collection::vec("[aAb](\\.1)?(/[aAb](\\.1)?){0,2}", 0..12)) {
                let placed = placed(&paths.iter().map(String::as_str).collect::<Vec<_>>());
                let placed: Vec<_> = placed.iter().map(|path| path.to_lowercase()).collect();
                for (at, path) in placed.iter().enumerate() {
                    for other in &placed[at + 1..] {
                        prop_assert!(path != other);
    let within = |outer: &str, inner: &str| inner.starts_with(&format!("{outer}/"));
                        prop_assert!(!within(path, other) && !within(other, path));
                    }
                }
            }
        }
}
