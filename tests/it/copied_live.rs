//! A store's folder copied while it is written: what was acknowledged before the copy began is in
//! it, or it says what is missing; it serves, and nothing in it is wrong.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::server::{EXAMPLE, Server, arg, run};

const WRITERS: u64 = 4;
const COPIES: usize = 12;
const EXPERIMENTS: [&str; 2] = ["one", "two"];
/// Small ones, so that segments roll and laps change while the files are copied.
const SIZES: [&str; 4] = ["--segment-bytes", "65536", "--journal-bytes", "1048576"];

/// What was acknowledged, by its id.
type Acked = HashMap<String, String>;

fn write_on(
    server: &Server,
    n: u64,
    acked: &Mutex<Acked>,
    count: &AtomicU64,
    is_over: &AtomicBool,
) {
    let mut client = server.connect();
    let key = ("x-api-key", &*server.key);
    for m in 0.. {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let padding = "x".repeat((m as usize * 37) % 900);
        let body = format!(r#"{{"variantKey":"A","input":{{"n":"{n}-{m}","p":"{padding}"}}}}"#);
        let experiment = EXPERIMENTS[((n + m) % 2) as usize];
        let path = format!("/experiment/{experiment}/log");
        let answer = client.send("POST", &path, &[key], body.as_bytes());
        let id = answer.expect("an answer").log_id();
        acked.lock().unwrap().insert(id, body);
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a replay gives back, by id; fails when it is there twice.
fn replayed(store: &Path) -> (BTreeMap<String, String>, bool) {
    let output = run(&["replay", arg(store)]);
    let is_told = output.status.code() == Some(1) && !output.stderr.is_empty();
    assert!(output.status.success() || is_told, "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut found = BTreeMap::new();
    for line in lines.lines() {
        let id = line[r#"{"logId":""#.len()..][..30].to_owned();
        let (_, rest) = line.split_once(r#""receivedAt":""#).expect("a time");
        let body = &rest[r#"2026-01-02T03:04:05.678Z","#.len()..];
        let twice = found.insert(id, format!("{{{body}"));
        assert_eq!(twice, None, "{line}");
    }
    (found, is_told)
}

#[test]
fn a_store_copied_while_it_is_written_has_all_or_says_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("store"), &SIZES);
    for experiment in EXPERIMENTS {
        server.define(experiment);
    }
    let (acked, count) = (Mutex::new(Acked::new()), AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let mut copies: Vec<(PathBuf, Acked)> = Vec::new();
    std::thread::scope(|scope| {
        for n in 0..WRITERS {
            let (server, acked, count, is_over) = (&server, &acked, &count, &is_over);
            scope.spawn(move || write_on(server, n, acked, count, is_over));
        }
        for n in 0..COPIES {
            // In between, some hundred entries come.
            let wanted = count.load(Ordering::Relaxed) + 300;
            while count.load(Ordering::Relaxed) < wanted {
                std::thread::yield_now();
            }
            let before = acked.lock().unwrap().clone();
            let copy = dir.path().join(format!("copy-{n}"));
            let copied = Command::new("cp")
                .args(["-r", arg(&server.dir), arg(&copy)])
                .status();
            assert!(copied.unwrap().success());
            copies.push((copy, before));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    server.stop();
    let all = acked.into_inner().unwrap();
    let mut told_count = 0;
    for (copy, before) in &copies {
        let verified = run(&["verify", arg(copy)]);
        let found_damage = verified.status.code() == Some(1) && !verified.stdout.is_empty();
        assert!(verified.status.success() || found_damage, "{verified:?}");
        let (found, is_told) = replayed(copy);
        for (id, body) in &found {
            // What came later may be there without its answer having been noted.
            let sent = all.get(id);
            assert!(sent.is_none_or(|sent| sent == body), "{id}: {body}");
        }
        let missing = before.keys().filter(|id| !found.contains_key(*id)).count();
        let is_reported = found_damage || is_told;
        assert!(missing == 0 || is_reported, "{missing} lost without a word");
        told_count += usize::from(is_reported);
        // It serves, gives back the same, and takes more.
        let served = Server::start(copy, &SIZES);
        served.ask("POST", "/experiment/one/log", EXAMPLE).log_id();
        let (status, _) = served.stop();
        assert!(status.success());
        let (after, _) = replayed(copy);
        let lost = found
            .iter()
            .filter(|(id, body)| after.get(*id) != Some(body));
        assert_eq!(lost.count(), 0, "a start took entries that were there");
        assert!(after.len() > found.len());
    }
    let entries = all.len();
    eprintln!(
        "{COPIES} copies of a store that is written, {entries} entries: {told_count} tell of damage"
    );
    assert!(copies.iter().all(|(_, before)| before.len() >= 300));
}
