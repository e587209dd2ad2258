//! Bencode (BEP 3): untrusted bytes to a borrowed tree, and values to bytes.
//!
//! It owns the format and its limits: nesting of at most [`MAX_DEPTH`], at most [`MAX_VALUES`] values, and memory in
//! proportion to the input. It refuses to say what a key means, and leaves bytes after the value to the caller.
//!
//! `bendy` decodes what keeps to BEP 3. Real torrents have unsorted or repeated keys, which it rejects; those go through
//! a second scan that differs in this alone. **Of repeated keys the first counts**, as in libtorrent.
//!
//! The tree is one flat array of 12 bytes per value that point into the input. The shortest value takes two bytes
//! (`0:`), so it is at most 6 times as large as the input (12 while it grows), and never above 12 x [`MAX_VALUES`]
//! (24 while it grows).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use bendy::decoding::Decoder;
use bendy::state_tracker::Token;

/// How many lists and dictionaries may contain one another.
pub const MAX_DEPTH: usize = 32;

/// How many values, keys included, one input may hold: a torrent of 100,000 files has about a million.
pub const MAX_VALUES: usize = 4 << 20;

/// Decodes the value that `source` begins with; gives it and the bytes after it, which the caller judges.
pub fn decode(source: &[u8]) -> Result<(Tree<'_>, &[u8]), DecodeError> {
    u32::try_from(source.len()).map_err(|_| DecodeError::TooLong)?;
    let mut strict = Decoder::new(source).with_max_depth(MAX_DEPTH).tokens();
    // Which error is of no interest: the second scan meets it again, unless it is the order of keys, and knows where.
    build(source, |at| strict.next().and_then(Result::ok).ok_or(DecodeError::Syntax { at }))
        .or_else(|_| decode_in_any_order(source))
}

/// As [`decode`], by the scan that does not mind the order of keys.
pub(crate) fn decode_in_any_order(source: &[u8]) -> Result<(Tree<'_>, &[u8]), DecodeError> {
    build(source, |at| token(source, at))
}

/// Why bytes are not bencode that can be accepted. Offsets are in bytes from the start of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ends before the value does.
    #[error("bencode ends early, after {at} bytes")]
    Truncated {
        /// The length of the input.
        at: usize,
    },
    /// The bytes break the format.
    #[error("not bencode at byte {at}")]
    Syntax {
        /// Where the token begins that does not fit.
        at: usize,
    },
    /// More than [`MAX_DEPTH`] lists and dictionaries within one another.
    #[error("bencode nested deeper than {MAX_DEPTH} at byte {at}")]
    TooDeep {
        /// Where the innermost begins.
        at: usize,
    },
    /// More than [`MAX_VALUES`] values.
    #[error("bencode of more than {MAX_VALUES} values")]
    TooManyValues,
    /// An input of 4 GiB or more.
    #[error("bencode of 4 GiB or more")]
    TooLong,
}

/// A decoded value and all that it contains, borrowed from the input.
#[derive(Clone, Debug)]
pub struct Tree<'a> {
    source: &'a [u8],
    /// In the order of the input; a container is followed by its contents, a key by its value.
    nodes: Vec<Node>,
}

/// One value of a tree.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// The offset of its first byte.
    start: u32,
    /// The offset just past its last byte.
    end: u32,
    /// The number of the first node that is neither it nor within it.
    next: u32,
}

impl<'a> Tree<'a> {
    /// The outermost value.
    pub fn root(&self) -> Value<'_> {
        Value { source: self.source, nodes: &self.nodes, at: 0 }
    }
}

/// A value within a [`Tree`]. Every accessor gives `None`, or nothing, where the value is of another type.
#[derive(Clone, Copy)]
pub struct Value<'t> {
    source: &'t [u8],
    nodes: &'t [Node],
    at: u32,
}

impl<'t> Value<'t> {
    /// The integer, where it is one that 64 bits hold.
    pub fn as_int(self) -> Option<i64> {
        let digits = self.raw().strip_prefix(b"i")?.strip_suffix(b"e")?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// The byte string.
    pub fn as_bytes(self) -> Option<&'t [u8]> {
        let raw = self.raw();
        raw.first().filter(|first| first.is_ascii_digit())?;
        Some(&raw[raw.iter().position(|&byte| byte == b':')? + 1..])
    }

    /// The byte string, where it is UTF-8.
    pub fn as_str(self) -> Option<&'t str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// Whether it is a list.
    pub fn is_list(self) -> bool {
        self.raw().first() == Some(&b'l')
    }

    /// Whether it is a dictionary.
    pub fn is_dict(self) -> bool {
        self.raw().first() == Some(&b'd')
    }

    /// The items of a list, in order.
    pub fn items(self) -> impl Iterator<Item = Value<'t>> {
        self.is_list().then(|| self.children()).into_iter().flatten()
    }

    /// The keys and values of a dictionary in the order of the input, repeated keys included.
    pub fn entries(self) -> impl Iterator<Item = (&'t [u8], Value<'t>)> {
        let mut children = self.is_dict().then(|| self.children()).into_iter().flatten();
        std::iter::from_fn(move || Some((children.next()?.as_bytes()?, children.next()?)))
    }

    /// The value of a key of a dictionary; of the first, where the key is repeated. Takes time in proportion to the
    /// number of keys, whatever the values contain.
    pub fn get(self, key: impl AsRef<[u8]>) -> Option<Value<'t>> {
        let key = key.as_ref();
        self.entries().find(|&(name, _)| name == key).map(|(_, value)| value)
    }

    /// The value's own bytes, exactly as they stand in the input.
    pub fn raw(self) -> &'t [u8] {
        &self.source[self.span()]
    }

    /// Where the value stands in the input.
    pub fn span(self) -> Range<usize> {
        let node = self.nodes[self.at as usize];
        node.start as usize..node.end as usize
    }

    fn children(self) -> impl Iterator<Item = Value<'t>> {
        let end = self.nodes[self.at as usize].next;
        let mut at = self.at + 1;
        std::iter::from_fn(move || {
            let child = (at < end).then_some(Value { at, ..self })?;
            at = self.nodes[at as usize].next;
            Some(child)
        })
    }
}

impl std::fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.raw().escape_ascii().fmt(f)
    }
}

/// A value to be written. Dictionaries come out sorted and without repeated keys, as BEP 3 wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// An integer.
    Int(i64),
    /// A byte string.
    Bytes(Cow<'a, [u8]>),
    /// A list.
    List(Vec<Item<'a>>),
    /// A dictionary.
    Dict(BTreeMap<Cow<'a, [u8]>, Item<'a>>),
}

impl<'a> Item<'a> {
    /// A byte string.
    pub fn bytes(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes.into())
    }

    /// A list of these items.
    pub fn list(items: impl IntoIterator<Item = impl Into<Item<'a>>>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }

    /// A dictionary of the entries that have a value.
    pub fn dict(entries: impl IntoIterator<Item = (&'a str, Option<Item<'a>>)>) -> Self {
        let entries = entries.into_iter();
        Self::Dict(entries.filter_map(|(key, item)| Some((key.as_bytes().into(), item?))).collect())
    }

    /// The encoding.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Int(value) => out.extend_from_slice(format!("i{value}e").as_bytes()),
            Self::Bytes(bytes) => write_bytes(bytes, out),
            Self::List(items) => {
                out.push(b'l');
                items.iter().for_each(|item| item.write(out));
                out.push(b'e');
            }
            Self::Dict(entries) => {
                out.push(b'd');
                for (key, item) in entries {
                    write_bytes(key, out);
                    item.write(out);
                }
                out.push(b'e');
            }
        }
    }
}

impl From<i64> for Item<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl<'a> From<&'a str> for Item<'a> {
    fn from(text: &'a str) -> Self {
        Self::bytes(text.as_bytes())
    }
}

impl<'a> From<&'a String> for Item<'a> {
    fn from(text: &'a String) -> Self {
        text.as_str().into()
    }
}

impl From<String> for Item<'_> {
    fn from(text: String) -> Self {
        Self::Bytes(text.into_bytes().into())
    }
}

/// A list or dictionary that has not ended yet.
struct Open {
    node: usize,
    dict: bool,
    /// In a dictionary: the last child was a key.
    awaits_value: bool,
}

/// Builds the tree of the first value from its tokens. `next` gets the offset at which the token begins.
fn build<'a>(
    source: &'a [u8],
    mut next: impl FnMut(usize) -> Result<Token<'a>, DecodeError>,
) -> Result<(Tree<'a>, &'a [u8]), DecodeError> {
    let mut nodes = Vec::<Node>::new();
    let mut open = Vec::<Open>::with_capacity(MAX_DEPTH);
    let mut at = 0;
    loop {
        let token = next(at)?;
        let start = at;
        at += width(&token);
        if token == Token::End {
            let closed = open.pop().filter(|container| !container.awaits_value);
            let node = closed.ok_or(DecodeError::Syntax { at: start })?.node;
            nodes[node].end = at as u32;
            nodes[node].next = nodes.len() as u32;
        } else {
            if let Some(container) = open.last_mut().filter(|container| container.dict) {
                if !container.awaits_value && !matches!(token, Token::String(_)) {
                    return Err(DecodeError::Syntax { at: start });
                }
                container.awaits_value ^= true;
            }
            if nodes.len() == MAX_VALUES {
                return Err(DecodeError::TooManyValues);
            }
            // The casts hold: the input is shorter than 4 GiB, and has fewer values than bytes.
            nodes.push(Node { start: start as u32, end: at as u32, next: nodes.len() as u32 + 1 });
            if matches!(token, Token::List | Token::Dict) {
                if open.len() == MAX_DEPTH {
                    return Err(DecodeError::TooDeep { at: start });
                }
                open.push(Open { node: nodes.len() - 1, dict: token == Token::Dict, awaits_value: false });
            }
        }
        if open.is_empty() {
            return Ok((Tree { source, nodes }, &source[at..]));
        }
    }
}

/// How many bytes a token takes. Numbers have one spelling only, so that it follows from the contents.
fn width(token: &Token<'_>) -> usize {
    match token {
        Token::List | Token::Dict | Token::End => 1,
        Token::Num(digits) => digits.len() + 2,
        Token::String(bytes) => bytes.len().checked_ilog10().unwrap_or(0) as usize + 2 + bytes.len(),
    }
}

/// The token at an offset, read as `bendy` reads it, whatever came before.
fn token(source: &[u8], at: usize) -> Result<Token<'_>, DecodeError> {
    let rest = &source[at..];
    let truncated = DecodeError::Truncated { at: source.len() };
    Ok(match *rest.first().ok_or(truncated)? {
        b'l' => Token::List,
        b'd' => Token::Dict,
        b'e' => Token::End,
        b'i' => {
            let sign = usize::from(rest.get(1) == Some(&b'-'));
            let digits = number(source, at + 1 + sign, b'e')?;
            if sign == 1 && digits == "0" {
                return Err(DecodeError::Syntax { at });
            }
            // Sign and digits are ASCII.
            Token::Num(std::str::from_utf8(&rest[1..1 + sign + digits.len()]).unwrap_or_default())
        }
        b'0'..=b'9' => {
            let digits = number(source, at, b':')?;
            let len: usize = digits.parse().map_err(|_| truncated)?;
            Token::String(rest[digits.len() + 1..].get(..len).ok_or(truncated)?)
        }
        _ => return Err(DecodeError::Syntax { at }),
    })
}

/// The digits at an offset, up to `end`; without needless zeros.
fn number(source: &[u8], at: usize, end: u8) -> Result<&str, DecodeError> {
    let rest = &source[at..];
    let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match rest.get(len) {
        None => Err(DecodeError::Truncated { at: source.len() }),
        Some(&byte) if byte != end || len == 0 || (rest[0] == b'0' && len > 1) => Err(DecodeError::Syntax { at }),
        Some(_) => std::str::from_utf8(&rest[..len]).map_err(|_| DecodeError::Syntax { at }),
    }
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::{DecodeError, Item, MAX_DEPTH, MAX_VALUES, Value, decode, decode_in_any_order};

    fn items() -> impl Strategy<Value = Item<'static>> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..12);
        let leaf = prop_oneof![
            any::<i64>().prop_map(Item::Int),
            Just(Item::Int(0)),
            bytes().prop_map(|bytes| Item::Bytes(bytes.into())),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Item::List),
                proptest::collection::btree_map(bytes().prop_map(Into::into), inner, 0..6).prop_map(Item::Dict),
            ]
        })
    }

    fn same(value: Value<'_>, item: &Item<'_>) -> bool {
        match item {
            Item::Int(int) => value.as_int() == Some(*int),
            Item::Bytes(bytes) => value.as_bytes() == Some(bytes),
            Item::List(list) => {
                value.is_list() && value.items().count() == list.len() && {
                    value.items().zip(list).all(|(value, item)| same(value, item))
                }
            }
            Item::Dict(dict) => {
                value.is_dict() && value.entries().count() == dict.len() && {
                    value.entries().zip(dict).all(|((name, value), (key, item))| name == &key[..] && same(value, item))
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same_and_leaves_the_rest(item in items(), rest in any::<Vec<u8>>()) {
            let mut bytes = item.to_bytes();
            bytes.extend_from_slice(&rest);
            let (tree, left) = decode(&bytes).unwrap();
            prop_assert_eq!(left, &rest[..]);
            prop_assert!(same(tree.root(), &item));
            let (lenient, _) = decode_in_any_order(&bytes).unwrap();
            prop_assert!(same(lenient.root(), &item));
        }

        #[test]
        fn a_value_cut_at_any_byte_is_truncated(item in items()) {
            let bytes = item.to_bytes();
            for len in 0..bytes.len() {
                prop_assert_eq!(decode(&bytes[..len]).unwrap_err(), DecodeError::Truncated { at: len });
            }
        }

        #[test]
        fn random_bytes_never_panic_and_what_decodes_covers_the_input(bytes in "[ilde0-3:a-]{0,40}") {
            if let Ok((tree, rest)) = decode(bytes.as_bytes()) {
                prop_assert_eq!(tree.root().raw().len() + rest.len(), bytes.len());
                prop_assert!(tree.nodes.len() <= bytes.len().div_ceil(2));
            }
        }
    }

    #[test]
    fn unsorted_and_repeated_keys_are_read_and_the_first_counts() {
        let bytes = b"d1:bi1e1:ad1:zle1:yi2ee1:bi3eerest";
        let (tree, rest) = decode(bytes).unwrap();
        let root = tree.root();
        assert_eq!(rest, b"rest");
        assert_eq!(root.get("b").unwrap().as_int(), Some(1));
        assert_eq!(root.entries().count(), 3);
        let inner = root.get("a").unwrap();
        assert_eq!(inner.raw(), b"d1:zle1:yi2ee");
        assert_eq!(&bytes[inner.span()], inner.raw());
        assert_eq!(inner.get("y").unwrap().as_int(), Some(2));
    }

    #[test]
    fn numbers_have_one_spelling() {
        for bad in ["i-0e", "i03e", "i-e", "ie", "i+1e", "i 1e", "i1", "01:a", "1a", "-1:a", "i--1e"] {
            assert!(decode(bad.as_bytes()).is_err(), "{bad}");
        }
        let (tree, _) = decode(b"i-9223372036854775808e").unwrap();
        assert_eq!(tree.root().as_int(), Some(i64::MIN));
    }

    #[test]
    fn an_integer_beyond_64_bits_decodes_but_has_no_value() {
        let (tree, _) = decode(b"i9223372036854775808e").unwrap();
        assert_eq!(tree.root().as_int(), None);
        assert_eq!(tree.root().as_bytes(), None);
    }

    #[test]
    fn a_dictionary_wants_strings_as_keys_and_a_value_for_each() {
        assert_eq!(decode(b"di1ei2ee").unwrap_err(), DecodeError::Syntax { at: 1 });
        assert_eq!(decode(b"d1:ae").unwrap_err(), DecodeError::Syntax { at: 4 });
        assert_eq!(decode(b"e").unwrap_err(), DecodeError::Syntax { at: 0 });
    }

    #[test]
    fn nesting_has_a_limit_also_on_a_small_stack() {
        let nested = |depth: usize| [vec![b'l'; depth], vec![b'e'; depth]].concat();
        let small = std::thread::Builder::new().stack_size(64 * 1024);
        let decoding = small.spawn(move || {
            assert!(decode(&nested(MAX_DEPTH)).is_ok());
            assert_eq!(decode(&nested(MAX_DEPTH + 1)).unwrap_err(), DecodeError::TooDeep { at: MAX_DEPTH });
            assert_eq!(decode(&vec![b'l'; 1 << 20]).unwrap_err(), DecodeError::TooDeep { at: MAX_DEPTH });
        });
        decoding.unwrap().join().unwrap();
    }

    #[test]
    fn claimed_lengths_are_not_believed() {
        for claim in ["4294967295:", "99999999999999999999999:", "5:abcd"] {
            assert_eq!(decode(claim.as_bytes()).unwrap_err(), DecodeError::Truncated { at: claim.len() });
        }
    }

    #[test]
    fn the_number_of_values_has_a_limit() {
        let bytes = [b"l".as_slice(), &b"le".repeat(MAX_VALUES), b"e"].concat();
        assert_eq!(decode(&bytes).unwrap_err(), DecodeError::TooManyValues);
    }

    #[test]
    fn a_dictionary_is_written_sorted_and_without_absent_entries() {
        let dict = Item::dict([("b", Some(Item::list(["x", "y"]))), ("a", Some(7.into())), ("c", None)]);
        assert_eq!(dict.to_bytes(), b"d1:ai7e1:bl1:x1:yee");
    }
}
