//! Redis servers for tests: Debian's `redis-server`, in a temporary folder, gone with the test.

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use redis::Value;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::until;

/// A server that can be killed and started again with what it had on disk.
pub(super) struct Server {
    folder: TempDir,
    pub(super) port: u16,
    /// Where servers of a cluster talk to each other, and others do with TLS, if they are told to (`BUS`).
    pub(super) bus: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// `None`, and said, where there is no Redis; a failure where that is not allowed.
    pub(super) fn start(arguments: &[&str]) -> Option<Self> {
        if !installed("redis-server") {
            return None;
        }
        let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        // Somebody else may take the port before the server does.
        for _ in 0..5 {
            let [port, bus] = free_ports();
            let (folder, arguments) = (tempfile::tempdir().unwrap(), arguments.clone());
            let mut server = Self { folder, port, bus, arguments, child: None };
            if server.launch() {
                return Some(server);
            }
        }
        panic!("redis-server does not start");
    }

    /// Starts it again.
    pub(super) fn restart(&mut self) {
        assert!(self.launch(), "redis-server does not start again");
    }

    /// As a crash ends it.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Has it stand still.
    pub(super) fn hang(&self) {
        self.signal(Signal::STOP);
    }

    pub(super) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        rustix::process::kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Makes it know another server of a cluster, which makes it known to the others.
    pub(super) fn meet(&self, other: &Self) {
        self.text(&format!("CLUSTER MEET 127.0.0.1 {} {}", other.port, other.bus));
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// What it answers.
    pub(super) fn command(&self, arguments: &[&[u8]]) -> Value {
        self.try_command(arguments).unwrap()
    }

    pub(super) fn text(&self, command: &str) -> String {
        let arguments: Vec<_> = command.split(' ').map(str::as_bytes).collect();
        match self.command(&arguments) {
            Value::BulkString(text) => String::from_utf8(text).unwrap(),
            Value::SimpleString(text) => text,
            Value::Okay => "OK".to_owned(),
            Value::Int(number) => number.to_string(),
            other => panic!("{command}: {other:?}"),
        }
    }

    fn try_command(&self, arguments: &[&[u8]]) -> redis::RedisResult<Value> {
        let mut connection = redis::Client::open(self.url())?.get_connection()?;
        let mut command = Vec::new();
        super::command::write(&mut command, arguments);
        connection.send_packed_command(&command)?;
        connection.recv_response()
    }

    /// False where it ended at once.
    fn launch(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]);
        // By the second, it would answer before it has written, while it waits for the disk.
        command.args(["--appendfsync", "always"]);
        command.args(["--cluster-port", &self.bus.to_string()]);
        command.arg("--unixsocket").arg(self.socket()).arg("--dir").arg(self.folder.path());
        command.args(self.arguments.iter().map(|argument| argument.replace("BUS", &self.bus.to_string())));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let child = self.child.insert(child);
        let mut ended = false;
        let (port, url) = (self.port, format!("redis://127.0.0.1:{}", self.port));
        until("redis-server answers", || {
            ended = child.try_wait().unwrap().is_some();
            ended || answers(&url, port)
        });
        !ended
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether the server has read what it had on disk. One that wants a password says so and has.
fn answers(url: &str, port: u16) -> bool {
    let Ok(mut connection) = redis::Client::open(url).and_then(|client| client.get_connection()) else { return false };
    let mut command = Vec::new();
    super::command::write(&mut command, &[b"GET", format!("{port}").as_bytes()]);
    let answer = connection.send_packed_command(&command).and_then(|()| connection.recv_response());
    answer.is_ok_and(|answer| !super::lane::is_error(&answer, "LOADING"))
}

/// Whether a program is there. Where it is not, that is said; it is a failure where it is not allowed.
pub(super) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
        return true;
    }
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let required = std::env::var_os("ROPEWALK_REQUIRE_PEERS").is_some_and(|value| value == "1");
    assert!(!required, "{test} cannot run: {program} not on PATH, and ROPEWALK_REQUIRE_PEERS=1");
    // Not `eprintln`, which the harness hides when a test passes.
    writeln!(std::io::stderr(), "SKIPPED {test}: {program} not on PATH").ok();
    false
}

fn free_ports() -> [u16; 2] {
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}
