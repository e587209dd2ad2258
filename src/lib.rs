//! BitTorrent on plain OS threads: no async runtime, blocking sockets, and verified pieces straight into a memory map.
//!
//! ```no_run
//! // One call: download, verify, done.
//! let paths = ropewalk::download("debian.iso.torrent".as_ref(), "downloads".as_ref(), |stats| {
//!     println!("{} of {} bytes", stats.done, stats.wanted);
//!     true // false stops
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! For more than that there is the [`Session`]: add torrents, watch [`Stats`] and [`Event`]s, set priorities and limits,
//! and [`open`](Torrent::open) a file that is still arriving as a `Read + Seek`. No call waits for the network unless its
//! name says so, and dropping the session joins every thread that it started.
//!
//! # Threads
//!
//! Every peer is a strand, two OS threads with one blocking connection; the rope is a file that is right to the last bit.
//!
//! | thread | owns | waits on | sends |
//! |---|---|---|---|
//! | `torrent-HASH8` | picker, choker, peers, addresses, pieces in flight | its inbox, or the next deadline | work and state to peers, never blocking |
//! | `rx-ADDR` | the read half: dials or is called, shakes hands, reads blocks into their pieces | the socket | facts to the owner, full pieces to the verify queue |
//! | | before a magnet link's metadata is there: asks for it, and keeps what the peer says for later | the socket, a moment at a time | the same |
//! | `tx-ADDR` | the write half: claims blocks, asks for them, uploads | its outbox | requests, blocks, haves |
//! | `verify-N` | nothing that lasts | its turn at the verify queue | stored or corrupt, to the owner |
//! | `store-HASH8` | the journal; opens and checks files | its jobs, or stored bytes that pile up | what came of them |
//! | `check-N` | a run of pieces to hash | the disk | |
//! | `announce-HASH8-TIER` | the trackers of a tier | a tracker, or the next announce | peers to the owner |
//! | `announce-stop`, `announce-stopped` | trackers that are said farewell to | their answers, for a moment | |
//! | `udp` | the UDP port, all connections of uTP, and the node of the DHT where there is one | a datagram, the next deadline, or a wake | bytes to readers, callers by uTP, peers to owners that have room for them |
//! | `lsd` | the sockets of the local network (BEP 14) | neighbours, or the next announce | peers to the owners |
//! | `port-map` | what the gateway passes on to us (feature `upnp`) | the gateway, or the next renewal | our outside address to the owners |
//! | `accept`, `accept-utp` | a listening socket; callers by uTP | callers | a new `rx` for each |
//! | `tracker-*` | the sockets of a [`tracker`], by kind and core | what its clients ask | |
//! | `outlet` | whether what sockets are bound to is there | the next look | a new `accept` when it is back |
//!
//! Each piece of mutable state has one owner with one inbox; the rest is immutable and shared, or the piece in flight.
//! Leaves may wait for an owner, an owner never waits for a leaf, so nothing can wait in a circle. Channels are bounded and
//! carry facts and work, never file bytes. Threads are named, have small stacks and are joined; those of peers, torrents
//! and workers are counted against a cap ([`ResourceConfig::max_threads`]), the few that announce or check files are not.
//! One exception: a name lookup has a thread of its own (`resolve`), for the system's resolver cannot be interrupted. One
//! that hangs is left behind, with nothing but the name, and ends with its lookup.
//!
//! # Only looking
//!
//! A torrent that is added with [`Start::Looking`] connects to peers to see who they are and what they have, and scrapes
//! the trackers that it announces to. It fetches, gives, makes and keeps nothing, and looks at no file.
//! [`Torrent::peers`], [`Torrent::trackers`] and [`Torrent::survey`] say what there is to see.
//!
//! # The way of one piece
//!
//! 1. The owner picks it for a peer (urgent, then by priority, then the rarest), opens a *piece in flight* within the
//!    memory budget and puts it on the peer's work channel.
//! 2. The writer claims blocks as the request window allows and asks for them in one write. Several peers may hold the
//!    same piece: large pieces, slow peers and the endgame are claims on one shared piece. Some of the peers that have
//!    nothing else to do, the quickest, ask for what others are late with.
//! 3. The reader receives each block straight into the buffer that it stays in, up to 32 by one call where a quick peer is
//!    expected to send as many. First copy wins; others are cancelled.
//! 4. The last block sends the piece to the verify queue. A worker hashes it together with whatever else waits, or comes
//!    within a moment. A wrong piece goes back, and whoever spoiled it is found by comparing block hashes once the piece
//!    has passed.
//! 5. A right piece goes to its offset in the mapped file, by one `pwritev(2)` of its blocks into the pages that the mapping
//!    shows. (Small files, and those on file systems that cannot allocate, are written just so and never mapped; in memory
//!    nothing is allocated before it is stored.) [`Storing::Map`] has it copied through the mapping instead: pages are
//!    populated first, so that a full disk is an error and not a signal, and let go afterwards, so that memory stays flat.
//!    Those page faults were measured to cost the kernel one and a half times what a write does in memory (tmpfs), and five
//!    times on ext4. The store thread writes to the disk what piles up, and workers wait a moment for a disk that is far
//!    behind.
//! 6. A peer that dies, chokes or stalls gives its claims back; blocks that arrived stay.
//!
//! Peers name other peers (peer exchange, [`PeerConfig::exchange`]). What they name is hearsay: it waits in a bounded queue of
//! the peer's, and goes into the address book, one of each peer in turn, when there is nobody better to dial.
//!
//! What a peer asks of us goes from its reader to its writer, which sends many blocks by one call, from the mapped files to
//! the socket. Where a connection is encrypted ([`Encryption`]), the reader decrypts what it received where that lies, and
//! the writer reads blocks from the files, some at a time, and encrypts them before it sends them. Other connections know
//! nothing of that.
//!
//! # TCP and uTP
//!
//! Peers are dialled over TCP, and over uTP (BEP 29) where nobody answers or the call is turned away; callers come over
//! either ([`Transports`]). A connection of uTP is a sans-IO machine that the thread `udp` drives. The peer's own two threads
//! read and write it like a socket: between them and `udp` are two bounded buffers behind one lock, which is never held
//! while anything is sent or waited for. Its window follows the delay that it adds to the path (LEDBAT), so that it gives
//! way to everything else there. What is uploaded over it is read from the files, not lent from the map: only the system
//! can be lent pages that may go away.
//!
//! # Magnet links
//!
//! [`Session::add_magnet`] adds a torrent that consists of an info-hash and hints. Its owner thread begins as a search: it
//! announces, dials and is called like any owner, but its peers are *candidates*, one thread each, that put the metadata
//! together (BEP 9): each is asked for other pieces, memory is taken for what comes and not for what is claimed, and a whole
//! that is wrong is fetched again from single peers until it is known who lied. When it is there, the same thread goes on as
//! the ordinary owner with the same inbox, addresses and announcer, and candidates become peers on the connections that they
//! have: what they said meanwhile is read first. [`Torrent::metainfo`] is `None` until then.
//!
//! # Layers
//!
//! Imports point downward only; a test holds this.
//!
//! | layer | is | never |
//! |---|---|---|
//! | [`bits`], [`bencode`], [`metainfo`], config, crew | values, .torrent files, settings, the thread count | know the network |
//! | [`wire`], [`policy`], [`hash`] | bytes to types; pure decisions; digests | hold a socket, a thread or a clock |
//! | net, storage | sockets, all of them, bound as asked for ([`Bind`]), and byte streams; verified pieces in files | know BitTorrent messages; hold an unverified byte |
//! | peer, discovery | one peer's two threads; tracker announces, the DHT | decide anything about the torrent |
//! | torrent | the owner, its handle, readers, the verify and store threads | wait for a leaf |
//! | [`Session`] | the port, the limits, the registry | |
//! | [`create`](mod@create), [`dht`], [`verify`](mod@verify), [`tracker`], [`fetch`] | jobs around the engine | |
//!
//! # Why it is slow
//!
//! [`Torrent::explain`] says where the time went, per peer and in sums, as numbers and in words: a connection is always at
//! exactly one [`Activity`], such as waiting to be unchoked, for blocks, for a limit or for the verify workers. The account
//! is kept under a lock that is taken anyway and with a time that is at hand anyway, and changes only when what is waited
//! for does. Processor time is the system's own account, read a few times a second while blocks come. The timeline of
//! `ropewalk get --trace` is made of [`Event`]s and of what [`Torrent::peers`] and [`Torrent::stats`] say, by the program.
//!
//! # What is stored
//!
//! Beside the files, in `.ropewalk` below the download folder (or in [`Config::state_dir`]): `HASH.resume`, the
//! journal, and `HASH.parts`, the bytes of skipped files that wanted pieces brought along, and for a magnet link
//! `HASH.torrent`, so that its metadata is looked for only once. `HASH.lock` is there while a torrent is in a
//! session, and makes sure that one session at a time writes these, whichever process it is in; one that writes nothing
//! ([`Check::ReadOnly`], [`Check::Hashed`], [`Start::Looking`]) needs none. A piece is recorded as durable only after
//! its bytes were synced. After a kill, what was recorded is neither fetched nor hashed again, as long as length and
//! modification time of the files fit; the rest is hashed.
//!
//! Torrents of one session do not write into each other's files: where two name the same one, and the later has anything
//! to write there, it fails. Both may seed it.
//!
//! The id of the node of the DHT and the nodes that it knows are kept in [`DhtConfig::state_file`], if one is named.
//!
//! Where [`PeerConfig::reputation_file`] names one: a text file with a line for each of at most 10,000 peers, of what it
//! gave and what was wrong with it, which fades over days. It is read when the session starts and replaced when it ends.
//!
//! # Whom it meets
//!
//! One place decides whom to dial: the [address book](policy::AddressBook) of each torrent, which is bounded and fair to the
//! sources of addresses. What peers did is [remembered](policy::Reputation) for all torrents together, behind one lock that
//! is taken when somebody comes, goes, lies or stalls, and at each round of the choker. An [`IpFilter`] keeps blocked
//! addresses out before their calls cost a thread; [`Session::set_filter`] puts another one in its place.
#![deny(missing_docs)]

pub mod bencode;
pub mod bits;
mod config;
pub mod create;
mod crew;
pub mod dht;
mod discovery;
mod download;
pub mod fetch;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod hash;
pub mod metainfo;
mod net;
mod peer;
pub mod policy;
mod session;
mod storage;
mod torrent;
pub mod tracker;
pub mod verify;
pub mod wire;

pub use config::{
    AddOptions, Bind, BindSyntax, Check, Choose, Config, DhtConfig, Encryption, ListenConfig, Order, PeerConfig,
    PortMapConfig, RateLimits, ResourceConfig, Seeding, Start, Storing, TrackerConfig, Transports,
};
pub use discovery::{DhtState, DhtStats, DhtStatus, TrackerState, TrackerStatus};
#[cfg(feature = "upnp")]
pub use discovery::{MapProtocol, MapState};
pub use download::{DownloadError, download};
pub use metainfo::{InfoHash, Magnet, Metainfo};
pub use net::{BindError, Transport, local_addresses};
pub use peer::{Activity, Protection, Times};
pub use policy::{IpFilter, Misses, Priority, Reciprocity, Record, Refused, Source, Sources, Standing};
pub use session::{AddError, Session, SessionError};
pub use storage::StorageError;
pub use torrent::{
    CancelRead, Data, Ended, Event, Explanation, Failure, FileReader, OpenError, PeerStats, PeerTimes, State, Stats,
    Survey, Torrent,
};
