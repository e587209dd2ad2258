//! Items that the DHT stores for anybody (BEP 44): a value under its own hash, or one that its author's key signs and may
//! replace.
//!
//! It owns the limits, what is signed, and where an item belongs. It refuses to store, and to draw keys: their 32 secret
//! bytes come from the caller.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use super::krpc::NodeId;
use crate::bencode;
use crate::hash::sha1;

/// The longest value, in bytes of its bencoding.
pub const MAX_VALUE_LEN: usize = 1000;

/// The longest salt, in bytes.
pub const MAX_SALT_LEN: usize = 64;

/// A value: bencode of at most [`MAX_VALUE_LEN`] bytes, kept as it was written.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ItemValue(Vec<u8>);

impl ItemValue {
    /// The value that these bytes are the bencoding of.
    ///
    /// Keys may be unsorted: what counts are the bytes, which everybody hashes and signs as they came.
    pub fn from_bencode(bytes: &[u8]) -> Result<Self, ItemError> {
        if bytes.len() > MAX_VALUE_LEN {
            return Err(ItemError::ValueTooLong { len: bytes.len() });
        }
        match bencode::decode(bytes) {
            Ok((_, [])) => Ok(Self(bytes.to_vec())),
            _ => Err(ItemError::NotBencode),
        }
    }

    /// The value that is this byte string, at most 996 bytes of it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ItemError> {
        let encoded = bencode::Item::bytes(bytes).to_bytes();
        if encoded.len() > MAX_VALUE_LEN {
            return Err(ItemError::ValueTooLong { len: encoded.len() });
        }
        Ok(Self(encoded))
    }

    /// The bencoding.
    pub fn as_bencode(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for ItemValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

/// What makes an item mutable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signed {
    /// The author's public key.
    pub key: [u8; 32],
    /// Tells the items of one author apart; empty where there is one only, at most [`MAX_SALT_LEN`] bytes. A reply does
    /// not carry it (BEP 44): whoever asked knows it.
    pub salt: Vec<u8>,
    /// Grows with each version.
    pub seq: i64,
    /// The ed25519 signature of salt, sequence number and value.
    pub signature: [u8; 64],
}

/// An item as somebody sent it: nobody has looked at the signature yet, which is dear.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnverifiedItem {
    /// The value.
    pub value: ItemValue,
    /// What a mutable item has besides; `None` for one that is named by its hash.
    pub signed: Option<Signed>,
}

impl UnverifiedItem {
    /// Where it belongs: the hash of the value, or of key and salt.
    pub fn target(&self) -> NodeId {
        match &self.signed {
            None => immutable_target(&self.value),
            Some(signed) => mutable_target(&signed.key, &signed.salt),
        }
    }

    /// Checks salt and signature.
    pub fn verify(self) -> Result<Item, ItemError> {
        if let Some(signed) = &self.signed {
            let buffer = signature_buffer(&signed.salt, signed.seq, &self.value)?;
            // `verify_strict` would refuse keys and signatures that others accept, and differ from them on what is stored.
            VerifyingKey::from_bytes(&signed.key)
                .and_then(|key| {
                    ed25519_dalek::Verifier::verify(&key, &buffer, &Signature::from_bytes(&signed.signature))
                })
                .map_err(|_| ItemError::Signature)?;
        }
        Ok(Item(self))
    }
}

/// An item that is what it says: its signature, where it has one, is right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item(UnverifiedItem);

impl Item {
    /// An item that is named by the hash of its value.
    pub fn immutable(value: ItemValue) -> Self {
        Self(UnverifiedItem { value, signed: None })
    }

    /// A mutable item, signed with this secret key.
    pub fn sign(secret: &[u8; 32], salt: &[u8], seq: i64, value: ItemValue) -> Result<Self, ItemError> {
        let buffer = signature_buffer(salt, seq, &value)?;
        let secret = SigningKey::from_bytes(secret);
        let signed = Signed {
            key: secret.verifying_key().to_bytes(),
            salt: salt.to_vec(),
            seq,
            signature: secret.sign(&buffer).to_bytes(),
        };
        Ok(Self(UnverifiedItem { value, signed: Some(signed) }))
    }

    /// Where it belongs: the hash of the value, or of key and salt.
    pub fn target(&self) -> NodeId {
        self.0.target()
    }

    /// The value.
    pub fn value(&self) -> &ItemValue {
        &self.0.value
    }

    /// Key, salt, number and signature of a mutable item.
    pub fn signed(&self) -> Option<&Signed> {
        self.0.signed.as_ref()
    }

    /// The sequence number of a mutable item.
    pub fn seq(&self) -> Option<i64> {
        self.signed().map(|signed| signed.seq)
    }

    /// As it is sent.
    pub fn as_unverified(&self) -> &UnverifiedItem {
        &self.0
    }

    /// Whether this item may take the place of `stored`, which lies under the same target; `cas` is the sequence number
    /// that the author believes to replace.
    ///
    /// The same value with the same number is taken: that only makes it younger.
    pub fn may_replace(&self, stored: &Self, cas: Option<i64>) -> Result<(), Outdated> {
        let (Some(new), Some(old)) = (self.seq(), stored.seq()) else { return Ok(()) };
        if cas.is_some_and(|cas| cas != old) {
            return Err(Outdated::Swapped { stored: old });
        }
        if new < old || (new == old && self.value() != stored.value()) {
            return Err(Outdated::Sequence { stored: old });
        }
        Ok(())
    }
}

/// Why an item does not replace what is stored (BEP 44).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Outdated {
    /// Another version is stored than `cas` says.
    #[error("version {stored} is stored, which is another than `cas` says")]
    Swapped {
        /// Its sequence number.
        stored: i64,
    },
    /// A later version is stored, or another value with the same number.
    #[error("version {stored} is stored")]
    Sequence {
        /// Its sequence number.
        stored: i64,
    },
}

/// The public key of a secret one.
pub fn public_key(secret: &[u8; 32]) -> [u8; 32] {
    SigningKey::from_bytes(secret).verifying_key().to_bytes()
}

/// Where an immutable item belongs: the SHA-1 of its bencoding.
pub fn immutable_target(value: &ItemValue) -> NodeId {
    NodeId::new(sha1([value.as_bencode()]))
}

/// Where the mutable item of this public key and salt belongs: the SHA-1 of both.
pub fn mutable_target(key: &[u8; 32], salt: &[u8]) -> NodeId {
    NodeId::new(sha1([key.as_slice(), salt]))
}

/// Why something is no item.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ItemError {
    /// The value is too long.
    #[error("value of {len} bytes, at most {MAX_VALUE_LEN} can be stored")]
    ValueTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The value is not bencode, or something follows it.
    #[error("value that is not bencode")]
    NotBencode,
    /// The salt is too long.
    #[error("salt of {len} bytes, at most {MAX_SALT_LEN} are allowed")]
    SaltTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The signature is wrong, or the key is none.
    #[error("signature that is wrong")]
    Signature,
}

/// What is signed (BEP 44): salt where there is one, sequence number and value, each bencoded by itself.
fn signature_buffer(salt: &[u8], seq: i64, value: &ItemValue) -> Result<Vec<u8>, ItemError> {
    if salt.len() > MAX_SALT_LEN {
        return Err(ItemError::SaltTooLong { len: salt.len() });
    }
    let mut buffer = Vec::with_capacity(MAX_VALUE_LEN + 2 * MAX_SALT_LEN);
    if !salt.is_empty() {
        buffer.extend(format!("4:salt{}:", salt.len()).bytes());
        buffer.extend(salt);
    }
    buffer.extend(format!("3:seqi{seq}e1:v").bytes());
    buffer.extend(value.as_bencode());
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

    use super::{
        Item, ItemError, ItemValue, MAX_SALT_LEN, MAX_VALUE_LEN, Outdated, Signed, UnverifiedItem, public_key,
        signature_buffer,
    };

    /// The public key and the signatures of BEP 44's vectors, without salt and with `foobar`. The vectors' private key is
    /// in a form from which no seed follows, so that they can be verified but not signed.
    const KEY: &str = "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548";
    const PLAIN: &str = "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff\
        1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01";
    const SALTED: &str = "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17d\
        df9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08";

    fn bytes<const N: usize>(digits: &str) -> [u8; N] {
        std::array::from_fn(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
    }

    fn hello() -> ItemValue {
        ItemValue::from_bencode(b"12:Hello World!").unwrap()
    }

    fn vector(salt: &[u8], signature: &str) -> UnverifiedItem {
        let signed = Signed { key: bytes(KEY), salt: salt.to_vec(), seq: 1, signature: bytes(signature) };
        UnverifiedItem { value: hello(), signed: Some(signed) }
    }

    #[test]
    fn the_vectors_of_bep_44_are_right() {
        assert_eq!(signature_buffer(b"", 1, &hello()).unwrap(), b"3:seqi1e1:v12:Hello World!");
        assert_eq!(signature_buffer(b"foobar", 1, &hello()).unwrap(), b"4:salt6:foobar3:seqi1e1:v12:Hello World!");
        let plain = vector(b"", PLAIN).verify().unwrap();
        assert_eq!(plain.target().to_string(), "4a533d47ec9c7d95b1ad75f576cffc641853b750");
        let salted = vector(b"foobar", SALTED).verify().unwrap();
        assert_eq!(salted.target().to_string(), "411eba73b6f087ca51a3795d9c8c938d365e32c1");
        let immutable = Item::immutable(hello());
        assert_eq!(immutable.target().to_string(), "e5f96f6f38320f0f33959cb4d3d656452117aadb");
    }

    #[test]
    fn a_signature_holds_for_its_salt_number_and_value_only() {
        assert_eq!(vector(b"foobar", PLAIN).verify(), Err(ItemError::Signature));
        assert_eq!(vector(b"", SALTED).verify(), Err(ItemError::Signature));
        let mut later = vector(b"", PLAIN);
        later.signed.as_mut().unwrap().seq = 2;
        assert_eq!(later.verify(), Err(ItemError::Signature));
        let mut other = vector(b"", PLAIN);
        other.value = ItemValue::from_bytes(b"Hello world!").unwrap();
        assert_eq!(other.verify(), Err(ItemError::Signature));
        let mut no_key = vector(b"", PLAIN);
        no_key.signed.as_mut().unwrap().key = [0xff; 32];
        assert_eq!(no_key.verify(), Err(ItemError::Signature));
        assert_eq!(vector(&[0; 65], PLAIN).verify(), Err(ItemError::SaltTooLong { len: 65 }));
    }

    #[test]
    fn a_value_is_one_bencoded_thing_of_at_most_1000_bytes() {
        for right in [b"i1e".as_slice(), b"0:", b"de", b"d1:bi1e1:ai2ee", b"lli1eee"] {
            assert_eq!(ItemValue::from_bencode(right).unwrap().as_bencode(), right);
        }
        for wrong in [b"".as_slice(), b"i1", b"i1ei2e", b"hello"] {
            assert_eq!(ItemValue::from_bencode(wrong), Err(ItemError::NotBencode));
        }
        assert_eq!(ItemValue::from_bytes(&[b'x'; 996]).unwrap().as_bencode().len(), MAX_VALUE_LEN);
        assert_eq!(ItemValue::from_bytes(&[b'x'; 997]), Err(ItemError::ValueTooLong { len: 1001 }));
        assert_eq!(ItemValue::from_bencode(&[b'l'; 1001]), Err(ItemError::ValueTooLong { len: 1001 }));
    }

    #[test]
    fn only_a_later_version_takes_the_place_of_another() {
        let item = |seq, value: &[u8]| Item::sign(&[1; 32], b"", seq, ItemValue::from_bytes(value).unwrap()).unwrap();
        let stored = item(5, b"five");
        assert_eq!(item(6, b"six").may_replace(&stored, None), Ok(()));
        assert_eq!(item(6, b"six").may_replace(&stored, Some(5)), Ok(()));
        assert_eq!(item(6, b"six").may_replace(&stored, Some(4)), Err(Outdated::Swapped { stored: 5 }));
        assert_eq!(item(5, b"five").may_replace(&stored, None), Ok(()));
        assert_eq!(item(5, b"other").may_replace(&stored, None), Err(Outdated::Sequence { stored: 5 }));
        assert_eq!(item(4, b"four").may_replace(&stored, None), Err(Outdated::Sequence { stored: 5 }));
    }

    proptest! {
        // Signatures are slow where the code is not optimised.
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn what_is_signed_verifies_and_one_changed_bit_does_not(
            secret: [u8; 32], salt in vec(any::<u8>(), 0..=MAX_SALT_LEN), seq in 0i64.., value in vec(any::<u8>(), 0..900),
            bit in 0usize..512,
        ) {
            let item = Item::sign(&secret, &salt, seq, ItemValue::from_bytes(&value).unwrap()).unwrap();
            prop_assert_eq!(item.signed().unwrap().key, public_key(&secret));
            let mut unverified = item.as_unverified().clone();
            prop_assert_eq!(unverified.clone().verify(), Ok(item));
            unverified.signed.as_mut().unwrap().signature[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(unverified.verify().is_err());
        }
    }
}
