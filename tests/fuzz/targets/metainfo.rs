//! A .torrent file: whatever is accepted is safe to download into a folder, its arithmetic adds up, and a torrent made
//! of the same files reads back as it was made.
#![no_main]

use std::collections::HashSet;
use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use ropewalk::Metainfo;
use ropewalk::metainfo::{Content, Creation, NewFile};
use sha1::{Digest, Sha1};

fuzz_target!(|data: &[u8]| {
    let Ok(metainfo) = Metainfo::from_bytes(data) else { return };
    assert_eq!(metainfo.as_bytes(), data);
    assert_eq!(*metainfo.info_hash().as_bytes(), <[u8; 20]>::from(Sha1::digest(metainfo.info_bytes())));
    texts(&metainfo);
    files(&metainfo);
    pieces(&metainfo);
    create(&metainfo);
});

fn texts(metainfo: &Metainfo) {
    let shown = [metainfo.comment(), metainfo.created_by(), metainfo.encoding(), metainfo.source()];
    let unknown = metainfo.unknown_keys();
    let keys = unknown.top.iter().chain(&unknown.info).map(String::as_str);
    for text in shown.into_iter().flatten().chain(keys) {
        assert!(text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t')), "{text:?}");
    }
    let mut seen = HashSet::new();
    for tier in metainfo.trackers() {
        assert!(!tier.is_empty() && tier.iter().all(|url| !url.is_empty() && seen.insert(url)));
    }
    assert!(metainfo.web_seeds().iter().chain(metainfo.http_seeds()).all(|url| !url.is_empty()));
}

fn files(metainfo: &Metainfo) {
    let layout = metainfo.layout();
    let (mut offset, mut paths) = (0, HashSet::new());
    for file in layout.file_indices() {
        let entry = layout.file(file);
        assert_eq!(entry.offset(), offset);
        offset += entry.len();
        let pieces = layout.pieces_of(file);
        assert_eq!(pieces.is_empty(), entry.is_empty());
        assert!(pieces.end <= layout.piece_count());
        if entry.is_padding() {
            continue;
        }
        let path = entry.path();
        assert!(path.components().all(|component| matches!(component, Component::Normal(_))), "{path:?}");
        assert!(path.starts_with(metainfo.name()) && path.iter().all(|name| name.len() <= 255), "{path:?}");
        assert_eq!(path.components().count() > 1, metainfo.is_multi_file());
        assert!(paths.insert(path.to_str().expect("repaired names are UTF-8").to_lowercase()), "{path:?} comes twice");
    }
    // No file stands where another's folder has to be.
    for path in &paths {
        assert!(Path::new(path).ancestors().skip(1).all(|folder| !paths.contains(folder.to_str().unwrap_or_default())));
    }
    assert_eq!(offset, layout.total_len());
}

fn pieces(metainfo: &Metainfo) {
    let layout = metainfo.layout();
    assert!(metainfo.info_bytes().len() >= layout.piece_count() as usize * 20, "no more pieces than hashes");
    let mut at = 0;
    for piece in layout.pieces() {
        metainfo.piece_hash(piece);
        assert_eq!(layout.piece_offset(piece), at);
        let len = layout.piece_len(piece);
        assert!((1..=layout.piece_length()).contains(&len));
        let mut upto = at;
        for segment in layout.segments(layout.whole(piece)) {
            let file = layout.file(segment.file);
            assert_eq!(file.offset() + segment.offset, upto);
            assert!(segment.len > 0 && segment.offset + u64::from(segment.len) <= file.len());
            upto += u64::from(segment.len);
        }
        at += u64::from(len);
        assert_eq!(upto, at);
        let last = layout.block(piece, layout.block_count(piece) - 1).expect("the last block");
        assert_eq!(last.begin + last.len, len);
        assert_eq!(layout.block(piece, layout.block_count(piece)), None);
        assert_eq!(layout.range(piece.get(), last.begin, last.len + 1), None);
    }
    assert_eq!(at, layout.total_len());
}

/// Makes a torrent of the same files.
fn create(metainfo: &Metainfo) {
    let layout = metainfo.layout();
    let entries: Vec<_> = layout.files().iter().filter(|file| !file.is_padding()).collect();
    let content = if metainfo.is_multi_file() {
        let new = |path: &Path| path.iter().skip(1).collect();
        let file = |file: &&_| {
            let file: &ropewalk::metainfo::FileEntry = file;
            NewFile { path: new(file.path()), len: file.len(), executable: file.attributes().executable }
        };
        Content::Folder(entries.iter().map(file).collect())
    } else {
        Content::File { len: layout.total_len(), executable: entries[0].attributes().executable }
    };
    let mut creation = Creation::new(metainfo.name(), content, layout.piece_length());
    creation.private = metainfo.is_private();
    creation.align = layout.files().len() > entries.len();
    creation.trackers = metainfo.trackers().to_vec();
    creation.web_seeds = metainfo.web_seeds().to_vec();
    creation.comment = metainfo.comment().map(str::to_owned);
    creation.created_by = metainfo.created_by().map(str::to_owned);
    creation.creation_date = metainfo.creation_date();
    creation.source = metainfo.source().map(str::to_owned);
    // A file of padding's name, nothing but padding, or many pieces of padding: refused, or too much work here.
    let Ok(prepared) = creation.prepare() else { return };
    if prepared.layout().piece_count() > 10_000 {
        return;
    }
    let hashes = vec![7; prepared.layout().piece_count() as usize * 20];
    let bytes = prepared.finish(&hashes).expect("as many hashes as pieces");
    let again = Metainfo::from_bytes(&bytes).expect("what was made can be read");
    assert_eq!(again.layout(), prepared.layout());
    assert_eq!(
        (again.name(), again.is_private(), again.is_multi_file(), again.trackers(), again.web_seeds()),
        (metainfo.name(), metainfo.is_private(), metainfo.is_multi_file(), metainfo.trackers(), metainfo.web_seeds())
    );
    assert_eq!(
        (again.comment(), again.created_by(), again.creation_date(), again.source()),
        (metainfo.comment(), metainfo.created_by(), metainfo.creation_date(), metainfo.source())
    );
}
