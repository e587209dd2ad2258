//! A process of the bench: how it is started, told and heard. What each does is in a module of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddrV4;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;

/// Says, in the environment, which part of the bench a process is.
pub(crate) const PART: &str = "ROPEWALK_SWARM_PART";
/// What a child is told to do.
pub(crate) const TASK: &str = "ROPEWALK_SWARM_TASK";

/// A child: told by lines, tells by lines of JSON, and ends when its input does. Dropping it kills it.
pub(crate) struct Part {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Part {
    pub(crate) fn start(part: &str, task: &Value) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(PART, part).env(TASK, task.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().context("the output is a pipe")?;
        Ok(Self { input: child.stdin.take(), output: BufReader::new(output), child })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn line(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).context("a part of the bench ended early")
    }

    pub(crate) fn addrs(&mut self) -> anyhow::Result<Vec<SocketAddrV4>> {
        let line = self.line()?;
        let addrs = line["addrs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        addrs.map(|addr| Ok(addr.parse()?)).collect()
    }

    pub(crate) fn say(&mut self, word: &str) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("told before its end")?;
        writeln!(input, "{word}")?;
        Ok(input.flush()?)
    }

    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        self.input.take();
        let status = self.child.wait()?;
        ensure!(status.success(), "a part of the bench ended with {status}");
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
