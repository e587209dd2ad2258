//! Where the time of a torrent went, in plain words: a table, and for each cause that matters what it means and what
//! could be done.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::explain::Explanation;
use crate::peer::{Activity, Times};

/// The least share that a line is made of.
const SHOWN: f64 = 0.01;
/// The least share that a sentence is made of.
const EXPLAINED: f64 = 0.1;
/// How many causes a single line has room for.
const ON_A_LINE: usize = 3;
/// How long peers are given to call before nobody having called means anything.
const TIME_TO_CALL: Duration = Duration::from_secs(30);

impl Explanation {
    /// The same in one line, for the screen: `62 % waiting for unchoke, 30 % for blocks`.
    pub fn line(&self) -> String {
        let connections = self.connections.without(Activity::Seeding);
        if connections.total().is_zero() {
            let torrent = self.torrent.without(Activity::Connected).without(Activity::Seeding);
            return torrent.longest().first().map_or_else(String::new, |(activity, _)| activity.to_string());
        }
        list(&connections, ON_A_LINE)
    }

    /// What a cause means and what could be done about it, in a sentence or two; empty where there is nothing to say.
    pub fn advice(&self, cause: Activity) -> &'static str {
        let much = |activity| self.share(activity) >= EXPLAINED;
        let busy = self.workers.without(Activity::Idle);
        let most = |activity| busy.longest().first().is_some_and(|&(longest, _)| longest == activity);
        match cause {
            Activity::Files => "What was there was looked at first, and hashed where no journal vouched for it.",
            Activity::DiskFull => "The disk was full: make room, or use another one.",
            Activity::CutOff => "The interface or address that everything is bound to was gone: nothing was sent.",
            Activity::Tracker => "The trackers were slow to answer, or did not. Peers can be given by address.",
            Activity::Dialling => "Those who were called did not answer, or slowly: many may be gone.",
            Activity::NoPeers => {
                "Nobody was known who could be called and answers. Try other trackers, or give addresses."
            }
            Activity::NothingWanted => "These peers have nothing that is missing here: others must come.",
            Activity::Unchoke if much(Activity::UploadLimit) => {
                "Few peers have a slot for us. They favour who sends to them: a higher upload limit earns slots."
            }
            Activity::Unchoke => "Few peers have a slot for us: they have others to send to. More peers would help.",
            Activity::Memory => {
                "The memory for pieces in flight is full of pieces that come slowly: more of it would help."
            }
            Activity::Taken => "What is left is on its way from other peers already.",
            Activity::Work => "The torrent's own thread is behind: the processor is short.",
            Activity::Blocks if much(Activity::Sending) => {
                "Requests wait behind what is sent: the upload is full, and a lower upload limit would help."
            }
            Activity::Blocks => "They were asked, and they or the path to them are no faster. More peers would help.",
            Activity::Stalled => "These peers stopped sending; what they were asked for goes to others.",
            Activity::Receiving => "This is the work itself: blocks are read as fast as a processor core can.",
            Activity::Processor => "Blocks were there, but every core was busy: the processor is the limit.",
            Activity::Limit => "The download limit sets the pace, not the peers: raise it to go faster.",
            Activity::VerifyQueue if self.workers.of(Activity::Idle) * 3 > self.workers.total() => {
                "Pieces come in bursts, quicker than they are verified just then; on the whole the workers keep up."
            }
            Activity::VerifyQueue if most(Activity::Processor) => {
                "Pieces are verified more slowly than they come, for every core is busy: the processor is the limit."
            }
            Activity::VerifyQueue if most(Activity::Storing) => {
                "The disk takes pieces more slowly than they come: a faster one would help."
            }
            Activity::VerifyQueue => "Pieces come faster than they can be hashed: the processor is the limit.",
            Activity::Sending => "The path to the peers takes no more.",
            Activity::UploadLimit => "The upload limit sets the pace.",
            _ => "",
        }
    }

    /// How more peers could come, where that would help.
    fn reach(&self) -> Option<String> {
        let helps = [Activity::NoPeers, Activity::NothingWanted, Activity::Unchoke, Activity::Blocks];
        if self.elapsed() < TIME_TO_CALL || helps.iter().all(|&activity| self.share(activity) < EXPLAINED) {
            return None;
        }
        match (self.port, self.callers) {
            (0, _) => Some("nobody can call us: with a port to listen on, more peers could come".into()),
            (port, 0) => {
                Some(format!("nobody has called us: with port {port} open to the outside, more peers could come"))
            }
            _ => None,
        }
    }

    fn causes(&self, f: &mut Formatter<'_>, times: &Times, whole: Duration) -> fmt::Result {
        let mut rest = Duration::ZERO;
        for (activity, time) in times.longest() {
            let share = ratio(time, whole);
            if share < SHOWN {
                rest += time;
                continue;
            }
            writeln!(f, "{:>5}  {activity:<30}  {:>11}", percent(share), long(time))?;
            if share >= EXPLAINED {
                writeln!(f, "       {}", self.advice(activity))?;
            }
        }
        let share = ratio(rest, whole);
        if share < SHOWN / 10.0 {
            return Ok(());
        }
        let share = if share < SHOWN { "< 1 %".to_owned() } else { percent(share) };
        writeln!(f, "{share:>5}  {:<30}  {:>11}", "anything else", long(rest))
    }
}

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let alone = self.torrent.without(Activity::Connected).without(Activity::Seeding).without(Activity::Paused);
        let connections = self.connections.without(Activity::Seeding);
        writeln!(f, "where the time went, {} in all:", long(self.elapsed()))?;
        // A blink before the first peer is no cause of anything.
        if ratio(alone.total(), self.elapsed()) >= SHOWN {
            writeln!(f, "without any peer:")?;
            self.causes(f, &alone, self.elapsed())?;
        }
        if self.connected == 0 {
            write!(f, "no peer was connected")?;
        } else {
            let (connected, asked) = self.mean_peers();
            let plural = if self.connected == 1 { "connection" } else { "connections" };
            let mean = format!("{connected:.1} at a time on average, {asked:.1} of them asked for blocks");
            writeln!(f, "{} {plural}, {mean}:", self.connected)?;
            self.causes(f, &connections, connections.total())?;
            write!(f, "sending threads: {}", list(&self.senders, ON_A_LINE))?;
        }
        if let Some(reach) = self.reach() {
            write!(f, "\n{reach}")?;
        }
        // Without any peer they had nothing to be asked for.
        if self.workers.total().is_zero() {
            return Ok(());
        }
        write!(f, "\nverify workers ({}): {}", self.worker_threads, list(&self.workers, ON_A_LINE))
    }
}

/// `62 % waiting for unchoke, 30 % for blocks`.
fn list(times: &Times, most: usize) -> String {
    const WAITING: &str = "waiting ";
    let total = times.total();
    let mut said = String::new();
    for (activity, time) in times.longest().into_iter().take(most) {
        let share = ratio(time, total);
        if share < SHOWN {
            break;
        }
        let name = activity.to_string();
        let name = if said.contains(WAITING) { name.trim_start_matches(WAITING) } else { &name };
        said += &format!("{}{} {name}", if said.is_empty() { "" } else { ", " }, percent(share));
    }
    said
}

fn ratio(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() { 0.0 } else { part.as_secs_f64() / whole.as_secs_f64() }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// `0.8 s`, `4 min 05 s`, `2 h 03 min`.
fn long(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Explanation;
    use crate::peer::{Activity, Times};

    fn times(parts: &[(Activity, u64)]) -> Times {
        let mut times = Times::default();
        parts.iter().for_each(|&(activity, millis)| times.add(activity, Duration::from_millis(millis)));
        times
    }

    fn choked() -> Explanation {
        Explanation {
            torrent: times(&[(Activity::Tracker, 10_000), (Activity::Connected, 90_000), (Activity::Paused, 77_000)]),
            connections: times(&[
                (Activity::Unchoke, 620_000),
                (Activity::Blocks, 300_000),
                (Activity::NothingWanted, 79_000),
                (Activity::Work, 1_000),
                (Activity::Seeding, 555_000),
            ]),
            senders: times(&[(Activity::Idle, 99_000), (Activity::Sending, 1_000)]),
            workers: times(&[(Activity::Idle, 95_000), (Activity::Hashing, 5_000)]),
            worker_threads: 2,
            connected: 14,
            port: 6881,
            ..Explanation::default()
        }
    }

    #[test]
    fn the_table_names_the_causes_by_weight_and_says_what_to_do() {
        let expected = "\
where the time went, 1 min 40 s in all:
without any peer:
 10 %  waiting for a tracker                10.0 s
       The trackers were slow to answer, or did not. Peers can be given by address.
14 connections, 11.1 at a time on average, 3.3 of them asked for blocks:
 62 %  waiting for unchoke             10 min 20 s
       Few peers have a slot for us: they have others to send to. More peers would help.
 30 %  waiting for blocks               5 min 00 s
       They were asked, and they or the path to them are no faster. More peers would help.
  8 %  nothing wanted                   1 min 19 s
< 1 %  anything else                         1.0 s
sending threads: 99 % idle, 1 % blocked in send
nobody has called us: with port 6881 open to the outside, more peers could come
verify workers (2): 95 % idle, 5 % hashing";
        let said = choked().to_string();
        assert_eq!(said, expected, "\n{said}");
        assert_eq!(choked().line(), "62 % waiting for unchoke, 30 % for blocks, 8 % nothing wanted");
    }

    #[test]
    fn without_peers_the_torrent_itself_tells() {
        let mut explanation = Explanation { torrent: times(&[(Activity::Dialling, 3_000)]), ..Explanation::default() };
        assert_eq!(explanation.line(), "dialling");
        assert!(explanation.to_string().ends_with("\nno peer was connected"), "{explanation}");
        explanation.torrent = Times::default();
        assert_eq!(explanation.line(), "");
        assert!(!explanation.to_string().contains("NaN"));
    }

    #[test]
    fn the_advice_fits_what_else_is_known() {
        let mut explanation = choked();
        explanation.callers = 1;
        assert!(!explanation.to_string().contains("port"));
        explanation.port = 0;
        assert!(explanation.to_string().contains("nobody can call us"));
        explanation.senders = times(&[(Activity::UploadLimit, 5_000), (Activity::Sending, 5_000)]);
        assert!(explanation.advice(Activity::Unchoke).contains("upload limit"));
        assert!(explanation.advice(Activity::Blocks).contains("lower upload limit"));
        explanation.workers = times(&[(Activity::Storing, 5_000), (Activity::Hashing, 1_000)]);
        assert!(explanation.advice(Activity::VerifyQueue).contains("disk"));
        explanation.workers =
            times(&[(Activity::Storing, 5_000), (Activity::Processor, 6_000), (Activity::Idle, 4_000)]);
        assert!(explanation.advice(Activity::VerifyQueue).contains("every core"));
        explanation.workers = times(&[(Activity::Storing, 5_000), (Activity::Idle, 9_000)]);
        assert!(explanation.advice(Activity::VerifyQueue).contains("in bursts"));
        explanation.workers = times(&[(Activity::Storing, 1_000), (Activity::Hashing, 5_000)]);
        assert!(explanation.advice(Activity::VerifyQueue).contains("hashed"));
    }

    #[test]
    fn what_is_new_is_told_from_what_was_before() {
        let (before, mut after) = (choked(), choked());
        after.connections.add(Activity::Limit, Duration::from_secs(9));
        let since = after.since(&before);
        assert_eq!((since.line().as_str(), since.share(Activity::Limit)), ("100 % held by the download limit", 1.0));
    }
}
