//! Bencode: both scans agree, the tree is no larger than the input allows, and what is decoded can be encoded again.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use ropewalk::bencode::{Item, MAX_DEPTH, MAX_VALUES, Value, decode};
use ropewalk::fuzzing::decode_in_any_order;

fuzz_target!(|data: &[u8]| {
    let any_order = decode_in_any_order(data);
    let Ok((tree, rest)) = decode(data) else {
        assert!(any_order.is_err(), "the second scan takes all that the first does");
        return;
    };
    let root = tree.root();
    assert_eq!(root.raw().len() + rest.len(), data.len());
    let (other, other_rest) = any_order.expect("the second scan takes all that the first does");
    assert_eq!(rest, other_rest);

    let (mut values, mut other_values) = (Vec::new(), Vec::new());
    walk(root, 0, &mut values);
    walk(other.root(), 0, &mut other_values);
    assert_eq!(values, other_values);
    assert!(values.len() <= MAX_VALUES && values.len() <= data.len().div_ceil(2));

    if let Some(item) = item(root) {
        let bytes = item.to_bytes();
        let (again, rest) = decode(&bytes).expect("what was encoded decodes");
        assert!(rest.is_empty());
        assert_eq!(self::item(again.root()), Some(item));
    }
});

/// Takes down where every value stands, keys included.
fn walk(value: Value<'_>, depth: usize, out: &mut Vec<(usize, usize)>) {
    assert!(depth <= MAX_DEPTH);
    let span = value.span();
    out.push((span.start, span.end));
    let containers = [value.is_list(), value.is_dict(), value.as_bytes().is_some(), value.raw()[0] == b'i'];
    assert_eq!(containers.into_iter().filter(|is| *is).count(), 1, "a value has one type");
    for item in value.items() {
        assert!(span.contains(&item.span().start) && item.span().end < span.end);
        walk(item, depth + 1, out);
    }
    for (key, entry) in value.entries() {
        assert!(span.contains(&entry.span().start) && entry.span().end < span.end);
        // The key itself is a value of the tree, which `entries` gives without its place.
        out.push((entry.span().start - key.len(), entry.span().start));
        walk(entry, depth + 1, out);
    }
}

/// The value as one to be written: of repeated keys the first. `None` where an integer does not fit in 64 bits.
fn item(value: Value<'_>) -> Option<Item<'_>> {
    if let Some(bytes) = value.as_bytes() {
        return Some(Item::bytes(bytes));
    }
    if value.is_list() {
        return value.items().map(item).collect::<Option<_>>().map(Item::List);
    }
    if value.is_dict() {
        let mut dict = BTreeMap::new();
        for (key, entry) in value.entries() {
            let entry = item(entry)?;
            dict.entry(key.into()).or_insert(entry);
        }
        return Some(Item::Dict(dict));
    }
    value.as_int().map(Item::Int)
}
