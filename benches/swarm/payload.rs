//! The payload: a pattern that is made as it is sent, and its torrent.

use ropewalk::hash::sha1;
use ropewalk::metainfo::{Content, Creation};

use crate::args::Args;

/// The payload repeats after so many bytes, which is no multiple of a piece: no two pieces are alike.
const PERIOD: usize = (1 << 20) + 4099;
/// The most bytes of one request.
const MOST: usize = 128 << 10;

pub(crate) fn make_torrent(args: &Args, tracker: &str) -> anyhow::Result<Vec<u8>> {
    let (len, piece) = (args.size() << 20, args.piece << 10);
    let pattern = pattern();
    let mut creation = Creation::new("swarm.bin", Content::File { len, executable: false }, piece);
    creation.trackers = vec![vec![tracker.to_owned()]];
    let mut hashes = Vec::new();
    let mut content = Vec::new();
    for start in (0..len).step_by(piece as usize) {
        content.clear();
        let end = (start + u64::from(piece)).min(len);
        for at in (start..end).step_by(MOST) {
            content.extend(slice(&pattern, at, (end - at).min(MOST as u64) as usize));
        }
        hashes.extend(sha1([&content[..]]));
    }
    Ok(creation.prepare()?.finish(&hashes)?)
}

/// The payload, as far as it does not repeat, and then so much of its start that every request is in one piece.
pub(crate) fn pattern() -> Vec<u8> {
    let mut bytes = vec![0; PERIOD];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    bytes.extend_from_within(..MOST);
    bytes
}

pub(crate) fn slice(pattern: &[u8], at: u64, len: usize) -> &[u8] {
    let start = (at % PERIOD as u64) as usize;
    &pattern[start..start + len]
}
