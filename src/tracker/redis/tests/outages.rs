//! Redis that goes away, comes back, forgets, or does not want us; and trackers that are killed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use redis::Value;

use super::*;

/// Whether Redis has a peer.
fn has(server: &Server, announce: &Announce) -> bool {
    let key = format!("rw:{{{}}}:m", "ff".repeat(20));
    let (addr, length) = command::compact(announce.addr);
    matches!(server.command(&[b"HEXISTS", key.as_bytes(), &addr[..length]]), Value::Int(1))
}

#[test]
fn scripts_that_redis_has_forgotten_are_loaded_again() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store(&server.url());
    for number in 1..=10 {
        server.text("SCRIPT FLUSH");
        let batch = [leecher(number), leecher(number + 100)];
        store.announce(&batch, Instant::now(), &mut Reply::default(), &mut |_, reply| assert!(reply.is_ok()));
    }
    assert_eq!(sizes(&store, TORRENT), (0, 20, 0));
}

#[test]
fn nothing_that_was_acknowledged_is_lost_when_redis_is_killed_under_load() {
    let Some(mut server) = Server::start(&[]) else { return };
    let stores = [store(&server.url()), store(&server.url())];
    let is_back = AtomicBool::new(false);
    let acknowledged = thread::scope(|scope| {
        let threads: Vec<_> = (0..4u32)
            .map(|thread| {
                let (store, is_back) = (&stores[thread as usize % 2], &is_back);
                scope.spawn(move || {
                    let (mut noted, mut after) = (Vec::new(), 0);
                    let mut number = thread << 20;
                    while after < 100 {
                        after += u32::from(is_back.load(Ordering::Relaxed));
                        let batch: Vec<_> = (number..number + 10).map(leecher).collect();
                        number += 10;
                        store.announce(&batch, Instant::now(), &mut Reply::default(), &mut |n, reply| {
                            if reply.is_ok_and(|reply| reply.again.is_none()) {
                                noted.push(batch[n]);
                            }
                        });
                    }
                    noted
                })
            })
            .collect();
        let is_noted = |store| ask(store, &leecher(0)).is_ok_and(|reply| reply.again.is_none());
        until("there is load", || sizes(&stores[0], TORRENT).1 > 500);
        server.kill();
        until("the outage is felt", || stores.iter().all(|store| !is_noted(store)));
        server.restart();
        until("it goes on", || stores.iter().all(is_noted));
        is_back.store(true, Ordering::Relaxed);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(acknowledged.len() > 500);
    assert!(acknowledged.iter().all(|announce| has(&server, announce)));
    assert!(sizes(&stores[1], TORRENT).1 as usize >= acknowledged.len());
}

#[test]
fn recent_replies_serve_while_redis_is_away() {
    let Some(mut server) = Server::start(&[]) else { return };
    let store = store_with(&server.url(), |config| config.recent_for = Duration::from_secs(60));
    ask(&store, &seeder(1)).unwrap();
    ask(&store, &leecher(2)).unwrap();
    ask(&store, &Announce { with_ids: true, ..leecher(3) }).unwrap();
    ask(&store, &leecher(3)).unwrap();
    server.kill();
    let now = Instant::now();
    let reply = ask_at(&store, &leecher(4), now).unwrap();
    assert!(reply.again.is_some_and(|again| again <= Duration::from_secs(90)));
    assert!(numbers(&reply).contains(&1), "{reply:?}");
    assert!(!numbers(&ask_at(&store, &leecher(2), now).unwrap()).contains(&2), "nobody gets itself");
    assert_eq!(numbers(&ask_at(&store, &Announce { wanted: 1, ..leecher(4) }, now).unwrap()).len(), 1);
    let with_ids = ask_at(&store, &Announce { with_ids: true, ..leecher(4) }, now).unwrap();
    assert_eq!(with_ids.ids.len(), numbers(&with_ids).len());
    assert!(with_ids.ids.contains(&peer_id(1)));
    for (announce, when) in [
        // What is to be counted has to come again.
        (Announce { event: Some(Event::Completed), ..seeder(2) }, now),
        (Announce { event: Some(Event::Stopped), ..leecher(2) }, now),
        (Announce { info_hash: InfoHash::new([1; 20]), ..leecher(2) }, now),
        // They do not last.
        (leecher(4), now + Duration::from_secs(61)),
    ] {
        let error = ask_at(&store, &announce, when).unwrap_err();
        assert!(error.why.starts_with("the tracker does not reach its store"), "{error:?}");
        assert!((30..=90).contains(&error.retry.as_secs()));
    }
    assert!(store.scrape(&[TORRENT], now).is_err());
    server.restart();
    until("it is there again", || ask(&store, &leecher(4)).is_ok_and(|reply| reply.again.is_none()));
    assert_eq!(sizes(&store, TORRENT), (1, 3, 0));
}

/// What who runs the tracker is told, and clients are not.
fn cause(error: &Unavailable) -> &str {
    assert_eq!(error.in_full(), format!("{error} ({})", error.cause.as_ref().unwrap()));
    error.cause.as_ref().unwrap()
}

#[test]
fn who_runs_the_tracker_is_told_which_redis_is_not_there() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let store = store(&format!("redis://:sesame@{addr}"));
    drop(taken);
    until("it is refused", || {
        let error = ask(&store, &leecher(1)).unwrap_err();
        assert!(!error.in_full().contains("sesame"));
        cause(&error) == format!("{addr}: connection refused; is Redis running there?")
    });
}

#[test]
fn a_redis_that_hangs_is_not_waited_for() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store_with(&server.url(), |config| config.timeout = Duration::from_millis(200));
    ask(&store, &leecher(1)).unwrap();
    // For longer than anybody waits; a script would do as well.
    server.hang();
    let error = ask(&store, &leecher(2)).unwrap_err();
    assert!(error.why.contains("store"), "{error:?}");
    server.go_on();
    until("it is there again", || ask(&store, &leecher(2)).is_ok());
}

#[test]
fn a_name_that_goes_to_another_server_is_followed_when_the_old_one_may_only_be_read() {
    let (Some(old), Some(new)) = (Server::start(&[]), Server::start(&[])) else { return };
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("redis");
    std::os::unix::fs::symlink(old.socket(), &name).unwrap();
    let store = store(&format!("redis+unix://{}", name.display()));
    ask(&store, &Announce { event: Some(Event::Completed), ..seeder(1) }).unwrap();
    std::fs::remove_file(&name).unwrap();
    std::os::unix::fs::symlink(new.socket(), &name).unwrap();
    // It lives on, as a replica.
    old.text(&format!("REPLICAOF 127.0.0.1 {}", new.port));
    until("the new one is written", || {
        let _ = ask(&store, &Announce { event: Some(Event::Completed), ..seeder(1) });
        has(&new, &seeder(1))
    });
    until("all connections go there", || ask(&store, &seeder(1)).is_ok_and(|reply| reply.again.is_none()));
}

#[test]
fn a_password_is_needed_and_not_told() {
    let Some(server) = Server::start(&["--requirepass", "sesame"]) else { return };
    let without = store(&server.url());
    let error = ask(&without, &leecher(1)).unwrap_err();
    assert!(!error.why.contains("127.0.0.1"), "clients do not learn where it is: {error:?}");
    assert_eq!(cause(&error), format!("127.0.0.1:{}: it wants a password: redis://:PASSWORD@HOST", server.port));
    let with = store(&format!("redis://:sesame@127.0.0.1:{}", server.port));
    ask(&with, &leecher(1)).unwrap();
    let wrong = store(&format!("redis://:salami@127.0.0.1:{}", server.port));
    let error = ask(&wrong, &leecher(1)).unwrap_err();
    assert_eq!(cause(&error), format!("127.0.0.1:{}: wrong user or password; see the URL of the store", server.port));
    assert!(!format!("{error:?} {}", error.in_full()).contains("salami"));
}

#[test]
fn unix_sockets_and_databases_serve() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store(&format!("redis+unix://{}?db=3", server.socket().display()));
    ask(&store, &leecher(1)).unwrap();
    assert_eq!(sizes(&store, TORRENT), (0, 1, 0));
    assert_eq!(server.text("DBSIZE"), "0", "it is in another database");
}

#[test]
fn a_full_redis_says_so() {
    let Some(server) = Server::start(&[]) else { return };
    let store = store(&server.url());
    ask(&store, &leecher(1)).unwrap();
    server.text("CONFIG SET maxmemory 1");
    let error = ask(&store, &leecher(2)).unwrap_err();
    assert_eq!(error.why, "the tracker's store is full");
    assert!(cause(&error).starts_with(&format!("127.0.0.1:{}: OOM ", server.port)), "{error:?}");
    server.text("CONFIG SET maxmemory 0");
    ask(&store, &leecher(2)).unwrap();
    assert_eq!(sizes(&store, TORRENT), (0, 2, 0));
}

/// What names the server to a tracker in a process of its own.
const CHILD: &str = "ROPEWALK_TEST_REDIS";

/// The running test once more, in a process of its own that is told where Redis is.
fn again_with(url: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", thread::current().name().unwrap(), "--nocapture"]).env(CHILD, url);
    command.stderr(Stdio::null());
    command
}

#[test]
fn nothing_that_was_acknowledged_is_lost_when_a_tracker_is_killed() {
    if let Ok(url) = std::env::var(CHILD) {
        let store = store(&url);
        for number in 0..1_000_000 {
            ask(&store, &leecher(number)).unwrap();
            println!("noted {number}");
        }
        panic!("nobody has killed it");
    }
    let Some(server) = Server::start(&[]) else { return };
    let mut tracker = again_with(&server.url()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(tracker.stdout.take().unwrap()).lines();
    let mut noted = Vec::new();
    for line in lines {
        noted.extend(line.unwrap().strip_prefix("noted ").map(|number| number.parse::<u32>().unwrap()));
        if noted.len() == 1000 {
            tracker.kill().unwrap();
        }
    }
    tracker.wait().unwrap();
    assert!(noted.len() >= 1000);
    assert!(noted.into_iter().all(|number| has(&server, &leecher(number))));
}

#[test]
fn a_server_is_trusted_with_tls_only_by_its_certificate() {
    if let Ok(url) = std::env::var(CHILD) {
        let noted = ask(&store(&url), &leecher(1)).is_ok();
        println!("\nit is {}", if noted { "trusted" } else { "not trusted" });
        return;
    }
    if !server::installed("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [settings, key, certificate] = ["settings", "key", "certificate"].map(|name| folder.path().join(name));
    let names = "basicConstraints=critical,CA:FALSE\nsubjectAltName=IP:127.0.0.1\n";
    let text =
        format!("[req]\ndistinguished_name=name\nx509_extensions=more\nprompt=no\n[name]\nCN=test\n[more]\n{names}");
    std::fs::write(&settings, text).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-config"]);
    openssl.arg(settings).arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    assert!(openssl.stderr(Stdio::null()).status().unwrap().success());
    let [key, certificate] = [key, certificate].map(|file| file.into_os_string().into_string().unwrap());
    let tls = ["--tls-port", "BUS", "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let Some(server) = Server::start(&[&tls[..], &["--tls-auth-clients", "no"]].concat()) else { return };
    let url = format!("rediss://127.0.0.1:{}", server.bus);
    let said = |command: &mut Command| String::from_utf8(command.output().unwrap().stdout).unwrap();
    let trusting = said(again_with(&url).env("SSL_CERT_FILE", &certificate));
    assert!(trusting.contains("\nit is trusted"), "{trusting}");
    let stranger = said(&mut again_with(&url));
    assert!(stranger.contains("\nit is not trusted"), "{stranger}");
    assert!(has(&server, &leecher(1)));
}
