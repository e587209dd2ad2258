//! Where time goes: an account per connection, tallies of threads that are mostly idle, and what a thread's processor
//! time was.
//!
//! It owns no clock: `now` comes in, from where it is at hand already. An account is switched only when what is waited
//! for changes, so a block that follows another costs it one comparison.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What time is spent on: by a torrent as a whole, by a connection to a peer, by its sending thread, or by the workers
/// that verify pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Activity {
    /// Torrent: its files are opened and checked.
    Files,
    /// Torrent without peers, and connection: waiting for room on the disk.
    DiskFull,
    /// Torrent: what all sockets are bound to is gone.
    CutOff,
    /// Torrent: no peer yet, and a tracker has not answered.
    Tracker,
    /// Torrent: no peer yet, connections are being made.
    Dialling,
    /// Torrent: no peer, and nobody to call.
    NoPeers,
    /// Torrent: there are peers; their connections tell the rest.
    Connected,
    /// Torrent: paused, or failed.
    Paused,
    /// Torrent and connection: everything wanted is there.
    Seeding,

    /// Connection: the peer has nothing that is wanted here.
    NothingWanted,
    /// Connection: the peer does not answer our requests now; it has other peers to send to.
    Unchoke,
    /// Connection: there is no work because the memory for pieces in flight is full.
    Memory,
    /// Connection: there is no work because all that the peer could send is being fetched from others.
    Taken,
    /// Connection: work is about to come.
    Work,
    /// Connection: the peer was asked, and its blocks are on their way.
    Blocks,
    /// Connection: the peer was asked, and has not sent anything for much longer than it usually takes.
    Stalled,
    /// Connection: blocks are taken in; this is processor time.
    Receiving,
    /// Connection and verify workers: there is something to do, but all processor cores are busy.
    Processor,
    /// Connection: our own limits keep it from receiving.
    Limit,
    /// Connection: a piece is complete, but the verify workers are behind.
    VerifyQueue,

    /// Sending thread: it sends, or waits for the path or the peer to take what is sent.
    Sending,
    /// Sending thread: our own limits keep it from sending.
    UploadLimit,

    /// Verify workers: they hash.
    Hashing,
    /// Verify workers: they store what is verified.
    Storing,

    /// Sending thread and verify workers: nothing to do.
    Idle,
}

/// The number of activities.
const KINDS: usize = Activity::Idle as usize + 1;

/// How much time each activity took. What several threads did at the same time adds up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    nanos: [u64; KINDS],
}

/// The account of one who is always at exactly one activity.
#[derive(Debug)]
pub(crate) struct Account {
    spent: Times,
    at: Activity,
    /// `None` once it is closed.
    since: Option<Instant>,
}

/// Time of threads that only note what they do, not when they do nothing. Written by them, read by anyone; the numbers
/// stand alone.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    nanos: [AtomicU64; KINDS],
}

/// The processor time of one thread, which notes it now and then. Written by that thread, read by anyone; the numbers
/// stand alone.
#[derive(Debug)]
pub(crate) struct Processor {
    born: Instant,
    /// How often it is noted, at the most: a look costs some microseconds.
    every: Duration,
    /// Nanoseconds from `born` to when it is to be noted again.
    due: AtomicU64,
    used: AtomicU64,
    /// How long it could have run, but no core was free.
    queued: AtomicU64,
}

/// Each activity at its place, its name for programs, and what people call it.
const NAMES: [(Activity, &str, &str); KINDS] = [
    (Activity::Files, "files", "opening and checking the files"),
    (Activity::DiskFull, "disk-full", "waiting for room on the disk"),
    (Activity::CutOff, "cut-off", "waiting for the network interface"),
    (Activity::Tracker, "tracker", "waiting for a tracker"),
    (Activity::Dialling, "dialling", "dialling"),
    (Activity::NoPeers, "no-peers", "without anybody to connect to"),
    (Activity::Connected, "connected", "connected"),
    (Activity::Paused, "paused", "paused"),
    (Activity::Seeding, "seeding", "complete"),
    (Activity::NothingWanted, "nothing-wanted", "nothing wanted"),
    (Activity::Unchoke, "unchoke", "waiting for unchoke"),
    (Activity::Memory, "memory", "waiting for memory"),
    (Activity::Taken, "taken", "all asked of others"),
    (Activity::Work, "work", "waiting for work"),
    (Activity::Blocks, "blocks", "waiting for blocks"),
    (Activity::Stalled, "stalled", "stalled"),
    (Activity::Receiving, "receiving", "taking blocks in"),
    (Activity::Processor, "processor", "waiting for a processor core"),
    (Activity::Limit, "limit", "held by the download limit"),
    (Activity::VerifyQueue, "verify-queue", "waiting for the verify workers"),
    (Activity::Sending, "sending", "blocked in send"),
    (Activity::UploadLimit, "upload-limit", "held by the upload limit"),
    (Activity::Hashing, "hashing", "hashing"),
    (Activity::Storing, "storing", "storing"),
    (Activity::Idle, "idle", "idle"),
];

impl Activity {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|&(activity, ..)| activity)
    }

    /// Its name for programs, such as `unchoke` or `verify-queue`: it stays as it is.
    pub fn name(self) -> &'static str {
        NAMES[self as usize].1
    }
}

/// For people, such as `waiting for unchoke`.
impl std::fmt::Display for Activity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(NAMES[*self as usize].2)
    }
}

impl Times {
    /// The time of one activity.
    pub fn of(&self, activity: Activity) -> Duration {
        Duration::from_nanos(self.nanos[activity as usize])
    }

    /// The time of all of them.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.nanos.iter().fold(0, |sum: u64, nanos| sum.saturating_add(*nanos)))
    }

    /// Those that took any time, the longest first.
    pub fn longest(&self) -> Vec<(Activity, Duration)> {
        let mut longest: Vec<_> = Activity::all().map(|activity| (activity, self.of(activity))).collect();
        longest.retain(|(_, time)| !time.is_zero());
        longest.sort_by_key(|&(_, time)| std::cmp::Reverse(time));
        longest
    }

    /// What was spent after `earlier` was looked at.
    pub fn since(&self, earlier: &Self) -> Self {
        Self { nanos: std::array::from_fn(|at| self.nanos[at].saturating_sub(earlier.nanos[at])) }
    }

    /// The same without one activity.
    pub fn without(mut self, activity: Activity) -> Self {
        self.nanos[activity as usize] = 0;
        self
    }

    pub(crate) fn add(&mut self, activity: Activity, time: Duration) {
        let nanos = &mut self.nanos[activity as usize];
        *nanos = nanos.saturating_add(nanos_of(time));
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        for (nanos, more) in self.nanos.iter_mut().zip(other.nanos) {
            *nanos = nanos.saturating_add(more);
        }
    }

    /// Counts a part of one activity's time, at most all of it, as another's.
    pub(crate) fn shift(&mut self, from: Activity, to: Activity, time: Duration) {
        let time = time.min(self.of(from));
        self.nanos[from as usize] -= nanos_of(time);
        self.add(to, time);
    }
}

impl Account {
    pub(crate) fn new(at: Activity, now: Instant) -> Self {
        Self { spent: Times::default(), at, since: Some(now) }
    }

    /// From now on time goes to this activity.
    #[inline]
    pub(crate) fn switch(&mut self, to: Activity, now: Instant) {
        if self.at != to {
            self.book(now);
            self.at = to;
        }
    }

    /// No more time is counted.
    pub(crate) fn close(&mut self, now: Instant) {
        self.book(now);
        self.since = None;
    }

    /// What is being done; once it is closed, what was done last.
    pub(crate) fn current(&self) -> Activity {
        self.at
    }

    /// All that was spent, the present activity up to now.
    pub(crate) fn times(&self, now: Instant) -> Times {
        let mut times = self.spent;
        if let Some(since) = self.since {
            times.add(self.at, now.saturating_duration_since(since));
        }
        times
    }

    fn book(&mut self, now: Instant) {
        if let Some(since) = &mut self.since {
            self.spent.add(self.at, now.saturating_duration_since(*since));
            // Threads that read the clock before they got the lock come with times out of order.
            *since = now.max(*since);
        }
    }
}

impl Tally {
    pub(crate) fn add(&self, activity: Activity, time: Duration) {
        self.nanos[activity as usize].fetch_add(nanos_of(time), Ordering::Relaxed);
    }

    pub(crate) fn times(&self) -> Times {
        Times { nanos: std::array::from_fn(|at| self.nanos[at].load(Ordering::Relaxed)) }
    }
}

impl Processor {
    pub(crate) fn new(every: Duration, now: Instant) -> Self {
        Self { born: now, every, due: AtomicU64::new(0), used: AtomicU64::new(0), queued: AtomicU64::new(0) }
    }

    /// Notes the processor time of the calling thread, where the last look was long ago.
    #[inline]
    pub(crate) fn note(&self, now: Instant) {
        let age = nanos_of(now.saturating_duration_since(self.born));
        if age >= self.due.load(Ordering::Relaxed) {
            self.due.store(age + nanos_of(self.every), Ordering::Relaxed);
            self.note_now();
        }
    }

    /// The same, however long ago the last look was: for the end of the thread. Where the system does not tell, nothing
    /// is noted, and the time counts as that of the activity it was part of.
    pub(crate) fn note_now(&self) {
        let Ok(text) = std::fs::read_to_string("/proc/thread-self/schedstat") else { return };
        let mut numbers = text.split_ascii_whitespace().map_while(|word| word.parse().ok());
        if let (Some(used), Some(queued)) = (numbers.next(), numbers.next()) {
            self.used.store(used, Ordering::Relaxed);
            self.queued.store(queued, Ordering::Relaxed);
        }
    }

    /// How long the thread could have run, but no core was free.
    pub(crate) fn queued(&self) -> Duration {
        Duration::from_nanos(self.queued.load(Ordering::Relaxed))
    }

    /// Takes this thread's processor time, and its waiting for a core, out of the time in which it waited for blocks:
    /// seen from the connection that is one activity, and reading the clock around each read would cost more than it
    /// tells.
    pub(crate) fn split(&self, times: &mut Times) {
        let used = Duration::from_nanos(self.used.load(Ordering::Relaxed));
        times.shift(Activity::Blocks, Activity::Receiving, used);
        times.shift(Activity::Blocks, Activity::Processor, self.queued());
    }
}

fn nanos_of(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Account, Activity, Processor, Tally, Times};

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn time_goes_to_what_is_being_done() {
        let start = Instant::now();
        let mut account = Account::new(Activity::NothingWanted, start);
        account.switch(Activity::Unchoke, start + seconds(1));
        account.switch(Activity::Blocks, start + seconds(6));
        account.switch(Activity::Blocks, start + seconds(7));
        let times = account.times(start + seconds(10));
        assert_eq!(
            times.longest(),
            [(Activity::Unchoke, seconds(5)), (Activity::Blocks, seconds(4)), (Activity::NothingWanted, seconds(1)),]
        );
        assert_eq!((times.total(), account.current()), (seconds(10), Activity::Blocks));
    }

    #[test]
    fn a_closed_account_counts_no_more() {
        let start = Instant::now();
        let mut account = Account::new(Activity::Blocks, start);
        account.close(start + seconds(2));
        account.switch(Activity::Limit, start + seconds(3));
        account.close(start + seconds(4));
        assert_eq!(account.times(start + seconds(5)).longest(), [(Activity::Blocks, seconds(2))]);
    }

    #[test]
    fn times_out_of_order_are_counted_once() {
        let start = Instant::now();
        let mut account = Account::new(Activity::Blocks, start);
        account.switch(Activity::Limit, start + seconds(5));
        account.switch(Activity::Blocks, start + seconds(4));
        let times = account.times(start + seconds(9));
        assert_eq!((times.total(), times.of(Activity::Blocks)), (seconds(9), seconds(9)));
    }

    #[test]
    fn a_difference_is_what_came_after() {
        let start = Instant::now();
        let mut account = Account::new(Activity::Unchoke, start);
        let earlier = account.times(start + seconds(3));
        account.switch(Activity::Blocks, start + seconds(4));
        let later = account.times(start + seconds(6)).since(&earlier);
        assert_eq!(later.longest(), [(Activity::Blocks, seconds(2)), (Activity::Unchoke, seconds(1))]);
        assert_eq!(later.without(Activity::Blocks).total(), seconds(1));
        let mut sum = Times::default();
        sum.add_all(&earlier);
        sum.add_all(&later);
        assert_eq!(sum, account.times(start + seconds(6)));
    }

    #[test]
    fn a_tally_adds_up_what_threads_note() {
        let tally = Tally::default();
        tally.add(Activity::Hashing, seconds(1));
        tally.add(Activity::Hashing, seconds(2));
        assert_eq!(tally.times().longest(), [(Activity::Hashing, seconds(3))]);
    }

    #[test]
    fn processor_time_is_taken_out_of_the_wait_for_blocks_and_never_more_than_that() {
        let processor = Processor::new(seconds(1), Instant::now());
        processor.used.store(2_000_000_000, std::sync::atomic::Ordering::Relaxed);
        processor.queued.store(9_000_000_000, std::sync::atomic::Ordering::Relaxed);
        let mut times = Times::default();
        times.add(Activity::Blocks, seconds(5));
        processor.split(&mut times);
        let of = |activity| times.of(activity);
        assert_eq!((of(Activity::Receiving), of(Activity::Processor)), (seconds(2), seconds(3)));
        assert_eq!((of(Activity::Blocks), times.total()), (Duration::ZERO, seconds(5)));
    }

    #[test]
    fn every_activity_is_at_its_place_in_the_list_of_names() {
        assert!(Activity::all().enumerate().all(|(at, activity)| activity as usize == at));
        assert_eq!(
            (Activity::VerifyQueue.name(), Activity::Blocks.to_string().as_str()),
            ("verify-queue", "waiting for blocks")
        );
    }
}
