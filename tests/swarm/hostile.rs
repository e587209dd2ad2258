//! Downloads among peers that misbehave: each costs at most itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ropewalk::Event;
use ropewalk::wire::message::Message;

use crate::support::payload::Payload;
use crate::support::scripted::{RESERVED, Server, Wire, random_id};
use crate::support::{Client, await_event, await_that, config};
use crate::vices::Vice;

fn payload() -> Arc<Payload> {
    // 41 pieces, so that a bitfield has spare bits; the last one is short.
    Arc::new(Payload::file("hostile.bin", 40 * 65536 + 777, 65536))
}

fn gone(addr: SocketAddr) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::PeerGone { addr: gone, .. } if *gone == addr)
}

/// The vice alone first, until it is dropped; then the honest peer, which must be enough.
#[track_caller]
fn is_dropped(vice: Vice) {
    let payload = payload();
    let honest = Client::seeding(&payload);
    let server = vice.serve(Ipv4Addr::new(127, 0, 0, 2), &payload);
    let mut config = config();
    config.peers.handshake_timeout = Duration::from_millis(500);
    let get = Client::leeching_with(&payload, &[], config, |_| ());
    let events = get.torrent.events();
    get.torrent.add_peer(server.addr).unwrap();
    await_event(&events, gone(server.addr));
    get.torrent.add_peer(honest.addr()).unwrap();
    get.finishes(&payload);
}

/// The vice is connected when the honest peer comes, and may well stay.
#[track_caller]
fn is_borne(vice: Vice) {
    let payload = payload();
    let honest = Client::seeding(&payload);
    let server = vice.serve(Ipv4Addr::new(127, 0, 0, 2), &payload);
    let get = Client::leeching(&payload, &[]);
    let events = get.torrent.events();
    get.torrent.add_peer(server.addr).unwrap();
    await_event(&events, |event| matches!(event, Event::PeerConnected(addr) if *addr == server.addr));
    let start = Instant::now();
    get.torrent.add_peer(honest.addr()).unwrap();
    get.finishes(&payload);
    assert!(start.elapsed() < Duration::from_secs(15), "{vice:?} held it up for {:?}", start.elapsed());
}

macro_rules! vices {
    ($how:ident: $($name:ident $vice:ident,)*) => { $(#[test] fn $name() { $how(Vice::$vice); })* };
}

vices! { is_dropped:
    a_peer_that_hangs_up_is_gone HangsUp,
    a_peer_that_greets_with_garbage_is_gone GreetsWithGarbage,
    a_peer_that_greets_for_another_torrent_is_gone GreetsForAnotherTorrent,
    a_peer_that_never_greets_is_gone NeverGreets,
    a_peer_that_greets_half_is_gone GreetsHalf,
    a_peer_that_claims_to_be_us_is_gone ClaimsToBeUs,
    a_peer_that_sends_an_endless_message_is_gone SendsAnEndlessMessage,
    a_peer_that_has_a_piece_that_does_not_exist_is_gone HasAPieceThatDoesNotExist,
    a_peer_that_sets_spare_bits_is_gone SetsSpareBits,
    a_peer_that_sends_a_short_bitfield_is_gone SendsAShortBitfield,
    a_peer_that_speaks_fast_unasked_is_gone SpeaksFastUnasked,
    a_peer_that_sends_broken_extensions_is_gone SendsBrokenExtensions,
    a_peer_that_sends_unasked_blocks_is_gone SendsUnaskedBlocks,
    a_peer_that_sends_too_much_of_a_block_is_gone SendsTooMuchOfABlock,
    a_peer_that_sends_huge_blocks_is_gone SendsHugeBlocks,
    a_peer_that_sends_blocks_outside_is_gone SendsBlocksOutside,
    a_peer_that_sends_empty_blocks_is_gone SendsEmptyBlocks,
    a_peer_that_asks_outside_is_gone AsksOutside,
    a_peer_that_asks_for_too_much_is_gone AsksForTooMuch,
    a_peer_that_dies_mid_block_is_gone DiesMidBlock,
    a_peer_that_dies_after_a_few_blocks_is_gone DiesAfterAFewBlocks,
    a_peer_that_sends_wrong_bytes_is_gone SendsWrongBytes,
    a_peer_that_sends_some_wrong_bytes_is_gone SendsSomeWrongBytes,
}

vices! { is_borne:
    a_peer_that_floods_requests_holds_up_nobody FloodsRequests,
    a_peer_that_floods_chokes_holds_up_nobody FloodsChokes,
    a_peer_that_floods_interest_holds_up_nobody FloodsInterest,
    a_peer_that_floods_haves_holds_up_nobody FloodsHaves,
    a_peer_that_floods_keep_alives_holds_up_nobody FloodsKeepAlives,
    a_peer_that_sends_shifted_blocks_holds_up_nobody SendsShiftedBlocks,
    a_peer_that_sends_two_bitfields_holds_up_nobody SendsTwoBitfields,
    a_peer_that_never_reads_holds_up_nobody NeverReads,
    a_peer_that_chokes_forever_holds_up_nobody ChokesForever,
    a_peer_that_stalls_holds_up_nobody Stalls,
    a_peer_that_stalls_after_a_few_blocks_holds_up_nobody StallsAfterAFewBlocks,
    a_peer_that_trickles_holds_up_nobody Trickles,
    a_peer_that_rejects_everything_holds_up_nobody RejectsEverything,
    a_peer_that_chokes_mid_piece_holds_up_nobody ChokesMidPiece,
    a_peer_that_allows_fast_and_stalls_holds_up_nobody AllowsFastAndStalls,
}

/// A peer that gives right bytes, and how.
fn giver(ip: [u8; 4], payload: &Arc<Payload>, wrong: impl Fn(u32, u32) -> bool + Send + Sync + 'static) -> Server {
    let payload = Arc::clone(payload);
    Server::start(ip, move |stream| {
        let mut wire = Wire::answer_seeding(stream, payload.metainfo.info_hash())?;
        loop {
            let (index, begin, len) = wire.next_request()?;
            let data = payload.block(index, begin, len).unwrap();
            let lie = vec![0x55; data.len()];
            let data = if wrong(index, begin) { &lie } else { data };
            wire.send(&Message::Piece { index, begin, data })?;
        }
    })
}

#[test]
fn who_lies_alone_is_banned() {
    let payload = payload();
    let liar = giver([127, 0, 0, 2], &payload, |_, _| true);
    let get = Client::leeching(&payload, &[]);
    let events = get.torrent.events();
    get.torrent.add_peer(liar.addr).unwrap();
    await_event(&events, |event| matches!(event, Event::PeerBanned(addr) if *addr == liar.addr));
    let honest = giver([127, 0, 0, 3], &payload, |_, _| false);
    get.torrent.add_peer(honest.addr).unwrap();
    get.finishes(&payload);
    assert!(get.torrent.stats().pieces_failed > 0);
    assert!(!events.try_iter().any(|event| matches!(event, Event::PeerBanned(_))), "the honest one was banned");
}

#[test]
fn of_several_senders_of_a_bad_piece_the_liar_alone_is_banned() {
    // Few large pieces, so that all peers share them; each honest peer answers slowly enough that nobody has it all.
    let payload = Arc::new(Payload::file("shared.bin", 3 << 20, 1 << 20));
    // And none answers before the liar has lied, or they might be done without it.
    let (lie, lied) = crossbeam_channel::bounded::<()>(0);
    let honest = [[127, 0, 0, 2], [127, 0, 0, 3]].map(|ip| {
        let lied = lied.clone();
        giver(ip, &payload, move |_, _| {
            // Nothing is sent: the channel ends.
            lied.recv_timeout(Duration::from_secs(60)).ok();
            std::thread::park_timeout(Duration::from_millis(2));
            false
        })
    });
    let lie = std::sync::Mutex::new(Some(lie));
    let liar = giver([127, 0, 0, 4], &payload, move |_, _| {
        lie.lock().unwrap().take();
        std::thread::park_timeout(Duration::from_millis(2));
        true
    });
    let mut config = config();
    // Room for one piece: everybody has to join it.
    config.resources.in_flight = 1 << 20;
    let get = Client::leeching_with(&payload, &[], config, |_| ());
    let events = get.torrent.events();
    for addr in [honest[0].addr, honest[1].addr, liar.addr] {
        get.torrent.add_peer(addr).unwrap();
    }
    get.finishes(&payload);
    let banned: Vec<SocketAddr> = events
        .try_iter()
        .filter_map(|event| if let Event::PeerBanned(addr) = event { Some(addr) } else { None })
        .collect();
    assert_eq!(banned, [liar.addr]);
}

#[test]
fn a_liar_that_hangs_up_at_once_is_banned_all_the_same() {
    let payload = Arc::new(Payload::file("hit-and-run.bin", 16384, 16384));
    let liar = {
        let payload = Arc::clone(&payload);
        Server::start([127, 0, 0, 2], move |stream| {
            let mut wire = Wire::answer_seeding(stream, payload.metainfo.info_hash())?;
            let (index, begin, len) = wire.next_request()?;
            wire.send(&Message::Piece { index, begin, data: &vec![1; len as usize] })
        })
    };
    let get = Client::leeching(&payload, &[]);
    let events = get.torrent.events();
    get.torrent.add_peer(liar.addr).unwrap();
    await_event(&events, |event| matches!(event, Event::PeerBanned(addr) if *addr == liar.addr));
}

#[test]
fn blocks_that_a_dead_peer_had_claimed_go_to_whoever_is_left() {
    // One large piece: the honest peer takes what the other one left, is done with that, and only then the other dies.
    let payload = Arc::new(Payload::file("left.bin", 1 << 20, 1 << 20));
    let die = Arc::new(std::sync::Barrier::new(2));
    let dying = {
        let (payload, die) = (Arc::clone(&payload), Arc::clone(&die));
        Server::start([127, 0, 0, 2], move |stream| {
            let mut wire = Wire::answer_seeding(stream, payload.metainfo.info_hash())?;
            wire.expect("request", |message| matches!(message, Message::Request { .. }));
            die.wait();
            Ok(())
        })
    };
    let get = Client::leeching(&payload, &[dying.addr]);
    await_that("asked for anything", &get.torrent, || get.torrent.peers().iter().any(|peer| peer.outstanding > 0));
    let honest = giver([127, 0, 0, 3], &payload, |_, _| false);
    get.torrent.add_peer(honest.addr).unwrap();
    await_that("near the end", &get.torrent, || {
        get.torrent.peers().iter().any(|peer| peer.addr == honest.addr && peer.downloaded > 0)
    });
    die.wait();
    get.finishes(&payload);
}

#[test]
fn a_stolen_peer_id_does_not_cost_its_owner_the_connection() {
    let payload = payload();
    let id = random_id();
    let honest = {
        let payload = Arc::clone(&payload);
        Server::start([127, 0, 0, 2], move |stream| {
            let mut wire = Wire::answer(stream, payload.metainfo.info_hash(), RESERVED, id)?;
            wire.send(&Message::HaveAll)?;
            loop {
                if wire.receive()?.is_empty() {
                    return Ok(());
                }
            }
        })
    };
    let get = Client::leeching(&payload, &[honest.addr]);
    await_that("connected", &get.torrent, || !get.torrent.peers().is_empty());
    let events = get.torrent.events();
    let thief = Ipv4Addr::new(127, 0, 0, 3);
    let mut thief = Wire::call_as(thief, get.addr(), payload.metainfo.info_hash(), RESERVED, id).unwrap();
    thief.send(&Message::HaveNone).unwrap();
    // Whatever becomes of the thief: what it says next has been handled when this piece is known.
    thief.send(&Message::Have(0)).ok();
    await_event(&events, |event| {
        assert!(!gone(honest.addr)(event), "the owner of the id was dropped");
        matches!(event, Event::PeerConnected(_))
    });
    await_that("settled", &get.torrent, || get.torrent.peers().iter().any(|peer| peer.pieces == 1));
    assert!(get.torrent.peers().iter().any(|peer| peer.addr == honest.addr));
}

#[test]
fn sixty_misbehaving_peers_beside_one_honest_seeder() {
    let mib = if cfg!(debug_assertions) { 16 } else { 64 };
    // One byte less, so that the last piece is short; an odd number of pieces, so that there are spare bits.
    let payload = Arc::new(Payload::file("sixty.bin", (mib << 20) - 262_144 - 1, 262_144));
    let honest = Client::seeding(&payload);
    let servers: Vec<Server> = (0..60u8)
        .map(|number| {
            let vice = Vice::ALL[usize::from(number) % Vice::ALL.len()];
            vice.serve(Ipv4Addr::new(127, 0, 0, 2 + number), &payload)
        })
        .collect();
    let mut peers: Vec<SocketAddr> = servers.iter().map(|server| server.addr).collect();
    peers.insert(30, honest.addr());
    let start = Instant::now();
    let get = Client::leeching(&payload, &peers);
    get.torrent.wait(Duration::from_secs(60));
    let took = start.elapsed();
    get.finishes(&payload);
    let stats = get.torrent.stats();
    println!("{mib} MiB among 60 misbehaving peers: {took:?}, {} bytes wasted", stats.wasted);
    assert!(took < Duration::from_secs(30), "it took {took:?}");
}
