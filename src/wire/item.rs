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
