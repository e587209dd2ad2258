//! What came from the peer, in the order of its numbers: what is next goes on, what is early waits.
//!
//! It owns what is early, within bounds, and knows what to say of it. Where the stream goes is not its business.

use std::collections::VecDeque;

use crate::wire::utp::SelectiveAck;

/// Packets that may be early, by their distance from the next one: as many as a selective ack can say.
const EARLY: usize = 1024;

/// Room that only the next packet may take beyond all other: without it those after it could keep it out for ever.
const NEXT: usize = 64 << 10;

/// The receiving side of a connection.
pub(super) struct Received {
    /// The number of the last packet that came in order.
    last: u16,
    /// What came beyond the next one, by its distance from the one after that.
    early: VecDeque<Option<Early>>,
    /// Payload bytes of what is early.
    early_bytes: usize,
    /// The last packet of the stream has come, and all before it.
    is_over: bool,
}

/// How much may be kept, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Until somebody reads.
    pub(super) all: usize,
    /// Of what waits for others before it.
    pub(super) early: usize,
}

struct Early {
    payload: Box<[u8]>,
    is_fin: bool,
}

impl Received {
    /// The last one that came has this number.
    pub(super) fn new(last: u16) -> Self {
        Self { last, early: VecDeque::new(), early_bytes: 0, is_over: false }
    }

    /// The number of the last packet that came in order.
    pub(super) fn last(&self) -> u16 {
        self.last
    }

    /// Whether the whole stream has come.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// How many bytes what waits for others before it takes.
    pub(super) fn early_bytes(&self) -> usize {
        self.early_bytes + self.early.len() * size_of::<Option<Early>>()
    }

    /// What is early is of no use any more; it would have to come again.
    pub(super) fn forget_early(&mut self) {
        (self.early, self.early_bytes) = (VecDeque::new(), 0);
    }

    /// Whether anything waits for others before it.
    pub(super) fn is_missing_some(&self) -> bool {
        !self.early.is_empty()
    }

    /// Takes in a packet, where it is new and there is room, and appends to `out` what is next now.
    pub(super) fn take(&mut self, seq_nr: u16, payload: &[u8], is_fin: bool, room: Room, out: &mut VecDeque<u8>) {
        let distance = usize::from(seq_nr.wrapping_sub(self.last).wrapping_sub(1));
        let room = match distance {
            0 if self.is_missing_some() => room.all + NEXT,
            0 => room.all,
            _ => room.all.min(room.early),
        };
        let slots = distance.saturating_sub(self.early.len()) * size_of::<Option<Early>>();
        if self.is_over || distance > EARLY || self.early_bytes() + slots + payload.len() > room {
            return;
        }
        if distance > 0 {
            let place = distance - 1;
            if self.early.len() <= place {
                self.early.resize_with(place + 1, || None);
            }
            let early = &mut self.early[place];
            if early.is_none() {
                self.early_bytes += payload.len();
                *early = Some(Early { payload: payload.into(), is_fin });
            }
            return;
        }
        self.go_on(payload, is_fin, out);
        // The place before the first is the one that was just filled.
        while let Some(next) = self.early.pop_front() {
            let Some(early) = next else { break };
            self.early_bytes -= early.payload.len();
            self.go_on(&early.payload, early.is_fin, out);
        }
        if self.is_over {
            self.forget_early();
        }
    }

    fn go_on(&mut self, payload: &[u8], is_fin: bool, out: &mut VecDeque<u8>) {
        if !self.is_over {
            self.last = self.last.wrapping_add(1);
            out.extend(payload);
            self.is_over = is_fin;
        }
    }

    /// The bits that say what is early, none where nothing is.
    pub(super) fn selective(&self) -> Vec<u8> {
        let mut bits = vec![0; self.early.len().div_ceil(32) * 4];
        for (place, _) in self.early.iter().enumerate().filter(|(_, early)| early.is_some()) {
            SelectiveAck::mark(&mut bits, place as u16 + 1);
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { all: 1000, early: usize::MAX };

    fn arrived(received: &Received) -> Vec<u16> {
        SelectiveAck::new(&received.selective()).arrived().collect()
    }

    #[test]
    fn what_is_early_waits_and_is_told_of() {
        let mut received = Received::new(u16::MAX - 1);
        let mut out = VecDeque::new();
        for (seq_nr, payload) in [(1, &b"cc"[..]), (4, b"ff"), (1, b"xx"), (u16::MAX, b"aa")] {
            received.take(seq_nr, payload, false, ROOM, &mut out);
        }
        assert_eq!((received.last(), received.early_bytes), (u16::MAX, 4));
        assert_eq!(arrived(&received), [1, 4], "0 is missing, 1 and 4 are there");
        assert_eq!(received.selective().len(), 4);
        for (seq_nr, payload) in [(0, &b"bb"[..]), (2, b"dd"), (3, b"ee"), (0, b"yy")] {
            received.take(seq_nr, payload, false, ROOM, &mut out);
        }
        assert_eq!(out, b"aabbccddeeff");
        assert_eq!((received.last(), received.early_bytes, received.is_missing_some()), (4, 0, false));
        assert_eq!(received.selective(), b"");
    }

    #[test]
    fn the_stream_is_over_when_all_before_the_last_has_come_and_nothing_comes_after() {
        let mut received = Received::new(0);
        let mut out = VecDeque::new();
        received.take(3, b"c", true, ROOM, &mut out);
        received.take(4, b"d", false, ROOM, &mut out);
        received.take(1, b"a", false, ROOM, &mut out);
        assert!(!received.is_over());
        received.take(2, b"b", false, ROOM, &mut out);
        assert!(received.is_over());
        received.take(4, b"e", false, ROOM, &mut out);
        assert_eq!((out.make_contiguous().to_vec(), received.last(), received.early_bytes), (b"abc".to_vec(), 3, 0));
    }

    #[test]
    fn nothing_is_kept_beyond_the_bounds() {
        let mut received = Received::new(0);
        let mut out = VecDeque::new();
        for seq_nr in (2..=u16::MAX).rev() {
            received.take(seq_nr, &[0; 100], false, ROOM, &mut out);
        }
        assert!((500..=ROOM.all).contains(&received.early_bytes()), "{}", received.early_bytes());
        let mut empty = Received::new(0);
        for seq_nr in 2..=u16::MAX {
            empty.take(seq_nr, &[], false, ROOM, &mut out);
        }
        assert!((500..=ROOM.all).contains(&empty.early_bytes()), "{}", empty.early_bytes());
        received.take(1, &[0; NEXT + ROOM.all + 1], false, ROOM, &mut out);
        assert_eq!(received.last(), 0, "nor the next one, if it is too much");
        received.take(1, &[0; NEXT], false, ROOM, &mut out);
        assert_eq!(received.last(), 1);
    }

    #[test]
    fn where_all_together_keep_too_much_the_next_one_is_taken_all_the_same() {
        let mut received = Received::new(0);
        let mut out = VecDeque::new();
        let large = Room { all: 2000, ..ROOM };
        for (seq_nr, room, early_bytes) in [(3, large, 500), (4, Room { early: 600, ..large }, 500), (2, large, 1000)] {
            received.take(seq_nr, &[0; 500], false, room, &mut out);
            assert_eq!(received.early_bytes, early_bytes);
        }
        received.take(1, &[0; 500], false, Room { early: 0, ..ROOM }, &mut out);
        assert_eq!((received.last(), out.len()), (3, 1500));
    }
}
