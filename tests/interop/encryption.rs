//! Encrypted connections with clients that insist on them, or on the contrary.

use std::net::SocketAddr;

use ropewalk::{Encryption, Protection, Torrent};
use serde_json::{Value, json};

use super::libtorrent::{self, assert_used};
use super::{PIECE, add, finish, from_transmission, session_of, to_transmission, with};
use crate::rig::payload::Payload;

/// libtorrent's settings: every connection encrypted (0), encrypted where possible (1) or never (2), and what the payload
/// may be after an encrypted handshake.
fn policy(policy: u8, level: u8) -> Value {
    json!({"in_enc_policy": policy, "out_enc_policy": policy, "allowed_enc_level": level})
}

const PLAINTEXT: u8 = 1;
const RC4: u8 = 2;
const BOTH: u8 = 3;

/// That the one connection which brought or took payload was protected like this.
fn assert_by(torrent: &Torrent, expected: Protection) {
    assert_used(torrent, |peer| peer.protection == expected);
}

/// Downloads from libtorrent: we dial it, or it calls us.
fn get_from_libtorrent(ours: Encryption, theirs: &Value, we_dial: bool, expected: Protection) {
    let payload = Payload::folder(PIECE, None);
    libtorrent::get(with(ours), theirs, payload, we_dial, |torrent| assert_by(torrent, expected));
}

/// libtorrent downloads from us: we dial it, or it calls us.
fn give_to_libtorrent(ours: Encryption, theirs: &Value, we_dial: bool, expected: Protection) {
    let payload = Payload::folder(PIECE, None);
    libtorrent::give(with(ours), theirs, payload, we_dial, |torrent| assert_by(torrent, expected));
}

#[test]
fn rc4_with_a_libtorrent_that_takes_nothing_else() {
    for we_dial in [true, false] {
        get_from_libtorrent(Encryption::Prefer, &policy(0, RC4), we_dial, Protection::Rc4);
        give_to_libtorrent(Encryption::Prefer, &policy(0, RC4), we_dial, Protection::Rc4);
    }
}

#[test]
fn plaintext_behind_an_encrypted_handshake_with_a_libtorrent_that_takes_nothing_else() {
    for we_dial in [true, false] {
        get_from_libtorrent(Encryption::Prefer, &policy(0, PLAINTEXT), we_dial, Protection::Handshake);
        give_to_libtorrent(Encryption::Prefer, &policy(0, PLAINTEXT), we_dial, Protection::Handshake);
    }
}

#[test]
fn rc4_where_we_insist_with_a_libtorrent_that_takes_anything() {
    for we_dial in [true, false] {
        get_from_libtorrent(Encryption::Require, &policy(1, BOTH), we_dial, Protection::Rc4);
        give_to_libtorrent(Encryption::Require, &policy(1, BOTH), we_dial, Protection::Rc4);
    }
}

#[test]
fn plaintext_with_a_libtorrent_that_never_encrypts() {
    for we_dial in [true, false] {
        get_from_libtorrent(Encryption::Prefer, &policy(2, BOTH), we_dial, Protection::None);
        give_to_libtorrent(Encryption::Prefer, &policy(2, BOTH), we_dial, Protection::None);
    }
}

#[test]
fn plaintext_where_we_never_encrypt_with_a_libtorrent_that_would() {
    for we_dial in [true, false] {
        get_from_libtorrent(Encryption::Off, &policy(1, BOTH), we_dial, Protection::None);
        give_to_libtorrent(Encryption::Off, &policy(1, BOTH), we_dial, Protection::None);
    }
}

/// transmission-cli seeds and is dialled, which it must be able to expect.
fn get_from_transmission(ours: Encryption, theirs: &str) {
    from_transmission(theirs, false, |payload, network, port| {
        let folder = payload.empty_folder("out");
        let session = session_of(network.ours, with(ours));
        let torrent = add(&session, &payload.metainfo, &folder, &[SocketAddr::new(network.theirs, port)]);
        finish(&torrent);
        assert_by(&torrent, Protection::Rc4);
        session.shutdown();
        payload.assert_in(&folder);
    });
}

fn give_to_transmission(ours: Encryption, theirs: &str) {
    to_transmission(with(ours), (theirs, false), false, |torrent| assert_by(torrent, Protection::Rc4));
}

#[test]
fn rc4_from_a_transmission_that_requires_it() {
    get_from_transmission(Encryption::Prefer, "-er");
}

#[test]
fn rc4_to_a_transmission_that_requires_it() {
    give_to_transmission(Encryption::Prefer, "-er");
}

#[test]
fn rc4_from_a_transmission_where_we_require_it() {
    get_from_transmission(Encryption::Require, "-et");
}

#[test]
fn rc4_to_a_transmission_where_we_require_it() {
    give_to_transmission(Encryption::Require, "-ep");
}
