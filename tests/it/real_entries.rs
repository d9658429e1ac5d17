//! 3,220 real entries, one by one from many clients and again as batches, over a SIGKILL: each
//! comes back once, in the order of its id, byte for byte.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use trialog::model::LogId;

use crate::faults::report;
use crate::server::{Answer, Server, arg, run};

const CLIENTS: usize = 32;
const FILE: &str = "data/alpaca-eval.jsonl.gz";

/// A file in the folder `shared` that lies beside a checkout or that `TRIALOG_TEST_SHARED` names.
/// `None` when it isn't there.
pub fn shared(file: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let shared = std::env::var_os("TRIALOG_TEST_SHARED").map_or_else(beside, PathBuf::from);
    Some(shared.join(file)).filter(|path| path.exists())
}

/// The lines of the file of real entries. `None` when it isn't there.
pub fn lines() -> Option<Vec<String>> {
    let path = shared(FILE)?;
    let unpacked = Command::new("gzip").arg("-dc").arg(&path).output();
    let unpacked = unpacked.expect("this test needs the command gzip");
    assert!(unpacked.status.success(), "{}", path.display());
    let text = String::from_utf8(unpacked.stdout).expect("JSON is UTF-8");
    Some(text.lines().map(str::to_owned).collect())
}

#[test]
fn real_entries_come_back_once_in_order_and_byte_for_byte_after_a_kill() {
    let Some(lines) = lines() else {
        // No part of a checkout, and nothing to install: it doesn't count as a failure anywhere.
        return report("NOT RUN: the real entries aren't in ../shared, nor in TRIALOG_TEST_SHARED");
    };
    assert_eq!(lines.len(), 3220);
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let args = ["--segment-bytes", "1000000"];
    let server = Server::start(&store, &args);
    let open = r#"{"variants":[],"openVariants":true}"#;
    for name in ["single", "batches"] {
        let path = format!("/experiment/{name}");
        assert_eq!(server.ask("PUT", &path, open).status, 201);
    }
    let single = post_one_by_one(&server, &lines);
    let batches = post_in_batches(&server, &lines);
    server.kill();

    let verified = run(&["verify", arg(&store)]);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    // Before a restart, and after it beside the running server.
    assert_replayed(&store, "single", &single, &lines);
    assert_replayed(&store, "batches", &batches, &lines);
    let server = Server::start(&store, &args);
    assert_read(&server, "single", &single, &lines);
    assert_read(&server, "batches", &batches, &lines);
    assert_replayed(&store, "single", &single, &lines);
    assert!(server.stop().0.success());
    assert_replayed(&store, "batches", &batches, &lines);
}

/// Posts each line by itself from many connections at once; gives back each line's id.
fn post_one_by_one(server: &Server, lines: &[String]) -> Vec<LogId> {
    let next = AtomicUsize::new(0);
    let mut ids = vec![LogId::MIN; lines.len()];
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| post_while_there_are(server, lines, &next)))
            .collect();
        for client in clients {
            for (line, id) in client.join().expect("no client panicked") {
                ids[line] = id;
            }
        }
    });
    ids
}

fn post_while_there_are(
    server: &Server,
    lines: &[String],
    next: &AtomicUsize,
) -> Vec<(usize, LogId)> {
    let key = ("x-api-key", &*server.key);
    let mut client = server.connect();
    let mut posted: Vec<(usize, LogId)> = Vec::new();
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let Some(line) = lines.get(at) else {
            return posted;
        };
        let answer = client.send("POST", "/experiment/single/log", &[key], line.as_bytes());
        let id: LogId = answer.expect("an answer").log_id().parse().unwrap();
        assert!(posted.last().is_none_or(|(_, last)| *last < id), "ids rise");
        posted.push((at, id));
    }
}

/// Posts all lines in batches of very different sizes: some go around the journal.
fn post_in_batches(server: &Server, lines: &[String]) -> Vec<LogId> {
    let headers = [
        ("x-api-key", &*server.key),
        ("content-type", "application/x-ndjson"),
    ];
    let mut client = server.connect();
    let mut ids = Vec::new();
    let mut rest = lines;
    for size in [1, 7, 50, 200, 900].into_iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (batch, behind) = rest.split_at(size.min(rest.len()));
        rest = behind;
        let body = batch.join("\n");
        let path = "/experiment/batches/logs";
        let answer = client.send("POST", path, &headers, body.as_bytes());
        let answered = batch_ids(&answer.expect("an answer"));
        assert_eq!(answered.len(), batch.len());
        ids.extend(answered);
    }
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "ids rise");
    ids
}

fn batch_ids(answer: &Answer) -> Vec<LogId> {
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    let json = answer.json();
    let ids = json["logIds"].as_array().expect("ids");
    ids.iter()
        .map(|id| id.as_str().and_then(|id| id.parse().ok()).expect("an id"))
        .collect()
}

/// The command gives every entry once, in the order of ids, with the text that was sent.
fn assert_replayed(store: &Path, experiment: &str, ids: &[LogId], lines: &[String]) {
    let replayed = run(&["replay", arg(store), "--experiment", experiment]);
    assert!(replayed.status.success(), "{:?}", replayed.stderr);
    let sent: HashMap<LogId, &String> = ids.iter().copied().zip(lines).collect();
    assert_eq!(sent.len(), lines.len(), "no id was given twice");
    let text = String::from_utf8(replayed.stdout).unwrap();
    let mut last = LogId::MIN;
    let mut count = 0;
    for line in text.lines() {
        let id = line.strip_prefix("{\"logId\":\"").expect("ids come first");
        let id: LogId = id[..LogId::TEXT_LEN].parse().unwrap();
        assert!(last < id, "{experiment}: {id} after {last}");
        let expected = sent.get(&id).expect("it was acknowledged");
        assert_eq!(without_ours(line, experiment), expected.as_str(), "{id}");
        last = id;
        count += 1;
    }
    assert_eq!(count, lines.len(), "{experiment}");
}

/// The client's own object: what stands behind our members.
fn without_ours(entry: &str, experiment: &str) -> String {
    let ours = format!("\",\"experiment\":\"{experiment}\",\"receivedAt\":\"");
    let (_, behind) = entry.split_once(&ours).expect("our members");
    let (_, members) = behind.split_once("\",").expect("a time");
    format!("{{{members}")
}

/// Every entry by its id, from the running server.
fn assert_read(server: &Server, experiment: &str, ids: &[LogId], lines: &[String]) {
    let key = ("x-api-key", &*server.key);
    let mut client = server.connect();
    for (id, line) in ids.iter().zip(lines) {
        let path = format!("/experiment/{experiment}/log/{id}");
        let answer = client.send("GET", &path, &[key], b"").unwrap();
        assert_eq!(answer.status, 200, "{path}");
        let text = String::from_utf8(answer.body).unwrap();
        assert_eq!(without_ours(&text, experiment), line.as_str(), "{path}");
    }
}
