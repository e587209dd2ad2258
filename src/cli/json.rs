//! `--json`: events for programs, one object per line on stdout.

use std::io::{self, Write};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::exit::{self, Code};

/// Writes events, or nothing where `--json` was not given.
pub struct Json {
    wanted: bool,
    /// Why nothing can be written any more. Set by whoever writes, looked at by whoever would end for it.
    broken: Mutex<Option<io::Error>>,
}

impl Json {
    pub fn new(wanted: bool) -> Self {
        Self { wanted, broken: Mutex::new(None) }
    }

    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// An error where an event could not be written.
    pub fn check(&self) -> anyhow::Result<()> {
        self.broken.lock().take().map_or(Ok(()), |error| Err(exit::of_stdout(error)))
    }

    /// One event: an object that gets the field `event`.
    pub fn event(&self, name: &str, mut fields: Value) {
        if !self.wanted {
            return;
        }
        fields["event"] = name.into();
        let mut out = io::stdout().lock();
        if let Err(error) = writeln!(out, "{fields}").and_then(|()| out.flush()) {
            self.broken.lock().get_or_insert(error);
        }
    }

    /// The event that ends what ended with an error.
    pub fn error(&self, text: &str, code: Code) {
        self.event("error", json!({ "message": text, "result": code.name(), "code": code as u8 }));
    }
}
