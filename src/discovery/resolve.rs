//! Host names to addresses, with a deadline and an interrupt.
//!
//! `getaddrinfo` can neither be timed nor ended, so it runs on a thread of its own, `resolve`, and its answer is awaited.
//! That thread is the only one of this crate that is not joined: when the wait is given up it lives on until the
//! system's resolver gives up too, holding nothing but the name and a channel that nobody reads.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{after, bounded, select};

use super::interrupt::{Interrupt, Interrupted};
use crate::config::Bind;

/// The C library's resolver loads modules and puts buffers on the stack, so this is not among the small ones.
const STACK: usize = 512 * 1024;

/// More addresses than anyone announces to.
const MAX_ADDRESSES: usize = 16;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    #[error("cannot resolve the host name {host}")]
    Failed { host: String, source: io::Error },
    #[error("the name service did not answer for {host} in time")]
    TimedOut { host: String },
}

/// The addresses of `host` (a name, an IPv4 address or an IPv6 address with or without brackets), at least one and at
/// most 16, in the system's order of preference.
pub(super) fn resolve(
    host: &str,
    port: u16,
    interrupt: &Interrupt,
    deadline: Instant,
) -> Result<Vec<SocketAddr>, ResolveError> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let failed = |source| ResolveError::Failed { host: bare.to_owned(), source };
    let name = bare.to_owned();
    await_lookup(bare, interrupt, deadline, move || Ok((name.as_str(), port).to_socket_addrs()?.collect()))
        .and_then(|found| found.map_err(failed))
        .and_then(|found: Vec<_>| {
            if found.is_empty() {
                return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
            }
            Ok(found.into_iter().take(MAX_ADDRESSES).collect())
        })
}

/// Looks up names with their ports, one after the other, on a thread of its own that nobody waits for, and gives what is
/// found away until that is not wanted any more. Nothing is asked while what we are bound to is gone.
pub(crate) fn look_up(
    bind: Option<Bind>,
    hosts: Vec<(String, u16)>,
    found: impl Fn(Vec<SocketAddr>) -> bool + Send + 'static,
) {
    let lookups = move || {
        for (name, port) in hosts {
            match ask(bind.as_ref(), &name, port) {
                Ok(addrs) => {
                    if !found(addrs) {
                        return;
                    }
                }
                Err(error) => log::info!("cannot resolve the host name {name}: {error}"),
            }
        }
    };
    if let Err(error) = spawn(lookups) {
        log::warn!("names of peers are not looked up: {error}");
    }
}

/// As [`resolve`], without waiting: `done` is called by the thread of the lookup. It is not joined, so that `done` must
/// hold nothing up that ends before it. Nothing is asked while what we are bound to is gone.
pub(super) fn begin(
    bind: Option<Bind>,
    host: &str,
    port: u16,
    done: impl FnOnce(io::Result<Vec<SocketAddr>>) + Send + 'static,
) -> io::Result<()> {
    let name = host.to_owned();
    spawn(move || {
        done(ask(bind.as_ref(), &name, port));
    })
}

/// Asks the system, which does that in its own way: not without the way out that is allowed.
fn ask(bind: Option<&Bind>, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    bind.map_or(Ok(()), Bind::check)?;
    Ok((name, port).to_socket_addrs()?.take(MAX_ADDRESSES).collect())
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("resolve".into()).stack_size(STACK).spawn(work).map(drop)
}

fn await_lookup(
    host: &str,
    interrupt: &Interrupt,
    deadline: Instant,
    lookup: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
) -> Result<io::Result<Vec<SocketAddr>>, ResolveError> {
    // One answer, so the thread never waits to hand it over.
    let (sender, receiver) = bounded(1);
    let spawned = spawn(move || {
        let _ = sender.send(lookup());
    });
    if let Err(error) = spawned {
        return Ok(Err(error));
    }
    select! {
        recv(receiver) -> answer => Ok(answer.unwrap_or_else(|_| Err(io::Error::other("the lookup failed")))),
        recv(interrupt.signal()) -> _ => Err(Interrupted.into()),
        recv(after(deadline.saturating_duration_since(Instant::now()))) -> _ => {
            Err(ResolveError::TimedOut { host: host.to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn an_address_needs_no_name_service() {
        let interrupt = Interrupt::new();
        let v4 = resolve("127.0.0.1", 80, &interrupt, soon()).unwrap();
        assert_eq!(v4, ["127.0.0.1:80".parse().unwrap()]);
        let v6 = resolve("[::1]", 80, &interrupt, soon()).unwrap();
        assert_eq!(v6, ["[::1]:80".parse().unwrap()]);
    }

    #[test]
    fn localhost_is_found() {
        let found = resolve("localhost", 7, &Interrupt::new(), soon()).unwrap();
        assert!(found.iter().all(|addr| addr.ip().is_loopback() && addr.port() == 7));
    }

    #[test]
    fn a_name_service_that_hangs_is_given_up_at_the_deadline() {
        let (release, hang) = bounded::<()>(0);
        let deadline = Instant::now() + Duration::from_millis(5);
        let hung = move || {
            let _ = hang.recv();
            Ok(Vec::new())
        };
        let result = await_lookup("example.org", &Interrupt::new(), deadline, hung);
        assert!(matches!(result, Err(ResolveError::TimedOut { .. })));
        drop(release);
    }

    #[test]
    fn a_raise_ends_the_wait_for_the_name_service() {
        let (release, hang) = bounded::<()>(0);
        let interrupt = Interrupt::new();
        interrupt.raise();
        let hung = move || {
            let _ = hang.recv();
            Ok(Vec::new())
        };
        let result = await_lookup("example.org", &interrupt, soon(), hung);
        assert!(matches!(result, Err(ResolveError::Interrupted(_))));
        drop(release);
    }
}
