//! What came of all rounds: medians, as a table and as JSON.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::{Value, json};

use crate::args::{Args, FEW};

pub(crate) fn report(
    args: &Args,
    runs: &BTreeMap<&str, Vec<Value>>,
    messages: &Value,
    called: &Value,
) -> anyhow::Result<()> {
    let median = |name: &str, key: &str| {
        let mut values: Vec<f64> = runs[name].iter().filter_map(|run| run[key].as_f64()).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    println!("{} MiB, pieces of {} KiB, {} round(s): medians", args.size(), args.piece, args.rounds());
    println!(
        "{:>8} {:>8} {:>10} {:>10} {:>7} {:>9} {:>16} {:>14}",
        "peers", "senders", "cpu s/GiB", "peak MiB", "idle %", "wall s", "announce to ms", "resume to ms"
    );
    let keys = ["cpu_per_gib", "peak_mib", "idle_percent", "wall", "announce_to_peer_ms", "resume_to_peer_ms"];
    let mut medians = serde_json::Map::new();
    for (name, senders, others) in [("few", FEW, 0), ("many", args.senders(), args.others())] {
        let [cpu, peak, idle, wall, announce, resume] = keys.map(|key| median(name, key));
        println!(
            "{:>8} {senders:>8} {cpu:10.2} {peak:10.0} {idle:7.2} {wall:9.2} {announce:16.1} {resume:14.1}",
            senders + others
        );
        medians.insert(name.into(), keys.iter().map(|&key| (key.to_owned(), json!(median(name, key)))).collect());
    }
    let ratio = median("many", "cpu_per_gib") / median("few", "cpu_per_gib");
    println!("CPU per GiB with many is {ratio:.2} of that with {FEW}");
    println!("microseconds for a message:                  median      99 %");
    let rows = [
        ("rx", "rx, alone"),
        ("rx_batch", "rx, 32 at once, each"),
        ("owner", "owner, alone"),
        ("owner_batch", "owner, 32 at once, each"),
        ("decode", "decoding"),
    ];
    for (key, what) in rows {
        let of = |at: &str| messages[key][at].as_f64().unwrap_or(f64::NAN);
        println!("  {what:40} {:8.2} {:9.2}", of("median"), of("p99"));
    }
    println!("callers: {called}");
    if let Some(path) = &args.json {
        let document = json!({
            "size_mib": args.size(), "piece_kib": args.piece, "senders": args.senders(), "others": args.others(),
            "rounds": args.rounds(), "runs": runs, "medians": medians, "cpu_ratio": ratio, "messages": messages,
            "callers": called,
        });
        std::fs::write(path, serde_json::to_vec_pretty(&document)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
