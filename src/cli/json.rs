//! `--json`: events for programs, one object per line on stdout.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::exit::Code;

/// Writes events, or nothing where `--json` was not given.
pub struct Json {
    wanted: bool,
    /// Nobody reads any more. Set by whoever writes, looked at by the loop that would end for it.
    broken: AtomicBool,
}

impl Json {
    pub fn new(wanted: bool) -> Self {
        Self { wanted, broken: AtomicBool::new(false) }
    }

    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Whether the reader has gone.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// One event: an object that gets the field `event`.
    pub fn event(&self, name: &str, mut fields: Value) {
        if !self.wanted {
            return;
        }
        fields["event"] = name.into();
        let mut out = io::stdout().lock();
        if writeln!(out, "{fields}").and_then(|()| out.flush()).is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
    }

    /// The event that ends what ended with an error.
    pub fn error(&self, text: &str, code: Code) {
        self.event("error", json!({ "message": text, "result": code.name(), "code": code as u8 }));
    }
}
