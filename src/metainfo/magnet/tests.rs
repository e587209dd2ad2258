use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::{Host, MAX_FILE, MAX_HOSTS, MAX_LEN, MAX_URLS, Magnet, MagnetError, Selection};
use crate::metainfo::{Content, Creation, Metainfo};

const HASH: &str = "0123456789abcdef0123456789abcdef01234567";

fn read(rest: &str) -> Magnet {
    format!("magnet:?xt=urn:btih:{HASH}{rest}").parse().unwrap()
}

#[test]
fn an_error_says_what_is_wrong() {
    let error = |text: &str| text.parse::<Magnet>().unwrap_err();
    assert_eq!(error("http://example.org"), MagnetError::NotAMagnet);
    assert_eq!(error("magnet:?dn=x"), MagnetError::NoInfoHash);
    assert_eq!(error("magnet:?xt=urn:btih:12%3"), MagnetError::Escape);
    assert_eq!(error("magnet:?xs=urn:btpk:00"), MagnetError::Mutable);
    assert!(error("magnet:?xt=urn:btih:abc").to_string().contains("`abc`"));
    let two = format!("magnet:?xt=urn:btih:{HASH}&xt=urn:btih:{}", HASH.replace('0', "1"));
    assert_eq!(error(&two), MagnetError::TwoTorrents);
    let long = format!("magnet:?xt=urn:btih:{HASH}&dn={}", "x".repeat(MAX_LEN));
    assert!(matches!(error(&long), MagnetError::TooLong { .. }));
    let shown = error(&format!("magnet:?xt=urn:btih:{}", "\u{1b}z".repeat(1000))).to_string();
    assert!(shown.len() < 300 && !shown.contains('\u{1b}'), "{shown}");
}

#[test]
fn the_same_hash_may_be_said_twice() {
    assert_eq!(read(&format!("&xt=urn:btih:{}", HASH.to_uppercase())), read(""));
}

#[test]
fn a_flood_of_anything_is_cut() {
    let many = |one: fn(usize) -> String| read(&(0..3000).map(one).collect::<String>());
    assert_eq!(many(|n| format!("&tr=udp://{n}")).trackers.len(), MAX_URLS);
    assert_eq!(many(|n| format!("&ws=http://{n}")).web_seeds.len(), MAX_URLS);
    assert_eq!(many(|n| format!("&x.pe=1.2.3.4:{}", n + 1)).peers.len(), MAX_HOSTS);
    let ranges = many(|n| format!("&so={}", 2 * n)).select;
    assert_eq!(ranges.ranges().len(), super::MAX_RANGES);
    assert_eq!(read(&format!("&dn={}", "\u{e4}".repeat(2000))).name.unwrap().len(), super::MAX_NAME_LEN);
}

#[test]
fn peers_are_addresses_or_names_with_a_port() {
    let magnet =
        read("&x.pe=192.0.2.7:1&x.pe=[2001:db8::1]:2&x.pe=Host.Example:3&x.pe=%5B::1%5D:4&x.pe=host&x.pe=1.2.3:5");
    let shown: Vec<_> = magnet.peers.iter().map(Host::to_string).collect();
    assert_eq!(shown, ["192.0.2.7:1", "[2001:db8::1]:2", "host.example:3", "[::1]:4"]);
    for bad in ["1.2.3.4:0", "host:0", "host:65536", "a b:1", ":1", "[::1]", "1.2.3.4.5:6"] {
        assert!(bad.parse::<Host>().is_err(), "{bad}");
    }
}

#[test]
fn a_plus_is_a_space_in_a_name_and_itself_in_a_url() {
    let magnet = read("&dn=a+b%2Bc&tr=http://x.example/a+b&ws=http://x.example/c+d");
    assert_eq!(magnet.name.as_deref(), Some("a b+c"));
    assert_eq!(magnet.trackers, ["http://x.example/a+b"]);
    assert_eq!(magnet.web_seeds, ["http://x.example/c+d"]);
}

#[test]
fn selected_files_are_put_in_order_and_together() {
    let mut selection: Selection = [7, 3, 4, 0, 3].into_iter().collect();
    assert_eq!(selection.to_string(), "0,3-4,7");
    selection.add(1..=2);
    assert_eq!(selection.to_string(), "0-4,7");
    selection.add(MAX_FILE..=MAX_FILE + 1);
    assert_eq!(selection.ranges().len(), 2);
    assert!(selection.contains(4) && !selection.contains(5) && !Selection::default().contains(0));
}

#[test]
fn the_link_to_a_torrent_brings_its_metainfo_back() {
    let mut creation = Creation::new("a b.bin", Content::File { len: 5, executable: false }, 16384);
    creation.trackers = vec![vec!["http://a.example/announce?x=1&y".into(), "udp://b.example:1".into()]];
    creation.web_seeds = vec!["http://w.example/".into()];
    let metainfo = Metainfo::from_bytes(&creation.prepare().unwrap().finish(&[1; 20]).unwrap()).unwrap();
    let magnet: Magnet = Magnet::of(&metainfo).to_string().parse().unwrap();
    assert_eq!(magnet, Magnet::of(&metainfo));
    let again = Metainfo::from_info(metainfo.info_bytes(), &magnet.trackers, &magnet.web_seeds).unwrap();
    assert_eq!(again.info_hash(), metainfo.info_hash());
    assert_eq!(again.trackers(), [["http://a.example/announce?x=1&y"], ["udp://b.example:1"]]);
    assert_eq!(again.web_seeds(), metainfo.web_seeds());
    let alone = Metainfo::from_info(metainfo.info_bytes(), &[], &[]).unwrap();
    assert!(alone.trackers().is_empty() && alone.web_seeds().is_empty());
}

#[test]
fn an_info_dictionary_cannot_bring_other_keys_along() {
    let creation = Creation::new("x", Content::File { len: 5, executable: false }, 16384);
    let metainfo = Metainfo::from_bytes(&creation.prepare().unwrap().finish(&[1; 20]).unwrap()).unwrap();
    let more = [metainfo.info_bytes(), b"8:url-list5:http:"].concat();
    assert!(Metainfo::from_info(&more, &[], &[]).is_err());
    assert!(Metainfo::from_info(b"le", &[], &[]).is_err());
    assert!(Metainfo::from_info(b"", &[], &[]).is_err());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_and_what_is_read_is_printed_the_same(
        text in "(&(xt|dn|tr|ws|x.pe|so|dht)=[%0-9a-f:/.\\[\\]+ \u{e4}-]{0,24}){0,6}"
    ) {
        if let Ok(magnet) = format!("magnet:?xt=urn:btih:{HASH}{text}").parse::<Magnet>() {
            prop_assert_eq!(magnet.to_string().parse::<Magnet>(), Ok(magnet));
        }
    }

    #[test]
    fn every_name_survives_the_way_there_and_back(name in any::<String>()) {
        let magnet = Magnet { name: Some(name).filter(|name| !name.is_empty()), ..read("") };
        prop_assert_eq!(magnet.to_string().parse::<Magnet>(), Ok(magnet));
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        prop_assert!(text.parse::<Magnet>().is_err() || !text.is_empty());
    }
}
