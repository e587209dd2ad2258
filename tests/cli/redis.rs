//! `ropewalk tracker --store redis://`.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use rustix::process::Signal;
use tempfile::TempDir;

use super::tracker::{announce, has, tracker};
use super::{PATIENCE, album, need};

#[test]
fn trackers_on_one_redis_have_one_swarm_whichever_of_them_is_killed() {
    let Some(redis) = Redis::start() else { return };
    let folder = album();
    let (mut first, first_url) = tracker(folder.path(), &["--store", &redis.url]);
    let (mut second, second_url) = tracker(folder.path(), &["--store", &redis.url]);
    // They have reached it.
    first.wait_for(has(0));
    second.wait_for(has(0));
    assert!(announce(&first_url, 7).is_empty());
    assert_eq!(announce(&second_url, 8), [7]);
    assert_eq!(announce(&first_url, 9).len(), 2);
    // What was answered is there.
    first.signal(Signal::KILL);
    first.child.wait().unwrap();
    let mut others = announce(&second_url, 10);
    others.sort();
    assert_eq!(others, [7, 8, 9]);
}

/// A Redis of a test's own, on a free port. Killed when dropped.
struct Redis {
    child: Child,
    url: String,
    _folder: TempDir,
}

impl Redis {
    /// `None`, and said, where there is no Redis; a failure where that is not allowed.
    fn start() -> Option<Self> {
        if !need::programs(&["redis-server"]) {
            return None;
        }
        // Somebody else may take the port before the server does.
        (0..5).find_map(|_| Self::launch()).or_else(|| panic!("redis-server does not start"))
    }

    fn launch() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(folder.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut redis = Self { child, url: format!("redis://127.0.0.1:{port}"), _folder: folder };
        let start = Instant::now();
        while redis.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < PATIENCE, "redis-server does not answer");
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(redis);
            }
            thread::yield_now();
        }
        None
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
