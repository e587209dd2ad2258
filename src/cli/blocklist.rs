//! `--blocklist`: lists of addresses from files and URLs, made into one filter.
//!
//! It owns what is said of them: how much each blocks, and what in it could not be read. A list that cannot be read ends the
//! command: whoever asks for one does not want to be connected without it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use ropewalk::policy::{BlocklistError, IpFilterBuilder, ListSummary};
use ropewalk::{Bind, IpFilter};
use serde_json::json;

use super::exit::{Code, failed, io_text};
use super::json::Json;
use super::screen::Screen;
use super::signal::Stop;
use super::source::{download, unless_stopped};
use super::words::{count, printable};

/// The longest list that is fetched.
const FETCHED: u64 = 256 << 20;

/// The filter of all lists together.
///
/// Those from the web come the way that `bind` allows.
pub fn read(
    lists: &[OsString],
    bind: Option<&Bind>,
    screen: &Screen,
    json: &Json,
    stop: &Stop,
) -> anyhow::Result<Arc<IpFilter>> {
    let mut builder = IpFilter::builder();
    for list in lists {
        let name = printable(&list.to_string_lossy());
        let (source, bind) = (list.clone(), bind.cloned());
        let (summary, extended) = unless_stopped(stop, &name, move || {
            let summary = read_one(&source, bind.as_ref(), &mut builder)?;
            Ok((summary, builder))
        })?;
        builder = extended;
        tell(&name, &summary, screen, json);
    }
    let filter = builder.build();
    if !lists.is_empty() {
        log::info!("{} blocked", count(filter.len(), "range of addresses is", "ranges of addresses are"));
    }
    Ok(Arc::new(filter))
}

fn read_one(list: &OsStr, bind: Option<&Bind>, builder: &mut IpFilterBuilder) -> anyhow::Result<ListSummary> {
    let text = list.to_str().unwrap_or_default();
    let lower = text.to_ascii_lowercase();
    let summary = if lower.starts_with("http://") || lower.starts_with("https://") {
        builder.read(&download(text, bind, FETCHED, "a blocklist")?[..])
    } else {
        File::open(Path::new(list)).map_err(BlocklistError::Io).and_then(|file| builder.read(BufReader::new(file)))
    };
    summary.map_err(|error| {
        let name = printable(&list.to_string_lossy());
        failed(
            Code::BadInput,
            match error {
                BlocklistError::Io(error) => format!("cannot read --blocklist {name}: {}; check it", io_text(&error)),
                other => format!("--blocklist {name}: {}", printable(&other.to_string())),
            },
        )
    })
}

fn tell(name: &str, summary: &ListSummary, screen: &Screen, json: &Json) {
    let ListSummary { ranges, allowed, bad, .. } = *summary;
    json.event("blocklist", json!({ "list": name, "ranges": ranges, "allowed": allowed, "bad_lines": bad }));
    log::info!("{name}: blocks {}", count(ranges as usize, "range", "ranges"));
    if let Some(first) = &summary.first_bad {
        let lines = count(bad as usize, "line is", "lines are");
        screen.warn(&format!("{name}: {lines} no range and passed over, first line {}: {}", first.number, first.text));
    } else if ranges == 0 {
        screen.warn(&format!("{name}: blocks nothing"));
    }
}
