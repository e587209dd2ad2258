//! The word that announce URLs must have, where a tracker is not for everybody.

use std::fmt;
use std::str::FromStr;

/// The longest key, so that an announce URL stays one that can be read out.
const MAX_LEN: usize = 100;

/// A word that stands in the path of announce URLs: 1 to 100 letters, digits and `-._~`, which need no escapes there. It is a
/// secret of those who may announce; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey(Box<str>);

impl AccessKey {
    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessKey(..)")
    }
}

/// Not a word that can be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is 1 to 100 letters, digits and -._~")]
pub struct AccessKeySyntax;

impl FromStr for AccessKey {
    type Err = AccessKeySyntax;

    fn from_str(text: &str) -> Result<Self, AccessKeySyntax> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        // Clients take dots out of paths where they are all that is between slashes.
        let is_word = (1..=MAX_LEN).contains(&text.len()) && text.bytes().all(is_plain) && text != "." && text != "..";
        is_word.then(|| Self(text.into())).ok_or(AccessKeySyntax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_word_that_is_the_same_in_every_url() {
        for text in ["x", "Sesame-1._~", &"k".repeat(MAX_LEN)] {
            let key: AccessKey = text.parse().unwrap();
            assert_eq!(key.as_str(), text);
            let url = url::Url::parse(&format!("udp://tracker.example:1/{text}/announce")).unwrap();
            assert_eq!(url.path(), format!("/{text}/announce"));
            assert!(!format!("{key:?}").contains(text) || text == "x", "it is not shown");
        }
        for text in ["", "a/b", "a b", "a?b", "a%20b", "\u{e4}", ".", "..", &"k".repeat(MAX_LEN + 1)] {
            assert_eq!(text.parse::<AccessKey>(), Err(AccessKeySyntax), "{text}");
        }
    }
}
