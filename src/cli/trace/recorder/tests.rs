//! What a timeline keeps of pieces, peers and marks, on times of its own.

use super::marks::MARKS;
use super::{
    BINS, Bits, Doing, Duration, FINEST, Kind, Look, PEERS, PeerLook, Phase, Protection, ROWS, Recorder, SocketAddr,
};

const SECOND: Duration = Duration::from_secs(1);

fn peer(number: u16, down: u64) -> PeerLook {
    PeerLook {
        addr: addr(number),
        client: "x".into(),
        incoming: false,
        protection: Protection::None,
        down,
        up: 0,
        wasted: 0,
        doing: Doing::Asked,
    }
}

fn addr(number: u16) -> SocketAddr {
    ([10, 0, (number >> 8) as u8, number as u8], 6881).into()
}

fn look(down: u64, peers: Vec<PeerLook>) -> Look {
    Look { phase: Phase::Downloading, down, up: 0, peers }
}

/// Whatever the timeline shows of the bytes received: in all, and of each peer.
fn shown(recorder: &Recorder) -> (u64, Vec<u64>) {
    let cells = |row: &&super::Row| row.cells.iter().map(|cell| cell.down).sum();
    (recorder.totals().iter().map(|total| total.down).sum(), recorder.rows().iter().map(cells).collect())
}

#[test]
fn a_week_takes_as_many_bins_as_a_minute_and_loses_no_byte() {
    let mut recorder = Recorder::new(1000);
    for step in 1..=20_000u64 {
        // In steps that grow, so that every width is met.
        let at = Duration::from_millis(20 * step + step * step / 700);
        recorder.look(at, look(step * 1001, vec![peer(1, step * 700), peer(2, step * 301)]));
        if step % 20 == 0 {
            recorder.piece(at, (step / 20 - 1) as u32, Some(addr(1 + (step / 20 % 2) as u16)));
        }
        assert!(recorder.totals().len() <= BINS);
        if step % 100 == 0 {
            assert_eq!(shown(&recorder), (step * 1001, vec![step * 700, step * 301]));
        }
    }
    let shortest = recorder.end().as_millis() / recorder.width().as_millis();
    assert!(recorder.width() > FINEST && shortest >= BINS as u128 / 2 - 1, "no coarser than needed");
    let arrivals = recorder.arrivals().iter().flatten();
    assert_eq!(arrivals.clone().map(|arrival| arrival.count).sum::<u32>(), 1000);
    assert!(arrivals.clone().all(|arrival| (arrival.bin as usize) < recorder.totals().len()));
    for row in recorder.rows() {
        assert_eq!(row.cells.iter().map(|cell| u128::from(cell.seen)).sum::<u128>(), recorder.end().as_millis());
        assert_eq!((row.pieces, row.last), (500, recorder.end()));
    }
}

#[test]
fn one_look_after_a_long_silence_reaches_any_time() {
    let mut recorder = Recorder::new(1);
    recorder.look(SECOND, look(10, vec![]));
    recorder.look(SECOND * 86400 * 365, look(1_000_000, vec![peer(1, 999_990)]));
    assert!(recorder.totals().len() <= BINS);
    assert_eq!(shown(&recorder), (1_000_000, vec![999_990]));
}

#[test]
fn bytes_are_spread_over_the_time_since_the_last_look() {
    let mut recorder = Recorder::new(1);
    recorder.look(FINEST, look(0, vec![]));
    recorder.look(FINEST * 5, look(400, vec![]));
    let down: Vec<u64> = recorder.totals().iter().map(|total| total.down).collect();
    assert_eq!(down, [0, 100, 100, 100, 100, 0]);
}

#[test]
fn a_million_pieces_share_the_rows_and_each_row_knows_who_brought_most() {
    let pieces = 1_000_000;
    let mut recorder = Recorder::new(pieces);
    let mut before = Bits::new(pieces);
    (0..100).for_each(|piece| assert!(before.set(piece)));
    recorder.pieces(Duration::ZERO, &before, true);
    for piece in 0..pieces {
        let from = if piece % 3 == 0 { addr(1) } else { addr(2) };
        recorder.piece(SECOND * (piece / 100), piece, Some(from));
    }
    assert_eq!(recorder.had().iter().sum::<u32>(), 100);
    assert_eq!(recorder.arrivals().len(), ROWS as usize);
    let arrivals: Vec<_> = recorder.arrivals().iter().flatten().collect();
    assert!(arrivals.len() <= ROWS as usize * BINS);
    assert_eq!(arrivals.iter().map(|arrival| arrival.count).sum::<u32>(), pieces - 100);
    let rows = recorder.rows();
    let second = rows.iter().position(|row| row.addr == addr(2));
    let of_second = arrivals.iter().filter(|arrival| arrival.by(&rows) == second).count();
    assert!(of_second * 10 > arrivals.len() * 9, "{of_second} of {}", arrivals.len());
}

#[test]
fn few_pieces_have_a_row_each_and_strange_ones_are_nothing() {
    let mut recorder = Recorder::new(10);
    recorder.piece(SECOND, 9, Some(addr(1)));
    recorder.piece(SECOND, 9, Some(addr(2)));
    recorder.piece(SECOND, 10, None);
    recorder.pieces(SECOND * 2, &Bits::full(10), false);
    let counts: Vec<u32> =
        recorder.arrivals().iter().map(|row| row.iter().map(|arrival| arrival.count).sum()).collect();
    assert_eq!(counts, [1; 10]);
    assert_eq!(recorder.arrivals()[9][0].by(&recorder.rows()), Some(0));
    assert_eq!(recorder.arrivals()[0][0].by(&recorder.rows()), None, "brought by somebody unknown");
    Recorder::new(0).pieces(SECOND, &Bits::full(3), true);
}

#[test]
fn peers_that_come_and_go_for_ever_keep_their_bound_and_the_best_stay() {
    let mut recorder = Recorder::new(1);
    let mut down = 0;
    for number in 0..2000u16 {
        let at = SECOND * u32::from(number);
        recorder.connected(at, addr(number));
        let bytes = if number % 10 == 0 { 1000 } else { 1 };
        down += bytes;
        recorder.look(at, look(down, vec![peer(number, bytes)]));
        recorder.gone(at, addr(number), "it closed the connection");
    }
    assert_eq!((recorder.rows().len(), recorder.peers_ever()), (PEERS, 2000));
    assert!(recorder.rows()[..199].iter().all(|row| row.down == 1000), "the first that brought much are there still");
    // All connected at once, and more than there are lines.
    let mut recorder = Recorder::new(1);
    recorder.look(SECOND, look(9, (0..400).map(|number| peer(number, 1)).collect()));
    assert_eq!(recorder.rows().len(), PEERS);
}

#[test]
fn a_peer_that_connects_again_goes_on_in_its_line() {
    let mut recorder = Recorder::new(1);
    recorder.connected(SECOND, addr(1));
    recorder.look(SECOND, look(100, vec![peer(1, 100)]));
    recorder.gone(SECOND * 2, addr(1), "the connection broke");
    recorder.look(SECOND * 2, look(100, vec![]));
    assert_eq!(recorder.rows()[0].gone.as_deref(), Some("the connection broke"));
    recorder.connected(SECOND * 3, addr(1));
    recorder.look(SECOND * 3, look(150, vec![peer(1, 50)]));
    recorder.gone(SECOND * 3, addr(9), "no connection");
    assert_eq!((recorder.rows()[0].down, recorder.rows()[0].gone.clone()), (150, None));
    assert_eq!(shown(&recorder), (150, vec![150]));
    assert_eq!((recorder.marks(Kind::Left).seen, recorder.marks(Kind::Unreachable).seen), (1, 1));
}

#[test]
fn stalls_are_counted_when_they_begin() {
    let mut recorder = Recorder::new(1);
    let doing = [Doing::Asked, Doing::Stalling, Doing::Stalling, Doing::Choking, Doing::Stalling];
    for (second, doing) in (1..).zip(doing) {
        recorder.look(SECOND * second, look(0, vec![PeerLook { doing, ..peer(1, 0) }]));
    }
    assert_eq!((recorder.rows()[0].stalls, recorder.marks(Kind::Stall).list.len()), (2, 2));
    let cells = &recorder.rows()[0].cells;
    assert_eq!(cells.iter().map(|cell| cell.stalled).sum::<u32>(), 3000);
    assert_eq!(cells.iter().map(|cell| cell.choked).sum::<u32>(), 1000);
}

#[test]
fn marks_are_thinned_out_over_the_whole_time_and_texts_cut() {
    let mut recorder = Recorder::new(1);
    for second in 0..100_000 {
        recorder.mark(SECOND * second, Kind::Tracker, &"ä".repeat(5000), Some(second));
    }
    let marks = recorder.marks(Kind::Tracker);
    assert_eq!(marks.seen, 100_000);
    assert!((MARKS / 2..=MARKS).contains(&marks.list.len()), "{}", marks.list.len());
    assert!(marks.list.windows(2).all(|two| two[1].at - two[0].at == marks.list[1].at - marks.list[0].at));
    assert!(marks.list.last().unwrap().at > SECOND * 99_000);
    assert!(marks.list[0].text.chars().count() < 200);
}
