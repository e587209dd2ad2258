//! Who races: the clients that are here, how each is called, and its version. Starts none of them but to ask that.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::args::Args;
use crate::namespace;

/// A client that can download.
pub(crate) struct Racer {
    pub(crate) name: String,
    /// Empty where it does not tell.
    pub(crate) version: String,
    /// The program and its arguments: `{t}` is the torrent, `{o}` the folder to download into, `{p}` a free port.
    pub(crate) command: Vec<String>,
    /// Writes what the client needs into its folder.
    pub(crate) prepare: fn(&Path) -> std::io::Result<()>,
}

/// The clients, and which are missing, with the reason.
pub(crate) struct Field {
    pub(crate) racers: Vec<Racer>,
    pub(crate) absent: Vec<(String, String)>,
}

impl Field {
    /// Finds the clients, as `--only` and `--also` have them.
    pub(crate) fn find(args: &Args) -> anyhow::Result<Self> {
        let mut field = Self { racers: Vec::new(), absent: Vec::new() };
        let wanted = |racer: &Racer| args.only.is_empty() || args.only.iter().any(|only| racer.name.contains(only));
        for mut racer in known().into_iter().chain(also(&args.also)?).filter(wanted) {
            match obstacle(&racer) {
                Some(why) => field.absent.push((racer.name, why)),
                None => {
                    racer.version = version(&racer);
                    field.racers.push(racer);
                }
            }
        }
        ensure!(!field.racers.is_empty(), "no client is left to race");
        Ok(field)
    }
}

/// The python with libtorrent itself, not a script that chooses one and would be measured along.
pub(crate) fn python_with_libtorrent() -> Option<String> {
    let found = Command::new("python3").args(["-c", "import libtorrent, sys; print(sys.executable)"]).output().ok()?;
    let path = String::from_utf8(found.stdout).ok()?.trim().to_owned();
    (found.status.success() && !path.is_empty()).then_some(path)
}

/// No DHT and no local discovery: the tracker is all that they have. Files are allocated at once, as ropewalk does.
fn known() -> Vec<Racer> {
    let racer = |name: &str, command: Vec<String>| Racer {
        name: name.into(),
        version: String::new(),
        command,
        prepare: |_| Ok(()),
    };
    let ropewalk = [&[env!("CARGO_BIN_EXE_ropewalk").to_owned()][..], &words("get {t} -o {o} --no-dht")[..]].concat();
    let python = python_with_libtorrent().unwrap_or_default();
    vec![
        racer("ropewalk", ropewalk),
        racer(
            "aria2",
            words(
                "aria2c -q --enable-dht=false --enable-dht6=false --bt-enable-lpd=false --enable-peer-exchange=false \
                 --seed-time=0 --file-allocation=falloc --bt-max-peers=0 --listen-port={p} -d {o} {t}",
            ),
        ),
        racer("rqbit", words("rqbit --disable-dht --disable-upnp-port-forward --disable-lsd download -e -o {o} {t}")),
        racer("libtorrent", [&python[..], "-c", LIBTORRENT_LEECHER, "{t}", "{o}"].map(str::to_owned).into()),
        Racer {
            // It seeds when it is done, until the script that it then runs ends it.
            prepare: prepare_transmission,
            ..racer("transmission", words("transmission-cli -et -M -p {p} -g {o}/cfg -w {o} -f {o}/done.sh {t}"))
        },
    ]
}

fn also(specs: &[String]) -> anyhow::Result<Vec<Racer>> {
    let racer = |spec: &String| {
        let (name, command) = spec.split_once('=').context("--also takes NAME=COMMAND")?;
        ensure!(!command.trim().is_empty(), "--also {name}= names no command");
        Ok(Racer { name: name.into(), version: String::new(), command: words(command), prepare: |_| Ok(()) })
    };
    specs.iter().map(racer).collect()
}

/// Why a client cannot race here.
fn obstacle(racer: &Racer) -> Option<String> {
    let program = Path::new(&racer.command[0]);
    if racer.command[0].is_empty() {
        return Some("python3 has no libtorrent (pip install libtorrent)".into());
    }
    if !program.is_absolute() && !on_path(program) {
        return Some(format!("{} is not on PATH", program.display()));
    }
    let picky = matches!(&racer.name[..], "libtorrent" | "transmission" | "rqbit");
    (picky && !namespace::inside()).then(|| "refuses peers or trackers on loopback addresses".into())
}

fn on_path(program: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The first word that starts with a digit among what the client says of itself.
fn version(racer: &Racer) -> String {
    let arguments: &[&str] = match &racer.name[..] {
        "ropewalk" | "aria2" | "rqbit" | "transmission" => &["--version"],
        "libtorrent" => &["-c", "import libtorrent; print(libtorrent.__version__)"],
        _ => return String::new(),
    };
    let said = Command::new(&racer.command[0]).args(arguments).stdin(Stdio::null()).output();
    let said = said.map(|said| [said.stdout, said.stderr].concat()).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    said.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit())).unwrap_or_default().into()
}

fn prepare_transmission(out: &Path) -> std::io::Result<()> {
    std::fs::create_dir(out.join("cfg"))?;
    let settings = json!({
        "utp-enabled": false, "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false,
        "encryption": 0, "cache-size-mb": 4, "preallocation": 1,
    });
    std::fs::write(out.join("cfg/settings.json"), settings.to_string())?;
    let script = out.join("done.sh");
    // The script's parent is the client.
    std::fs::write(&script, "#!/bin/sh\nkill -TERM $PPID\n")?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

const LIBTORRENT_LEECHER: &str = r#"
import libtorrent as lt, sys
torrent, save = sys.argv[1:]
s = lt.session({"listen_interfaces": "0.0.0.0:0", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
    "enable_natpmp": False, "alert_mask": lt.alert.category_t.status_notification})
p = lt.add_torrent_params()
p.ti, p.save_path = lt.torrent_info(torrent), save
s.add_torrent(p)
done = False
while not done:
    s.wait_for_alert(1000)
    done = any(isinstance(a, lt.torrent_finished_alert) for a in s.pop_alerts())
"#;
