//! Sizes, rates, times and the like: how they are said, and how they are read from the command line.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use bytesize::ByteSize;
use console::measure_text_width;
use ropewalk::metainfo::MAX_PIECE_LENGTH;

/// How long to seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Until {
    /// Until so many times the size was sent.
    Ratio(f64),
    /// For so long.
    Time(Duration),
    Forever,
}

/// `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// `12.3 MiB/s`.
pub fn rate(bytes: u64) -> String {
    size(bytes) + "/s"
}

/// `1.2 of 3.4 GiB`, the first in the unit of the second so that it does not jump about.
pub fn part(done: u64, total: u64) -> String {
    let total_text = size(total);
    let Some((number, unit)) = total_text.split_once(' ') else { return total_text };
    let power = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].iter().position(|&name| name == unit).unwrap_or(0);
    if power == 0 {
        return format!("{done} of {total} B");
    }
    let done = done as f64 / 1024f64.powi(power as i32);
    format!("{done:.1} of {number} {unit}")
}

/// Whole per cent, 100 only where nothing is missing.
pub fn percent(done: u64, total: u64) -> u64 {
    if total == 0 { 100 } else { (u128::from(done) * 100 / u128::from(total)) as u64 }
}

/// `0.8 s`, `4 min 05 s`, `2 h 03 min`, `3 d 4 h`.
pub fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        1..10 if time.subsec_millis() == 0 => format!("{seconds} s"),
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// `8 s left`, `4m 05s left`, `2h 03m left`, `3d 4h left`: shorter than [`time`], for bars.
pub fn left(remaining: Duration) -> String {
    let seconds = remaining.as_secs();
    match seconds {
        0..60 => format!("{seconds} s left"),
        60..3600 => format!("{}m {:02}s left", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {:02}m left", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h left", seconds / 86400, seconds / 3600 % 24),
    }
}

/// `1 peer`, `2 peers`.
pub fn count(number: usize, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

/// A path as it was given: not `./x` where the folder is the current one.
pub fn shown(path: &Path) -> String {
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}

/// A name in so many columns of a terminal: filled up with spaces, or cut in the middle, since names of files differ at
/// their ends as often as at their beginnings. Characters take one column, two or none.
pub fn in_columns(name: &str, columns: usize) -> String {
    let fill = |text: String| {
        let missing = columns.saturating_sub(measure_text_width(&text));
        text + &" ".repeat(missing)
    };
    let name = printable(name);
    if measure_text_width(&name) <= columns {
        return fill(name);
    }
    let room = columns.saturating_sub(1);
    let (begin, end) = (room.div_ceil(2), room / 2);
    let taken = |chars: &mut dyn Iterator<Item = char>, room: usize| {
        let mut width = 0;
        let fits = chars.take_while(|char| {
            width += measure_text_width(char.encode_utf8(&mut [0; 4]));
            width <= room
        });
        fits.collect::<Vec<_>>()
    };
    let begin: String = taken(&mut name.chars(), begin).into_iter().collect();
    let end: String = taken(&mut name.chars().rev(), end).into_iter().rev().collect();
    fill(format!("{begin}…{end}"))
}

/// Text from a torrent or a tracker without what would move the cursor or turn the direction of writing.
pub fn printable(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { '\u{fffd}' } else { c }).collect()
}

/// Reads `2MB`, `500KiB/s`, `1.5M`: bytes per second.
pub fn read_rate(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    match number.parse::<ByteSize>() {
        Ok(ByteSize(0)) => Err("a limit of nothing; leave the option out for no limit".into()),
        Ok(ByteSize(bytes)) => Ok(bytes),
        Err(_) => Err("not a rate; write it like 500KB, 2MB or 1.5MiB (per second)".into()),
    }
}

/// Reads `64MB` and the like.
pub fn read_size(text: &str) -> Result<u64, String> {
    text.parse::<ByteSize>().map(|size| size.0).map_err(|_| "not a size; write it like 64MiB or 1GB".into())
}

/// Reads `256K`, `1M`, `65536`: a power of two from 16 KiB.
pub fn read_piece_length(text: &str) -> Result<u32, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    // Nobody means 256,000 here.
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        _ => return Err("not a piece length; write it like 256K or 1M".into()),
    };
    let number = digits.trim().parse::<u32>().map_err(|_| "not a piece length; write it like 256K or 1M")?;
    let length = number.checked_mul(1 << shift).unwrap_or(0);
    if length.is_power_of_two() && (16 << 10..=MAX_PIECE_LENGTH).contains(&length) {
        Ok(length)
    } else {
        Err("other clients want a power of two; choose one of 16K, 32K, 64K ... 64M, 128M, 256M".into())
    }
}

/// Reads `1.5` (a ratio), `30m` (a time) or `forever`.
pub fn until(text: &str) -> Result<Until, String> {
    if text == "forever" {
        return Ok(Until::Forever);
    }
    if let Ok(ratio) = text.parse::<f64>() {
        return if ratio.is_finite() && ratio >= 0.0 {
            Ok(Until::Ratio(ratio))
        } else {
            Err("not a ratio; write it like 1.5".into())
        };
    }
    let wrong = "not a ratio (1.5), a time (30m, 2h) or `forever`";
    humantime::parse_duration(text).map(Until::Time).map_err(|_| wrong.into())
}

/// Reads `30`, `30s`, `5m`.
pub fn read_time(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text).map_err(|_| "not a time; write it like 30s or 5m".into()),
    }
}

/// Reads `HOST:PORT`, without looking for the host.
pub fn read_host_port(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match parts.and_then(|(_, port)| port.parse::<u16>().ok()) {
        Some(1..) => Ok(text.to_owned()),
        _ => Err("no host with a port; write it like 192.0.2.7:6881 or host.example:6881".into()),
    }
}

/// Reads `6881` or `6881-6889`.
pub fn read_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let wrong = |_| String::from("not a port; write a number from 0 to 65535, or two like 6881-6889");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().map_err(wrong)?, last.parse().map_err(wrong)?);
    if first > last { Err("the first port is above the last".into()) } else { Ok(first..=last) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use console::measure_text_width;

    use super::{
        Until, in_columns, part, percent, printable, read_host_port, read_piece_length, read_ports, read_rate,
        read_time, time, until,
    };

    #[test]
    fn rates_and_lengths_are_read_as_people_write_them() {
        assert_eq!(read_rate("2MB"), Ok(2_000_000));
        assert_eq!(read_rate("1.5MiB/s"), Ok(3 << 19));
        assert!(read_rate("0").is_err() && read_rate("fast").is_err());
        assert_eq!(read_piece_length("256K"), Ok(256 << 10));
        assert_eq!(read_piece_length("1MiB"), Ok(1 << 20));
        assert_eq!(read_piece_length("65536"), Ok(65536));
        for wrong in ["8K", "300K", "512M", "5000000000", "99999M", "", "K", "1Q", "é"] {
            assert!(read_piece_length(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seeding_ends_by_ratio_or_time_or_never() {
        assert_eq!(until("1.5"), Ok(Until::Ratio(1.5)));
        assert_eq!(until("30m"), Ok(Until::Time(Duration::from_secs(1800))));
        assert_eq!(until("forever"), Ok(Until::Forever));
        for wrong in ["", "-1", "inf", "NaN", "x.torrent"] {
            assert!(until(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_and_ports_are_read() {
        assert_eq!(read_time("30"), Ok(Duration::from_secs(30)));
        assert_eq!(read_time("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(read_ports("6881"), Ok(6881..=6881));
        assert_eq!(read_ports("6881-6889"), Ok(6881..=6889));
        assert_eq!(read_host_port("node.example:6881").as_deref(), Ok("node.example:6881"));
        for wrong in ["node.example", ":6881", "node.example:0", "node.example:70000", "6881"] {
            assert!(read_host_port(wrong).is_err(), "{wrong}");
        }
        assert!(read_ports("9-1").is_err() && read_ports("65536").is_err());
    }

    #[test]
    fn numbers_are_said_shortly() {
        assert_eq!(part(1 << 29, 3 << 30), "0.5 of 3.0 GiB");
        assert_eq!(part(3, 7), "3 of 7 B");
        assert_eq!((percent(999, 1000), percent(0, 0), percent(u64::MAX, u64::MAX)), (99, 100, 100));
        assert_eq!(time(Duration::from_millis(840)), "0.8 s");
        assert_eq!(time(Duration::from_secs(245)), "4 min 05 s");
    }

    #[test]
    fn names_fill_their_columns_whatever_they_are_written_in() {
        assert_eq!(in_columns("rope", 8), "rope    ");
        assert_eq!(in_columns("debian-13.2.0-amd64-netinst.iso", 16), "debian-1…nst.iso");
        assert_eq!(in_columns("绳索走道的长长的名字.mkv", 10), "绳索….mkv ");
        assert_eq!(in_columns("🪢🪢", 6), "🪢🪢  ");
        for name in
            ["", "rope", "绳索走道的长长的名字.mkv", "e\u{301}e\u{301}e\u{301}e\u{301}e\u{301}", "🪢🪢🪢🪢🪢🪢🪢"]
        {
            for columns in 1..20 {
                assert_eq!(measure_text_width(&in_columns(name, columns)), columns, "{name} in {columns}");
            }
        }
    }

    #[test]
    fn text_from_outside_cannot_drive_the_terminal() {
        assert_eq!(printable("a\x1b[2J\u{202e}b"), "a\u{fffd}[2J\u{fffd}b");
    }
}
