//! Both machines as a pair, over every way to cut what they say, and each of them alone with somebody hostile.

use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use ::rc4::{KeyInit, StreamCipher};

use super::dh::KEY_LEN;
use super::rc4::DROPPED;
use super::{
    Agreed, Answerer, CHOICE_LEN, Dialler, Entropy, Keys, MAX_PADDING, Method, Methods, MseError, PrivateKey, Rc4,
    VC_LEN, masked, torrent_name,
};
use crate::hash::{Sha1Hash, sha1};
use crate::metainfo::InfoHash;

const TORRENT: InfoHash = InfoHash::new([7; 20]);
/// More than a handshake can be without its IA.
const MOST: usize = KEY_LEN + MAX_PADDING + 2 * 20 + CHOICE_LEN + MAX_PADDING + 2;

fn entropy(key: u8, padding: u64) -> Entropy {
    Entropy::from_seed(&[key; 20], padding)
}

fn find(name: &Sha1Hash) -> Option<InfoHash> {
    (*name == torrent_name(&TORRENT)).then_some(TORRENT)
}

/// Where one direction of an agreed connection stands.
struct End {
    reading: Option<(Box<Rc4>, u64)>,
    writing: Option<Box<Rc4>>,
    early: Vec<u8>,
}

impl End {
    fn new(agreed: Agreed) -> Self {
        Self { reading: agreed.reading, writing: agreed.writing, early: agreed.early }
    }

    fn read(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = [std::mem::take(&mut self.early), bytes.to_vec()].concat();
        if let Some((cipher, left)) = &mut self.reading {
            let encrypted = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            cipher.apply(&mut bytes[..encrypted]);
            *left -= encrypted as u64;
        }
        bytes
    }

    fn write(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        if let Some(cipher) = &mut self.writing {
            cipher.apply(&mut bytes);
        }
        bytes
    }
}

/// Portions of these sizes, again and again.
fn cut<'a>(bytes: &'a [u8], steps: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let (mut rest, mut steps) = (bytes, steps.iter().cycle());
    std::iter::from_fn(move || {
        let (step, behind) = rest.split_at(rest.len().min(*steps.next()?));
        rest = behind;
        (!step.is_empty()).then_some(step)
    })
}

/// Lets both talk until hands are shaken; what comes behind the answerer's end stays in its early bytes.
fn shake(dialler: &mut Dialler, answerer: &mut Answerer, steps: &[usize]) -> Result<(Agreed, Agreed), MseError> {
    let (mut at_dialler, mut at_answerer) = (None, None);
    let mut in_flight = Vec::new();
    for _ in 0..8 {
        if let Some(bytes) = dialler.poll_transmit() {
            for part in cut(&bytes, steps) {
                match &mut at_answerer {
                    None => at_answerer = answerer.handle_bytes(part, find)?,
                    Some(Agreed { early, .. }) => early.extend_from_slice(part),
                }
            }
        }
        in_flight.extend(answerer.poll_transmit().unwrap_or_default());
        for part in cut(&std::mem::take(&mut in_flight), steps) {
            match &mut at_dialler {
                None => at_dialler = dialler.handle_bytes(part)?,
                Some(Agreed { early, .. }) => early.extend_from_slice(part),
            }
        }
        if at_dialler.is_some() && at_answerer.is_some() {
            break;
        }
    }
    Ok((at_dialler.expect("the dialler is done"), at_answerer.expect("the answerer is done")))
}

fn modes() -> impl Strategy<Value = (Methods, Methods)> {
    let one = || prop_oneof![proptest::prelude::Just(Methods::Any), proptest::prelude::Just(Methods::Rc4)];
    (one(), one())
}

proptest! {
    #[test]
    fn two_understand_each_other_however_their_bytes_are_cut_and_padded(
        (offer, takes) in modes(),
        keys in any::<(u8, u8)>(),
        padding in any::<(u64, u64)>(),
        first in proptest::collection::vec(any::<u8>(), 0..300),
        steps in proptest::collection::vec(1usize..700, 1..6),
    ) {
        // Private keys of which hardly a bit is set make public keys that are refused.
        let (a, b) = (keys.0 | 0x40, keys.1 | 0x40);
        let mut dialler = Dialler::new(entropy(a, padding.0), TORRENT, offer, first.clone());
        let mut answerer = Answerer::new(entropy(b, padding.1), takes);
        let (one, other) = shake(&mut dialler, &mut answerer, &steps).expect("both are honest");
        let both = if offer == Methods::Any && takes == Methods::Any { Method::Plaintext } else { Method::Rc4 };
        prop_assert_eq!((one.method, other.method), (both, both));
        prop_assert_eq!((one.info_hash, other.info_hash), (TORRENT, TORRENT));
        let (mut one, mut other) = (End::new(one), End::new(other));
        // What went with the handshake, then a word in each direction.
        let word = one.write(b"there");
        prop_assert_eq!(other.read(&word), [first.as_slice(), b"there"].concat());
        let word = other.write(b"and back");
        prop_assert_eq!(word == b"and back", both == Method::Plaintext);
        prop_assert_eq!(one.read(&word), b"and back");
    }

    #[test]
    fn garbage_ends_the_handshake_within_bounds(
        bytes in proptest::collection::vec(any::<u8>(), MOST..MOST + 500),
        steps in proptest::collection::vec(1usize..300, 1..5),
    ) {
        let mut answerer = Answerer::new(entropy(1, 2), Methods::Any);
        let ended = cut(&bytes, &steps).find_map(|part| answerer.handle_bytes(part, find).err());
        prop_assert!(ended.is_some());
        let mut dialler = Dialler::new(entropy(1, 2), TORRENT, Methods::Any, Vec::new());
        let ended = cut(&bytes, &steps).find_map(|part| dialler.handle_bytes(part).err());
        prop_assert!(ended.is_some());
        prop_assert!(dialler.input.bytes.len() + answerer.input.bytes.len() < 2 * (MOST + 300));
    }
}

#[test]
fn every_single_cut_of_what_both_say_is_understood() {
    // Where a cut may matter, padding is of no interest: the longest handshake has three places for it.
    for at in 1..MOST {
        let mut dialler = Dialler::new(entropy(3, 4), TORRENT, Methods::Any, b"first".to_vec());
        let mut answerer = Answerer::new(entropy(5, 6), Methods::Rc4);
        let (one, other) = shake(&mut dialler, &mut answerer, &[at, usize::MAX]).expect("both are honest");
        assert_eq!((one.method, End::new(other).read(&[])), (Method::Rc4, b"first".to_vec()));
    }
}

#[test]
fn nothing_is_said_of_the_torrent_before_the_keys_are_exchanged() {
    let mut dialler = Dialler::new(entropy(1, 1), TORRENT, Methods::Any, b"first".to_vec());
    let hello = dialler.poll_transmit().expect("a public key");
    assert!((KEY_LEN..=KEY_LEN + MAX_PADDING).contains(&hello.len()));
    assert!(dialler.poll_transmit().is_none() && !dialler.is_understood());
    assert!(Answerer::new(entropy(1, 1), Methods::Any).poll_transmit().is_none(), "who is called waits");
}

/// Somebody who knows the torrent and the protocol, and says what it likes.
struct Liar {
    private: PrivateKey,
    secret: [u8; KEY_LEN],
}

impl Liar {
    /// Calls an answerer.
    fn call(answerer: &mut Answerer) -> Self {
        let private = PrivateKey::new(&[9; 20]);
        assert!(answerer.handle_bytes(&private.public(), find).expect("a key").is_none());
        let reply = answerer.poll_transmit().expect("its key");
        let secret = private.shared(reply.first_chunk().expect("its key")).expect("a good key");
        Self { private, secret }
    }

    /// Has a dialler call.
    fn answer(dialler: &mut Dialler) -> Self {
        let private = PrivateKey::new(&[9; 20]);
        let hello = dialler.poll_transmit().expect("its key");
        let secret = private.shared(hello.first_chunk().expect("its key")).expect("a good key");
        assert!(dialler.handle_bytes(&private.public()).expect("a key").is_none());
        assert!(dialler.is_understood());
        Self { private, secret }
    }

    fn proof(&self) -> Vec<u8> {
        sha1([b"req1", self.secret.as_slice()]).to_vec()
    }

    fn name(&self, info_hash: InfoHash) -> Vec<u8> {
        masked(&torrent_name(&info_hash), &self.secret).to_vec()
    }

    fn encrypted(&self, dials: bool, verification: [u8; VC_LEN], methods: u32, padding: u16) -> Vec<u8> {
        let mut keys = Keys::new(&self.secret, &TORRENT, dials);
        let mut bytes = [&verification[..], &methods.to_be_bytes(), &padding.to_be_bytes()].concat();
        keys.outgoing.apply(&mut bytes);
        bytes
    }
}

fn call_with(takes: Methods, say: impl Fn(&Liar) -> Vec<u8>) -> Result<Option<Agreed>, MseError> {
    let mut answerer = Answerer::new(entropy(1, 2), takes);
    let liar = Liar::call(&mut answerer);
    assert_ne!(liar.private.public(), [0; KEY_LEN]);
    answerer.handle_bytes(&say(&liar), find)
}

fn offer(padding: usize, methods: u32, claimed: u16) -> impl Fn(&Liar) -> Vec<u8> {
    move |liar| {
        let encrypted = liar.encrypted(true, [0; VC_LEN], methods, claimed);
        [vec![1; padding], liar.proof(), liar.name(TORRENT), encrypted].concat()
    }
}

#[test]
fn callers_are_held_to_the_bounds() {
    assert!(call_with(Methods::Any, offer(MAX_PADDING, 3, 0)).is_ok());
    let over = call_with(Methods::Any, offer(MAX_PADDING + 1, 3, 0));
    assert_eq!(over.err(), Some(MseError::Padding));
    let endless = call_with(Methods::Any, |_| vec![1; MAX_PADDING + 20]);
    assert_eq!(endless.err(), Some(MseError::Padding));
    let claimed = call_with(Methods::Any, offer(0, 3, MAX_PADDING as u16 + 1));
    assert_eq!(claimed.err(), Some(MseError::Padding));
}

#[test]
fn callers_with_nothing_in_common_are_refused() {
    for (takes, provided) in [(Methods::Rc4, 1), (Methods::Any, 0), (Methods::Any, 4), (Methods::Rc4, !2)] {
        assert_eq!(call_with(takes, offer(0, provided, 0)).err(), Some(MseError::Method), "{takes:?} {provided}");
    }
    let unknown = call_with(Methods::Any, |liar| [liar.proof(), liar.name(InfoHash::new([8; 20]))].concat());
    assert_eq!(unknown.err(), Some(MseError::UnknownTorrent));
    let wrong = call_with(Methods::Any, |liar| {
        [liar.proof(), liar.name(TORRENT), liar.encrypted(true, [1; VC_LEN], 3, 0)].concat()
    });
    assert_eq!(wrong.err(), Some(MseError::Verification));
}

#[test]
fn who_is_dialled_is_held_to_the_bounds_and_to_what_was_offered() {
    let answer = |offer: Methods, padding: usize, selected: u32, claimed: u16| {
        let mut dialler = Dialler::new(entropy(1, 2), TORRENT, offer, Vec::new());
        let liar = Liar::answer(&mut dialler);
        let said = [vec![1; padding], liar.encrypted(false, [0; VC_LEN], selected, claimed)].concat();
        dialler.handle_bytes(&said)
    };
    assert!(answer(Methods::Any, MAX_PADDING, 1, 0).is_ok_and(|agreed| agreed.is_some()));
    assert!(answer(Methods::Any, 0, 2, 512).is_ok_and(|agreed| agreed.is_none()), "its padding is still to come");
    for (offer, padding, selected, claimed, error) in [
        (Methods::Any, MAX_PADDING + 1, 1, 0, MseError::Padding),
        (Methods::Any, 0, 1, 513, MseError::Padding),
        (Methods::Any, 0, 3, 0, MseError::Method),
        (Methods::Any, 0, 0, 0, MseError::Method),
        (Methods::Rc4, 0, 1, 0, MseError::Method),
    ] {
        assert_eq!(answer(offer, padding, selected, claimed).err(), Some(error));
    }
}

#[test]
fn keys_that_tell_the_secret_end_the_handshake() {
    for key in [[0; KEY_LEN], [0xff; KEY_LEN]] {
        let mut answerer = Answerer::new(entropy(1, 2), Methods::Any);
        assert_eq!(answerer.handle_bytes(&key, find).err(), Some(MseError::PublicKey));
        let mut dialler = Dialler::new(entropy(1, 2), TORRENT, Methods::Any, Vec::new());
        assert_eq!(dialler.handle_bytes(&key).err(), Some(MseError::PublicKey));
    }
}

#[test]
fn a_slow_drip_is_searched_once() {
    let mut answerer = Answerer::new(entropy(1, 2), Methods::Any);
    Liar::call(&mut answerer);
    for dripped in 1..MAX_PADDING + 20 {
        assert!(answerer.handle_bytes(&[1], find).is_ok_and(|agreed| agreed.is_none()));
        assert!(answerer.input.searched + 20 > dripped);
    }
    assert_eq!(answerer.handle_bytes(&[1], find).err(), Some(MseError::Padding));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 6229; its offset 1024 is where the key stream begins here.
#[test]
fn the_key_stream_of_rc4_is_that_of_the_vectors() {
    for (len, at_1024, at_4096) in [
        (5, "30abbcc7c20b01609f23ee2d5f6bb7df", "ff25b58995996707e51fbdf08b34d875"),
        (16, "bdf0324e6083dcc6d3cedd3ca8c53c16", "a36a4c301ae8ac13610ccbc12256cacc"),
        (32, "7fec5bfd9f9b89ce6548309092d7e958", "f3e4c0a2e02d1d01f7f0a74618af2b48"),
    ] {
        let key: Vec<u8> = (1..=len).collect();
        let mut stream = [0; 4096 - DROPPED + 16];
        Rc4::with_key(&key).apply(&mut stream);
        assert_eq!(hex(&stream[..16]), at_1024);
        assert_eq!(hex(&stream[4096 - DROPPED..]), at_4096);
    }
}

proptest! {
    #[test]
    fn rc4_agrees_with_the_crate_however_the_bytes_are_cut(
        key in any::<[u8; 20]>(),
        parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 0..8),
    ) {
        let mut ours = Rc4::new(&key);
        let mut oracle = ::rc4::Rc4::new_from_slice(&key).expect("a length that it takes");
        oracle.apply_keystream(&mut [0; DROPPED]);
        for part in parts {
            let (mut got, mut expected) = (part.clone(), part);
            ours.apply(&mut got);
            oracle.apply_keystream(&mut expected);
            prop_assert_eq!(got, expected);
        }
    }
}
