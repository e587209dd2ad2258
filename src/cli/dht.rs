//! `ropewalk dht`: a node of the DHT at the hands of a person, to see what a network knows and does.
//!
//! It owns the words; the asking is the library's. Each question runs a node of its own, which is gone afterwards.

mod ask;
mod key;

use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Subcommand;
use ropewalk::dht::{Node, Options};
use ropewalk::wire::item::{ItemValue, MAX_VALUE_LEN};
use ropewalk::wire::krpc::NodeId;
use ropewalk::{Bind, DhtConfig, InfoHash};

use super::exit::{Code, failed, io_text};
use super::json::Json;
use super::screen::Screen;
use super::signal::Stop;
use super::words::{read_host_port, read_time};
use ask::Asked;

const ABOUT: &str = "\
Ask the DHT, for people who look at networks

Runs a node of the DHT for as long as it takes to answer, or, with `run`, until Ctrl-C. With --node only the nodes that \
are named are asked first, and not those that are run for everybody: so a network of one's own stays by itself.";

const EXAMPLES: &str = "\
Examples:
  Who has this torrent, and about how many?
  ropewalk dht peers 6853ab2b86b2cb6a3a778b8aafe3dffd94321bf5
  ropewalk dht scrape 6853ab2b86b2cb6a3a778b8aafe3dffd94321bf5

  Is this node there, and which torrents does it know?
  ropewalk dht ping router.bittorrent.com:6881
  ropewalk dht sample 192.0.2.7:6881

  Something small for everybody (BEP 44), found by its hash; or by a key, which can say something new later:
  ropewalk dht put 'hello'
  ropewalk dht get e28910ea0adb94dd45ced75fbff3e135c01bc437
  ropewalk dht put 'hello again' --key my.key    (prints the public key)
  ropewalk dht get PUBLICKEY

  A network of one's own:
  ropewalk dht run --bind 127.0.0.1 --port 7000
  ropewalk dht put 'hello' --bind 127.0.0.1 --node 127.0.0.1:7000

Objects of --json, one per line, each with the field \"event\"; ids, hashes, keys and signatures
are hexadecimal:
  peer       address                                     of peers, one for each
  scrape     seeds, peers: estimates                     of scrape
  pong       address, id, milliseconds                   of ping
  item       target, value (text, or escaped bencode), bencode; with a key also
             key, salt, seq, signature                   of get
  stored     as item, and nodes: how many keep it        of put
  sample     address, id, known (torrents), interval (seconds until the node may be
             asked again), samples (info-hashes)         of sample, one for each node
  listening  addresses                                   of run
  status     state (joining, joined, alone), nodes_v4, nodes_v6, external_v4,
             external_v6 (our address as nodes see it, or null), answered, dropped
             (queries), torrents, peers, items (kept)    of run, every 5 seconds
  summary    the last one, of all but ping: asked, answered (nodes), hops; of peers also
             peers and announced (nodes, or null where it was not asked for), of sample
             also samples; of run instead the fields of status
  error      message, result, code: there was no answer

Exit codes:
  0  done: there was an answer
  1  another error, or nobody stored it
  2  wrong usage
  3  stopped by Ctrl-C before there was an answer
  4  no node answers, or nobody has what was asked for
  6  bad input: a key file that is none";

/// Ask the DHT, for people who look at networks
#[derive(clap::Args)]
#[command(long_about = ABOUT, after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    question: Question,
    /// Begin with this node instead of those that are run for everybody; can be repeated
    #[arg(long, value_name = "HOST:PORT", value_parser = read_host_port, global = true)]
    node: Vec<String>,
    /// Use only this local address or network interface
    #[arg(long, value_name = "ADDR|INTERFACE", global = true)]
    bind: Option<Bind>,
    /// The UDP port; 0 is any
    #[arg(long, value_name = "PORT", default_value_t = 0, global = true)]
    port: u16,
    /// Answer no other node, and tell them (BEP 43); all but `run` do that anyhow, as they are gone soon
    #[arg(long, global = true)]
    read_only: bool,
    /// How long to try (30s, 5m) [default: 30s; run: until Ctrl-C]
    #[arg(long, value_name = "TIME", value_parser = read_time, global = true)]
    time: Option<Duration>,
    /// Tell what comes as one JSON object per line on stdout
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
enum Question {
    /// Find the peers of a torrent
    Peers {
        /// The info-hash, 40 hexadecimal digits
        info_hash: InfoHash,
        /// Announce this TCP port as a peer's in the end
        #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
        announce: Option<u16>,
    },
    /// Estimate how many seeds and peers a torrent has (BEP 33)
    Scrape {
        /// The info-hash, 40 hexadecimal digits
        info_hash: InfoHash,
    },
    /// Ask a node whether it is there
    Ping {
        /// The node
        #[arg(value_name = "HOST:PORT", value_parser = read_host_port)]
        addr: String,
    },
    /// Get what somebody stored (BEP 44)
    Get {
        /// The hash of a value (40 hexadecimal digits), or the public key of an author (64)
        #[arg(value_name = "HASH|KEY", value_parser = read_target)]
        target: Target,
        /// Which of the author's items
        #[arg(long, default_value = "")]
        salt: String,
    },
    /// Store something for two hours (BEP 44): at most 996 bytes
    Put {
        /// The text, or `-` for what stdin has
        value: String,
        /// Sign it with the key in this file, so that it can be replaced; the file is made where there is none
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// Which of the author's items
        #[arg(long, default_value = "", requires = "key")]
        salt: String,
        /// The number of this version [default: one more than that of what is stored]
        #[arg(long, value_name = "N", requires = "key")]
        seq: Option<i64>,
    },
    /// Ask for some of the torrents that nodes know (BEP 51)
    Sample {
        /// The node, or an id (40 hexadecimal digits) to ask nodes near it [default: near an id at random]
        #[arg(value_name = "HOST:PORT|ID")]
        from: Option<String>,
    },
    /// Run a node, and print its address
    Run,
}

/// What `get` looks for.
#[derive(Clone)]
enum Target {
    Hash(NodeId),
    Key([u8; 32]),
}

/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// As good as for ever, in seconds.
const FOREVER: Duration = Duration::from_secs(1 << 32);

pub fn run(args: &Args, screen: &Screen, stop: &Stop) -> anyhow::Result<Code> {
    let json = Json::new(args.json);
    let is_run = matches!(args.question, Question::Run);
    let mut dht = DhtConfig { read_only: args.read_only || !is_run, ..DhtConfig::default() };
    if !args.node.is_empty() || matches!(args.bind, Some(Bind::Addr(ip)) if ip.is_loopback()) {
        dht.bootstrap.clone_from(&args.node);
    }
    let bootstrap = dht.bootstrap.clone();
    let start = || {
        let options = Options { bind: args.bind.clone(), port: args.port, dht };
        Node::start(options).map_err(|error| failed(Code::Other, error.to_string()))
    };
    let until = Instant::now() + args.time.unwrap_or(if is_run { FOREVER } else { PATIENCE });
    let asked = |node: &Node| -> anyhow::Result<Code> {
        let asked = Asked { node, screen, json: &json, stop, until, bootstrap: &bootstrap };
        match &args.question {
            Question::Run => asked.run(),
            Question::Ping { addr } => asked.ping(addr),
            Question::Peers { info_hash, announce } => asked.peers(*info_hash, *announce),
            Question::Scrape { info_hash } => asked.scrape(*info_hash),
            Question::Get { target, salt } => asked.get(target, salt),
            Question::Put { value, key, salt, seq } => {
                asked.put(value_of(value)?, key.as_deref().map(key::of).transpose()?, salt, *seq)
            }
            Question::Sample { from } => asked.sample(from.as_deref()),
        }
    };
    asked(&start()?)
}

/// What is to be stored: a text as a byte string.
fn value_of(text: &str) -> anyhow::Result<ItemValue> {
    let mut bytes = text.as_bytes().to_vec();
    if text == "-" {
        bytes.clear();
        let read = std::io::stdin().lock().take(MAX_VALUE_LEN as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| failed(Code::BadInput, format!("cannot read stdin: {}", io_text(&error))))?;
    }
    let value = ItemValue::from_bytes(&bytes);
    value.map_err(|error| failed(Code::BadInput, format!("this cannot be stored: {error}; make it shorter")))
}

/// Reads what `get` looks for.
fn read_target(text: &str) -> Result<Target, String> {
    let hash = text.parse().map(Target::Hash).ok();
    let target = hash.or_else(|| key::read(text).map(Target::Key));
    target.ok_or_else(|| "neither a hash (40 hexadecimal digits) nor a public key (64)".into())
}
