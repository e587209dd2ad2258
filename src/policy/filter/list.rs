//! Blocklists as they are found: what a line says, in the forms that people keep them in.
//!
//! It owns the reading, which is bounded: a line is as long as a line may be, a list has as many ranges as fit. Names are
//! bytes in whatever encoding and are not looked at.

use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use flate2::bufread::MultiGzDecoder;

use super::{IpFilterBuilder, network};

/// The longest line that is looked at.
const LINE: usize = 4096;
/// How many ranges a list may have: some 128 MiB of them.
const RANGES: u64 = 16 << 20;
/// How much a packed list may unpack to.
const UNPACKED: u64 = 4 << 30;
/// Up to this access level a range of a DAT list is blocked.
const BLOCKED: u32 = 127;
/// So much of a line is shown.
const SHOWN: usize = 60;

/// What came of reading a list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ListSummary {
    /// The ranges that it blocks, as they are in it.
    pub ranges: u64,
    /// The ranges that it lets pass (DAT).
    pub allowed: u64,
    /// The lines that could not be read.
    pub bad: u64,
    /// The first of those.
    pub first_bad: Option<BadLine>,
}

/// A line that could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadLine {
    /// Its number, from 1.
    pub number: u64,
    /// Its beginning, printable.
    pub text: String,
}

/// Why a list was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlocklistError {
    /// The bytes did not come, or could not be unpacked.
    #[error("cannot read the list: {0}")]
    Io(#[from] io::Error),
    /// It is packed in a way that is not understood.
    #[error("it is a zip archive; unpack it, or pack the list with gzip")]
    Zip,
    /// Not a single line says anything.
    #[error(
        "not a blocklist: none of its {} lines is a range, the first is {:?}; \
         it takes the P2P, DAT and CIDR formats", .lines, .first.text
    )]
    NotAList {
        /// The lines that could not be read.
        lines: u64,
        /// The first of them.
        first: BadLine,
    },
    /// It has more ranges than anybody could want.
    #[error("the list has more than {RANGES} ranges")]
    TooLong,
}

/// What one line says.
#[derive(PartialEq, Eq, Debug)]
enum Line {
    Nothing,
    Block(RangeInclusive<IpAddr>),
    Allow,
    Bad,
}

/// The ranges of a list.
pub(super) fn read(mut list: impl BufRead) -> Result<(IpFilterBuilder, ListSummary), BlocklistError> {
    let start = loop {
        match list.fill_buf() {
            Ok(start) => break start,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    };
    match start {
        [0x1f, 0x8b, ..] => {
            let packed = MultiGzDecoder::new(list);
            read_lines(BufReader::with_capacity(1 << 16, packed.take(UNPACKED)))
        }
        [b'P', b'K', 3, 4, ..] => Err(BlocklistError::Zip),
        _ => read_lines(list),
    }
}

fn read_lines(mut list: impl BufRead) -> Result<(IpFilterBuilder, ListSummary), BlocklistError> {
    let (mut ranges, mut summary) = (IpFilterBuilder::default(), ListSummary::default());
    let mut line = Vec::with_capacity(LINE);
    for number in 1.. {
        line.clear();
        if list.by_ref().take(LINE as u64).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let whole = line.last() == Some(&b'\n') || line.len() < LINE;
        if !whole {
            list.skip_until(b'\n')?;
        }
        let text = if number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line) } else { &line };
        let text = text.trim_ascii();
        let said = match parse(text) {
            Line::Block(_) if !whole => Line::Bad,
            said => said,
        };
        match said {
            Line::Nothing => {}
            Line::Allow => summary.allowed += 1,
            Line::Block(range) if ranges.block(range.clone()) => {
                summary.ranges += 1;
                if summary.ranges > RANGES {
                    return Err(BlocklistError::TooLong);
                }
            }
            _ => {
                summary.bad += 1;
                summary.first_bad.get_or_insert_with(|| BadLine { number, text: shown(text) });
            }
        }
    }
    match summary.first_bad {
        Some(first) if summary.ranges + summary.allowed == 0 => {
            Err(BlocklistError::NotAList { lines: summary.bad, first })
        }
        first_bad => Ok((ranges, ListSummary { first_bad, ..summary })),
    }
}

/// What a line says. A line that begins with an address is plain or DAT, any other has a name first.
fn parse(line: &[u8]) -> Line {
    if line.is_empty() || line.starts_with(b"#") || line.starts_with(b";") || line.starts_with(b"//") {
        return Line::Nothing;
    }
    plain_or_dat(line).or_else(|| p2p(line)).unwrap_or(Line::Bad)
}

/// `1.2.3.4`, `1.2.3.0/24`, `1.2.3.4-1.2.3.9`, and `1.2.3.4 - 1.2.3.9 , LEVEL , NAME`.
fn plain_or_dat(line: &[u8]) -> Option<Line> {
    let mut fields = line.splitn(3, |&byte| byte == b',');
    let range = fields.next()?;
    if let Some(level) = fields.next() {
        let range = range_of(range.trim_ascii())?;
        let level: u32 = str::from_utf8(level.trim_ascii()).ok()?.parse().ok()?;
        return Some(if level <= BLOCKED { Line::Block(range) } else { Line::Allow });
    }
    let text = range.split(|&byte| byte == b'#').next()?.trim_ascii();
    if let Some(slash) = text.iter().position(|&byte| byte == b'/') {
        let bits = str::from_utf8(text[slash + 1..].trim_ascii()).ok()?.parse().ok()?;
        return network(address(&text[..slash])?, bits).map(Line::Block);
    }
    match address(text) {
        Some(ip) => Some(Line::Block(ip..=ip)),
        None => range_of(text).map(Line::Block),
    }
}

/// `NAME:1.2.3.4-1.2.3.9`, where the name may hold colons, as IPv6 addresses do.
fn p2p(line: &[u8]) -> Option<Line> {
    let dash = line.iter().rposition(|&byte| byte == b'-')?;
    let (before, last) = (&line[..dash], address(&line[dash + 1..])?);
    let mut colons: Vec<usize> =
        (0..before.len()).rev().filter(|&at| before[at] == b':').take(if last.is_ipv4() { 1 } else { 8 }).collect();
    // The longest address counts, or a part of one would.
    colons.reverse();
    let first =
        colons.into_iter().find_map(|at| address(&before[at + 1..]).filter(|ip| ip.is_ipv4() == last.is_ipv4()))?;
    Some(Line::Block(first..=last))
}

fn range_of(text: &[u8]) -> Option<RangeInclusive<IpAddr>> {
    let dash = text.iter().position(|&byte| byte == b'-')?;
    Some(address(&text[..dash])?..=address(&text[dash + 1..])?)
}

/// An address, where IPv4 may have leading zeros, which are no octal.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = text.trim_ascii();
    if text.contains(&b':') {
        return str::from_utf8(text).ok()?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let mut parts = text.split(|&byte| byte == b'.');
    let mut octets = [0; 4];
    for octet in &mut octets {
        let digits = parts.next()?;
        if digits.is_empty() || digits.len() > 3 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let value = digits.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0'));
        *octet = u8::try_from(value).ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets).into())
}

/// The beginning of a line, for people.
fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(&line[..line.len().min(4 * SHOWN)]);
    text.chars().take(SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests;
