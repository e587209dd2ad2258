//! What the tracker shows of itself: a page for people, the same as JSON, and metrics for Prometheus. It owns how that is
//! written; the numbers are the statistics' and the store's.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::crowd::Crowd;
use crate::tracker::service::Service;
use crate::tracker::statistics::{Counter, Sample, Transport};
use crate::tracker::store::{SwarmHealth, Totals, Unavailable};

/// Swarms that are listed.
const SWARMS: usize = 50;

/// For how long the store is not asked again: it may take a while to look at everything.
const FRESH: Duration = Duration::from_secs(2);

/// The page, which asks for `/stats.json` again and again.
const PAGE: &str = include_str!("page.html");

/// What there is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Html,
    Json,
    Metrics,
}

/// See the module.
pub(super) struct Pages {
    /// Those who are connected to the tracker.
    crowd: Arc<Crowd>,
    /// What the store said last.
    seen: Option<Seen>,
}

#[derive(Clone)]
struct Seen {
    at: Instant,
    /// Where it is an error, there are no swarms either.
    totals: Result<Totals, Unavailable>,
    swarms: Vec<SwarmHealth>,
}

impl Page {
    pub(super) fn at(path: &[u8]) -> Option<Self> {
        match path {
            b"/" => Some(Self::Html),
            b"/stats.json" => Some(Self::Json),
            b"/metrics" => Some(Self::Metrics),
            _ => None,
        }
    }

    /// Its type and further header lines.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Html => {
                "text/html; charset=utf-8\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
                 X-Frame-Options: DENY"
            }
            Self::Json => "application/json\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff",
            Self::Metrics => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

impl Pages {
    pub(super) fn new(crowd: Arc<Crowd>) -> Self {
        Self { crowd, seen: None }
    }

    pub(super) fn write(&mut self, page: Page, service: &Service, now: Instant, out: &mut Vec<u8>) {
        match page {
            Page::Html => out.extend_from_slice(PAGE.as_bytes()),
            Page::Json => out.extend_from_slice(self.json(service, now).to_string().as_bytes()),
            Page::Metrics => out.extend_from_slice(self.metrics(service, now).as_bytes()),
        }
    }

    fn look(&mut self, service: &Service, now: Instant) -> Seen {
        if let Some(seen) = &self.seen
            && now.saturating_duration_since(seen.at) < FRESH
        {
            return seen.clone();
        }
        let found = service.store.totals(now).and_then(|totals| Ok((totals, service.store.health(SWARMS, now)?)));
        let (totals, swarms) = match found {
            Ok((totals, swarms)) => (Ok(totals), swarms),
            Err(unavailable) => (Err(unavailable), Vec::new()),
        };
        let new = Seen { at: now, totals, swarms };
        self.seen = Some(new.clone());
        new
    }

    fn json(&mut self, service: &Service, now: Instant) -> Value {
        let Seen { totals, swarms, .. } = self.look(service, now);
        let statistics = &service.statistics;
        let recent = statistics.recent();
        let transports = Transport::ALL.map(|transport| {
            let get = |counter| statistics.get(transport, counter);
            let errors = Counter::ERRORS.map(|kind| (kind.name().to_owned(), get(kind).into()));
            let last = recent.last().copied().unwrap_or_default();
            let value = json!({
                "announces": get(Counter::Announces),
                "scrapes": get(Counter::Scrapes),
                "connections": get(Counter::Connections),
                "announces_per_second": round(last.announces[transport as usize]),
                "scrapes_per_second": round(last.scrapes[transport as usize]),
                "errors": Value::Object(errors.into_iter().collect()),
            });
            (transport.name().to_owned(), value)
        });
        let rates = |of: fn(&Sample) -> [f64; Transport::ALL.len()]| -> Vec<f64> {
            recent.iter().map(|sample| round(of(sample).iter().sum())).collect()
        };
        let swarm = |swarm: &SwarmHealth| {
            json!({
                "info_hash": swarm.info_hash.to_string(),
                "seeders": swarm.counts.seeders,
                "leechers": swarm.counts.leechers,
                "completed": swarm.counts.downloaded,
                "seen_seconds_ago": swarm.seen.as_secs(),
                "upload_bytes_per_second": swarm.up_rate,
                "download_bytes_per_second": swarm.down_rate,
                "clients": swarm.clients.iter().map(|(name, peers)| json!([name, peers])).collect::<Vec<_>>(),
            })
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": now.saturating_duration_since(statistics.began()).as_secs(),
            "interval_seconds": service.config.interval.as_secs(),
            "open_http_connections": self.crowd.len(),
            "store": match totals {
                Ok(totals) => json!({
                    "torrents": totals.torrents, "seeders": totals.seeders, "leechers": totals.leechers,
                    "no_room": totals.no_room, "error": null,
                }),
                Err(unavailable) => json!({
                    "torrents": null, "seeders": null, "leechers": null, "no_room": null,
                    "error": unavailable.in_full(),
                }),
            },
            "state": service.config.state_file.as_ref().map(|_| {
                let last = service.saving.last();
                let age = now.saturating_duration_since(last.at).as_secs();
                json!({ "saved_seconds_ago": age, "error": last.error })
            }),
            "transports": Value::Object(transports.into_iter().collect()),
            "recent": { "announces": rates(|sample| sample.announces), "scrapes": rates(|sample| sample.scrapes) },
            "swarms": swarms.iter().map(swarm).collect::<Vec<_>>(),
        })
    }

    fn metrics(&mut self, service: &Service, now: Instant) -> String {
        let statistics = &service.statistics;
        let mut text = Metrics::default();
        for (name, counter, help) in [
            ("announces", Counter::Announces, "Announces that were answered with peers."),
            ("scrapes", Counter::Scrapes, "Scrapes that were answered."),
            ("connections", Counter::Connections, "TCP connections, and UDP requests for a connection id."),
        ] {
            text.begin(&format!("{name}_total"), "counter", help);
            for transport in Transport::ALL {
                let value = statistics.get(transport, counter);
                text.value(&[("transport", transport.name())], value);
            }
        }
        text.begin("errors_total", "counter", "Requests and connections that were not served, by the reason.");
        for transport in Transport::ALL {
            for kind in Counter::ERRORS {
                text.value(&[("transport", transport.name()), ("kind", kind.name())], statistics.get(transport, kind));
            }
        }
        let totals = self.look(service, now).totals;
        text.begin("store_up", "gauge", "Whether the store answers.");
        text.value(&[], totals.is_ok().into());
        if let Ok(totals) = totals {
            text.begin("torrents", "gauge", "Torrents that somebody takes part in.");
            text.value(&[], totals.torrents);
            text.begin("peers", "gauge", "Those who take part.");
            text.value(&[("kind", "seeder")], totals.seeders);
            text.value(&[("kind", "leecher")], totals.leechers);
            text.begin("no_room_total", "counter", "Announces of peers that were not kept, for there was no room.");
            text.value(&[], totals.no_room);
        }
        if service.config.state_file.is_some() {
            let last = service.saving.last();
            text.begin("state_age_seconds", "gauge", "For how long the state file has not been up to date.");
            text.value(&[], now.saturating_duration_since(last.at).as_secs());
            text.begin("state_failing", "gauge", "Whether the state file could not be written the last time.");
            text.value(&[], last.error.is_some().into());
        }
        text.begin("open_http_connections", "gauge", "TCP connections to the tracker now.");
        text.value(&[], self.crowd.len() as u64);
        text.begin("uptime_seconds", "gauge", "For how long the tracker has been running.");
        text.value(&[], now.saturating_duration_since(statistics.began()).as_secs());
        text.text
    }
}

/// Text in the format of Prometheus, metric by metric.
#[derive(Default)]
struct Metrics {
    text: String,
    name: String,
}

impl Metrics {
    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        self.name = format!("ropewalk_tracker_{name}");
        // A String takes everything.
        let _ = write!(self.text, "# HELP {0} {help}\n# TYPE {0} {kind}\n", self.name);
    }

    fn value(&mut self, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.text, "{}{labels} {value}", self.name);
    }
}

/// Three digits behind the point are enough.
fn round(rate: f64) -> f64 {
    (rate * 1000.0).round() / 1000.0
}
