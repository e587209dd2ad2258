//! A peer that measures what single messages cost ropewalk's threads.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;
use ropewalk::InfoHash;
use ropewalk::wire::message::Message;
use serde_json::Value;

use crate::PATIENCE;
use crate::callers::{call, shake_hands};
use crate::numbers::{percentiles, ran};

/// The chosen peer that measures messages.
const PROBE: Ipv4Addr = Ipv4Addr::new(127, 99, 0, 1);

/// A peer that sends one message at a time and looks at what that cost.
pub(crate) struct Probe {
    stream: TcpStream,
    client: u32,
}

impl Probe {
    pub(crate) fn call(to: SocketAddr, info_hash: InfoHash, client: u32) -> anyhow::Result<Self> {
        let mut stream = call(PROBE, to)?;
        shake_hands(&mut stream, info_hash, 0xffff)?;
        let mut hello = Vec::new();
        Message::HaveNone.encode_into(&mut hello);
        stream.write_all(&hello)?;
        // It is told of pieces, and must go on reading.
        let mut sink = stream.try_clone()?;
        std::thread::spawn(move || std::io::copy(&mut sink, &mut std::io::sink()));
        Ok(Self { stream, client })
    }

    /// The median and the 99th percentile, in microseconds, of what a thread spends on one of `count` messages sent
    /// together.
    pub(crate) fn measure(&self, thread: &str, count: u32, segments: usize) -> anyhow::Result<Value> {
        let thread = self.thread(thread)?;
        let mut spent = Vec::new();
        let mut said = 0;
        // What is left of an earlier measurement is over.
        std::thread::sleep(Duration::from_millis(100));
        for _ in 0..segments {
            let mut out = Vec::new();
            for _ in 0..count {
                // Each is news: its interest is taken back by the next message.
                if said % 2 == 0 { Message::Interested } else { Message::NotInterested }.encode_into(&mut out);
                said += 1;
            }
            let before = ran(&thread)?;
            (&self.stream).write_all(&out)?;
            let deadline = Instant::now() + PATIENCE;
            let after = loop {
                std::thread::sleep(Duration::from_millis(2));
                let after = ran(&thread)?;
                if after.1 > before.1 && ran(&thread)? == after {
                    break after;
                }
                ensure!(Instant::now() < deadline, "ropewalk does not read");
            };
            spent.push((after.0 - before.0) as f64 / 1e3 / f64::from(count));
        }
        Ok(percentiles(spent))
    }

    /// The `schedstat` of the client's thread whose name begins so.
    fn thread(&self, name: &str) -> anyhow::Result<PathBuf> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            for task in std::fs::read_dir(format!("/proc/{}/task", self.client))? {
                let task = task?.path();
                if std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.starts_with(name)) {
                    return Ok(task.join("schedstat"));
                }
            }
        }
        anyhow::bail!("ropewalk has no thread {name}")
    }
}
