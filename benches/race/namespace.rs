//! The network namespace that the race runs in, with an address for the leechers and one for each seeder.
//!
//! Some clients refuse peers on loopback addresses, and nobody else's ports or traffic are here.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::geteuid;

use crate::args::MOST_SEEDERS;

/// Says, in the environment, that the process is in its namespace.
const INSIDE: &str = "ROPEWALK_RACE_NAMESPACE";
/// Where, in the namespace, the tracker and the leechers are; the seeders are at the addresses that follow.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// Whether this process is in the namespace.
pub(crate) fn inside() -> bool {
    std::env::var(INSIDE).is_ok_and(|it| it == "1")
}

/// The address of the tracker and the leechers.
pub(crate) fn host() -> Ipv4Addr {
    if inside() { HOST } else { Ipv4Addr::LOCALHOST }
}

/// The address of a seeder.
pub(crate) fn seeder(at: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(host().to_bits() + 1 + at)
}

/// Starts this process again in a network namespace of its own (as root, or where the system allows it to everybody), which
/// ends with it. Comes back only where that fails, and says why.
pub(crate) fn enter() -> String {
    let last = u32::from(HOST.octets()[3]) + MOST_SEEDERS;
    let setup = format!(
        "ip link set lo up; ip addr add {HOST}/16 dev lo; \
         for at in $(seq 2 {last}); do echo addr add 10.99.0.$at/32 dev lo; done | ip -batch -"
    );
    let own = if geteuid().is_root() { &["--net"][..] } else { &["--net", "--map-root-user"] };
    let possible = Command::new("unshare").args(own).args(["sh", "-c", &setup]).output();
    match possible {
        Ok(tried) if tried.status.success() => {}
        Ok(tried) => return String::from_utf8_lossy(&tried.stderr).trim().to_owned(),
        Err(error) => return format!("unshare: {error}"),
    }
    let this = match std::env::current_exe() {
        Ok(this) => this,
        Err(error) => return error.to_string(),
    };
    let script = format!("{setup}; exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(own).args(["sh", "-c", &script, "sh"]).arg(this).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    command.exec().to_string()
}
