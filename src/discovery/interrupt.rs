//! Ends blocking calls from another thread: an [`Interrupt`] knows the sockets that a group of threads waits on and
//! shuts them down when it is raised. It refuses to time anything; a deadline belongs to the call itself.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::Shutdown;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use socket2::Socket;

/// Raised once, for good. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    /// Protects the open sockets; taken by the announce threads around a connection and by whoever raises. It is not
    /// held while a socket is shut down.
    shared: Arc<Mutex<Shared>>,
    raised: Receiver<Infallible>,
}

/// The interrupt was raised: nothing new may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stopped before the tracker answered")]
pub(crate) struct Interrupted;

/// A socket that an [`Interrupt`] can shut down; forgets it when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    shared: Arc<Mutex<Shared>>,
    id: u64,
}

#[derive(Debug)]
struct Shared {
    /// Dropped by the raise: the disconnected channel is the signal that threads can select on.
    signal: Option<Sender<Infallible>>,
    sockets: HashMap<u64, Arc<Socket>>,
    next_id: u64,
}

impl Interrupt {
    pub(crate) fn new() -> Self {
        let (signal, raised) = bounded(0);
        let shared = Shared { signal: Some(signal), sockets: HashMap::new(), next_id: 0 };
        Self { shared: Arc::new(Mutex::new(shared)), raised }
    }

    /// Shuts down every registered socket, disconnects [`Self::signal`] and refuses later registrations.
    pub(crate) fn raise(&self) {
        let sockets: Vec<_> = {
            let mut shared = self.shared.lock();
            shared.signal = None;
            shared.sockets.drain().map(|(_, socket)| socket).collect()
        };
        for socket in sockets {
            // An error means that the socket is not connected any more, which is what was wanted. Linux also ends a
            // connect that is still waiting for its SYN to be answered.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.shared.lock().signal.is_none()
    }

    /// A channel that never carries anything and is disconnected when the interrupt is raised.
    pub(crate) fn signal(&self) -> &Receiver<Infallible> {
        &self.raised
    }

    /// Has `socket` shut down by a raise, for as long as the registration lives.
    pub(crate) fn register(&self, socket: Arc<Socket>) -> Result<Registration, Interrupted> {
        let mut shared = self.shared.lock();
        if shared.signal.is_none() {
            return Err(Interrupted);
        }
        let id = shared.next_id;
        shared.next_id += 1;
        shared.sockets.insert(id, socket);
        Ok(Registration { shared: self.shared.clone(), id })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.lock().sockets.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    #[test]
    fn a_raise_ends_a_read_that_would_wait_forever() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = Arc::new(Socket::from(stream));
        let interrupt = Interrupt::new();
        let registration = interrupt.register(socket.clone()).unwrap();
        let reader = thread::spawn(move || (&*socket).read(&mut [0; 1]));
        interrupt.raise();
        assert_eq!(reader.join().unwrap().unwrap(), 0);
        drop(registration);
    }

    #[test]
    fn a_raised_interrupt_refuses_sockets_and_disconnects_its_signal() {
        let interrupt = Interrupt::new();
        assert!(!interrupt.is_raised());
        interrupt.raise();
        assert!(interrupt.is_raised());
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        assert_eq!(interrupt.register(Arc::new(socket)).unwrap_err(), Interrupted);
        assert!(interrupt.signal().recv().is_err());
    }

    #[test]
    fn a_dropped_registration_is_forgotten() {
        let interrupt = Interrupt::new();
        let socket = Arc::new(Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap());
        drop(interrupt.register(socket.clone()).unwrap());
        assert_eq!(Arc::strong_count(&socket), 1);
    }
}
