//! Which addresses are blocked: ranges from lists that others keep.
//!
//! It owns the ranges, sorted and merged, IPv4 apart from IPv6: eight and thirty-two bytes each, looked up by halves. It
//! refuses files and sockets: bytes come in through a reader. Nobody is asked for a name, and a list of any length takes no
//! more memory than its ranges do.

mod list;

use std::io::BufRead;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

pub use list::{BadLine, BlocklistError, ListSummary};

/// Ranges of addresses that are blocked; none by default. Immutable once built, so that threads may share it.
///
/// ```
/// use ropewalk::policy::IpFilter;
///
/// let mut builder = IpFilter::builder();
/// let list = builder.read(&b"# a list\nsome net:1.2.3.0-1.2.3.255\n2001:db8::/32\n"[..])?;
/// let filter = builder.build();
/// assert!(list.bad == 0 && filter.blocks([1, 2, 3, 4].into()) && !filter.blocks([1, 2, 4, 4].into()));
/// # Ok::<(), ropewalk::policy::BlocklistError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Default)]
pub struct IpFilter {
    /// First and last of each range: sorted, apart from each other.
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

/// Collects ranges for an [`IpFilter`], in any order and as often as they come.
#[derive(Clone, Debug, Default)]
pub struct IpFilterBuilder {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl IpFilter {
    /// Begins a filter.
    pub fn builder() -> IpFilterBuilder {
        IpFilterBuilder::default()
    }

    /// Whether an address is blocked. IPv4 in IPv6 is IPv4.
    pub fn blocks(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => holds(&self.v4, ip.to_bits()),
            IpAddr::V6(ip) => holds(&self.v6, ip.to_bits()),
        }
    }

    /// How many ranges there are, after those that touch each other were merged.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether nothing is blocked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for IpFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IpFilter({} ranges)", self.len())
    }
}

impl IpFilterBuilder {
    /// Blocks a range, both ends included. `false` where it is none: its ends in the wrong order, or of two kinds.
    pub fn block(&mut self, range: RangeInclusive<IpAddr>) -> bool {
        let (first, last) = range.into_inner();
        // Only a whole range of IPv4 in IPv6 is one of IPv4: an end of one of IPv6 may look like it.
        let both = match (first.to_canonical(), last.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => (first.into(), last.into()),
            _ => (first, last),
        };
        match both {
            (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => self.v4.push((first.to_bits(), last.to_bits())),
            (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => self.v6.push((first.to_bits(), last.to_bits())),
            _ => return false,
        }
        // Lists overlap: what is merged in between need not be kept.
        compact(&mut self.v4);
        compact(&mut self.v6);
        true
    }

    /// Blocks what a list says, in any of these forms, line by line, as it is or packed by gzip:
    ///
    /// - P2P: `name:1.2.3.4-1.2.3.9`;
    /// - DAT (eMule): `001.002.003.004 - 001.002.003.009 , 100 , name`, where a level above 127 lets pass;
    /// - plain: `1.2.3.4`, `1.2.3.0/24`, `1.2.3.4-1.2.3.9`, each with IPv6 too.
    ///
    /// Empty lines and comments (`#`, `;`, `//`) are passed over. Lines that cannot be read are counted; that none can is
    /// an error, for then it is no list at all. On an error nothing of the list is blocked.
    pub fn read(&mut self, list: impl BufRead) -> Result<ListSummary, BlocklistError> {
        let (ranges, summary) = list::read(list)?;
        self.v4.extend(ranges.v4);
        self.v6.extend(ranges.v6);
        Ok(summary)
    }

    /// The filter.
    pub fn build(self) -> IpFilter {
        IpFilter { v4: merged(self.v4).into(), v6: merged(self.v6).into() }
    }
}

/// A number that an address is.
trait Bits: Copy + Ord {
    /// The next one; `None` after the last.
    fn next(self) -> Option<Self>;
}

impl Bits for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Bits for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

fn holds<T: Bits>(ranges: &[(T, T)], ip: T) -> bool {
    let after = ranges.partition_point(|&(first, _)| first <= ip);
    after > 0 && ip <= ranges[after - 1].1
}

/// Merges where the room would have to grow: sorted input of which much is the same stays small.
fn compact<T: Bits>(ranges: &mut Vec<(T, T)>) {
    const WORTH_IT: usize = 1 << 16;
    if ranges.len() == ranges.capacity() && ranges.len() >= WORTH_IT {
        *ranges = merged(std::mem::take(ranges));
    }
}

fn merged<T: Bits>(mut ranges: Vec<(T, T)>) -> Vec<(T, T)> {
    if !ranges.is_sorted() {
        ranges.sort_unstable();
    }
    ranges.dedup_by(|(first, last), (_, before)| {
        let touches = before.next().is_none_or(|next| *first <= next);
        if touches {
            *before = (*before).max(*last);
        }
        touches
    });
    ranges
}

/// The ends of a network of so many leading bits; `None` where there are not so many.
fn network(ip: IpAddr, bits: u32) -> Option<RangeInclusive<IpAddr>> {
    match ip {
        IpAddr::V4(ip) if bits <= 32 => {
            let rest = u32::MAX.checked_shr(bits).unwrap_or(0);
            let (first, last) = (Ipv4Addr::from_bits(ip.to_bits() & !rest), Ipv4Addr::from_bits(ip.to_bits() | rest));
            Some(first.into()..=last.into())
        }
        IpAddr::V6(ip) if bits <= 128 => {
            let rest = u128::MAX.checked_shr(bits).unwrap_or(0);
            let (first, last) = (Ipv6Addr::from_bits(ip.to_bits() & !rest), Ipv6Addr::from_bits(ip.to_bits() | rest));
            Some(first.into()..=last.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
