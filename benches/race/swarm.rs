//! The payload, its torrent, and those who serve it: seeders, the links before them, a tracker. The same for every leecher.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, ensure};
use ropewalk::create::{CreateOptions, create};
use ropewalk::{AddOptions, Check, Config, Metainfo, Session, State};

use crate::args::{Args, Seeder};
use crate::clients::python_with_libtorrent;
use crate::link::LinkProcess;
use crate::namespace;

/// The payload's name in the seeders' folder and in each leecher's.
pub(crate) const PAYLOAD: &str = "payload.bin";
/// Processes that libtorrent's seeders share: each seeder is a session, and python itself is most of a process.
const MOST_PROCESSES: usize = 4;

/// Dropping it stops all seeders and links.
pub(crate) struct Swarm {
    pub(crate) payload: PathBuf,
    pub(crate) torrent: PathBuf,
    /// Who seeds, in a word.
    pub(crate) seeder: &'static str,
    sessions: Vec<Session>,
    processes: Vec<Child>,
    _links: Option<LinkProcess>,
}

impl Swarm {
    /// Makes the payload in `folder` and starts everybody.
    pub(crate) fn start(args: &Args, folder: &Path) -> anyhow::Result<Self> {
        let (payload, torrent) = (folder.join(PAYLOAD), folder.join("payload.torrent"));
        write_payload(&payload, args.size).with_context(|| format!("cannot write {}", payload.display()))?;
        let tracker = TcpListener::bind((namespace::host(), 0))?;
        let options = CreateOptions {
            piece_length: Some(args.piece << 10),
            trackers: vec![vec![format!("http://{}/announce", tracker.local_addr()?)]],
            ..CreateOptions::default()
        };
        let metainfo = create(&payload, &options, &|_, _| (), &AtomicBool::new(false))?.metainfo;
        std::fs::write(&torrent, metainfo.as_bytes())?;

        let python = if args.seeder == Seeder::Ropewalk { None } else { python_with_libtorrent() };
        ensure!(
            python.is_some() || args.seeder != Seeder::Libtorrent,
            "python3 has no libtorrent (pip install libtorrent); --seeder ropewalk does without"
        );
        let seeder = if python.is_some() { "libtorrent" } else { "ropewalk" };
        let (sessions, processes) = (Vec::new(), Vec::new());
        let mut swarm = Self { payload, torrent, seeder, sessions, processes, _links: None };
        let addresses: Vec<_> = (0..args.seeders).map(namespace::seeder).collect();
        let mut peers = match &python {
            Some(python) => swarm.start_processes(python, folder, &addresses)?,
            None => swarm.start_sessions(&metainfo, folder, &addresses)?,
        };
        if args.linked() {
            let links = LinkProcess::start(args.delay, args.rate * 1e6, &peers)?;
            peers.clone_from(&links.fronts);
            swarm._links = Some(links);
        }
        std::thread::Builder::new().name("tracker".into()).spawn(move || track(&tracker, &peers))?;
        Ok(swarm)
    }

    fn start_sessions(
        &mut self,
        metainfo: &Metainfo,
        folder: &Path,
        addresses: &[Ipv4Addr],
    ) -> anyhow::Result<Vec<SocketAddrV4>> {
        let mut peers = Vec::new();
        for &ip in addresses {
            let mut config = Config::default();
            config.dht.enabled = false;
            config.listen.bind = Some(IpAddr::from(ip).into());
            config.listen.ports = 0..=0;
            let session = Session::new(config)?;
            let mut options = AddOptions::new(folder);
            options.announce = false;
            options.check = Check::ReadOnly;
            let state = session.add(metainfo.clone(), options)?.wait(Duration::from_secs(120));
            ensure!(state == State::Seeding, "a seeder is {state:?}");
            peers.push(SocketAddrV4::new(ip, session.port()));
            self.sessions.push(session);
        }
        Ok(peers)
    }

    fn start_processes(
        &mut self,
        python: &str,
        folder: &Path,
        addresses: &[Ipv4Addr],
    ) -> anyhow::Result<Vec<SocketAddrV4>> {
        let mut peers = Vec::new();
        for share in addresses.chunks(addresses.len().div_ceil(MOST_PROCESSES)) {
            let mut command = Command::new(python);
            command.args(["-c", LIBTORRENT_SEEDERS]).arg(&self.torrent).arg(folder);
            command.args(share.iter().map(ToString::to_string));
            // Not in the terminal's group: Ctrl-C ends the race, which ends its seeders.
            let mut child = command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let stdout = child.stdout.take().context("the output is a pipe")?;
            self.processes.push(child);
            // The addresses first: after the last there is no line to wait for.
            for (&ip, line) in share.iter().zip(BufReader::new(stdout).lines()) {
                peers.push(SocketAddrV4::new(ip, line?.parse()?));
            }
        }
        ensure!(peers.len() == addresses.len(), "libtorrent's seeders did not start; --seeder ropewalk does without");
        Ok(peers)
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.sessions.drain(..).for_each(Session::shutdown);
        for child in &mut self.processes {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn write_payload(path: &Path, mib: u64) -> std::io::Result<()> {
    let (mut file, mut rng) = (std::fs::File::create(path)?, fastrand::Rng::with_seed(1));
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..mib {
        rng.fill(&mut chunk);
        file.write_all(&chunk)?;
    }
    Ok(())
}

/// Answers every announce with the same peers, so that every leecher meets the same swarm.
fn track(listener: &TcpListener, peers: &[SocketAddrV4]) {
    for stream in listener.incoming() {
        if let Err(error) = stream.and_then(|stream| answer(stream, peers)) {
            eprintln!("tracker: {error}");
        }
    }
}

fn answer(mut stream: TcpStream, peers: &[SocketAddrV4]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut lines = BufReader::new(&stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    lines.find(|line| line.as_ref().is_ok_and(String::is_empty) || line.is_err());
    let mut body = b"d8:intervali1800e5:peers".to_vec();
    if request.contains("event=stopped") {
        body.extend(b"0:");
    } else if request.contains("compact=0") {
        body.push(b'l');
        for (number, peer) in peers.iter().enumerate() {
            let ip = peer.ip().to_string();
            let id = format!("7:peer id20:-XX0000-{number:012}");
            write!(body, "d2:ip{}:{ip}{id}4:porti{}ee", ip.len(), peer.port())?;
        }
        body.push(b'e');
    } else {
        write!(body, "{}:", 6 * peers.len())?;
        peers.iter().for_each(|peer| body.extend([&peer.ip().octets()[..], &peer.port().to_be_bytes()].concat()));
    }
    body.push(b'e');
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), &body].concat())
}

/// A seeder for each address: listens on a free port of it, which it prints when it is ready, and serves until the input
/// ends.
const LIBTORRENT_SEEDERS: &str = r#"
import libtorrent as lt, sys, time
torrent, save, addrs = sys.argv[1], sys.argv[2], sys.argv[3:]
keep = []
for addr in addrs:
    s = lt.session({"listen_interfaces": addr + ":0", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
        "enable_natpmp": False, "alert_mask": 0, "unchoke_slots_limit": -1, "connections_limit": 2000,
        "allow_multiple_connections_per_ip": True, "enable_outgoing_utp": False, "enable_incoming_utp": False,
        "in_enc_policy": 1, "out_enc_policy": 1, "send_buffer_watermark": 3145728, "aio_threads": 2})
    p = lt.load_torrent_file(torrent)
    p.save_path, p.trackers = save, []
    # As after a restart. In seed mode it would hash each piece when it is first asked for, in the middle of the race.
    p.have_pieces = [True] * p.ti.num_pieces()
    p.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    h = s.add_torrent(p)
    h.replace_trackers([])
    keep.append((s, h))
for s, h in keep:
    while not (h.status().is_seeding and s.listen_port()):
        time.sleep(.02)
    print(s.listen_port(), flush=True)
sys.stdin.read()
"#;
