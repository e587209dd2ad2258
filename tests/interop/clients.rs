//! Clients that nobody here wrote, each as a process that seeds or downloads one torrent.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::rig::process::Process;

/// Seeds or downloads until it is killed; prints `listening PORT`, then `done` when it has everything.
const LIBTORRENT: &str = r#"
import json, sys, libtorrent as lt
o = json.loads(sys.argv[1])
s = lt.session({"listen_interfaces": o["listen"], "outgoing_interfaces": "", "enable_dht": False, "enable_lsd": False,
    "enable_upnp": False, "enable_natpmp": False, "enable_outgoing_utp": False, "enable_incoming_utp": False,
    "allow_multiple_connections_per_ip": True, "in_enc_policy": 1, "out_enc_policy": 1,
    "alert_mask": lt.alert.category_t.all_categories & ~lt.alert.category_t.session_log_notification
        & ~lt.alert.category_t.torrent_log_notification & ~lt.alert.category_t.picker_log_notification
        & ~lt.alert.category_t.piece_progress_notification & ~lt.alert.category_t.block_progress_notification
        & ~lt.alert.category_t.dht_log_notification & ~lt.alert.category_t.port_mapping_log_notification, **o["settings"]})
p = lt.parse_magnet_uri(o["magnet"]) if o["magnet"] else lt.load_torrent_file(o["torrent"])
p.save_path = o["dir"]
p.flags &= ~lt.torrent_flags.auto_managed & ~lt.torrent_flags.paused
if o["seed"]: p.flags |= lt.torrent_flags.seed_mode
h = s.add_torrent(p)
print("listening", s.listen_port(), flush=True)
for ip, port in o["peers"]: h.connect_peer((ip, port))
if o["seed"]: print("done", flush=True)
while True:
    s.wait_for_alert(1000)
    for a in s.pop_alerts():
        if isinstance(a, lt.torrent_finished_alert) and not o["seed"]: h.flush_cache()
        elif isinstance(a, lt.cache_flushed_alert): print("done", flush=True)
        else: print(type(a).__name__, a.message(), flush=True)
"#;

/// What a client is to do.
pub(crate) struct Job<'a> {
    pub(crate) torrent: &'a Path,
    pub(crate) dir: &'a Path,
    pub(crate) ip: IpAddr,
}

/// libtorrent with further settings; also the port that it listens on. What it downloads is there after `done`.
pub(crate) fn libtorrent(job: &Job<'_>, seed: bool, peers: &[SocketAddr], settings: &Value) -> (Process, u16) {
    run_libtorrent(job, None, seed, peers, settings)
}

/// libtorrent that has only the magnet link of a torrent.
pub(crate) fn libtorrent_by_magnet(job: &Job<'_>, magnet: &str, peers: &[SocketAddr]) -> (Process, u16) {
    run_libtorrent(job, Some(magnet), false, peers, &json!({}))
}

fn run_libtorrent(
    job: &Job<'_>,
    magnet: Option<&str>,
    seed: bool,
    peers: &[SocketAddr],
    settings: &Value,
) -> (Process, u16) {
    let options = json!({
        "magnet": magnet, "torrent": job.torrent, "dir": job.dir, "listen": format!("{}:0", job.ip), "seed": seed, "settings": settings,
        "peers": peers.iter().map(|peer| json!([peer.ip().to_string(), peer.port()])).collect::<Vec<_>>(),
    });
    let mut process = Process::start(Command::new("python3").args(["-c", LIBTORRENT, &options.to_string()]));
    let port = process.wait_until("listening", |line| line.strip_prefix("listening ")?.parse().ok());
    (process, port)
}

/// aria2, which finds peers through trackers alone. Downloading, it ends when it has everything.
pub(crate) fn aria2(job: &Job<'_>, seed: bool, port: u16) -> Process {
    aria2_with(job, seed, port, &[])
}

/// aria2 with further options.
pub(crate) fn aria2_with(job: &Job<'_>, seed: bool, port: u16, more: &[&str]) -> Process {
    let mut command = Command::new("aria2c");
    command.args(["--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--no-conf=true"]);
    command.args(["--enable-peer-exchange=false", "--bt-min-crypto-level=plain", "--file-allocation=none"]);
    command.args(["--summary-interval=0", "--console-log-level=info", "--async-dns=false"]);
    command.arg(format!("--listen-port={port}")).arg(format!("--interface={}", job.ip)).arg("-d").arg(job.dir);
    command.args(if seed {
        ["--check-integrity=true", "--seed-ratio=0.0"]
    } else {
        ["--seed-time=0", "--bt-max-peers=0"]
    });
    Process::start(command.args(more).arg(job.torrent))
}

/// transmission-cli, which has or downloads everything and goes on seeding until it is killed, with encryption tolerated (-et), preferred (-ep) or required
/// (-er), and uTP preferred or not spoken.
pub(crate) fn transmission(job: &Job<'_>, port: u16, config: &Path, (encryption, utp): (&str, bool)) -> Process {
    let number = ["-et", "-ep", "-er"].iter().position(|option| *option == encryption);
    let settings = json!({
        "utp-enabled": utp, "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false, "encryption": number,
        "bind-address-ipv4": job.ip.to_string(), "preallocation": 0,
    });
    std::fs::write(config.join("settings.json"), settings.to_string()).unwrap();
    let mut command = Command::new("transmission-cli");
    command.args([encryption, "-M", "-p", &port.to_string()]).arg("-g").arg(config).arg("-w").arg(job.dir);
    Process::start(command.arg(job.torrent))
}

/// rqbit, which finds peers through trackers here, and ends when it has everything.
pub(crate) fn rqbit(job: &Job<'_>) -> Process {
    rqbit_with(job, &[])
}

/// rqbit with further options.
pub(crate) fn rqbit_with(job: &Job<'_>, more: &[&str]) -> Process {
    let mut command = Command::new("rqbit");
    command.args(more);
    command.args(["--disable-dht", "--disable-upnp-port-forward", "--disable-lsd", "download", "-e", "-o"]);
    Process::start(command.arg(job.dir).arg(job.torrent))
}
