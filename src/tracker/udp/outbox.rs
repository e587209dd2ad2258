//! Answers on their way out: kept until those of a batch are there, then sent by as few calls as the system needs.
//!
//! What cannot be sent is lost, as packets are.

use std::io;
use std::net::UdpSocket;
use std::ops::Range;

use super::desk::Client;

/// The most answers of one call.
const BATCH: usize = 64;

/// The answers that wait to be sent.
pub(super) struct Outbox {
    io: UdpSocket,
    /// What they say, one after the other.
    bytes: Vec<u8>,
    answers: Vec<(Range<usize>, Client)>,
    calls: calls::Calls,
}

impl Outbox {
    pub(super) fn new(io: UdpSocket) -> io::Result<Self> {
        let calls = calls::Calls::new(&io)?;
        Ok(Self { io, bytes: Vec::new(), answers: Vec::with_capacity(BATCH), calls })
    }

    pub(super) fn put(&mut self, answer: &[u8], to: Client) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(answer);
        self.answers.push((start..self.bytes.len(), to));
        if self.answers.len() == BATCH {
            self.flush();
        }
    }

    /// Sends all that wait.
    pub(super) fn flush(&mut self) {
        // A call has one address that all of its answers come from. Few machines have several that are asked at a time.
        for run in self.answers.chunk_by(|(_, one), (_, next)| one.at == next.at) {
            self.calls.send(&self.io, &self.bytes, run);
        }
        self.answers.clear();
        self.bytes.clear();
    }
}

/// Sends what the kernel takes and leaves out what it does not: `send` says how many of the answers from here on have gone.
fn send_all<T>(mut answers: &[T], mut send: impl FnMut(&[T]) -> io::Result<usize>) {
    while !answers.is_empty() {
        let gone = match send(answers) {
            Ok(sent) => sent.max(1),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            // No room: the next would find none either.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => answers.len(),
            // The first is what cannot be sent.
            Err(error) => {
                log::trace!("tracker: UDP: not sent: {error}");
                1
            }
        };
        answers = &answers[gone.min(answers.len())..];
    }
}

#[cfg(target_os = "linux")]
mod calls {
    use std::io::IoSlice;
    use std::net::IpAddr;
    use std::os::fd::AsRawFd;

    use nix::libc;
    use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};

    use super::*;

    /// Many by one call: sendmmsg(2).
    pub(super) struct Calls {
        plain: MultiHeaders<SockaddrStorage>,
        /// With room for the address that they come from.
        addressed: MultiHeaders<SockaddrStorage>,
    }

    impl Calls {
        pub(super) fn new(io: &UdpSocket) -> io::Result<Self> {
            let space = if io.local_addr()?.is_ipv4() {
                nix::cmsg_space!(libc::in_pktinfo)
            } else {
                nix::cmsg_space!(libc::in6_pktinfo)
            };
            let (plain, addressed) =
                (MultiHeaders::preallocate(BATCH, None), MultiHeaders::preallocate(BATCH, Some(space)));
            Ok(Self { plain, addressed })
        }

        /// Sends answers that come from one address.
        pub(super) fn send(&mut self, io: &UdpSocket, bytes: &[u8], run: &[(Range<usize>, Client)]) {
            let Some((_, first)) = run.first() else { return };
            let (v4, v6);
            let (headers, source) = match first.at {
                None => (&mut self.plain, None),
                Some(IpAddr::V4(ip)) => {
                    let ip = libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
                    v4 = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: ip, ipi_addr: libc::in_addr { s_addr: 0 } };
                    (&mut self.addressed, Some(ControlMessage::Ipv4PacketInfo(&v4)))
                }
                Some(IpAddr::V6(ip)) => {
                    let ip = libc::in6_addr { s6_addr: ip.octets() };
                    v6 = libc::in6_pktinfo { ipi6_ifindex: 0, ipi6_addr: ip };
                    (&mut self.addressed, Some(ControlMessage::Ipv6PacketInfo(&v6)))
                }
            };
            send_all(run, |rest| {
                let bytes = rest.iter().map(|(range, _)| [IoSlice::new(&bytes[range.clone()])]);
                let bytes: Vec<_> = bytes.collect();
                let addrs: Vec<_> = rest.iter().map(|(_, to)| Some(SockaddrStorage::from(to.addr))).collect();
                let (fd, source, flags) = (io.as_raw_fd(), source.as_slice(), MsgFlags::empty());
                Ok(sendmmsg(fd, headers, &bytes, addrs, source, flags)?.count())
            });
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod calls {
    use quinn_udp::{Transmit, UdpSocketState};

    use super::*;

    /// One call for each.
    pub(super) struct Calls {
        state: UdpSocketState,
    }

    impl Calls {
        pub(super) fn new(io: &UdpSocket) -> io::Result<Self> {
            Ok(Self { state: UdpSocketState::new(io.into())? })
        }

        /// Sends answers that come from one address.
        pub(super) fn send(&mut self, io: &UdpSocket, bytes: &[u8], run: &[(Range<usize>, Client)]) {
            send_all(run, |rest| {
                let (range, to) = &rest[0];
                let contents = &bytes[range.clone()];
                match to.at {
                    None => io.send_to(contents, to.addr)?,
                    Some(_) => {
                        let (destination, src_ip) = (to.addr, to.at);
                        let packet = Transmit { destination, ecn: None, contents, segment_size: None, src_ip };
                        self.state.try_send(io.into(), &packet)?;
                        1
                    }
                };
                Ok(1)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_cannot_be_sent_costs_nobody_else_an_answer() {
        let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let clients = [bind(), bind()];
        let mut outbox = Outbox::new(bind()).unwrap();
        let nobody = Client { addr: "127.0.0.1:0".parse().unwrap(), at: None };
        for number in 0..3 * BATCH as u16 {
            let addr = clients[usize::from(number % 2)].local_addr().unwrap();
            // The first of a call, the last of one, and some in between.
            if number % 21 == 0 {
                outbox.put(b"lost", nobody);
            }
            outbox.put(&number.to_be_bytes(), Client { addr, at: None });
        }
        outbox.put(b"lost", nobody);
        outbox.flush();
        for number in 0..3 * BATCH as u16 {
            let client = &clients[usize::from(number % 2)];
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut packet = [0; 8];
            let len = client.recv(&mut packet).unwrap();
            assert_eq!(packet[..len], number.to_be_bytes());
        }
    }
}
