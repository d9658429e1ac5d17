//! Files of earlier formats, which every later program reads; see `tests/golden/README.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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
    let server = Server::start(&store, &[]);
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
    for from in segments_below(&golden("format-1")) {
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
