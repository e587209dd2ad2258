//! A peer that encrypts, written apart from the one that it tests.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crypto_bigint::modular::ConstMontyForm;
use crypto_bigint::{U192, U768, const_monty_params};
use rc4::{KeyInit, Rc4, StreamCipher};
use ropewalk::InfoHash;
use ropewalk::hash::sha1;

use super::PATIENCE;

const_monty_params!(
    Prime,
    U768,
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
     020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
     4FE1356D6D51C245E485B576625E7EC6F44C42E9A63A36210000000000090563"
);

pub const PLAINTEXT: u32 = 1;
pub const RC4: u32 = 2;

/// A connection whose handshake was encrypted.
pub struct Veiled {
    pub stream: TcpStream,
    /// What the other side chose.
    pub selected: u32,
    read: Rc4,
    write: Rc4,
}

/// A caller that has exchanged keys, and nothing more.
pub struct Caller {
    pub stream: TcpStream,
    secret: Vec<u8>,
}

impl Caller {
    pub fn call(to: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let private = U192::from_be_slice(&std::array::from_fn::<u8, 24, _>(|_| fastrand::u8(..)));
        let raise = |base: &U768| {
            let power = ConstMontyForm::<Prime, { U768::LIMBS }>::new(base).pow(&private).retrieve();
            AsRef::<[u8]>::as_ref(&power.to_be_bytes()).to_vec()
        };
        stream.write_all(&raise(&U768::from_u8(2)))?;
        let mut theirs = [0; 96];
        stream.read_exact(&mut theirs)?;
        let secret = raise(&U768::from_be_slice(&theirs));
        Ok(Self { stream, secret })
    }

    /// What shows that the caller knows the secret and the torrent.
    pub fn proof(&self, info_hash: InfoHash) -> Vec<u8> {
        let (name, mask) = (sha1([&b"req2"[..], info_hash.as_bytes()]), self.hash(b"req3"));
        let hidden: Vec<u8> = name.iter().zip(mask).map(|(name, mask)| name ^ mask).collect();
        [self.hash(b"req1").to_vec(), hidden].concat()
    }

    /// The rest of the handshake: offers `provided`, and says `first` at once.
    pub fn offer(mut self, info_hash: InfoHash, provided: u32, first: &[u8]) -> io::Result<Veiled> {
        let key = |name: &[u8]| {
            let mut cipher =
                Rc4::new_from_slice(&sha1([name, &self.secret, info_hash.as_bytes().as_slice()])).expect("20 bytes");
            cipher.apply_keystream(&mut [0; 1024]);
            cipher
        };
        let (mut write, mut read) = (key(b"keyA"), key(b"keyB"));
        let padding = [0; 5];
        let len = |bytes: &[u8]| (bytes.len() as u16).to_be_bytes();
        let choice = [&[0; 8][..], &provided.to_be_bytes(), &len(&padding), &padding, &len(first), first];
        let mut choice = choice.concat();
        write.apply_keystream(&mut choice);
        let said = [self.proof(info_hash), choice].concat();
        self.stream.write_all(&said)?;
        // The answer begins where zeros, encrypted, stand behind the padding.
        let mut verification = [0; 8];
        key(b"keyB").apply_keystream(&mut verification);
        let mut window = [0; 8];
        self.stream.read_exact(&mut window)?;
        while window != verification {
            window.rotate_left(1);
            self.stream.read_exact(&mut window[7..])?;
        }
        read.apply_keystream(&mut window);
        let mut veiled = Veiled { stream: self.stream, selected: RC4, read, write };
        let [s0, s1, s2, s3, len0, len1] = *veiled.receive(6)?.first_chunk().expect("6 bytes");
        veiled.receive(u16::from_be_bytes([len0, len1]).into())?;
        veiled.selected = u32::from_be_bytes([s0, s1, s2, s3]);
        Ok(veiled)
    }

    fn hash(&self, name: &[u8]) -> [u8; 20] {
        sha1([name, &self.secret])
    }
}

impl Veiled {
    pub fn receive(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes)?;
        if self.selected == RC4 {
            self.read.apply_keystream(&mut bytes);
        }
        Ok(bytes)
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut bytes = bytes.to_vec();
        if self.selected == RC4 {
            self.write.apply_keystream(&mut bytes);
        }
        self.stream.write_all(&bytes)
    }

    /// The body of the next message; empty for a keep-alive.
    pub fn message(&mut self) -> io::Result<Vec<u8>> {
        let len = u32::from_be_bytes(*self.receive(4)?.first_chunk().expect("4 bytes"));
        self.receive(len as usize)
    }
}
