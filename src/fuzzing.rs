//! What the fuzz targets in `tests/fuzz` need to see of the inside.
//!
//! It is compiled with `--cfg fuzzing`, as cargo-fuzz does, and is part of no other build: the crate's interface should
//! not grow for its tests.

use crate::bencode::{self, DecodeError, Tree};
use crate::metainfo::{InfoHash, Layout};
use crate::net::mse::{Answerer, Dialler, Entropy, Method, Methods, MseError, torrent_name};
use crate::storage::resume::Journal;
use crate::tracker::IpNetwork;
pub use crate::tracker::{FUZZ_KEY, FuzzPacket};

/// [`bencode::decode`] by its second scan alone, which otherwise only sees what `bendy` refuses.
pub fn decode_in_any_order(source: &[u8]) -> Result<(Tree<'_>, &[u8]), DecodeError> {
    bencode::decode_in_any_order(source)
}

/// Decodes a resume journal and encodes it again; `None` where it is refused.
pub fn resume(bytes: &[u8], info_hash: InfoHash, layout: &Layout) -> Option<Vec<u8>> {
    Journal::decode(bytes, info_hash, layout).ok().map(|journal| journal.encode())
}

/// What came of one side of an encrypted handshake: whether the connection goes on in RC4 and how many bytes came behind
/// the handshake, an error in words, or `None` where it waits for more.
pub type Shaken = Option<Result<(bool, usize), String>>;

/// Has both sides of an encrypted handshake talk, in portions of `step` bytes (not 0). What the dialling side says is
/// changed by the first mask, what the other says by the second, byte by byte: what is encrypted changes as the mask does,
/// so that nothing behind the key exchange is out of reach.
pub fn encrypted_handshake(modes: u8, masks: [&[u8]; 2], step: usize) -> [Shaken; 2] {
    let torrent = InfoHash::new([7; 20]);
    let methods = |bit| if modes & bit == 0 { Methods::Any } else { Methods::Rc4 };
    let find = |name: &[u8; 20]| (*name == torrent_name(&torrent)).then_some(torrent);
    let mut dialler =
        Dialler::new(Entropy::from_seed(&[1; 20], 1), torrent, methods(1), vec![9; usize::from(modes >> 2)]);
    let mut answerer = Answerer::new(Entropy::from_seed(&[2; 20], 2), methods(2));
    let (mut shaken, mut sent) = ([None, None], [0, 0]);
    // Each side speaks twice at most.
    for _ in 0..3 {
        let said = masked(dialler.poll_transmit(), masks[0], &mut sent[0]);
        take_in(&said, step, &mut shaken[1], |part| {
            Ok(answerer.handle_bytes(part, find)?.map(|agreed| (agreed.method == Method::Rc4, agreed.early.len())))
        });
        let said = masked(answerer.poll_transmit(), masks[1], &mut sent[1]);
        take_in(&said, step, &mut shaken[0], |part| {
            Ok(dialler.handle_bytes(part)?.map(|agreed| (agreed.method == Method::Rc4, agreed.early.len())))
        });
    }
    shaken
}

/// Has a connection of uTP, dialled or called, hear packets; see there for the layout.
pub fn utp_packets(dialled: bool, bytes: &[u8]) {
    crate::net::utp::fuzz::hear(dialled, bytes);
}

/// The requests to a tracker that these bytes begin with: how long they are together, and an answer to each. Where
/// `behind_proxy`, whoever sends them is believed on where they come from.
pub fn tracker_requests(bytes: &[u8], behind_proxy: bool) -> (usize, Vec<Vec<u8>>) {
    let all = IpNetwork::new([0, 0, 0, 0].into(), 0);
    crate::tracker::fuzz_requests(bytes, all.filter(|_| behind_proxy).as_slice())
}

/// Has trackers, of which one wants a key, answer packets over UDP, and gives what they answer to each.
pub fn tracker_packets<'a>(packets: impl Iterator<Item = FuzzPacket<'a>>) -> Vec<Vec<Vec<u8>>> {
    crate::tracker::fuzz_packets(packets)
}

fn masked(said: Option<Vec<u8>>, mask: &[u8], sent: &mut usize) -> Vec<u8> {
    let mut said = said.unwrap_or_default();
    for (byte, mask) in said.iter_mut().zip(mask.iter().skip(*sent)) {
        *byte ^= mask;
    }
    *sent += said.len();
    said
}

fn take_in(
    said: &[u8],
    step: usize,
    shaken: &mut Shaken,
    mut handle: impl FnMut(&[u8]) -> Result<Option<(bool, usize)>, MseError>,
) {
    for part in said.chunks(step) {
        match shaken {
            None => *shaken = handle(part).map_err(|error| error.to_string()).transpose(),
            Some(Ok((_, early))) => *early += part.len(),
            Some(Err(_)) => {}
        }
    }
}
