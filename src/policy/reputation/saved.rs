//! The form of a [`Reputation`] in a file: text, a line for each peer, so that people can read it.
//!
//! ```text
//! ropewalk peers 1
//! 192.0.2.7:0 1048576 1.000 0 0.250 1700000000
//! ADDRESS USEFUL LIES FAULTS STALLS LAST-SEEN
//! ```

use std::fmt::Write;
use std::time::SystemTime;

use super::{MOST, Record, Reputation, person, seconds};

/// The first line, with the version of the form.
const HEAD: &str = "ropewalk peers 1";
/// The longest file that is worth reading, in bytes, for each peer that may be remembered.
const LINE: usize = 128;

/// The file is of another kind, or of a version that is not known here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it is not a list of peers that this version can read")]
pub struct NotRecords;

impl Reputation {
    /// The longest text that [`decode`](Self::decode) could need for this many peers, in bytes.
    pub fn longest(max: usize) -> usize {
        LINE.saturating_mul(max.saturating_add(1))
    }

    /// What is worth remembering, as text.
    pub fn encode(&self, now: SystemTime) -> String {
        let now = seconds(now);
        let mut text = format!("{HEAD}\n");
        let mut records: Vec<_> = self.records.iter().filter(|(_, record)| !record.faded(now).is_nothing()).collect();
        records.sort_unstable_by_key(|(addr, _)| **addr);
        for (addr, record) in records {
            let Record { useful, lies, faults, stalls, last_seen } = record;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{addr} {useful} {lies} {faults} {stalls} {last_seen}");
        }
        text
    }

    /// What text says that [`encode`](Self::encode) made. Lines that cannot be read are left out; times in the future are
    /// now.
    pub fn decode(text: &str, max: usize, now: SystemTime) -> Result<Self, NotRecords> {
        let mut lines = text.lines();
        if lines.next() != Some(HEAD) {
            return Err(NotRecords);
        }
        let mut reputation = Self::new(max);
        let now = seconds(now);
        for (addr, record) in lines.filter_map(parse) {
            let record = Record { last_seen: record.last_seen.min(now), ..record };
            reputation.records.insert(person(addr), record);
            reputation.make_room(now);
        }
        Ok(reputation)
    }
}

fn parse(line: &str) -> Option<(std::net::SocketAddr, Record)> {
    let mut words = line.split(' ');
    let addr = words.next()?.parse().ok()?;
    let useful = words.next()?.parse().ok()?;
    let mut deeds = [0.0; 3];
    for deed in &mut deeds {
        *deed = words.next()?.parse::<f32>().ok().filter(|deed| (0.0..=MOST).contains(deed))?;
    }
    let last_seen = words.next()?.parse().ok()?;
    let [lies, faults, stalls] = deeds;
    words.next().is_none().then_some((addr, Record { useful, lies, faults, stalls, last_seen }))
}
