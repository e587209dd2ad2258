//! Lists as they are found, well kept and not.

use std::io::{self, BufReader, Read, Write};
use std::net::IpAddr;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::{prop_assert, proptest};

use super::super::IpFilter;
use super::{BlocklistError, LINE, Line, ListSummary, parse};

fn range(first: &str, last: &str) -> Line {
    Line::Block(first.parse::<IpAddr>().unwrap()..=last.parse().unwrap())
}

fn read(list: &[u8]) -> Result<(IpFilter, ListSummary), BlocklistError> {
    let mut builder = IpFilter::builder();
    let summary = builder.read(list)?;
    Ok((builder.build(), summary))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn lines_of_each_form_say_what_they_say() {
    for (line, said) in [
        ("", Line::Nothing),
        ("# 1.2.3.4", Line::Nothing),
        ("// x:1.2.3.4-1.2.3.5", Line::Nothing),
        (";", Line::Nothing),
        ("1.2.3.4", range("1.2.3.4", "1.2.3.4")),
        ("1.2.3.4 # a comment", range("1.2.3.4", "1.2.3.4")),
        ("1.2.3.4/24", range("1.2.3.0", "1.2.3.255")),
        ("0.0.0.0/0", range("0.0.0.0", "255.255.255.255")),
        ("1.2.3.4/32", range("1.2.3.4", "1.2.3.4")),
        ("1.2.3.4 - 1.2.4.0", range("1.2.3.4", "1.2.4.0")),
        ("2001:db8::/32", range("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")),
        ("::/0", range("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")),
        ("2001:db8::1-2001:db8::9", range("2001:db8::1", "2001:db8::9")),
        ("::ffff:1.2.3.4", range("::ffff:1.2.3.4", "::ffff:1.2.3.4")),
        ("::/80", range("::", "::ffff:255.255.255.255")),
        ("Some Net:1.2.3.4-1.2.3.9", range("1.2.3.4", "1.2.3.9")),
        ("a:b - c:1.2.3.4-1.2.3.9", range("1.2.3.4", "1.2.3.9")),
        (":1.2.3.4-1.2.3.9", range("1.2.3.4", "1.2.3.9")),
        ("1.2.3.4 is bad:1.2.3.4-1.2.3.9", range("1.2.3.4", "1.2.3.9")),
        ("one, two:1.2.3.4-1.2.3.9", range("1.2.3.4", "1.2.3.9")),
        ("Six:2001:db8::1-2001:db8::9", range("2001:db8::1", "2001:db8::9")),
        ("x: y:2001:0:0:0:0:0:0:1-2001:0:0:0:0:0:0:9", range("2001::1", "2001::9")),
        ("001.002.003.004 - 001.002.003.009 , 100 , Some, Net", range("1.2.3.4", "1.2.3.9")),
        ("010.000.000.008-010.000.000.009,127,x", range("10.0.0.8", "10.0.0.9")),
        ("001.002.003.004 - 001.002.003.009 , 000", range("1.2.3.4", "1.2.3.9")),
        ("001.002.003.004 - 001.002.003.009 , 128 , trusted", Line::Allow),
        ("1.2.3", Line::Bad),
        ("1.2.3.4.5", Line::Bad),
        ("1.2.3.256", Line::Bad),
        ("1.2.3.0004", Line::Bad),
        ("1.2.3.4/33", Line::Bad),
        ("2001:db8::/129", Line::Bad),
        ("1.2.3.4/", Line::Bad),
        ("1.2.3.4-", Line::Bad),
        ("name:1.2.3.4", Line::Bad),
        ("name:1.2.3.4-2001::1", Line::Bad),
        ("1.2.3.4 - 1.2.3.9 , many , x", Line::Bad),
        ("<html>", Line::Bad),
    ] {
        assert_eq!(parse(line.as_bytes()), said, "{line}");
    }
}

#[test]
fn forms_may_be_mixed_and_bad_lines_are_counted_and_shown() {
    let list = b"\xef\xbb\xbfcaf\xe9:1.2.3.4-1.2.3.9\r\n\r\n# x\r\n005.000.000.000 - 005.000.000.255 , 0 , y\r\nnonsense\x07\r\n\
                 9.9.9.9-9.9.9.1\n006.0.0.0 - 006.0.0.1 , 200 , z\n7.7.7.7";
    let (filter, summary) = read(list).unwrap();
    assert_eq!((summary.ranges, summary.allowed, summary.bad), (3, 1, 2));
    let first = summary.first_bad.unwrap();
    assert_eq!((first.number, first.text.as_str()), (5, "nonsense\u{fffd}"));
    for (ip, blocked) in
        [("1.2.3.3", false), ("1.2.3.4", true), ("5.0.0.200", true), ("6.0.0.0", false), ("7.7.7.7", true)]
    {
        assert_eq!(filter.blocks(ip.parse().unwrap()), blocked, "{ip}");
    }
}

#[test]
fn what_has_no_range_at_all_is_no_list_but_an_empty_list_is_one() {
    let error = read(b"<html>\n<body>404</body>\n").unwrap_err();
    assert!(matches!(error, BlocklistError::NotAList { lines: 2, .. }), "{error}");
    assert!(error.to_string().contains("\"<html>\""), "{error}");
    assert!(matches!(read(b"PK\x03\x04...").unwrap_err(), BlocklistError::Zip));
    assert!(read(b"").unwrap().0.is_empty() && read(b"# nothing\n\n").unwrap().0.is_empty());
}

#[test]
fn packed_lists_are_unpacked_in_all_their_parts() {
    let packed = [gzip(b"a:1.2.3.4-1.2.3.9\n"), gzip(b"b:5.5.5.5-5.5.5.6\n")].concat();
    let (filter, summary) = read(&packed).unwrap();
    assert_eq!((summary.ranges, filter.len()), (2, 2));
    let cut = &packed[..packed.len() - 9];
    assert!(matches!(read(cut).unwrap_err(), BlocklistError::Io(_)));
}

#[test]
fn a_line_without_end_costs_no_memory_and_does_not_spoil_the_next() {
    let long = io::repeat(b'x').take(LINE as u64 * 50).chain(&b"\n1.2.3.4\n"[..]);
    let mut builder = IpFilter::builder();
    let summary = builder.read(BufReader::new(long)).unwrap();
    assert_eq!((summary.ranges, summary.bad), (1, 1));
    let exact = [vec![b' '; LINE - 8], b"9.9.9.9\n".to_vec()].concat();
    assert_eq!(exact.len(), LINE);
    assert!(read(&exact).unwrap().0.blocks([9, 9, 9, 9].into()));
}

#[test]
fn after_an_error_the_builder_has_nothing_of_the_list() {
    let broken = (&b"1.2.3.4\n"[..]).chain(BufReader::new(Broken));
    let mut builder = IpFilter::builder();
    assert!(builder.read(broken).is_err());
    assert!(builder.build().is_empty());
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300), text in "([0-9]{1,3}[.:/, -]|[a-f:]|\n){0,80}") {
        for list in [&bytes, text.as_bytes(), &gzip(&bytes), &[&[0x1f, 0x8b], &bytes[..]].concat()] {
            if let Ok((filter, summary)) = read(list) {
                prop_assert!(filter.len() as u64 <= summary.ranges);
            }
        }
    }
}
