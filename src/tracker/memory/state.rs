//! The memory's content in a file, so that a tracker that starts again knows its swarms.
//!
//! What is kept of a peer is how long ago it announced when the file was written: it then has the rest of its time, however long
//! the tracker was away, as peers could not announce meanwhile. Numbers are little endian.
//!
//! ```text
//! 0   8   "RWSWARMS"
//! 8   4   version, 1
//! 12      for each swarm:
//!         1   1
//!         20  info-hash
//!         4   how often it was completed
//!         16  4 each: IPv4 seeders, IPv4 leechers, IPv6 seeders, IPv6 leechers
//!             for each of these peers: 6 or 18 endpoint, 2 seconds since its announce, 20 id, 4 key,
//!             4 units uploaded, 4 units downloaded
//!     1   0
//!     4   CRC-32C of all bytes before
//! ```

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Memory;
use super::file::StateFile;
use super::keyed::Keyed;
use super::roster::{Detail, Place, Roster};
use super::swarm::Swarm;
use crate::metainfo::InfoHash;
use crate::tracker::config::MemoryConfig;
use crate::wire::handshake::PeerId;

const MAGIC: &[u8; 8] = b"RWSWARMS";
const VERSION: u32 = 1;

/// The longest that writing a file is taken to last, in seconds: a peer that announced longer ago than 16 bits tell, less this,
/// did so after the writing had begun. No peer is kept for that long.
const LONGEST_SAVE: u16 = 2 * 3600;

/// Why a state file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is a folder; name a file for the state, such as {}", .0.display(), .0.join("swarms.state").display())]
    Folder(PathBuf),
    #[error("{} is not a tracker's state; name another file, or remove it", .0.display())]
    Foreign(PathBuf),
    #[error(
        "{} was written by another version of ropewalk (format {version}, this one reads {VERSION}); \
         name another file, or remove it",
        .path.display()
    )]
    Version { path: PathBuf, version: u32 },
    #[error("{} is damaged; the tracker begins without it when it is removed", .0.display())]
    Damaged(PathBuf),
    #[error("{} is in use by another tracker; stop that one, or keep the state of this one in another file", .0.display())]
    InUse(PathBuf),
}

impl Memory {
    /// A store with what a file has, as far as there is room for it, which is saved there again and is nobody else's meanwhile.
    /// Where there is no such file, or nothing in it, it is empty.
    pub(crate) fn load(path: &Path, config: &MemoryConfig, seed: u64, now: Instant) -> Result<Self, StateError> {
        let file = StateFile::take(path)?;
        let memory = Self::new(config, seed, now);
        if let Some(content) = file.open().map_err(|source| StateError::Io { path: path.into(), source })? {
            memory.read(&mut BufReader::with_capacity(1 << 16, content)).map_err(|wrong| wrong.at(path))?;
        }
        Ok(Self { file: Some(file), ..memory })
    }

    /// Writes what there is to its file. Swarms may change meanwhile: each is written as it is at some moment.
    pub(super) fn save_to(&self, file: &StateFile, now: Instant) -> Result<(), StateError> {
        let failed = |source| StateError::Io { path: file.path().into(), source };
        file.replace(|out| self.write(out, now)).map_err(failed)
    }

    fn write(&self, out: &mut impl Write, now: Instant) -> io::Result<()> {
        let tick = self.tick(now);
        let mut bytes = [MAGIC.as_slice(), &VERSION.to_le_bytes()].concat();
        let mut sum = 0;
        for shard in &self.shards {
            // The lock is not held while it is written.
            shard.lock().swarms().for_each(|swarm| encode(swarm, tick, &mut bytes));
            sum = crc32c::crc32c_append(sum, &bytes);
            out.write_all(&bytes)?;
            bytes.clear();
        }
        sum = crc32c::crc32c_append(sum, &[0]);
        out.write_all(&[0])?;
        out.write_all(&sum.to_le_bytes())
    }

    fn read(&self, source: &mut impl Read) -> Result<(), Wrong> {
        let mut source = Source { source, sum: 0 };
        if source.array().map_err(|_| Wrong::Foreign)? != *MAGIC {
            return Err(Wrong::Foreign);
        }
        match source.u32()? {
            VERSION => {}
            version => return Err(Wrong::Version(version)),
        }
        while source.array()? == [1] {
            self.read_swarm(&mut source)?;
        }
        // A start of 2 or more is found here, too: the sum of what came before is not what follows.
        let sum = source.sum;
        let whole = source.u32()? == sum && source.source.read(&mut [0])? == 0;
        if whole { Ok(()) } else { Err(Wrong::Damaged) }
    }

    fn read_swarm(&self, source: &mut Source<'_, impl Read>) -> Result<(), Wrong> {
        let mut swarm = Swarm::new(InfoHash::new(source.array()?));
        swarm.downloaded = source.u32()?;
        let numbers = [source.u32()?, source.u32()?, source.u32()?, source.u32()?];
        let tick = super::FIRST_TICK;
        let mut reading = Reading {
            room: self
                .config
                .peers
                .saturating_sub(self.peers.load(Ordering::Relaxed))
                .min(self.config.peers_per_torrent),
            keyed: self.keyed,
            tick,
            oldest: 0,
            youngest: u16::MAX,
        };
        reading.peers(&mut swarm.v4, [numbers[0], numbers[1]], source)?;
        if numbers[2] != 0 || numbers[3] != 0 {
            let mut v6 = Box::default();
            reading.peers(&mut v6, [numbers[2], numbers[3]], source)?;
            swarm.v6 = Some(v6).filter(|v6| !v6.is_empty());
        }
        let mut shard = self.shard(&swarm.info_hash).lock();
        if shard.has(&swarm.info_hash) {
            return Err(Wrong::Damaged);
        }
        if swarm.is_empty() || self.torrents.load(Ordering::Relaxed) >= self.config.torrents {
            return Ok(());
        }
        self.torrents.fetch_add(1, Ordering::Relaxed);
        self.peers.fetch_add(swarm.len(), Ordering::Relaxed);
        swarm.seen = tick - u32::from(reading.youngest);
        shard.restore(swarm, reading.oldest, tick);
        Ok(())
    }
}

fn encode(swarm: &Swarm, tick: u32, out: &mut Vec<u8>) {
    let v6 = swarm.v6.as_deref();
    let numbers = |seeders: usize, all: usize| [seeders as u32, (all - seeders) as u32];
    let numbers =
        [numbers(swarm.v4.seeders(), swarm.v4.len()), v6.map_or([0, 0], |v6| numbers(v6.seeders(), v6.len()))];
    out.push(1);
    out.extend(swarm.info_hash.as_bytes());
    out.extend(swarm.downloaded.to_le_bytes());
    numbers.as_flattened().iter().for_each(|number| out.extend(number.to_le_bytes()));
    encode_peers(&swarm.v4, tick, out);
    v6.inspect(|v6| encode_peers(v6, tick, out));
}

fn encode_peers<const N: usize>(roster: &Roster<N>, tick: u32, out: &mut Vec<u8>) {
    for (place, detail) in (0..roster.len()).map(|at| (roster.place(at), roster.detail(at))) {
        out.extend(place.endpoint);
        let age = (tick as u16).wrapping_sub(place.seen);
        let age = if age > u16::MAX - LONGEST_SAVE { 0 } else { age };
        out.extend(age.to_le_bytes());
        out.extend(detail.id.as_bytes());
        [detail.key, detail.uploaded, detail.downloaded].iter().for_each(|number| out.extend(number.to_le_bytes()));
    }
}

/// What is known while the peers of a swarm are read.
struct Reading {
    /// For how many more there is room.
    room: usize,
    keyed: Keyed,
    tick: u32,
    /// The longest and the shortest time since an announce.
    oldest: u16,
    youngest: u16,
}

impl Reading {
    /// Reads so many seeders and leechers.
    fn peers<const N: usize>(
        &mut self,
        roster: &mut Roster<N>,
        numbers: [u32; 2],
        source: &mut Source<'_, impl Read>,
    ) -> Result<(), Wrong> {
        for (number, seeder) in numbers.into_iter().zip([true, false]) {
            for _ in 0..number {
                let endpoint = source.array::<N>()?;
                let age = u16::from_le_bytes(source.array()?);
                let id = PeerId::new(source.array()?);
                let (key, uploaded, downloaded) = (source.u32()?, source.u32()?, source.u32()?);
                let twice = key != 0 && roster.with_key(id, key, self.keyed).is_some();
                if endpoint.ends_with(&[0, 0]) || twice || roster.at_endpoint(&endpoint, self.keyed).is_some() {
                    return Err(Wrong::Damaged);
                }
                if self.room > 0 {
                    let place = Place { endpoint, seen: (self.tick as u16).wrapping_sub(age) };
                    roster.insert(place, Detail { id, key, uploaded, downloaded }, seeder, self.keyed);
                    self.room -= 1;
                    (self.oldest, self.youngest) = (self.oldest.max(age), self.youngest.min(age));
                }
            }
        }
        Ok(())
    }
}

/// What is wrong with a file.
enum Wrong {
    Io(io::Error),
    Foreign,
    Version(u32),
    Damaged,
}

impl Wrong {
    fn at(self, path: &Path) -> StateError {
        let path = path.to_path_buf();
        match self {
            Self::Io(source) => StateError::Io { path, source },
            Self::Foreign => StateError::Foreign(path),
            Self::Version(version) => StateError::Version { path, version },
            Self::Damaged => StateError::Damaged(path),
        }
    }
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::UnexpectedEof { Self::Damaged } else { Self::Io(error) }
    }
}

/// A file from its start, with the sum of what has been read.
struct Source<'a, R> {
    source: &'a mut R,
    sum: u32,
}

impl<R: Read> Source<'_, R> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes)?;
        self.sum = crc32c::crc32c_append(self.sum, &bytes);
        Ok(bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_le_bytes)
    }
}
