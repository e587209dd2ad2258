//! The key exchange of message stream encryption: Diffie-Hellman with the 768-bit prime of RFC 2409 and the generator 2.
//!
//! It owns the numbers and refuses keys of the other side that would make the secret known to everybody. Numbers on the
//! wire and in hashes are 96 bytes, most significant first, zeros in front included.

use crypto_bigint::modular::{ConstMontyForm, ConstMontyParams};
use crypto_bigint::{U192, U768, const_monty_params};

/// The length of a public key and of the shared secret, in bytes.
pub(crate) const KEY_LEN: usize = 96;
/// The length of a private key, in bytes: twice what the group is good for.
pub(crate) const PRIVATE_LEN: usize = 20;

const_monty_params!(
    Prime,
    U768,
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
     020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
     4FE1356D6D51C245E485B576625E7EC6F44C42E9A63A36210000000000090563"
);

type Residue = ConstMontyForm<Prime, { U768::LIMBS }>;

/// A public key or a shared secret as bytes.
pub(crate) type KeyBytes = [u8; KEY_LEN];

/// A private key.
pub(crate) struct PrivateKey(U192);

impl PrivateKey {
    /// The key of these bytes, which nobody may be able to guess.
    pub(crate) fn new(bytes: &[u8; PRIVATE_LEN]) -> Self {
        let mut wide = [0; U192::BYTES];
        wide[U192::BYTES - PRIVATE_LEN..].copy_from_slice(bytes);
        Self(U192::from_be_slice(&wide))
    }

    /// What the other side is sent.
    pub(crate) fn public(&self) -> KeyBytes {
        self.raise(&U768::from_u8(2))
    }

    /// What both sides know; `None` for a key of theirs with which everybody would know it (0, 1, -1 and what is no
    /// residue).
    pub(crate) fn shared(&self, theirs: &KeyBytes) -> Option<KeyBytes> {
        let theirs = U768::from_be_slice(theirs);
        let last = Prime::PARAMS.modulus().get().wrapping_sub(&U768::ONE);
        (theirs > U768::ONE && theirs < last).then(|| self.raise(&theirs))
    }

    /// In a time that depends on neither number.
    fn raise(&self, base: &U768) -> KeyBytes {
        let power = Residue::new(base).pow_bounded_exp(&self.0, 8 * PRIVATE_LEN as u32);
        let mut bytes = [0; KEY_LEN];
        bytes.copy_from_slice(power.retrieve().to_be_bytes().as_ref());
        bytes
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::{KEY_LEN, KeyBytes, Prime, PrivateKey};
    use crypto_bigint::U768;
    use crypto_bigint::modular::ConstMontyParams;

    fn key(number: &U768) -> KeyBytes {
        number.to_be_bytes().as_ref().try_into().expect("96 bytes")
    }

    fn below_prime(less: u8) -> KeyBytes {
        key(&Prime::PARAMS.modulus().get().wrapping_sub(&U768::from_u8(less)))
    }

    #[test]
    fn keys_that_would_tell_the_secret_are_refused() {
        let private = PrivateKey::new(&[7; 20]);
        let above = key(&U768::MAX);
        for refused in [key(&U768::ZERO), key(&U768::ONE), below_prime(1), below_prime(0), above] {
            assert!(private.shared(&refused).is_none());
        }
        for taken in [key(&U768::from_u8(2)), below_prime(2)] {
            assert!(private.shared(&taken).is_some());
        }
    }

    #[test]
    fn small_powers_are_what_they_should_be_with_zeros_in_front() {
        let mut three = [0; 20];
        three[19] = 3;
        let mut eight = [0; KEY_LEN];
        eight[KEY_LEN - 1] = 8;
        assert_eq!(PrivateKey::new(&three).public(), eight);
    }

    proptest! {
        #[test]
        fn both_sides_find_the_same_secret(one: [u8; 20], other: [u8; 20]) {
            // Keys of which almost all bits are zero make public keys that are refused.
            let (one, other) = ([&[0x80][..], &one[1..]].concat(), [&[0x80][..], &other[1..]].concat());
            let one = PrivateKey::new(&one.try_into().expect("20 bytes"));
            let other = PrivateKey::new(&other.try_into().expect("20 bytes"));
            let secret = one.shared(&other.public());
            prop_assert_eq!(secret, other.shared(&one.public()));
            prop_assert_eq!(secret.map(|secret| secret.len()), Some(96));
        }
    }
}
