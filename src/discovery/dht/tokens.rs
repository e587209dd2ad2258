//! Tokens: what a node must show to store something, so that it cannot do so in the name of another address (BEP 5).
//!
//! A token is a keyed hash of the address and of the time in steps of 5 minutes, good for this step and the next. Nothing
//! is kept for those who ask.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::hash::sha1;

/// How long one secret is given out; it is accepted for as long again (BEP 5: "up to ten minutes").
const STEP: Duration = Duration::from_secs(5 * 60);

/// The length of a token in bytes.
pub(super) const TOKEN_LEN: usize = 8;

pub(super) struct Tokens {
    key: [u8; 20],
    start: Instant,
}

impl Tokens {
    /// `key` must not be guessable from anything else that is sent.
    pub(super) fn new(key: [u8; 20], now: Instant) -> Self {
        Self { key, start: now }
    }

    /// The token of an address at this time.
    pub(super) fn issue(&self, ip: IpAddr, now: Instant) -> [u8; TOKEN_LEN] {
        self.token(ip, self.step(now))
    }

    /// Whether this address was given the token at most two steps ago.
    pub(super) fn accepts(&self, token: &[u8], ip: IpAddr, now: Instant) -> bool {
        let step = self.step(now);
        token == self.token(ip, step) || step.checked_sub(1).is_some_and(|last| token == self.token(ip, last))
    }

    fn step(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / STEP.as_secs()
    }

    fn token(&self, ip: IpAddr, step: u64) -> [u8; TOKEN_LEN] {
        let (v4, v6);
        let octets = match ip.to_canonical() {
            IpAddr::V4(ip) => {
                v4 = ip.octets();
                &v4[..]
            }
            IpAddr::V6(ip) => {
                v6 = ip.octets();
                &v6[..]
            }
        };
        // All but 8 bytes of the hash stay here, so nobody can continue it from what is sent.
        let hash = sha1([&self.key, &step.to_be_bytes()[..], octets]);
        std::array::from_fn(|at| hash[at])
    }
}

impl std::fmt::Debug for Tokens {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    use super::Tokens;

    #[test]
    fn a_token_is_good_for_its_address_for_five_to_ten_minutes() {
        let now = Instant::now();
        let tokens = Tokens::new([7; 20], now);
        let (one, other): (IpAddr, IpAddr) = ("1.2.3.4".parse().unwrap(), "1.2.3.5".parse().unwrap());
        let minutes = |minutes: u64| now + Duration::from_secs(60 * minutes);
        for (issued, good, bad) in [(0, 9, 10), (4, 9, 10), (5, 14, 15)] {
            let token = tokens.issue(one, minutes(issued));
            assert!(tokens.accepts(&token, one, minutes(good)), "issued at {issued}, shown at {good}");
            assert!(!tokens.accepts(&token, one, minutes(bad)), "issued at {issued}, shown at {bad}");
            assert!(!tokens.accepts(&token, other, minutes(issued)));
            assert!(!tokens.accepts(&token[..7], one, minutes(issued)));
        }
        assert!(!tokens.accepts(b"", one, now));
    }

    #[test]
    fn tokens_differ_between_keys_and_forget_how_an_address_is_written() {
        let now = Instant::now();
        let ip: IpAddr = "1.2.3.4".parse().unwrap();
        let mapped: IpAddr = "::ffff:1.2.3.4".parse().unwrap();
        let tokens = Tokens::new([7; 20], now);
        assert_ne!(tokens.issue(ip, now), Tokens::new([8; 20], now).issue(ip, now));
        assert_eq!(tokens.issue(ip, now), tokens.issue(mapped, now));
    }
}
