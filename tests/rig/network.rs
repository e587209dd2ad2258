//! A network for one test: a namespace of its own where the test runs as root, else the loopback interface.
//!
//! Some clients refuse peers on 127.0.0.0/8. In a namespace the loopback interface has other addresses.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::need;

/// The addresses to use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    /// For what the test runs.
    pub(crate) ours: IpAddr,
    /// For the other client.
    pub(crate) theirs: IpAddr,
}

impl Network {
    /// Runs the test in a namespace of its own, or on the loopback interface where that is not allowed.
    pub(crate) fn run(test: impl FnOnce(Self) + Send) {
        match namespace() {
            Some(namespace) => enter(&namespace, test),
            None => test(Self { ours: [127, 0, 0, 1].into(), theirs: [127, 0, 0, 1].into() }),
        }
    }

    /// As [`run`](Self::run) for clients that refuse loopback peers.
    pub(crate) fn run_off_loopback(test: impl FnOnce(Self) + Send) {
        match namespace() {
            Some(namespace) => enter(&namespace, test),
            None => drop(need::skip("only root can make the network namespace that this client needs")),
        }
    }

    /// A port of `ip` that nobody uses, TCP or UDP.
    pub(crate) fn free_port(ip: IpAddr) -> u16 {
        TcpListener::bind(SocketAddr::new(ip, 0)).unwrap().local_addr().unwrap().port()
    }
}

/// Makes a namespace with two addresses. Its name is gone when this returns; it lasts as long as somebody is in it.
fn namespace() -> Option<File> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("ropewalk-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let ip = |args: &[&str]| Command::new("ip").args(args).output().is_ok_and(|output| output.status.success());
    if !rustix::process::geteuid().is_root() || !ip(&["netns", "add", &name]) {
        return None;
    }
    let ready = ip(&["-n", &name, "link", "set", "lo", "up"])
        && ip(&["-n", &name, "addr", "add", "10.99.0.1/16", "dev", "lo"])
        && ip(&["-n", &name, "addr", "add", "10.99.0.2/16", "dev", "lo"]);
    let namespace = File::open(format!("/run/netns/{name}")).ok();
    ip(&["netns", "del", &name]);
    namespace.filter(|_| ready)
}

/// Runs the test on a thread that has moved there; threads and processes that it starts are there, too.
fn enter(namespace: &File, test: impl FnOnce(Network) + Send) {
    let name = thread::current().name().unwrap_or("?").to_owned();
    let ended = thread::scope(|scope| {
        let run = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            test(Network { ours: [10, 99, 0, 1].into(), theirs: [10, 99, 0, 2].into() });
        };
        thread::Builder::new().name(name).spawn_scoped(scope, run).unwrap().join()
    });
    ended.unwrap_or_else(|panic| resume_unwind(panic));
}
