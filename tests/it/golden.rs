//! Files of earlier formats, which every later program reads; see `tests/golden/README.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use trialog::experiment::repeats::Window;
use trialog::experiment::{AppendError, Store, StoreOptions};
use trialog::fs::real;
use trialog::log::footer::Footer;
use trialog::log::segment::SegmentHeader;
use trialog::model::{Idempotency, IdempotencyKey, NewEntry, Slug};

use crate::server::{Server, arg, run};

/// A copy of the golden folder that may be changed.
fn copied(format: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_dir(&golden(format), dir.path());
    dir
}

fn golden(format: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format)
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

fn segments_below(dir: &Path) -> Vec<PathBuf> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            segments.extend(segments_below(&path));
        } else if path.extension().is_some_and(|ending| ending == "segment") {
            segments.push(path);
        }
    }
    segments.sort();
    segments
}

/// The output of a command that must have ended well.
fn good(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The member of a line that replay printed. Ours come first, and need no unescaping.
fn member<'a>(line: &'a str, name: &str) -> &'a str {
    let (_, rest) = line.split_once(&format!(r#""{name}":""#)).unwrap();
    rest.split_once('"').unwrap().0
}

#[test]
fn the_store_is_read_as_it_was_left() {
    let dir = copied("format-1");
    let store = dir.path().join("store");
    let expected = fs::read_to_string(dir.path().join("expected.jsonl")).unwrap();
    assert_eq!(good(run(&["replay", arg(&store)])), expected);
    good(run(&["verify", arg(&store)]));
    let demo = good(run(&["replay", arg(&store), "--experiment", "demo"]));
    assert_eq!(demo.lines().count(), 25);
    let not_ascii = good(run(&["replay", arg(&store), "--variant", "größe"]));
    assert_eq!(not_ascii.lines().count(), 12);
    let segments = segments_below(&store);
    assert_eq!(segments.len(), 13);
    for segment in segments {
        let shown = good(run(&["inspect", arg(&segment), "--frames", "1000"]));
        assert!(!shown.contains("damage up to"), "{shown}");
    }
    // Reading changed nothing.
    let golden = golden("format-1").join("store");
    for segment in segments_below(&golden) {
        let copy = store.join(segment.strip_prefix(&golden).unwrap());
        assert_eq!(fs::read(&segment).unwrap(), fs::read(&copy).unwrap());
    }
}

#[test]
fn a_segment_alone_is_read() {
    let dir = copied("format-1");
    for name in ["sealed", "torn"] {
        let segment = dir.path().join("lone").join(name);
        let expected = fs::read_to_string(segment.with_extension("jsonl")).unwrap();
        let segment = segment.with_extension("segment");
        assert_eq!(good(run(&["replay", arg(&segment)])), expected, "{name}");
        good(run(&["verify", arg(&segment)]));
    }
}

#[test]
fn a_server_recovers_it_and_goes_on() {
    let dir = copied("format-1");
    let store = dir.path().join("store");
    let expected = fs::read_to_string(dir.path().join("expected.jsonl")).unwrap();
    // Its entries are older than its retention keeps.
    let server = Server::start(&store, &["--retention-interval", "86400"]);
    let mut last_ids = BTreeMap::new();
    for line in expected.lines() {
        let (slug, id) = (member(line, "experiment"), member(line, "logId"));
        let answer = server.ask("GET", &format!("/experiment/{slug}/log/{id}"), "");
        assert_eq!(answer.status, 200, "{line}");
        let body = String::from_utf8(answer.body).unwrap();
        assert_eq!(body.replace(['\n', '\r'], " "), line);
        last_ids.insert(slug, id);
    }
    for (slug, last_id) in &last_ids {
        let described = server.ask("GET", &format!("/experiment/{slug}"), "").json();
        let lines = expected.lines();
        let count = lines.filter(|line| member(line, "experiment") == *slug);
        assert_eq!(described["count"], count.count(), "{described}");

        // Its footers have no metrics: they are folded from the frames.
        for _ in 0..2 {
            let stats = server.ask("GET", &format!("/experiment/{slug}/stats"), "");
            assert_eq!(stats.json()["count"], described["count"]);
        }

        let variant = if *slug == "fresh" { "one" } else { "A" };
        let body = format!(r#"{{"variantKey":"{variant}","input":{{"new":true}}}}"#);
        let path = format!("/experiment/{slug}/log");
        let id = server.ask("POST", &path, &body).log_id();
        assert!(id.as_str() > *last_id, "{id} is above {last_id}");
    }
    let (status, _) = server.stop();
    assert!(status.success(), "{status}");

    good(run(&["verify", arg(&store)]));
    for slug in last_ids.keys() {
        let replayed = good(run(&["replay", arg(&store), "--experiment", slug]));
        let old = expected
            .lines()
            .filter(|line| member(line, "experiment") == *slug);
        let (new, before) = replayed.trim_end().rsplit_once('\n').unwrap();
        assert_eq!(new.lines().collect::<Vec<_>>(), old.collect::<Vec<_>>());
        assert!(before.ends_with(r#","input":{"new":true}}"#), "{before}");
    }
}

/// Footers with metrics and idempotency keys, as the first code that kept these wrote them.
#[test]
fn metrics_and_idempotency_keys_in_footers_are_read_as_they_were_left() {
    let dir = copied("format-1-figures");
    let store = dir.path().join("store");
    let expected = fs::read_to_string(dir.path().join("expected.jsonl")).unwrap();
    assert_eq!(good(run(&["replay", arg(&store)])), expected);
    // Among all else, that what is kept is what a fold over the entries gives.
    good(run(&["verify", arg(&store)]));
    let segments = segments_below(&store);
    let (mut kept_count, mut keyed_count) = (0, 0);
    for path in &segments {
        let shown = good(run(&["inspect", arg(path), "--frames", "0"]));
        let bytes = fs::read(path).unwrap();
        let salt = SegmentHeader::decode(&bytes).unwrap().header.salt;
        if let Some(footer) = Footer::read(&bytes, salt) {
            assert!(
                footer.metrics.is_some() && !shown.contains("not kept"),
                "{shown}"
            );
            kept_count += 1;
            keyed_count += footer.keyed().count();
        }
    }
    assert!(
        kept_count > 5 && keyed_count > 25,
        "{kept_count}, {keyed_count} keys"
    );

    let server = Server::start(&store, &["--idempotency-window", "365d"]);
    let stats = server.ask("GET", "/experiment/figures/stats", "").json();
    let left = fs::read_to_string(dir.path().join("stats.json")).unwrap();
    let left: Value = serde_json::from_str(&left).unwrap();
    assert!(says(&stats, &left), "{stats}");
}

/// Whether an answer says what it said; it may say more.
fn says(now: &Value, left: &Value) -> bool {
    match (now, left) {
        (Value::Object(now), Value::Object(left)) => left
            .iter()
            .all(|(name, left)| now.get(name).is_some_and(|now| says(now, left))),
        (Value::Array(now), Value::Array(left)) => {
            now.len() == left.len() && now.iter().zip(left).all(|(now, left)| says(now, left))
        }
        _ => now == left,
    }
}

/// What footers say of idempotency keys is what makes a repeat one.
#[tokio::test]
async fn keys_in_footers_are_known_as_they_were_left() {
    let dir = copied("format-1-figures");
    let options = StoreOptions {
        dir: dir.path().join("store"),
        free_bytes_min: 0,
        window: Window {
            age: Duration::from_secs(100 * 365 * 24 * 3600),
            ..Window::default()
        },
        ..StoreOptions::default()
    };
    let store = Store::open(options, real::host()).unwrap();
    let slug = Slug::parse("figures").unwrap();
    let expected = fs::read_to_string(dir.path().join("expected.jsonl")).unwrap();
    for (n, line) in expected.lines().take(60).enumerate().step_by(2) {
        let (_, members) = line.split_once("\"receivedAt\":").unwrap();
        let (_, body) = members.split_once(',').unwrap();
        let body = format!("{{{body}");
        let key = format!("key-{n}");
        let key = IdempotencyKey::parse(key.as_bytes()).unwrap();
        let again = |body: &str| NewEntry {
            variant_key: "A".into(),
            idempotency: Some(Box::new(Idempotency::new(key, body.as_bytes()))),
            body: body.to_owned().into_bytes().into(),
        };
        let permit = store.reserve(1000).unwrap();
        let appended = store
            .append_batch(&slug, vec![again(&body)], permit)
            .await
            .unwrap();
        assert_eq!(
            (appended.repeated, appended.ids[0].to_string().as_str()),
            (1, member(line, "logId"))
        );
        let permit = store.reserve(1000).unwrap();
        let other = store.append_batch(&slug, vec![again("{}")], permit).await;
        assert_eq!(other, Err(AppendError::KeyConflict { position: 0 }));
    }
    store.shutdown().await;
}

/// The metrics that footers keep, read by the reader that was made from the page; it folds them from the
/// entries, too.
#[test]
fn a_reader_made_from_the_page_reads_the_metrics_in_footers() {
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format/reader.py");
    if Command::new("python3").arg("--version").output().is_err() {
        return crate::faults::not_run("there is no python3 to run tests/format/reader.py");
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &["--segment-bytes", "200000"]);
    let deep = |keys: usize| format!("{}7{}", r#"{"d":"#.repeat(keys), "}".repeat(keys));
    let wide = |from: usize| {
        let names = (from..from + 90).map(|n| format!(r#""n{n}":{}"#, n * 37 % 101));
        format!("{{{}}}", names.collect::<Vec<_>>().join(","))
    };
    let metrics = |n: usize| match n % 12 {
        0 => r#"{"a":-0,"b":0.1,"c":1e400,"d":"text","e":null,"f":[1],"g":true,"h":false}"#.into(),
        1 => {
            r#"{"a":5e-324,"b":-1.7976931348623157e308,"c":123456789012345678901234567890}"#.into()
        }
        2 => r#"{"a":{"b":1,"c":{}},"a.b":2,"a":{"b":"last"}}"#.into(),
        3 => deep(16),
        4 => deep(17),
        5 => format!(r#"{{"{}":1,"{}":2}}"#, "ä".repeat(128), "ä".repeat(129)),
        6 => wide(n % 700),
        7 => "null".into(),
        _ => format!(r#"{{"ms":{},"tiny":{n}e-{},"neg":-{n}.5}}"#, n * n, n % 300),
    };
    let line = |n: usize| {
        let (variant, metrics) = (["A", "B"][n % 5 / 4], metrics(n));
        format!(r#"{{"variantKey":"{variant}","metrics":{metrics},"input":{{"n":{n}}}}}"#)
    };
    crate::report::post(&server, "demo", &(0..6000).map(line).collect::<Vec<_>>());
    assert!(server.stop().0.success());
    let read = |segment: &Path| {
        let mut command = Command::new("python3");
        command.arg(&reader).arg(segment).output().unwrap()
    };
    let segments = segments_below(&store);
    assert!(segments.len() > 3);
    let mut dropped_count = 0;
    for segment in &segments {
        good(read(segment));
        let shown = good(run(&["inspect", arg(segment), "--frames", "0"]));
        dropped_count += usize::from(shown.contains("metrics         256, "));
    }
    assert!(dropped_count > 0, "some have more names than are kept");

    // And it is a reader that would notice: a bit of the section, with all checksums made right.
    let good_bytes = fs::read(&segments[0]).unwrap();
    let bad = dir.path().join("bad.segment");
    for at_end in [9, 60, 200, 1000] {
        fs::write(&bad, with_other_metrics(&good_bytes, at_end)).unwrap();
        assert!(
            !read(&bad).status.success(),
            "{at_end} bytes before the end"
        );
        // Ours notices, too, or takes it for missing.
        let verified = run(&["verify", arg(&bad)]);
        let shown = run(&["inspect", arg(&bad), "--frames", "0"]);
        let said = [verified.stdout, shown.stdout].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let is_seen = said.contains("the footer doesn't fit the frames");
        assert!(
            is_seen || said.contains("metrics         not kept"),
            "{said}"
        );
    }
}

/// The segment with one bit of its metrics changed, that far from the end of the footer's sections.
fn with_other_metrics(segment: &[u8], at_end: usize) -> Vec<u8> {
    let mut bytes = segment.to_vec();
    let trailer = bytes.len() - 48;
    let number =
        |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let footer = number(&bytes, trailer + 8) as usize;
    let mut at = footer + 32;
    while bytes[at] != 4 {
        at += 16 + (number(&bytes, at + 8) as usize).next_multiple_of(8);
    }
    let payload = at + 16..at + 16 + number(&bytes, at + 8) as usize;
    bytes[payload.end - at_end] ^= 1;
    let crc = |bytes: &[u8]| crc32fast::hash(bytes).to_le_bytes();
    let section = crc(&bytes[payload]);
    bytes[at + 4..at + 8].copy_from_slice(&section);
    let sum = crc(&bytes[footer..trailer]);
    bytes[trailer + 36..trailer + 40].copy_from_slice(&sum);
    let sum = crc(&bytes[trailer..trailer + 44]);
    bytes[trailer + 44..].copy_from_slice(&sum);
    bytes
}

/// `tests/format/reader.py` was written from FORMAT.md alone: what both say is what the page says.
#[test]
fn a_reader_made_from_the_page_agrees() {
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format/reader.py");
    if Command::new("python3").arg("--version").output().is_err() {
        return crate::faults::not_run("there is no python3 to run tests/format/reader.py");
    }
    let dir = tempfile::tempdir().unwrap();
    let segment = dir.path().join("copy.segment");
    let read = |segment: &Path| {
        let reading = Command::new("python3").arg(&reader).arg(segment).output();
        reading.unwrap()
    };
    let mut line_count = 0;
    let all = ["format-1", "format-1-figures"].map(golden);
    for from in all.iter().flat_map(|golden| segments_below(golden)) {
        fs::copy(&from, &segment).unwrap();
        let theirs = good(read(&segment));
        assert_eq!(good(run(&["replay", arg(&segment)])), theirs, "{from:?}");
        line_count += theirs.lines().count();
    }
    assert!(line_count > 50, "{line_count} entries were compared");

    // And it is a reader that would notice.
    let sealed = golden("format-1").join("lone/sealed.segment");
    let good_bytes = fs::read(sealed).unwrap();
    for at in [600, 900, 1_500, 3_000, 4_120, 4_380] {
        let mut bytes = good_bytes.clone();
        bytes[at] ^= 4;
        fs::write(&segment, bytes).unwrap();
        assert!(!read(&segment).status.success(), "a flipped bit at {at}");
    }
}
