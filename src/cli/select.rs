//! `--files`: which files of a torrent are wanted, by number or by pattern.

use globset::{GlobBuilder, GlobMatcher};
use ropewalk::metainfo::{FileIndex, Layout};
use ropewalk::{Metainfo, Priority};

use super::exit::{Code, failed};
use super::words::{count, printable};

/// One part of `--files`.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Numbers from 1, as `show` prints them, both ends included.
    Numbers(usize, usize),
    Glob(GlobMatcher),
}

impl Pattern {
    /// Reads `3`, `2-5`, `*.flac`.
    pub fn read(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let kind = match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Kind::Numbers(first, last),
            (Ok(_), Ok(_)) => return Err("files are numbered from 1; `ropewalk show` lists them".into()),
            _ => {
                let glob = GlobBuilder::new(text).case_insensitive(true).literal_separator(text.contains('/')).build();
                Kind::Glob(glob.map_err(|error| format!("not a pattern: {}", error.kind()))?.compile_matcher())
            }
        };
        Ok(Self { text: text.to_owned(), kind })
    }

    fn takes(&self, number: usize, layout: &Layout, file: FileIndex) -> bool {
        let path = layout.file(file).path();
        match &self.kind {
            Kind::Numbers(first, last) => (*first..=*last).contains(&number),
            // The whole path, the path within the torrent's folder, or the name alone.
            Kind::Glob(glob) => {
                let within: std::path::PathBuf = path.components().skip(1).collect();
                glob.is_match(path)
                    || glob.is_match(within)
                    || (!self.text.contains('/') && path.file_name().is_some_and(|name| glob.is_match(name)))
            }
        }
    }
}

/// The files that a person sees: numbers from 1, padding left out.
pub fn numbered(layout: &Layout) -> impl Iterator<Item = (usize, FileIndex)> + '_ {
    (1..).zip(layout.file_indices().filter(|&file| !layout.file(file).is_padding()))
}

/// A priority per file. Without patterns every file is wanted; a pattern that takes none is an error.
pub fn priorities(patterns: &[Pattern], metainfo: &Metainfo) -> anyhow::Result<Vec<Priority>> {
    if patterns.is_empty() {
        return Ok(Vec::new());
    }
    let layout = metainfo.layout();
    let mut priorities = vec![Priority::Skip; layout.files().len()];
    for pattern in patterns {
        let taken = numbered(layout).filter(|&(number, file)| pattern.takes(number, layout, file));
        let taken = taken.map(|(_, file)| priorities[file.get() as usize] = Priority::Normal).count();
        if taken == 0 {
            let files = count(numbered(layout).count(), "file", "files");
            let (text, name) = (printable(&pattern.text), metainfo.name());
            let text = format!("--files {text}: none of the {files} of {name}; `ropewalk show` lists them");
            return Err(failed(Code::Usage, text));
        }
    }
    Ok(priorities)
}

#[cfg(test)]
mod tests {
    use ropewalk::Priority;
    use ropewalk::metainfo::{Content, Creation, Metainfo, NewFile};

    use super::{Pattern, priorities};

    fn album() -> Metainfo {
        let file = |path: &str| NewFile { path: path.into(), len: 1, executable: false };
        let content = Content::Folder(["cd1/a.flac", "cd1/b.FLAC", "cd2/a.flac", "cover.jpg"].map(file).to_vec());
        let prepared = Creation::new("album", content, 16384).prepare().unwrap();
        Metainfo::from_bytes(&prepared.finish(&[0; 20]).unwrap()).unwrap()
    }

    fn wanted(patterns: &[&str]) -> Option<Vec<usize>> {
        let patterns: Vec<_> = patterns.iter().map(|text| Pattern::read(text).unwrap()).collect();
        let priorities = priorities(&patterns, &album()).ok()?;
        Some((1..).zip(priorities).filter(|(_, priority)| *priority != Priority::Skip).map(|(n, _)| n).collect())
    }

    #[test]
    fn files_are_taken_by_number_range_name_and_path() {
        assert_eq!(wanted(&["2"]), Some(vec![2]));
        assert_eq!(wanted(&["1-2", "4"]), Some(vec![1, 2, 4]));
        assert_eq!(wanted(&["*.flac"]), Some(vec![1, 2, 3]));
        assert_eq!(wanted(&["cd1/*"]), Some(vec![1, 2]));
        assert_eq!(wanted(&["album/cd2/*"]), Some(vec![3]));
        assert_eq!(wanted(&["cover.jpg"]), Some(vec![4]));
        assert_eq!(wanted(&["5"]), None);
        assert_eq!(wanted(&["*.mp3"]), None);
    }

    #[test]
    fn what_is_neither_a_number_nor_a_pattern_is_refused() {
        for wrong in ["0", "5-2", "[a"] {
            assert!(Pattern::read(wrong).is_err(), "{wrong}");
        }
    }
}
