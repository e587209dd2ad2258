//! A program that runs beside the test and is waited for by what it prints.

use std::io::{BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take that a test waits for: far more than it should.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running program; dropping it kills it.
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
    /// What it printed so far, for the message of a failure.
    heard: Vec<String>,
}

impl Process {
    /// Starts it. Lines end where a progress display returns to the start of the line, too.
    pub(crate) fn start(command: &mut Command) -> Self {
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let name: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        let name: String = name.join(" ").chars().take(200).collect();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let (sender, lines) = unbounded();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        read_lines(out, sender.clone());
        read_lines(err, sender);
        Self { name, child, lines, heard: Vec::new() }
    }

    /// The most memory that it had resident so far, in bytes; 0 where the system does not say.
    pub(crate) fn peak_resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let kib = |line: &str| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok();
        status.lines().find_map(kib).unwrap_or(0) * 1024
    }

    /// The next line that contains `what`.
    pub(crate) fn wait_for(&mut self, what: &str) -> String {
        self.wait_until(what, |line| line.contains(what).then(|| line.to_owned()))
    }

    /// What `find` makes of the first line that it accepts; `what` is for the message of a failure.
    pub(crate) fn wait_until<T>(&mut self, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Ok(line) = self.lines.recv_deadline(deadline) else {
                panic!("{} never said {what:?}, only:\n{}", self.name, self.heard.join("\n"));
            };
            let found = find(&line);
            self.heard.push(line);
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// The next line; `None` where the program ends first.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.heard.push(line.clone());
                Some(line)
            }
            Err(error) if error.is_disconnected() => None,
            Err(_) => panic!("{} says nothing any more, only:\n{}", self.name, self.heard.join("\n")),
        }
    }

    /// Blocks for a moment at what it prints: for a loop, with an end, that looks at something else that the program does.
    pub(crate) fn glance(&mut self) {
        if let Ok(line) = self.lines.recv_timeout(Duration::from_millis(20)) {
            self.heard.push(line);
        }
    }

    /// Waits until it ends by itself: its status and all that it printed.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_deadline(deadline) {
                Ok(line) => self.heard.push(line),
                Err(error) if error.is_disconnected() => break,
                Err(_) => panic!("{} does not end:\n{}", self.name, self.heard.join("\n")),
            }
        }
        (self.child.wait().unwrap(), self.heard.join("\n"))
    }

    /// Asks it to stop, as Ctrl-C does, and waits until it has.
    pub(crate) fn interrupt(self) -> (ExitStatus, String) {
        self.signal(Signal::INT);
        self.end()
    }

    /// Ends it at once, as `kill -9` does, and gives what it had printed.
    pub(crate) fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.heard.extend(self.lines.iter());
        self.heard.join("\n")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            self.heard.extend(self.lines.try_iter());
            let from = self.heard.len().saturating_sub(60);
            eprintln!("{} said last:\n{}", self.name, self.heard[from..].join("\n"));
        }
    }
}

/// Sends what comes in, line by line, from a thread that ends with the pipe.
fn read_lines(pipe: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        let mut line = Vec::new();
        for byte in BufReader::new(pipe).bytes().map_while(Result::ok) {
            if !matches!(byte, b'\r' | b'\n') {
                line.push(byte);
            } else if !line.is_empty() {
                lines.send(String::from_utf8_lossy(&line).into_owned()).ok();
                line.clear();
            }
        }
        lines.send(String::from_utf8_lossy(&line).into_owned()).ok();
    });
}
