//! Questions to the DHT, and how what comes of them is said.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, select};
use indicatif::ProgressBar;
use ropewalk::dht::{AnnouncePort, DhtEvent, Node, SampleFrom, Summary};
use ropewalk::wire::item::{Item, ItemValue, mutable_target, public_key};
use ropewalk::wire::krpc::NodeId;
use ropewalk::{DhtState, DhtStatus, InfoHash};
use serde_json::{Value, json};

use super::Target;
use super::key::digits;
use crate::cli::exit::{Code, failed, io_text};
use crate::cli::json::Json;
use crate::cli::screen::{LINE, Screen, say};
use crate::cli::signal::Stop;
use crate::cli::words::{count, printable};

/// How long to wait for nodes that do not answer.
const JOIN: Duration = Duration::from_secs(12);
/// How often the node is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A node, and how to tell what it says.
pub struct Asked<'a> {
    pub node: &'a Node,
    pub screen: &'a Screen,
    pub json: &'a Json,
    pub stop: &'a Stop,
    /// When to give up.
    pub until: Instant,
    /// Where it looks for the first nodes, for the message that there are none.
    pub bootstrap: &'a [String],
}

impl Asked<'_> {
    /// A node that only is there.
    pub fn run(&self) -> anyhow::Result<Code> {
        let addrs: Vec<_> = self.node.addrs().iter().map(ToString::to_string).collect();
        self.tell("listening", json!({ "addresses": addrs }), &format!("a node at {}", addrs.join(" and ")))?;
        let bar = self.bar("node");
        let (mut told, mut said) = (Instant::now(), String::new());
        while Instant::now() < self.until {
            let status = self.node.status();
            let text = statistics(&status);
            if let Some(bar) = &bar {
                say(bar, &text);
            } else if told.elapsed() >= LINE {
                told = Instant::now();
                self.json.event("status", of_status(&status));
                self.json.check()?;
                if !self.json.is_wanted() && text != said {
                    self.screen.note(&text);
                    said = text;
                }
            }
            if self.stop.wait(LOOK) {
                break;
            }
        }
        bar.inspect(ProgressBar::finish_and_clear);
        let status = self.node.status();
        self.tell("summary", of_status(&status), &statistics(&status))?;
        Ok(Code::Done)
    }

    pub fn ping(&self, name: &str) -> anyhow::Result<Code> {
        let addr = self.address_of(name)?;
        let mut there = false;
        self.ask("ping", self.node.ping(addr), |event| {
            let DhtEvent::Pong { from, rtt, .. } = event else { return Ok(()) };
            there = true;
            let millis = rtt.as_secs_f64() * 1000.0;
            let fields = json!({ "address": from.addr.to_string(), "id": from.id.to_string(), "milliseconds": millis });
            self.tell("pong", fields, &format!("{} is there, after {millis:.1} ms: {}", from.addr, from.id))
        })?;
        if there {
            Ok(Code::Done)
        } else {
            Err(failed(Code::NoPeers, format!("{name} does not answer; check the address, and that UDP gets through")))
        }
    }

    pub fn peers(&self, info_hash: InfoHash, announce: Option<u16>) -> anyhow::Result<Code> {
        self.join()?;
        let announce = announce.map(|port| AnnouncePort { port, implied: false, seed: false });
        let mut number = 0;
        let summary = self.ask("peers", self.node.get_peers(info_hash, announce), |event| {
            let DhtEvent::Peers { peers, .. } = event else { return Ok(()) };
            number += peers.len();
            peers
                .iter()
                .try_for_each(|peer| self.tell("peer", json!({ "address": peer.to_string() }), &peer.to_string()))
        })?;
        let announced = announce.is_some().then_some(summary.stored);
        self.sum_up(&summary, json!({ "peers": number, "announced": announced }), &count(number, "peer", "peers"))?;
        match announced {
            Some(0) => Err(failed(Code::Other, not_stored(&summary))),
            None if number == 0 => Err(failed(
                Code::NoPeers,
                "no node knows a peer of this torrent; check the info-hash, or try again later",
            )),
            _ => Ok(Code::Done),
        }
    }

    pub fn scrape(&self, info_hash: InfoHash) -> anyhow::Result<Code> {
        self.join()?;
        let mut known = false;
        let summary = self.ask("scrape", self.node.scrape(info_hash), |event| {
            let DhtEvent::Scraped { seeds, peers, .. } = event else { return Ok(()) };
            known = seeds + peers > 0;
            let text = format!(
                "about {} and {}",
                count(*seeds as usize, "seed", "seeds"),
                count(*peers as usize, "peer", "peers")
            );
            self.tell("scrape", json!({ "seeds": seeds, "peers": peers }), &text)
        })?;
        self.sum_up(&summary, json!({}), "")?;
        if known {
            Ok(Code::Done)
        } else {
            Err(failed(Code::NoPeers, "no node knows this torrent; check the info-hash, or try again later"))
        }
    }

    pub fn get(&self, target: &Target, salt: &str) -> anyhow::Result<Code> {
        self.join()?;
        let mut found = None;
        let summary = self.ask("item", self.find_item(target, salt), |event| {
            if let DhtEvent::Item { item, .. } = event {
                found = Some(item.clone());
            }
            Ok(())
        })?;
        let Some(item) = found else {
            self.sum_up(&summary, json!({}), "nothing")?;
            return Err(failed(Code::NoPeers, "no node has it; it is forgotten two hours after it was stored last"));
        };
        self.tell("item", of_item(&item), &text_of(&item))?;
        self.sum_up(&summary, json!({}), "")?;
        Ok(Code::Done)
    }

    /// Stores a value, signed where there is a secret key.
    pub fn put(
        &self,
        value: ItemValue,
        secret: Option<[u8; 32]>,
        salt: &str,
        seq: Option<i64>,
    ) -> anyhow::Result<Code> {
        self.join()?;
        let (item, cas) = match secret {
            None => (Item::immutable(value), None),
            Some(secret) => {
                let (seq, cas) = match seq {
                    Some(seq) => (seq, None),
                    None => {
                        let stored = self.latest(&public_key(&secret), salt)?;
                        (stored.map_or(1, |seq| seq.saturating_add(1)), stored)
                    }
                };
                let signed = Item::sign(&secret, salt.as_bytes(), seq, value);
                (signed.map_err(|error| failed(Code::Usage, format!("--salt: {error}")))?, cas)
            }
        };
        let summary = self.ask("item", self.node.put_item(item.clone(), cas), |_| Ok(()))?;
        let name = item.signed().map_or_else(|| item.target().to_string(), |signed| digits(&signed.key));
        let text = format!("{name}\nwith {}", count(summary.stored, "node", "nodes"));
        let mut fields = of_item(&item);
        fields["nodes"] = summary.stored.into();
        if summary.stored == 0 {
            self.sum_up(&summary, json!({}), "")?;
            return Err(failed(Code::Other, not_stored(&summary)));
        }
        self.tell("stored", fields, &text)?;
        self.sum_up(&summary, json!({}), "")?;
        Ok(Code::Done)
    }

    pub fn sample(&self, from: Option<&str>) -> anyhow::Result<Code> {
        let from = match from.map(|text| (text, text.parse::<NodeId>())) {
            None => SampleFrom::Toward(NodeId::new(std::array::from_fn(|_| fastrand::u8(..)))),
            Some((_, Ok(id))) => SampleFrom::Toward(id),
            Some((text, Err(_))) => SampleFrom::Node(self.address_of(text)?),
        };
        if matches!(from, SampleFrom::Toward(_)) {
            self.join()?;
        }
        let mut number = 0;
        let summary = self.ask("sample", self.node.sample(from), |event| {
            let DhtEvent::Samples { from, samples, .. } = event else { return Ok(()) };
            number += samples.samples.len();
            let hashes: Vec<_> = samples.samples.iter().map(ToString::to_string).collect();
            let fields = json!({
                "address": from.addr.to_string(), "id": from.id.to_string(), "known": samples.num,
                "interval": samples.interval.as_secs(), "samples": hashes,
            });
            let mut text = format!("{} knows {}", from.addr, count(samples.num as usize, "torrent", "torrents"));
            hashes.iter().for_each(|hash| text = format!("{text}\n  {hash}"));
            self.tell("sample", fields, &text)
        })?;
        self.sum_up(&summary, json!({ "samples": number }), &count(number, "torrent", "torrents"))?;
        if summary.answered > 0 {
            Ok(Code::Done)
        } else {
            Err(failed(Code::NoPeers, "no node answers; check the address, and that UDP gets through"))
        }
    }

    /// The number of the version that is stored; `None` where there is none.
    fn latest(&self, key: &[u8; 32], salt: &str) -> anyhow::Result<Option<i64>> {
        let mut latest = None;
        self.ask("item", self.find_item(&Target::Key(*key), salt), |event| {
            if let DhtEvent::Item { item, .. } = event {
                latest = latest.max(item.seq());
            }
            Ok(())
        })?;
        Ok(latest)
    }

    fn find_item(&self, target: &Target, salt: &str) -> Receiver<DhtEvent> {
        let salt = salt.as_bytes().to_vec();
        match target {
            Target::Hash(hash) => self.node.get_item(*hash, salt),
            Target::Key(key) => self.node.get_item(mutable_target(key, &salt), salt),
        }
    }

    /// Waits until there are nodes to ask.
    fn join(&self) -> anyhow::Result<()> {
        let bar = self.bar("dht");
        let began = Instant::now();
        let joined = loop {
            let status = self.node.status();
            match status.state {
                DhtState::Joined => break Ok(()),
                _ if Instant::now() >= self.until => break Err(self.nobody()),
                DhtState::Alone if began.elapsed() >= JOIN => break Err(self.nobody()),
                _ => {}
            }
            bar.iter().for_each(|bar| say(bar, "looking for nodes"));
            if self.stop.wait(LOOK) {
                break Err(failed(Code::Stopped, "stopped"));
            }
        };
        bar.inspect(ProgressBar::finish_and_clear);
        joined
    }

    /// Takes what comes of a question to its end.
    fn ask(
        &self,
        what: &str,
        answers: Receiver<DhtEvent>,
        mut hear: impl FnMut(&DhtEvent) -> anyhow::Result<()>,
    ) -> anyhow::Result<Summary> {
        let bar = self.bar(what);
        let began = Instant::now();
        let end = after(self.until.saturating_duration_since(began));
        let outcome = loop {
            bar.iter().for_each(|bar| say(bar, &format!("asking, {} s", began.elapsed().as_secs())));
            let event = select! {
                recv(answers) -> event => event.ok(),
                recv(self.stop.asked()) -> _ => break Err(failed(Code::Stopped, "stopped")),
                recv(end) -> _ => break Ok(Summary::default()),
                default(Duration::from_secs(1)) => continue,
            };
            match event {
                Some(DhtEvent::Done { summary, .. }) => break Ok(summary),
                Some(event) => {
                    if let Err(error) = hear(&event).and_then(|()| self.json.check()) {
                        break Err(error);
                    }
                }
                None => break Ok(Summary::default()),
            }
        };
        bar.inspect(ProgressBar::finish_and_clear);
        outcome
    }

    /// Says something to a program, or to a person.
    fn tell(&self, name: &str, fields: Value, text: &str) -> anyhow::Result<()> {
        if self.json.is_wanted() {
            self.json.event(name, fields);
            self.json.check()
        } else {
            // It is what was asked for, which --quiet does not leave out.
            self.screen
                .bytes(format!("{}\n", text.split('\n').map(printable).collect::<Vec<_>>().join("\n")).as_bytes())
        }
    }

    /// Says how it went.
    fn sum_up(&self, summary: &Summary, mut fields: Value, what: &str) -> anyhow::Result<()> {
        fields["asked"] = summary.asked.into();
        fields["answered"] = summary.answered.into();
        fields["hops"] = summary.hops.into();
        self.json.event("summary", fields);
        if !self.json.is_wanted() {
            let what = if what.is_empty() { String::new() } else { format!("{what}; ") };
            let asked = count(summary.asked, "node", "nodes");
            self.screen.note(&format!("{what}{asked} asked, {} answered", summary.answered));
        }
        self.json.check()
    }

    fn bar(&self, name: &str) -> Option<ProgressBar> {
        (self.screen.is_live() && !self.json.is_wanted()).then(|| self.screen.bar(name))
    }

    fn nobody(&self) -> anyhow::Error {
        let text = match self.bootstrap {
            [] => "there is no node to begin with; name one with --node HOST:PORT".to_owned(),
            names => {
                let names = names.join(", ");
                format!("no node answers ({names}); check that UDP gets through, or name a node that runs with --node")
            }
        };
        failed(Code::NoPeers, text)
    }

    /// The address of a node that a person named, of a family that we have.
    fn address_of(&self, name: &str) -> anyhow::Result<SocketAddr> {
        let found = name.to_socket_addrs().map_err(|error| {
            failed(Code::NoPeers, format!("cannot find {name}: {}; check the name", io_text(&error)))
        })?;
        let ours = |addr: &SocketAddr| self.node.addrs().iter().any(|our| our.is_ipv4() == addr.is_ipv4());
        let mut found = found.filter(ours);
        found.next().ok_or_else(|| failed(Code::Usage, format!("{name} has no address that can be reached from here")))
    }
}

fn not_stored(summary: &Summary) -> String {
    match &summary.refused {
        Some(error) => format!("no node stored it: {error}"),
        None => "no node stored it; try again later".into(),
    }
}

/// A text as it is, everything else as its bencode.
fn text_of(item: &Item) -> String {
    let bencode = item.value().as_bencode();
    let string = ropewalk::bencode::decode(bencode).ok().and_then(|(tree, _)| tree.root().as_str().map(str::to_owned));
    string.unwrap_or_else(|| bencode.escape_ascii().to_string())
}

fn of_item(item: &Item) -> Value {
    let mut fields = json!({
        "target": item.target().to_string(), "value": text_of(item), "bencode": digits(item.value().as_bencode()),
    });
    if let Some(signed) = item.signed() {
        fields["key"] = digits(&signed.key).into();
        fields["salt"] = String::from_utf8_lossy(&signed.salt).into();
        fields["seq"] = signed.seq.into();
        fields["signature"] = digits(&signed.signature).into();
    }
    fields
}

fn of_status(status: &DhtStatus) -> Value {
    let stats = &status.stats;
    let state = match status.state {
        DhtState::Joined => "joined",
        DhtState::Alone => "alone",
        _ => "joining",
    };
    json!({
        "state": state, "nodes_v4": stats.nodes_v4, "nodes_v6": stats.nodes_v6,
        "external_v4": stats.external_v4.map(|ip| ip.to_string()), "external_v6": stats.external_v6.map(|ip| ip.to_string()),
        "answered": stats.answered, "dropped": stats.dropped,
        "torrents": stats.info_hashes, "peers": stats.peers, "items": stats.items,
    })
}

fn statistics(status: &DhtStatus) -> String {
    let stats = &status.stats;
    format!(
        "knows {}, answered {}, keeps {} of {} and {}",
        count(status.nodes(), "node", "nodes"),
        count(stats.answered as usize, "query", "queries"),
        count(stats.peers, "peer", "peers"),
        count(stats.info_hashes, "torrent", "torrents"),
        count(stats.items, "item", "items"),
    )
}
