//! `ropewalk get --trace`: the page that the real program writes, as text and as a browser sees it.

mod rig;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use rig::need;
use rig::payload::Payload;
use rig::process::{PATIENCE, Process};
use rig::ropewalk::{Ropewalk, seeder};

const PIECE: u32 = 16 * 1024;

/// Downloads with `--trace` and gives the page.
fn traced(payload: &Payload) -> String {
    let (_session, _torrent, addr) = seeder(payload, None);
    let dir = payload.empty_folder("traced");
    let file = dir.join("trace.html");
    let said = Ropewalk::get_with(payload, &dir, addr, &[OsStr::new("--trace"), file.as_os_str()]).end();
    assert_eq!(said.code, Some(0), "{}", said.said);
    let page = fs::read_to_string(&file).unwrap();
    let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".ropewalk-")), "{left:?}");
    page
}

/// What the script of a page works with.
fn data(page: &str) -> Value {
    let (_, data) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    serde_json::from_str(data.split_once("</script>").unwrap().0).unwrap()
}

/// The number of pieces that came in, by the page.
fn arrived(data: &Value) -> u64 {
    let rows = data["arrivals"].as_array().unwrap();
    let counts = |row: &Value| row.as_array().unwrap().chunks(3).map(|one| one[1].as_u64().unwrap()).sum::<u64>();
    rows.iter().map(counts).sum()
}

/// Fails unless every element that is begun is ended, in order. Knows no more of HTML than the page needs.
#[track_caller]
fn assert_balanced(page: &str) {
    let mut open = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once('<') {
        let (tag, after) = after.split_once('>').expect("a tag that ends");
        rest = after;
        let name = tag.split([' ', '\n']).next().unwrap();
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "before {:?}", &after[..after.len().min(80)]);
        } else if !["!DOCTYPE", "meta", "link"].contains(&name) {
            open.push(name);
            if ["script", "style"].contains(&name) {
                let end = rest.find(&format!("</{name}")).expect("its end");
                rest = &rest[end..];
            }
        }
    }
    assert_eq!(open, [""; 0]);
}

/// What a browser makes of a page.
fn dom(page: &Path) -> String {
    let profile = tempfile::tempdir().unwrap();
    let mut browser = Command::new("chromium");
    browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    browser.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    browser.arg(format!("--user-data-dir={}", profile.path().display())).arg("--dump-dom");
    let (status, said) = Process::start(browser.arg(format!("file://{}", page.display()))).end();
    assert!(status.success(), "{said}");
    said
}

#[test]
fn a_download_leaves_a_page_with_all_of_its_pieces_peers_and_files() {
    let payload = Payload::folder(PIECE, None);
    let page = traced(&payload);
    assert_balanced(&page);
    assert!(!page.contains("http:") && !page.contains("https:"), "nothing is loaded");
    let data = data(&page);
    assert_eq!((data["result"].as_str(), data["name"].as_str()), (Some("done"), Some("set")));
    let pieces = u64::from(payload.metainfo.layout().piece_count());
    assert_eq!((data["pieces"].as_u64(), arrived(&data)), (Some(pieces), pieces));
    let peers = data["peers"].as_array().unwrap();
    assert_eq!((peers.len(), peers[0]["pieces"].as_u64()), (1, Some(pieces)));
    assert!(peers[0]["client"].as_str().unwrap().starts_with("ropewalk"));
    assert_eq!(peers[0]["protection"], "handshake", "as two ropewalks agree by themselves");
    assert!(peers[0]["down"].as_u64() >= Some(payload.len()));
    assert_eq!(data["marks"]["file"]["seen"], 6, "an empty file has no piece to wait for");
    assert!(data["finished"].as_u64() <= data["end"].as_u64());
    let expanded = |runs: &Value| -> i64 { runs.as_array().unwrap().iter().map(|n| n.as_i64().unwrap().max(0)).sum() };
    assert_eq!(expanded(&data["down"]), data["downloaded"].as_i64().unwrap());
}

#[test]
fn a_download_that_is_stopped_leaves_a_page_too() {
    let payload = Payload::single(8 << 20, PIECE, None);
    let (_session, _torrent, addr) = seeder(&payload, Some(1 << 20));
    let dir = payload.empty_folder("stopped");
    let file = dir.join("trace.html");
    // An earlier page is replaced, by the whole new one or not at all.
    let old = "<!DOCTYPE html>old";
    fs::write(&file, old).unwrap();
    let options = [OsStr::new("--trace"), file.as_os_str(), OsStr::new("--limit-down"), OsStr::new("2MiB")];
    let mut get = Ropewalk::get_with(&payload, &dir, addr, &options);
    get.wait_until("pieces", |event| event["event"] == "progress" && event["pieces"].as_u64() > Some(0));
    assert_eq!(fs::read_to_string(&file).unwrap(), old);
    let said = get.interrupt();
    assert_eq!(said.code, Some(3), "{}", said.said);
    let data = data(&fs::read_to_string(&file).unwrap());
    assert_eq!((data["result"].as_str(), data["finished"].is_null()), (Some("stopped"), true));
    assert_eq!(data["limit"], 2 << 20);
    let pieces = arrived(&data);
    let all = data["pieces"].as_u64().unwrap();
    assert!(pieces > 0 && pieces < all, "{pieces} of {all}: {}", said.said);
    assert_eq!(data["marks"]["left"]["seen"], 0, "that we left is not that they left");
}

#[test]
fn a_page_that_cannot_be_written_ends_it_before_it_begins() {
    let payload = Payload::single(100_000, PIECE, None);
    let dir = payload.data().with_file_name("never");
    let nobody = ([127, 0, 0, 1], 9).into();
    for file in [payload.data().join("absent/trace.html"), payload.data(), "/dev/null".into()] {
        let said = Ropewalk::get_with(&payload, &dir, nobody, &[OsStr::new("--trace"), file.as_os_str()]).end();
        assert_eq!(said.code, Some(5), "{file:?}: {}", said.said);
        assert!(said.said.contains("--trace") && !dir.exists(), "{}", said.said);
    }
}

#[test]
fn a_browser_draws_the_page_whatever_the_names_are() {
    if !need::programs(&["chromium"]) {
        return;
    }
    let payload = Payload::named("<img src=x onerror=alert(1)><!--<script>\"'&.bin", 300_000, PIECE);
    let page = payload.data().join("trace.html");
    fs::write(&page, traced(&payload)).unwrap();
    let dom = dom(&page);
    assert!(dom.contains("<html lang=\"en\" data-trace=\"drawn\">"), "within {PATIENCE:?}: {dom:.3000}");
    assert!(!dom.contains("<img"), "names stay names");
    assert!(dom.contains("<h1>&lt;img src=x onerror=alert(1)&gt;&lt;!--&lt;script&gt;"));
    assert_eq!(dom.matches("class=\"addr\"").count(), 1, "the peer has its line");
    assert!(dom.contains("class=\"client\">MSE · ropewalk"), "and says how its connection is protected");
}
