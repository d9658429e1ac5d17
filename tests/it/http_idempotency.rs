//! Requests that are sent again: `idempotency-key` and `idempotency-keys`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;

use serde_json::Value;
use trialog::log::footer::{Footer, TRAILER_LEN};
use trialog::log::segment::SegmentHeader;

use crate::offline::segments;
use crate::server::{Answer, EXAMPLE, Server, arg, run};

const LOG: &str = "/experiment/demo/log";
const LOGS: &str = "/experiment/demo/logs";

fn post(server: &Server, path: &str, keys: &[(&str, &str)], body: &str) -> Answer {
    let mut headers = vec![("x-api-key", server.key.as_str())];
    headers.extend(keys);
    if path.ends_with("/logs") {
        headers.push(("content-type", "application/x-ndjson"));
    }
    let mut client = server.connect();
    let answer = client.send("POST", path, &headers, body.as_bytes());
    answer.expect("an answer")
}

fn one(server: &Server, key: &str, body: &str) -> Answer {
    post(server, LOG, &[("idempotency-key", key)], body)
}

/// The ids of a batch that was taken, and how many of its entries were there before.
fn taken(answer: &Answer) -> (Vec<String>, usize) {
    let json = answer.json();
    assert_eq!(answer.status, 200, "{json}");
    let ids = json["logIds"].as_array().expect("logIds").iter();
    let ids = ids.map(|id| id.as_str().expect("an id").to_owned());
    let repeated = answer.header("trialog-repeated");
    (ids.collect(), repeated.map_or(0, |n| n.parse().unwrap()))
}

fn count(server: &Server, slug: &str) -> Value {
    let described = server.ask("GET", &format!("/experiment/{slug}"), "");
    described.json()["count"].take()
}

fn entry(n: usize) -> String {
    format!(r#"{{"variantKey":"A","n":{n}}}"#)
}

fn lines(numbers: impl IntoIterator<Item = usize>) -> String {
    let lines = numbers.into_iter().map(|n| entry(n) + "\n");
    lines.collect()
}

#[test]
fn keys_that_can_not_be_are_refused_and_nothing_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let (key, keys) = ("idempotency-key", "idempotency-keys");
    let is_none = "an idempotency key is 1 to 128 visible ASCII characters";
    let long = "k".repeat(129);
    let many = ["k"; 2];
    #[rustfmt::skip]
    type Headers<'a> = Vec<(&'a str, &'a str)>;
    let cases: Vec<(&str, Headers<'_>, &str)> = vec![
        (LOG, vec![(key, "")], is_none),
        (LOG, vec![(key, &long)], is_none),
        (LOG, vec![(key, "two words")], is_none),
        (LOG, vec![(key, "é")], is_none),
        (LOG, vec![(key, "a\tb")], is_none),
        (
            LOG,
            vec![(key, "a"), (key, "a")],
            "idempotency-key is there more than once",
        ),
        (LOG, vec![(keys, "a")], "idempotency-keys is for batches"),
        (LOGS, vec![(key, "")], is_none),
        (LOGS, vec![(key, "two words")], is_none),
        (LOGS, vec![(key, "a"), (keys, "a b")], "send one of them"),
        (
            LOGS,
            vec![(keys, "")],
            "idempotency-keys has 0 keys for 2 entries",
        ),
        (
            LOGS,
            vec![(keys, "a")],
            "idempotency-keys has 1 keys for 2 entries",
        ),
        (
            LOGS,
            vec![(keys, "a b"), (keys, "c")],
            "idempotency-keys has 3 keys for 2 entries",
        ),
        (LOGS, vec![(keys, "a é")], is_none),
        (LOGS, vec![(keys, "a"), (keys, &long)], is_none),
        (
            LOGS,
            vec![(keys, "a a")],
            "two entries of the batch have the same idempotency key",
        ),
        (
            LOGS,
            many.map(|one| (keys, one)).into(),
            "two entries of the batch have the same",
        ),
    ];
    for (path, headers, message) in cases {
        let body = if path == LOG { entry(0) } else { lines(0..2) };
        let answer = post(&server, path, &headers, &body);
        answer.assert_error(400, "bad_idempotency_key", message, &format!("{headers:?}"));
    }
    assert_eq!(count(&server, "demo"), 0);
    // The longest one, and the least usual.
    let longest: String = (b'!'..=b'~').chain(b'!'..=b'B').map(char::from).collect();
    assert_eq!(longest.len(), 128);
    let id = one(&server, &longest, EXAMPLE).log_id();
    assert_eq!(one(&server, &longest, EXAMPLE).log_id(), id);
    assert_eq!(count(&server, "demo"), 1);
}

#[test]
fn the_same_key_gets_the_first_answer_again_also_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("s");
    // Small segments: most of what is remembered is in footers then.
    let args = ["--segment-bytes", "4096", "--journal-bytes", "1048576"];
    let mut server = Server::start(&dir, &args);
    server.define("other");
    let key = |n: usize| format!("order-{n}");
    let first: Vec<String> = (0..40)
        .map(|n| {
            let answer = one(&server, &key(n), &entry(n));
            assert_eq!(answer.header("trialog-repeated"), None);
            answer.log_id()
        })
        .collect();
    assert!(first.is_sorted_by(|a, b| a < b), "{first:?}");
    for restarts in 0..3 {
        for (n, id) in first.iter().enumerate() {
            let again = one(&server, &key(n), &entry(n));
            assert_eq!(again.header("trialog-repeated"), Some("1"));
            assert_eq!(&again.log_id(), id, "after {restarts} restarts");
            // White space around an entry is not part of it, inside it is.
            let same = one(&server, &key(n), &format!("\n {} ", entry(n)));
            assert_eq!(&same.log_id(), id);
            let other = entry(n).replace(':', ": ");
            let words = "this idempotency key was given for something else";
            for (path, body) in [(LOG, entry(n + 1)), (LOG, other), (LOGS, lines(n..n + 2))] {
                let answer = post(&server, path, &[("idempotency-key", &key(n))], &body);
                answer.assert_error(409, "idempotency_conflict", words, &body);
            }
        }
        assert_eq!(count(&server, "demo"), 40);
        server.kill();
        server = Server::start(&dir, &args);
    }
    // A key is of its experiment, and an entry without one is always new.
    let elsewhere = [("idempotency-key", "order-0")];
    let id = post(&server, "/experiment/other/log", &elsewhere, &entry(0)).log_id();
    assert!(!first.contains(&id));
    server.ask("POST", LOG, &entry(0)).log_id();
    assert_eq!(
        (count(&server, "demo"), count(&server, "other")),
        (41.into(), 1.into())
    );
}

#[test]
fn a_batch_has_one_key_or_each_of_its_entries_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let whole = |key: &str, body: &str| post(&server, LOGS, &[("idempotency-key", key)], body);
    let (first, repeated) = taken(&whole("b", &lines(0..5)));
    assert_eq!((first.len(), repeated), (5, 0));
    assert_eq!(taken(&whole("b", &lines(0..5))), (first.clone(), 5));
    let words = "was given for something else";
    for (body, place) in [
        (lines(0..4), "line 1: "),
        (lines(0..6), "line 1: "),
        (lines([0, 1, 2, 9, 4]), "line 4: "),
        (lines(0..1), "line 1: "),
    ] {
        let answer = whole("b", &body);
        answer.assert_error(409, "idempotency_conflict", words, &body);
        assert!(answer.message().starts_with(place), "{}", answer.message());
    }
    // A batch of one is that entry.
    let (id, _) = taken(&whole("one", &lines(0..1)));
    assert_eq!(one(&server, "one", &entry(0)).log_id(), id[0]);
    assert_eq!(count(&server, "demo"), 6);

    let each = |numbers: std::ops::Range<usize>| {
        let keys: Vec<String> = numbers.clone().map(|n| format!("each-{n}")).collect();
        let keys = keys.join(" ");
        post(
            &server,
            LOGS,
            &[("idempotency-keys", &keys)],
            &lines(numbers),
        )
    };
    let (ids, repeated) = taken(&each(10..20));
    assert_eq!(repeated, 0);
    // Cut elsewhere: what is new is stored, and each gets its own id.
    let (overlapping, repeated) = taken(&each(15..25));
    assert_eq!((repeated, &overlapping[..5]), (5, &ids[5..]));
    let (around, repeated) = taken(&each(8..27));
    assert_eq!(repeated, 15);
    assert_eq!(
        (&around[2..12], &around[12..17]),
        (&ids[..], &overlapping[5..])
    );
    assert_eq!(one(&server, "each-24", &entry(24)).log_id(), overlapping[9]);
    assert_eq!(count(&server, "demo"), 6 + 19);
    let keys = [("idempotency-keys", "each-30 each-8")];
    let answer = post(&server, LOGS, &keys, &lines([30, 9]));
    answer.assert_error(409, "idempotency_conflict", words, "the second");
    assert!(
        answer.message().starts_with("line 2: "),
        "{}",
        answer.message()
    );
    assert_eq!(count(&server, "demo"), 6 + 19, "all or none");
}

#[test]
fn many_clients_with_the_same_key_store_one_entry() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let (clients, rounds) = (32, 20);
    let barrier = Barrier::new(clients);
    let answers: Vec<Vec<Vec<String>>> = std::thread::scope(|scope| {
        let client = || {
            (0..rounds)
                .map(|round| {
                    let key = format!("round-{round}");
                    let key = [("idempotency-key", key.as_str())];
                    barrier.wait();
                    match round % 2 {
                        0 => vec![post(&server, LOG, &key, &entry(round)).log_id()],
                        _ => taken(&post(&server, LOGS, &key, &lines(round..round + 3))).0,
                    }
                })
                .collect()
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    for client in &answers {
        assert_eq!(client, &answers[0]);
    }
    assert_eq!(count(&server, "demo"), rounds / 2 * 4);
}

#[test]
fn a_large_batch_is_known_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("s");
    let server = Server::start(&dir, &[]);
    // Large enough for the way around the journal.
    let body = lines(0..20_000);
    let key = [("idempotency-key", "large")];
    let (ids, repeated) = taken(&post(&server, LOGS, &key, &body));
    assert_eq!((ids.len(), repeated), (20_000, 0));
    assert_eq!(
        taken(&post(&server, LOGS, &key, &body)),
        (ids.clone(), 20_000)
    );
    server.kill();
    let server = Server::start(&dir, &[]);
    assert_eq!(taken(&post(&server, LOGS, &key, &body)), (ids, 20_000));
    assert_eq!(count(&server, "demo"), 20_000);
}

#[test]
fn an_experiment_remembers_its_last_keys() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("s");
    let args = ["--idempotency-entries", "3"];
    let mut server = Server::start(&dir, &args);
    let ids: Vec<String> = (0..4)
        .map(|n| one(&server, &format!("k{n}"), &entry(n)).log_id())
        .collect();
    for _ in 0..2 {
        for (n, id) in ids.iter().enumerate().skip(1) {
            assert_eq!(&one(&server, &format!("k{n}"), &entry(n)).log_id(), id);
        }
        server.kill();
        server = Server::start(&dir, &args);
    }
    // Forgotten, and so new: even for another entry.
    let again = one(&server, "k0", &entry(9)).log_id();
    assert!(again > ids[3]);
    assert_eq!(one(&server, "k0", &entry(9)).log_id(), again);
    assert_eq!(count(&server, "demo"), 5);
}

/// Changes the last keyed entry's fingerprint in a footer, and makes all checksums right again.
fn forge_last_fingerprint(bytes: &mut [u8], keyed_count: usize) {
    let trailer_at = bytes.len() - TRAILER_LEN;
    let section_at = trailer_at - keyed_count * 48 - 16;
    assert_eq!(
        bytes[section_at], 5,
        "the section of keyed entries is the last one"
    );
    bytes[trailer_at - 1] ^= 1;
    let begin = u64::from_le_bytes(bytes[trailer_at + 8..trailer_at + 16].try_into().unwrap());
    let mut put = |at: usize, of: std::ops::Range<usize>| {
        let crc = crc32fast::hash(&bytes[of]).to_le_bytes();
        bytes[at..at + 4].copy_from_slice(&crc);
    };
    put(section_at + 4, section_at + 16..trailer_at);
    put(trailer_at + 36, begin as usize..trailer_at);
    put(trailer_at + 44, trailer_at..trailer_at + 44);
}

#[test]
fn footers_hold_fingerprints_as_the_page_says() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--segment-bytes", "4096", "--journal-bytes", "1048576"];
    let server = Server::start(&dir.path().join("s"), &args);
    for n in 0..30 {
        one(&server, &format!("one-{n}"), &entry(n)).log_id();
        server.ask("POST", LOG, &entry(n)).log_id();
        let batch = [("idempotency-key", &*format!("batch-{n}"))];
        taken(&post(&server, LOGS, &batch, &lines(n..n + 3)));
        let each = [("idempotency-keys", &*format!("{n}-a {n}-b"))];
        taken(&post(&server, LOGS, &each, &lines([n, n])));
    }
    let store = server.dir.clone();
    server.stop();
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format/reader.py");
    let has_python = Command::new("python3").arg("--version").output().is_ok();
    if !has_python {
        crate::faults::not_run("there is no python3 to run tests/format/reader.py");
    }
    let read = |segment: &Path| Command::new("python3").arg(&reader).arg(segment).output();
    let mut keyed_count = 0;
    let mut sealed = None;
    for path in segments(&store.join("experiments/demo")) {
        let bytes = fs::read(&path).unwrap();
        let salt = SegmentHeader::decode(&bytes).unwrap().header.salt;
        if let Some(footer) = Footer::read(&bytes, salt) {
            keyed_count += footer.keyed().count();
            sealed = Some((path.clone(), footer.keyed().count()));
        }
        let ours = run(&["replay", arg(&path)]);
        if has_python {
            let theirs = read(&path).unwrap();
            assert!(theirs.status.success(), "{theirs:?}");
            assert_eq!(ours.stdout, theirs.stdout);
        }
    }
    assert!(
        keyed_count > 100,
        "{keyed_count} keyed entries were compared"
    );
    // Both notice one that doesn't fit.
    let (path, count) = sealed.expect("a sealed segment");
    let mut bytes = fs::read(&path).unwrap();
    forge_last_fingerprint(&mut bytes, count);
    fs::write(&path, &bytes).unwrap();
    let verified = run(&["verify", arg(&path)]);
    assert_eq!(verified.status.code(), Some(1), "{verified:?}");
    let words = String::from_utf8(verified.stdout).unwrap();
    assert!(
        words.contains("the footer doesn't fit the frames"),
        "{words}"
    );
    assert!(!has_python || !read(&path).unwrap().status.success());
}
