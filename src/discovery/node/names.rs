//! Host names of nodes on their way to addresses.
//!
//! It owns the queue of names. Each lookup blocks a thread of its own (see [`resolve`](super::super::resolve)), and nobody
//! waits for it: what it finds is handed to a callback.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use super::super::resolve;
use crate::config::Bind;

/// Lookups at the same time.
const AT_ONCE: usize = 4;
/// Names that wait; what is more is let go of. Torrents may bring names along.
const WAITING: usize = 64;

/// What a lookup brought, with the name.
pub(super) type Resolved = (String, io::Result<Vec<SocketAddr>>);

/// Names to be looked up.
#[derive(Default)]
pub(super) struct Names {
    waiting: VecDeque<String>,
    running: usize,
    loopback_only: bool,
    /// Without which nothing is looked up.
    bind: Option<Bind>,
}

impl Names {
    /// From a loopback address nothing but loopback can be reached, so that no name service is asked for anything else.
    pub(super) fn new(loopback_only: bool, bind: Option<Bind>) -> Self {
        Self { loopback_only, bind, ..Self::default() }
    }

    /// Asks for a `HOST:PORT`; the address where it is one already. What is neither is let go of.
    pub(super) fn ask(&mut self, name: &str) -> Option<SocketAddr> {
        if let Ok(addr) = name.parse() {
            return Some(addr);
        }
        let host = split(name)?.0;
        let allowed = !self.loopback_only || host == "localhost";
        if allowed && self.waiting.len() < WAITING && !self.waiting.iter().any(|other| other == name) {
            self.waiting.push_back(name.to_owned());
        }
        None
    }

    /// Starts lookups; each calls `done` from its thread, in the end.
    pub(super) fn start(&mut self, done: impl Fn(Resolved) + Clone + Send + 'static) {
        while self.running < AT_ONCE {
            let Some(name) = self.waiting.pop_front() else { return };
            let Some((host, port)) = split(&name) else { continue };
            let (done, said) = (done.clone(), name.clone());
            match resolve::begin(self.bind.clone(), host, port, move |found| done((said, found))) {
                Ok(()) => self.running += 1,
                Err(error) => log::debug!("{name} is not looked up: {error}"),
            }
        }
    }

    /// A lookup is over.
    pub(super) fn ended(&mut self) {
        self.running = self.running.saturating_sub(1);
    }
}

fn split(name: &str) -> Option<(&str, u16)> {
    let (host, port) = name.rsplit_once(':')?;
    let port = port.parse().ok().filter(|&port| port != 0)?;
    let is_name = !host.is_empty() && host.len() <= 253 && !host.contains([':', '[', ']', '\0', ' ']);
    is_name.then_some((host, port))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::unbounded;

    use super::*;

    #[test]
    fn addresses_need_no_lookup_and_nonsense_gets_none() {
        let mut names = Names::new(false, None);
        assert_eq!(names.ask("192.0.2.1:6881"), Some(SocketAddr::from(([192, 0, 2, 1], 6881))));
        assert_eq!(names.ask("[2001:db8::1]:1").map(|addr| addr.is_ipv6()), Some(true));
        for nonsense in ["", ":", "host", "host:", ":1", "host:0", "host:99999", "a b:1", "2001:db8::1:1:x"] {
            assert_eq!((names.ask(nonsense), names.waiting.len()), (None, 0), "{nonsense}");
        }
    }

    #[test]
    fn from_loopback_only_localhost_is_looked_up() {
        let mut names = Names::new(true, None);
        names.ask("node.example:1");
        assert!(names.waiting.is_empty());
        names.ask("localhost:7");
        let (sender, found) = unbounded();
        names.start(move |resolved| sender.send(resolved).unwrap());
        let (name, found) = found.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(name, "localhost:7");
        assert!(found.unwrap().iter().all(|addr| addr.ip().is_loopback() && addr.port() == 7));
        names.ended();
        assert_eq!(names.running, 0);
    }

    #[test]
    fn names_that_wait_are_bounded() {
        let mut names = Names::new(false, None);
        for number in 0..1000 {
            names.ask(&format!("host{number}.example:1"));
        }
        assert_eq!(names.waiting.len(), WAITING);
    }
}
