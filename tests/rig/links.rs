//! A machine with two cables, each to another machine: network namespaces, and a pair of interfaces for each cable.
//!
//! | here | at the other end | |
//! |---|---|---|
//! | `a0` 10.1.0.1, fd01::1 | there: `b0` 10.1.0.2, fd01::2 | the cable that a test cuts |
//! | `a1` 10.2.0.1, fd02::1 | aside: `b1` 10.2.0.2, fd02::2, and 10.1.0.2 too | the default route from here |

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

use super::need;
use super::process::PATIENCE;

/// `ETH_P_ALL` in the order of the network.
const ALL_PACKETS: i32 = (3_u16.to_be()) as i32;

/// The ends of the second cable.
const HERE: &str = "02:00:00:00:02:01";
const ASIDE: &str = "02:00:00:00:02:02";

/// The cables, and both ends of them.
pub(crate) struct Links {
    here: File,
    there: File,
    aside: File,
}

/// What comes out of the second cable.
pub(crate) struct Capture(Socket);

impl Links {
    /// Runs a test here. Only root can.
    pub(crate) fn run(test: impl FnOnce(&Self) + Send) {
        let Some(links) = Self::make() else {
            need::skip("only root can make network namespaces");
            return;
        };
        links.plug();
        links.here(|| test(&links));
    }

    /// Runs something on a thread that is here; threads and processes that it starts are here, too.
    pub(crate) fn here<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.here, work)
    }

    /// As [`here`](Self::here), at the other end of the first cable.
    pub(crate) fn there<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.there, work)
    }

    /// As [`here`](Self::here), at the other end of the second cable.
    pub(crate) fn aside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.aside, work)
    }

    /// Makes the cables, with addresses and routes.
    fn plug(&self) {
        self.here(|| {
            ip("link set lo up");
            ip(&format!("link add a1 address {HERE} type veth peer name b1 address {ASIDE}"));
        });
        self.there(|| ip("link set lo up"));
        self.give_address("a1", ("b1", &self.aside), 2);
        self.aside(|| ip("addr add 10.1.0.2/32 dev b1"));
        // The kernels have nothing to ask each other there, however long ago somebody has spoken.
        self.here(|| ip(&format!("neigh replace 10.2.0.2 lladdr {ASIDE} dev a1 nud permanent")));
        self.aside(|| ip(&format!("neigh replace 10.2.0.1 lladdr {HERE} dev b1 nud permanent")));
        self.plug_first();
        self.here(|| {
            ip("route add default via 10.2.0.2");
            ip("-6 route add default via fd02::2");
        });
    }

    /// Makes the first cable, anew where it was unplugged.
    pub(crate) fn plug_first(&self) {
        self.here(|| ip("link add a0 type veth peer name b0"));
        self.give_address("a0", ("b0", &self.there), 1);
    }

    /// Waits until the kernel has noticed that a cable is plugged in.
    fn await_link(&self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.here(|| Command::new("ip").args(["-o", "link", "show", name]).output().unwrap());
            if String::from_utf8_lossy(&said.stdout).contains("state UP") {
                return;
            }
            assert!(Instant::now() < deadline, "{said:?}");
            thread::park_timeout(Duration::from_millis(10));
        }
    }

    fn give_address(&self, a: &str, (b, namespace): (&str, &File), net: u8) {
        // `ip` knows a namespace by a file of it.
        let file = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        self.here(|| ip(&format!("link set {b} netns {file}")));
        let end = |name: &str, host: u8| {
            ip(&format!("addr add 10.{net}.0.{host}/24 dev {name}"));
            ip(&format!("-6 addr add fd0{net}::{host}/64 dev {name} nodad"));
            ip(&format!("link set {name} up"));
        };
        self.here(|| end(a, 1));
        within(namespace, || end(b, 2));
        self.await_link(a);
    }

    /// Sees from now on what comes out of the second cable.
    pub(crate) fn capture(&self) -> Capture {
        self.aside(|| {
            // It sees all interfaces, but there is no other: loopback is down.
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ALL_PACKETS))).unwrap();
            socket.set_nonblocking(true).unwrap();
            Capture(socket)
        })
    }

    fn make() -> Option<Self> {
        Some(Self { here: namespace()?, there: namespace()?, aside: namespace()? })
    }
}

impl Capture {
    /// The packets since the last look, but for what the kernel says of IPv6 by itself.
    pub(crate) fn seen(&self) -> Vec<String> {
        let mut packet = [0; 2048];
        let mut seen = Vec::new();
        loop {
            match (&self.0).read(&mut packet) {
                Ok(length) => seen.extend(describe(&packet[..length])),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return seen,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Runs `ip` in the namespace of this thread.
pub(crate) fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What a packet is; `None` for router and neighbour discovery and group membership (ICMPv6).
fn describe(packet: &[u8]) -> Option<String> {
    let (kind, payload) = (packet.get(12..14)?, packet.get(14..)?);
    match (kind, payload) {
        ([0x86, 0xdd], [_, _, _, _, _, _, 58, ..]) | ([0x86, 0xdd], [_, _, _, _, _, _, 0, ..]) => None,
        ([0x86, 0xdd], _) => Some(format!("IPv6 {:02x?}", &payload[..48.min(payload.len())])),
        ([8, 0], _) => Some(format!("IPv4 {:02x?}", &payload[..32.min(payload.len())])),
        ([8, 6], _) => Some(format!("ARP {payload:02x?}")),
        _ => Some(format!("{kind:02x?}")),
    }
}

/// A namespace without a name, which lasts as long as somebody is in it or has it open.
fn namespace() -> Option<File> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("ropewalk-l-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let ip = |args: &[&str]| Command::new("ip").args(args).output().is_ok_and(|output| output.status.success());
    if !rustix::process::geteuid().is_root() || !ip(&["netns", "add", &name]) {
        return None;
    }
    let namespace = File::open(format!("/run/netns/{name}")).ok();
    ip(&["netns", "del", &name]);
    namespace
}

fn within<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> T {
    let name = thread::current().name().unwrap_or("?").to_owned();
    let ended = thread::scope(|scope| {
        let run = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        thread::Builder::new().name(name).spawn_scoped(scope, run).unwrap().join()
    });
    ended.unwrap_or_else(|panic| resume_unwind(panic))
}
