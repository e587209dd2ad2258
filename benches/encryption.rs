//! An encrypted transfer against RC4 alone: what a core of the sender and a core of the receiver do, over loopback, by one
//! connection.
//!
//! `cargo bench --bench encryption -- --size 512` (MiB). One peer has a file in memory, the other downloads it. What counts
//! is the processor time of the two threads that the payload goes through, the sender's `tx-` and the receiver's `rx-`, as
//! the kernel accounts it: it does not matter what else runs. Bytes by that time is what a connection does where each end
//! has a core for it; the lesser of both ends is compared with RC4 by the same measure, of the `rc4` crate and of the loop
//! that is in use. Everything else, from reading the file to the network, has to fit into what RC4 leaves.

#[path = "../src/net/mse/rc4.rs"]
mod ours;

use std::collections::HashMap;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rc4::{KeyInit, StreamCipher};
use ropewalk::create::{CreateOptions, create};
use ropewalk::{AddOptions, Config, Encryption, Metainfo, Protection, Session, State};
use rustix::time::{ClockId, clock_gettime};

/// What a transfer must reach of what the `rc4` crate alone does.
const GOAL: f64 = 0.9;
const PATIENCE: Duration = Duration::from_secs(300);
/// How often the threads are looked at.
const LOOK: Duration = Duration::from_millis(2);
/// What is encrypted at a time where nothing else is done.
const CHUNK: usize = 64 << 10;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip_while(|arg| arg != "--size").skip(1);
    let mib: usize = args.next().map_or(Ok(256), |size| size.parse()).context("--size is a number of MiB")?;

    let crate_alone = alone(|| {
        let mut cipher = rc4::Rc4::new_from_slice(&[7; 20]).expect("a length that it takes");
        move |bytes: &mut [u8]| cipher.apply_keystream(bytes)
    });
    let ours_alone = alone(|| {
        let mut cipher = ours::Rc4::new(&[7; 20]);
        move |bytes: &mut [u8]| cipher.apply(bytes)
    });
    println!(
        "RC4 alone, per core: {:.0} MB/s by the rc4 crate, {:.0} MB/s by the loop in use",
        crate_alone, ours_alone
    );

    let seeds = Seeds::new(mib << 20)?;
    let mut lesser = 0.0;
    for (name, encryption, protection) in
        [("plaintext", Encryption::Off, Protection::None), ("RC4", Encryption::Require, Protection::Rc4)]
    {
        let Transfer { sender, receiver, wall } = seeds.transfer(encryption, protection)?;
        lesser = f64::min(sender, receiver);
        println!(
            "{name}: {sender:.0} MB/s per sending core, {receiver:.0} MB/s per receiving core; {wall:.0} MB/s here"
        );
    }
    let (of_crate, of_ours) = (lesser / crate_alone, lesser / ours_alone);
    println!("an encrypted transfer does {of_crate:.2} of the crate alone, {of_ours:.2} of the loop alone");
    ensure!(of_crate >= GOAL, "less than {GOAL} of what the rc4 crate alone does");
    Ok(())
}

/// MB/s of processor time, the best of some tries.
fn alone<C: FnMut(&mut [u8])>(cipher: impl Fn() -> C) -> f64 {
    let mut bytes = vec![0; CHUNK];
    let once = || {
        let mut apply = cipher();
        let begun = processor_time();
        let rounds = 512;
        (0..rounds).for_each(|_| apply(black_box(&mut bytes)));
        (rounds * CHUNK) as f64 / 1e6 / (processor_time() - begun)
    };
    std::iter::repeat_with(once).take(9).fold(0.0, f64::max)
}

/// What this thread has taken of it, in seconds.
fn processor_time() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// A file, its torrent, and where they are.
struct Seeds {
    folder: tempfile::TempDir,
    metainfo: Metainfo,
    len: u64,
}

/// MB/s, by each end's processor time and by the clock.
struct Transfer {
    sender: f64,
    receiver: f64,
    wall: f64,
}

impl Seeds {
    fn new(len: usize) -> anyhow::Result<Self> {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
        let path = folder.path().join("payload.bin");
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(1).fill(&mut bytes);
        fs::write(&path, bytes)?;
        let options = CreateOptions { piece_length: Some(256 << 10), ..CreateOptions::default() };
        let metainfo = create(&path, &options, &|_, _| (), &AtomicBool::new(false))?.metainfo;
        Ok(Self { folder, metainfo, len: len as u64 })
    }

    fn transfer(&self, encryption: Encryption, protection: Protection) -> anyhow::Result<Transfer> {
        let session = || {
            let mut config = Config::default();
            config.listen.ports = 0..=0;
            config.listen.bind = Some(std::net::IpAddr::from([127, 0, 0, 1]).into());
            config.peers.encryption = encryption;
            Session::new(config)
        };
        let (seeding, getting) = (session()?, session()?);
        let seed = seeding.add(self.metainfo.clone(), AddOptions::new(self.folder.path()))?;
        ensure!(seed.wait(PATIENCE) == State::Seeding, "the file is not right");
        let folder = tempfile::tempdir_in(self.folder.path())?;
        let get = getting.add(self.metainfo.clone(), AddOptions::new(folder.path()))?;
        let begun = Instant::now();
        get.add_peer(seeding.listen_addrs()[0])?;
        let mut looks = HashMap::new();
        // Threads are gone with the connection, so they are looked at while it lasts.
        while !get.wait(LOOK).is_final() {
            ensure!(begun.elapsed() < PATIENCE, "no progress");
            look(&mut looks)?;
        }
        let megabytes = self.len as f64 / 1e6;
        let wall = megabytes / begun.elapsed().as_secs_f64();
        look(&mut looks)?;
        let right = get.explain().peers.iter().any(|peer| peer.protection == protection);
        ensure!(right, "the connection is not what it should be");
        let busiest = |name: &str| {
            let of_kind = looks.values().filter(|(thread, _)| thread.starts_with(name));
            of_kind.map(|(_, seconds): &(String, f64)| *seconds).fold(0.0, f64::max)
        };
        let (sent, received) = (busiest("tx-"), busiest("rx-"));
        ensure!(sent > 0.0 && received > 0.0, "too quick to be looked at; try --size 512");
        Ok(Transfer { sender: megabytes / sent, receiver: megabytes / received, wall })
    }
}

/// Notes the name and the processor time of each thread, in seconds.
fn look(threads: &mut HashMap<PathBuf, (String, f64)>) -> anyhow::Result<()> {
    for thread in fs::read_dir("/proc/self/task")? {
        let path = thread?.path();
        // One that ends meanwhile keeps what was seen of it.
        let (Ok(name), Ok(spent)) = (fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("schedstat")))
        else {
            continue;
        };
        let nanoseconds: u64 = spent.split(' ').next().unwrap_or_default().parse().context("schedstat")?;
        threads.insert(path, (name, nanoseconds as f64 / 1e9));
    }
    Ok(())
}
