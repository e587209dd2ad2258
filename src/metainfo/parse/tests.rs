use std::path::Path;

use proptest::prelude::{any, prop_assert, proptest};
use sha1::{Digest, Sha1};

use crate::bencode::{DecodeError, Item, MAX_DEPTH};
use crate::metainfo::{Metainfo, MetainfoError};

/// A .torrent of this info dictionary and nothing else.
fn torrent(info: impl AsRef<[u8]>) -> Vec<u8> {
    [b"d4:infod", info.as_ref(), b"ee"].concat()
}

/// A single file of 20 bytes in pieces of 16, with more entries that sort last.
fn single(more: &str) -> Vec<u8> {
    torrent(format!("6:lengthi20e4:name1:n12:piece lengthi16e6:pieces40:{}{more}", "h".repeat(40)))
}

/// A folder `n` with these encoded files, of 20 bytes altogether.
fn multi(files: impl AsRef<[u8]>) -> Vec<u8> {
    let tail = format!("e4:name1:n12:piece lengthi16e6:pieces40:{}", "h".repeat(40));
    torrent([b"5:filesl", files.as_ref(), tail.as_bytes()].concat())
}

fn file(len: i64, path: &[&str]) -> String {
    let item = Item::dict([("length", Some(len.into())), ("path", Some(Item::list(path.iter().copied())))]);
    String::from_utf8(item.to_bytes()).unwrap()
}

fn parse(bytes: impl AsRef<[u8]>) -> Result<Metainfo, MetainfoError> {
    Metainfo::from_bytes(bytes.as_ref())
}

/// The paths that the files get, by themselves and each of 5 bytes.
fn paths(paths: &[&[&str]]) -> Vec<String> {
    assert_eq!(paths.len(), 4, "to make 20 bytes");
    let metainfo = parse(multi(paths.iter().map(|path| file(5, path)).collect::<String>())).unwrap();
    metainfo.layout().files().iter().map(|file| file.path().to_str().unwrap().to_owned()).collect()
}

fn missing(field: &str) -> MetainfoError {
    MetainfoError::Missing { field: field.into() }
}

fn wrong_type(field: &str, expected: &'static str) -> MetainfoError {
    MetainfoError::WrongType { field: field.into(), expected }
}

#[test]
fn a_single_file_is_read() {
    let metainfo = parse(single("")).unwrap();
    assert_eq!(metainfo.name(), "n");
    assert!(!metainfo.is_multi_file() && !metainfo.is_private());
    let layout = metainfo.layout();
    assert_eq!((layout.total_len(), layout.piece_length(), layout.piece_count()), (20, 16, 2));
    assert_eq!(layout.files()[0].path(), Path::new("n"));
    assert_eq!(metainfo.piece_hash(layout.piece(1).unwrap()), b"hhhhhhhhhhhhhhhhhhhh");
}

#[test]
fn the_info_hash_is_over_the_bytes_as_they_stand_also_unsorted_and_repeated() {
    let info = format!("d6:pieces40:{}12:piece lengthi16e4:name1:n4:name1:m6:lengthi20ee", "h".repeat(40));
    let bytes = format!("d4:info{info}8:announce3:a:b4:infodee");
    let metainfo = parse(&bytes).unwrap();
    assert_eq!(metainfo.info_bytes(), info.as_bytes());
    assert_eq!(metainfo.info_hash().as_bytes(), &<[u8; 20]>::from(Sha1::digest(&info)));
    assert_eq!((metainfo.name(), metainfo.as_bytes()), ("n", bytes.as_bytes()));
    assert_eq!(metainfo.trackers(), [["a:b"]]);
}

#[test]
fn trackers_come_in_tiers_and_announce_counts_only_alone() {
    let trackers = |top: &str| {
        let bytes = [b"d", top.as_bytes(), &single("")[1..]].concat();
        parse(bytes).unwrap().trackers().to_vec()
    };
    assert!(trackers("").is_empty());
    assert_eq!(trackers("8:announce1:a"), [["a"]]);
    assert_eq!(trackers("8:announce1:a13:announce-listll1:b1:cel1:d1:bee"), [vec!["b", "c"], vec!["d"]]);
    assert_eq!(trackers("8:announce1:a13:announce-listl1:b1:ce"), [["b"], ["c"]]);
    assert_eq!(trackers("8:announce3: a 13:announce-listllel0:eli5eee"), [["a"]]);
    assert_eq!(trackers("8:announcei5e13:announce-listi5e"), Vec::<Vec<String>>::new());
}

#[test]
fn optional_fields_are_read_and_what_is_malformed_counts_as_absent() {
    let top = "7:comment3:a\x1bb13:comment.utf-83:\u{e9}!10:created byi1e13:creation datei-5e9:httpseedsl1:he\
               8:url-listl1:u0:1:ve";
    let bytes = [b"d", top.as_bytes(), &single("7:privatei1e6:source1:s")[1..]].concat();
    let metainfo = parse(bytes).unwrap();
    assert_eq!((metainfo.comment(), metainfo.created_by()), (Some("é!"), None));
    assert_eq!((metainfo.creation_date(), metainfo.encoding()), (Some(-5), None));
    assert_eq!((metainfo.web_seeds(), metainfo.http_seeds()), (&["u".into(), "v".into()][..], &["h".into()][..]));
    assert_eq!((metainfo.is_private(), metainfo.source()), (true, Some("s")));
}

#[test]
fn a_single_web_seed_may_be_a_string() {
    let bytes = [&single("")[..single("").len() - 1], b"8:url-list1:ue"].concat();
    assert_eq!(parse(bytes).unwrap().web_seeds(), ["u"]);
}

#[test]
fn nodes_of_the_dht_are_read_and_what_is_none_is_left_out() {
    let nodes = "5:nodesl\
                 l9:127.0.0.1i6881eel4:hosti1eel11:2001:db8::1i2eel5:[::1]i3ee\
                 l4:hosti0eel4:hosti65536eel0:i1eel3:a:bi1eel4:hostei7e4:textd1:ai1eeee";
    let bytes = [&single("")[..single("").len() - 1], nodes.as_bytes()].concat();
    let metainfo = parse(bytes).unwrap();
    assert_eq!(metainfo.nodes(), ["127.0.0.1:6881", "host:1", "[2001:db8::1]:2", "[::1]:3"]);
    assert_eq!(metainfo.unknown_keys(), Default::default());
}

#[test]
fn unknown_keys_are_listed_and_kept() {
    let bytes = [b"d3:zzzi1e6:othersle2:\x1b\xff0:", &single("5:extra0:9:file treede")[1..]].concat();
    let metainfo = parse(&bytes).unwrap();
    let unknown = metainfo.unknown_keys();
    assert_eq!(unknown.top.into_iter().collect::<Vec<_>>(), ["others", "zzz", "\u{fffd}\u{fffd}"]);
    assert_eq!(unknown.info.into_iter().collect::<Vec<_>>(), ["extra"]);
    assert_eq!(metainfo.as_bytes(), bytes);
}

#[test]
fn the_utf8_variants_of_names_go_first_where_they_are_usable() {
    let metainfo = parse(single("10:name.utf-83:\u{20ac}")).unwrap();
    assert_eq!(metainfo.name(), "€");
    assert_eq!(parse(single("10:name.utf-8i1e")).unwrap().name(), "n");
    let files = [&b"d6:lengthi20e4:pathl2:\xe9xe10:path.utf-8l2:\xc3\xa9ee"[..]].concat();
    assert_eq!(parse(multi(files)).unwrap().layout().files()[0].path(), Path::new("n/é"));
    let files = b"d6:lengthi20e4:pathl2:\xe9xee";
    assert_eq!(parse(multi(files)).unwrap().layout().files()[0].path(), Path::new("n/_x"));
}

#[test]
fn padding_is_never_a_file_whatever_marks_it() {
    let files = ["d4:attr1:p6:lengthi4ee", &file(4, &["_____padding_file_0_x"]), &file(8, &["a"]), &file(4, &["a"])];
    let metainfo = parse(multi(files.concat())).unwrap();
    let read: Vec<_> = metainfo.layout().files().iter().map(|file| (file.path(), file.is_padding())).collect();
    let pad = Path::new("n/.pad/4");
    assert_eq!(read, [(pad, true), (pad, true), (Path::new("n/a"), false), (Path::new("n/a.1"), false)]);
}

#[test]
fn attributes_are_read_and_unknown_ones_let_pass() {
    let metainfo = parse(multi(format!("d4:attr3:hzl4:pathl1:lee{}", file(20, &["a"])))).unwrap();
    let link = metainfo.layout().files()[0].attributes();
    assert!(link.hidden && link.symlink && !link.executable && !link.padding);
    assert_eq!(metainfo.layout().files()[0].len(), 0);
    let long = multi(format!("d4:attr1:l6:lengthi5e4:pathl1:lee{}", file(15, &["a"])));
    assert_eq!(parse(long), Err(MetainfoError::OutOfRange { field: "info.files[0].length".into(), min: 0, max: 0 }));
}

#[test]
fn of_a_hybrid_the_v1_part_is_read_and_v2_alone_is_an_error_of_its_own() {
    assert!(parse(single("12:meta versioni2e9:file treede")).is_ok());
    let v2 = torrent("9:file treed1:nd0:d6:lengthi20eeee12:meta versioni2e4:name1:n12:piece lengthi16384e");
    assert_eq!(parse(v2), Err(MetainfoError::V2Only));
}

#[test]
fn no_path_leads_out_of_the_folder() {
    let escapes = paths(&[&["..", "..", "etc"], &["/etc/passwd"], &["", "a\\b"], &["a\0", "."]]);
    assert_eq!(escapes, ["n/_/_/etc", "n/_etc_passwd", "n/_/a_b", "n/a_/_"]);
    assert_eq!(paths(&[&["NUL"], &["com1", "x"], &["aux.c"], &["..."]]), ["n/_NUL", "n/_com1/x", "n/aux.c", "n/..."]);
    for (name, becomes) in [("..", "_"), ("", "_"), ("/", "_"), ("a/../../b", "a_.._.._b")] {
        let info = format!("4:name{}:{name}12:piece lengthi16e6:pieces40:{}6:lengthi20e", name.len(), "h".repeat(40));
        assert_eq!(parse(torrent(info)).unwrap().name(), becomes);
    }
}

#[test]
fn paths_that_collide_are_numbered() {
    assert_eq!(paths(&[&["a.b"], &["a.b"], &["A.B"], &["a.b", "c"]]), ["n/a.b", "n/a.1.b", "n/A.2.B", "n/a.3.b/c"]);
}

#[test]
fn long_names_are_cut_and_long_paths_refused() {
    let long = "x".repeat(300);
    let metainfo = parse(multi(file(20, &[&long]))).unwrap();
    assert_eq!(metainfo.layout().files()[0].path(), Path::new("n").join("x".repeat(255)));
    let deep = vec!["d"; 3000];
    assert_eq!(parse(multi(file(20, &deep))), Err(MetainfoError::PathTooLong { field: "info.files[0].path".into() }));
}

#[test]
fn what_a_download_needs_is_named_where_it_is_missing() {
    assert_eq!(parse("de"), Err(missing("info")));
    assert_eq!(parse("d4:infodee"), Err(missing("info.pieces")));
    assert_eq!(parse(torrent("6:pieces0:")), Err(missing("info.name")));
    assert_eq!(parse(torrent("4:name1:n6:pieces0:")), Err(missing("info.piece length")));
    let neither = parse(torrent("4:name1:n12:piece lengthi16e6:pieces0:")).unwrap_err();
    assert_eq!(neither.to_string(), "`info.length` or `info.files` is missing");
    assert_eq!(parse(multi("de")), Err(missing("info.files[0].length")));
    assert_eq!(parse(multi("d6:lengthi20ee")), Err(missing("info.files[0].path")));
    assert_eq!(parse(multi(file(20, &[]))), Err(missing("info.files[0].path")));
}

#[test]
fn what_a_download_needs_is_named_where_it_has_another_type() {
    assert_eq!(parse("le"), Err(wrong_type("(the whole file)", "a dictionary")));
    assert_eq!(parse("d4:infolee"), Err(wrong_type("info", "a dictionary")));
    assert_eq!(parse(torrent("6:piecesi1e")), Err(wrong_type("info.pieces", "a string")));
    assert_eq!(parse(torrent("4:namei1e6:pieces0:")), Err(wrong_type("info.name", "a string")));
    let length = torrent("4:name1:n12:piece length2:166:pieces0:");
    assert_eq!(parse(length), Err(wrong_type("info.piece length", "an integer")));
    let files = torrent("5:filesde4:name1:n12:piece lengthi16e6:pieces0:");
    assert_eq!(parse(files), Err(wrong_type("info.files", "a list")));
    assert_eq!(parse(multi("i1e")), Err(wrong_type("info.files[0]", "a dictionary")));
    let strings = wrong_type("info.files[0].path", "a list of strings");
    assert_eq!(parse(multi("d6:lengthi20e4:path1:ae")), Err(strings.clone()));
    assert_eq!(parse(multi("d6:lengthi20e4:pathli1eee")), Err(strings));
}

#[test]
fn piece_lengths_from_1_to_256_mib_are_possible() {
    let parse = |length: &str| {
        parse(torrent(format!("6:lengthi1e4:name1:n12:piece lengthi{length}e6:pieces20:hhhhhhhhhhhhhhhhhhhh")))
    };
    for length in ["1", "3", "16384", "268435456"] {
        assert!(parse(length).is_ok(), "{length}");
    }
    for length in ["0", "-1", "268435457", "4294967312", "99999999999999999999"] {
        let error = MetainfoError::OutOfRange { field: "info.piece length".into(), min: 1, max: 268_435_456 };
        assert_eq!(parse(length), Err(error), "{length}");
    }
}

#[test]
fn lengths_that_are_negative_or_overflow_are_refused() {
    for len in ["-1", "9223372036854775808", "18446744073709551617"] {
        let error = parse(multi(format!("d6:lengthi{len}e4:pathl1:aee"))).unwrap_err();
        assert!(error.to_string().starts_with("`info.files[0].length` is not a number from 0"), "{error}");
    }
    let huge = file(i64::MAX, &["a"]);
    assert_eq!(parse(multi(huge.repeat(3))), Err(MetainfoError::TooLarge));
    assert_eq!(parse(multi(huge)), Err(MetainfoError::TooLarge));
}

#[test]
fn hashes_fit_the_length() {
    let parse = |len: u32, hashes: usize| {
        let head = format!("6:lengthi{len}e4:name1:n12:piece lengthi16e6:pieces{hashes}:");
        parse(torrent(head + &"h".repeat(hashes)))
    };
    assert_eq!(parse(20, 39), Err(MetainfoError::PiecesLength { len: 39 }));
    assert_eq!(parse(20, 20), Err(MetainfoError::HashCount { expected: 2, found: 1 }));
    assert_eq!(parse(20, 60), Err(MetainfoError::HashCount { expected: 2, found: 3 }));
    assert_eq!(parse(32, 40).unwrap().layout().piece_count(), 2);
    assert_eq!(parse(0, 0), Err(MetainfoError::Empty));
}

#[test]
fn contradictory_and_empty_content_is_refused() {
    assert_eq!(parse(single("5:filesle")), Err(MetainfoError::LengthAndFiles));
    assert_eq!(parse(multi("")), Err(MetainfoError::NoFiles));
    assert_eq!(parse(multi(file(0, &["a"]))), Err(MetainfoError::Empty));
}

#[test]
fn only_white_space_may_follow() {
    assert!(parse([&single("")[..], b"\r\n"].concat()).is_ok());
    assert_eq!(parse([&single("")[..], b"\n\0x"].concat()), Err(MetainfoError::TrailingBytes { count: 3 }));
}

#[test]
fn deep_nesting_is_refused() {
    let deep = format!("5:extra{}{}", "l".repeat(1 << 20), "e".repeat(1 << 20));
    assert!(matches!(parse(single(&deep)), Err(MetainfoError::Bencode(DecodeError::TooDeep { .. }))));
    assert!(parse(single(&format!("5:extra{}{}", "l".repeat(MAX_DEPTH - 2), "e".repeat(MAX_DEPTH - 2)))).is_ok());
}

#[test]
fn a_million_pieces_and_a_hundred_thousand_files_are_read() {
    let hashes = vec![b'h'; 20_000_000];
    let head = b"6:lengthi1000000e4:name1:n12:piece lengthi1e6:pieces20000000:";
    let metainfo = parse(torrent([&head[..], &hashes].concat())).unwrap();
    assert_eq!(metainfo.layout().piece_count(), 1_000_000);

    let files: String = (0..100_000).map(|i| file(1, &["folder", &format!("{}", i % 1000), &i.to_string()])).collect();
    let tail = b"e4:name1:n12:piece lengthi100000e6:pieces20:hhhhhhhhhhhhhhhhhhhh";
    let metainfo = parse(torrent([b"5:filesl", files.as_bytes(), tail].concat())).unwrap();
    assert_eq!(metainfo.layout().files()[99_999].path(), Path::new("n/folder/999/99999"));
}

#[test]
fn a_torrent_cut_at_any_byte_is_an_error() {
    for whole in [single("7:privatei1e"), multi(file(20, &["a", "b"]))] {
        for len in 0..whole.len() {
            let error = parse(&whole[..len]).unwrap_err();
            assert_eq!(error, MetainfoError::Bencode(DecodeError::Truncated { at: len }));
        }
    }
}

proptest! {
    #[test]
    fn a_torrent_with_random_damage_never_panics_and_stays_in_its_folder(
        damage in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..4),
        folder in any::<bool>(),
    ) {
        let mut bytes =
            if folder { multi(file(12, &["a", "..b"]) + &file(8, &["a", "c"])) } else { single("4:attr1:x") };
        let len = bytes.len();
        for (at, byte) in damage {
            bytes[usize::from(at) % len] = byte;
        }
        if let Ok(metainfo) = parse(&bytes) {
            for file in metainfo.layout().files() {
                let normal = |component| matches!(component, std::path::Component::Normal(_));
                prop_assert!(file.path().components().all(normal));
            }
            prop_assert!(metainfo.layout().pieces().all(|piece| metainfo.piece_hash(piece).len() == 20));
            metainfo.unknown_keys();
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in any::<Vec<u8>>(), text in "d4:infod[a-z0-9:dlie]{0,60}") {
        let _ = parse(&bytes);
        let _ = parse(text);
    }
}
