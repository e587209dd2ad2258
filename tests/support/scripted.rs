//! Peers that do what a script says, over plain sockets: the wire's types, none of the engine.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use ropewalk::InfoHash;
use ropewalk::wire::handshake::{Handshake, HandshakeHead, PeerId, Reserved};
use ropewalk::wire::message::Message;

use super::PATIENCE;

/// A connection whose handshake is done.
pub struct Wire {
    pub stream: TcpStream,
    pub their_id: PeerId,
}

/// The bits that scripted peers set unless their script says otherwise.
pub const RESERVED: Reserved = Reserved::NONE.with_fast().with_extended();

pub fn random_id() -> PeerId {
    PeerId::new(std::array::from_fn(|_| fastrand::alphanumeric() as u8))
}

impl Wire {
    /// Calls a client from one of this machine's loopback addresses.
    pub fn call(from: Ipv4Addr, to: SocketAddr, info_hash: InfoHash, reserved: Reserved) -> io::Result<Self> {
        Self::call_as(from, to, info_hash, reserved, random_id())
    }

    pub fn call_as(
        from: Ipv4Addr,
        to: SocketAddr,
        info_hash: InfoHash,
        reserved: Reserved,
        peer_id: PeerId,
    ) -> io::Result<Self> {
        let mut stream = connect(from, to)?;
        stream.write_all(&Handshake { reserved, info_hash, peer_id }.encode())?;
        let theirs = read_handshake(&mut stream)?;
        Ok(Self { stream, their_id: theirs.peer_id })
    }

    /// Answers a caller.
    pub fn answer(mut stream: TcpStream, info_hash: InfoHash, reserved: Reserved, id: PeerId) -> io::Result<Self> {
        let theirs = read_handshake(&mut stream)?;
        stream.write_all(&Handshake { reserved, info_hash, peer_id: id }.encode())?;
        Ok(Self { stream, their_id: theirs.peer_id })
    }

    /// Answers a caller as one that has every piece and lets it ask at once.
    pub fn answer_seeding(stream: TcpStream, info_hash: InfoHash) -> io::Result<Self> {
        let mut wire = Self::answer(stream, info_hash, RESERVED, random_id())?;
        wire.send(&Message::HaveAll)?;
        wire.send(&Message::Unchoke)?;
        Ok(wire)
    }

    pub fn send(&mut self, message: &Message<'_>) -> io::Result<()> {
        let mut out = Vec::new();
        message.encode_into(&mut out);
        self.stream.write_all(&out)
    }

    /// The body of the next message; empty for a keep-alive.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut len = [0; 4];
        self.stream.read_exact(&mut len)?;
        let mut body = vec![0; u32::from_be_bytes(len) as usize];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    /// Reads until the other side asks for a block: the piece, the offset in it, the length.
    pub fn next_request(&mut self) -> io::Result<(u32, u32, u32)> {
        loop {
            let body = self.receive()?;
            if let Message::Request { index, begin, len } = Message::decode(&body).map_err(io::Error::other)? {
                return Ok((index, begin, len));
            }
        }
    }

    /// Reads until a message is the one looked for.
    #[track_caller]
    pub fn expect(&mut self, what: &str, is_it: impl Fn(&Message<'_>) -> bool) {
        loop {
            let body = self.receive().unwrap_or_else(|error| panic!("no {what}: {error}"));
            if is_it(&Message::decode(&body).unwrap()) {
                return;
            }
        }
    }

    /// Reads until the other side ends the connection.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("the connection was not ended")
                }
                Err(_) => return,
            }
        }
    }
}

fn connect(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&to.into())?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn read_handshake(stream: &mut TcpStream) -> io::Result<Handshake> {
    let mut bytes = [0; Handshake::LEN];
    stream.read_exact(&mut bytes)?;
    let (head, id) = bytes.split_at(HandshakeHead::LEN);
    let head = HandshakeHead::decode(head.try_into().unwrap()).map_err(io::Error::other)?;
    Ok(head.with_peer_id(PeerId::new(id.try_into().unwrap())))
}

/// A scripted peer that listens. Dropping it ends its connections and joins its threads.
pub struct Server {
    pub addr: SocketAddr,
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Runs the script for each caller.
    pub fn start<S>(ip: impl Into<IpAddr>, script: S) -> Self
    where
        S: Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind((ip.into(), 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, open) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::<TcpStream>::new())));
        let acceptor = {
            let (stop, open, script) = (Arc::clone(&stop), Arc::clone(&open), Arc::new(script));
            std::thread::spawn(move || {
                let mut callers = Vec::new();
                while let Ok((stream, _)) = listener.accept() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    stream.set_nodelay(true).unwrap();
                    open.lock().unwrap().push(stream.try_clone().unwrap());
                    let script = Arc::clone(&script);
                    callers.push(std::thread::spawn(move || {
                        let whole = stream.try_clone();
                        // A script ends with an error where the other side has had enough: that is no failure.
                        let _ = script(stream);
                        if let Ok(whole) = whole {
                            let _ = whole.shutdown(Shutdown::Both);
                        }
                    }));
                }
                callers.into_iter().for_each(|caller| caller.join().unwrap());
            })
        };
        Self { addr, stop, open, acceptor: Some(acceptor) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the acceptor first, so that no caller comes after those that are ended.
        drop(TcpStream::connect(self.addr));
        let acceptor = self.acceptor.take().unwrap();
        while !acceptor.is_finished() {
            self.open.lock().unwrap().drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
            std::thread::park_timeout(std::time::Duration::from_millis(1));
        }
        if acceptor.join().is_err() && !std::thread::panicking() {
            panic!("a script panicked");
        }
    }
}
