//! What waits to be written to one peer.
//!
//! It owns the messages between those who have something to say to the peer and the thread that writes. Nobody waits to
//! put one in. The writer takes all that is there at once and is woken once for it; an outbox that was never
//! full takes no memory to speak of.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::{Outgoing, REQUEST_QUEUE, Wish};

/// Messages to a peer that wait to be written. A peer that lets more pile up is too slow to be worth it.
const MOST: usize = 1024;
/// Requests of a peer, and what it takes back, that wait for the writer to look at them.
const MOST_WISHES: usize = 2 * REQUEST_QUEUE as usize;

/// The messages to one peer.
#[derive(Default)]
pub(super) struct Outbox {
    /// Locked to put in or to take out, never across I/O.
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Outgoing>,
    /// How many of the messages are wishes.
    wishes: usize,
    /// There is work, or room in the window, that the writer has not looked at.
    kicked: bool,
    /// The writer waits for news.
    waiting: bool,
    closed: bool,
}

impl Outbox {
    /// Puts a message in. `false`: there are too many already, or nobody writes any more.
    pub(super) fn put(&self, message: Outgoing) -> bool {
        let mut state = self.state.lock();
        if state.closed || state.messages.len() - state.wishes >= MOST {
            return false;
        }
        state.messages.push_back(message);
        self.wake(&mut state);
        true
    }

    /// Puts in what the peer asks for, all that came at once. `false`: it is more than it may ask for.
    pub(super) fn wish(&self, wishes: &mut Vec<Wish>) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            wishes.clear();
        }
        if state.wishes + wishes.len() > MOST_WISHES {
            return false;
        }
        state.wishes += wishes.len();
        state.messages.extend(wishes.drain(..).map(Outgoing::Wish));
        self.wake(&mut state);
        true
    }

    /// Has the writer look at its work and its window.
    pub(super) fn kick(&self) {
        let mut state = self.state.lock();
        if !state.kicked {
            state.kicked = true;
            self.wake(&mut state);
        }
    }

    /// Nothing is taken in any more, and the writer need not wait.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        (state.messages, state.wishes) = (VecDeque::new(), 0);
        self.wake(&mut state);
    }

    /// Waits for news, at the longest until then, and moves all messages into `taken`, which must be empty. Says whether
    /// the writer was kicked.
    pub(super) fn take(&self, taken: &mut VecDeque<Outgoing>, until: Instant) -> bool {
        let mut state = self.state.lock();
        while state.messages.is_empty() && !state.kicked && !state.closed && Instant::now() < until {
            state.waiting = true;
            let timed_out = self.news.wait_until(&mut state, until).timed_out();
            state.waiting = false;
            if timed_out {
                break;
            }
        }
        std::mem::swap(&mut state.messages, taken);
        state.wishes = 0;
        std::mem::take(&mut state.kicked)
    }

    fn wake(&self, state: &mut State) {
        if state.waiting {
            state.waiting = false;
            self.news.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::{Duration, Instant};

    use super::{MOST, MOST_WISHES, Outbox};
    use crate::metainfo::{Attributes, FileEntry, Layout};
    use crate::peer::{Outgoing, Wish};

    #[test]
    fn messages_come_out_in_order_together_with_the_kick() {
        let outbox = Outbox::default();
        assert!(outbox.put(Outgoing::Choke) && outbox.put(Outgoing::Unchoke));
        outbox.kick();
        let mut taken = VecDeque::new();
        assert!(outbox.take(&mut taken, Instant::now()));
        assert!(matches!(taken.make_contiguous(), [Outgoing::Choke, Outgoing::Unchoke]));
        taken.clear();
        assert!(!outbox.take(&mut taken, Instant::now()) && taken.is_empty());
    }

    #[test]
    fn a_writer_that_waits_is_woken_by_a_message_a_kick_and_the_end() {
        let wakers: [fn(&Outbox); 3] = [|outbox| assert!(outbox.put(Outgoing::Choke)), Outbox::kick, Outbox::close];
        for wake in wakers {
            let outbox = Outbox::default();
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| {
                    outbox.take(&mut VecDeque::new(), Instant::now() + Duration::from_secs(60));
                });
                wake(&outbox);
                waiting.join().expect("it does not panic");
            });
        }
    }

    #[test]
    fn wishes_come_out_in_order_with_messages_and_are_bounded_apart_from_them() {
        let outbox = Outbox::default();
        let file = FileEntry { path: "a".into(), len: 1, offset: 0, attributes: Attributes::default() };
        let block = Layout::new(vec![file], 1).and_then(|layout| layout.range(0, 0, 1)).expect("a block");
        let mut wishes = vec![Wish::Upload(block); MOST_WISHES];
        assert!(outbox.wish(&mut wishes) && wishes.is_empty());
        assert!(outbox.put(Outgoing::Unchoke));
        assert!(!outbox.wish(&mut vec![Wish::Forget(block)]));
        let mut taken = VecDeque::new();
        assert!(!outbox.take(&mut taken, Instant::now()));
        assert!(matches!(taken.front(), Some(Outgoing::Wish(Wish::Upload(_)))));
        assert!(matches!(taken.back(), Some(Outgoing::Unchoke)));
        taken.clear();
        assert!(outbox.wish(&mut vec![Wish::Forget(block)]));
    }

    #[test]
    fn what_piles_up_and_what_comes_after_the_end_is_refused() {
        let outbox = Outbox::default();
        for _ in 0..MOST {
            assert!(outbox.put(Outgoing::Interested));
        }
        assert!(!outbox.put(Outgoing::Interested));
        outbox.close();
        let mut taken = VecDeque::new();
        outbox.take(&mut taken, Instant::now() + Duration::from_secs(60));
        assert!(taken.is_empty() && !outbox.put(Outgoing::Choke));
    }
}
