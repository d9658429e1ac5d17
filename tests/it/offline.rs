//! Segments without a server: replayed and verified, in place and as copies.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::server::{Server, arg, run};

/// Small segments, so that there are several.
pub const SMALL: [&str; 2] = ["--segment-bytes", "4096"];
pub const COUNT: usize = 40;

/// An entry as the server took it.
pub struct Sent {
    pub slug: &'static str,
    variant: &'static str,
    pub id: String,
    body: String,
}

/// Posts entries, by turns to two experiments and of two variants.
pub fn fill(server: &Server) -> Vec<Sent> {
    server.define("other");
    let post = |n: usize| {
        let (slug, variant) = (["demo", "other"][n % 2], ["A", "B"][n / 2 % 2]);
        let padding = "x".repeat(200);
        let body = format!(r#"{{"variantKey":"{variant}","n":{n}.0,"text":"{padding}"}}"#);
        let id = server
            .ask("POST", &format!("/experiment/{slug}/log"), &body)
            .log_id();
        Sent {
            slug,
            variant,
            id,
            body,
        }
    };
    (0..COUNT).map(post).collect()
}

pub fn replay(args: &[&str]) -> Vec<String> {
    let output = run(&[&["replay"], args].concat());
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn value(line: &str, name: &str) -> String {
    let json: Value = serde_json::from_str(line).expect("a line of JSON");
    json[name].as_str().expect(name).to_owned()
}

pub fn ids(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| value(line, "logId")).collect()
}

/// The ids of those that fit, experiment by experiment, each in log order.
pub fn expected(sent: &[Sent], fits: impl Fn(&Sent) -> bool) -> Vec<String> {
    let of = |slug: &'static str| sent.iter().filter(move |entry| entry.slug == slug);
    let all = of("demo").chain(of("other"));
    all.filter(|entry| fits(entry))
        .map(|entry| entry.id.clone())
        .collect()
}

pub fn segments(experiment_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(experiment_dir).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "segment"));
    paths.sort();
    paths
}

/// All bytes of a folder's files, with their names.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(contents(&path)),
            false => files.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    files.sort();
    files
}

#[test]
fn a_killed_store_is_replayed_as_it_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &SMALL);
    let sent = fill(&server);
    server.kill();
    let before = contents(&store);
    let lines = replay(&[arg(&store)]);
    assert_eq!(ids(&lines), expected(&sent, |_| true));
    for entry in &sent {
        let begin = format!(
            r#"{{"logId":"{}","experiment":"{}","receivedAt":""#,
            entry.id, entry.slug
        );
        let own = format!("Z\",{}", &entry.body[1..]);
        let is_as_sent = |line: &String| line.starts_with(&begin) && line.ends_with(&own);
        assert!(lines.iter().any(is_as_sent), "{}", entry.body);
    }
    let verified = run(&["verify", arg(&store)]);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    assert!(verified.stdout.is_empty(), "{verified:?}");
    let said = String::from_utf8(verified.stderr).unwrap();
    assert!(
        said.contains("40 entries in ") && said.contains("0 findings"),
        "{said}"
    );
    assert!(contents(&store) == before, "looking changed something");
    // Recovery agrees with what was seen before it.
    let server = Server::start(&store, &SMALL);
    assert_eq!(
        server.ask("GET", "/experiment/demo", "").json()["count"],
        20
    );
    assert_eq!(replay(&[arg(&store)]), lines);
}

#[test]
fn entries_are_selected() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &SMALL);
    let sent = fill(&server);
    server.kill();
    let path = arg(&store);
    let selected = |args: &[&str]| ids(&replay(&[&[path], args].concat()));
    assert_eq!(
        selected(&["--experiment", "other"]),
        expected(&sent, |e| e.slug == "other")
    );
    let both = ["--experiment", "other", "--experiment", "demo"];
    assert_eq!(selected(&both), expected(&sent, |_| true));
    assert!(selected(&["--experiment", "none"]).is_empty());
    assert_eq!(
        selected(&["--variant", "B"]),
        expected(&sent, |e| e.variant == "B")
    );
    assert_eq!(
        selected(&["--variant", "A", "--variant", "B"]),
        expected(&sent, |_| true)
    );
    assert!(selected(&["--variant", "a"]).is_empty());
    let after = &sent[20].id;
    let behind = expected(&sent, |e| e.id > *after);
    assert!(behind.len() >= 18 && behind.len() < COUNT, "{behind:?}");
    assert_eq!(selected(&["--after", after]), behind);
    let combined = ["--after", after, "--variant", "A", "--experiment", "demo"];
    let fits = |e: &Sent| e.id > *after && e.variant == "A" && e.slug == "demo";
    assert_eq!(selected(&combined), expected(&sent, fits));
    // By time of receipt: from that very millisecond on, and up to it.
    let lines = replay(&[path]);
    let at = value(&lines[lines.len() / 4], "receivedAt");
    let when = |fits: &dyn Fn(&str) -> bool| {
        let fitting = lines.iter().filter(|line| fits(&value(line, "receivedAt")));
        ids(&fitting.cloned().collect::<Vec<_>>())
    };
    let (since, until) = (when(&|t| t >= at.as_str()), when(&|t| t < at.as_str()));
    assert_eq!(selected(&["--since", &at]), since);
    assert_eq!(selected(&["--until", &at]), until);
    assert_eq!(since.len() + until.len(), COUNT);
    assert_eq!(
        selected(&[
            "--since",
            "2020-01-01T00:00:00Z",
            "--until",
            "2999-01-01T00:00:00+02:00"
        ])
        .len(),
        COUNT
    );
    assert!(selected(&["--until", "2020-01-01T00:00:00Z"]).is_empty());
}

#[test]
fn an_output_file_is_there_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &SMALL);
    fill(&server);
    server.kill();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let file = out.join("entries.jsonl");
    fs::write(&file, "what was there before").unwrap();
    let printed = run(&["replay", arg(&store)]).stdout;
    let written = run(&["replay", arg(&store), "--output", arg(&file)]);
    assert_eq!(written.status.code(), Some(0), "{written:?}");
    assert!(written.stdout.is_empty());
    assert_eq!(fs::read(&file).unwrap(), printed);
    let failed = run(&["replay", arg(&dir.path().join("none")), "-o", arg(&file)]);
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!(
        fs::read(&file).unwrap(),
        printed,
        "a failure leaves what was there"
    );
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
    let nowhere = run(&[
        "replay",
        arg(&store),
        "-o",
        arg(&dir.path().join("none/file")),
    ]);
    assert_eq!(nowhere.status.code(), Some(1));
    let said = String::from_utf8(nowhere.stderr).unwrap();
    assert!(
        said.contains("can't write") && said.lines().count() == 1,
        "{said}"
    );
}

#[test]
fn a_running_server_is_replayed_beside() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &SMALL);
    let mut sent = fill(&server);
    assert_eq!(ids(&replay(&[arg(&store)])), expected(&sent, |_| true));
    assert_eq!(run(&["verify", arg(&store)]).status.code(), Some(0));
    // And it goes on.
    for (n, line) in [
        "{\"variantKey\":\"A\",\"late\":1}",
        "{\"variantKey\":\"B\",\"late\":2}",
    ]
    .iter()
    .enumerate()
    {
        let id = server.ask("POST", "/experiment/demo/log", line).log_id();
        sent.push(Sent {
            slug: "demo",
            variant: ["A", "B"][n],
            id,
            body: (*line).to_owned(),
        });
        assert_eq!(ids(&replay(&[arg(&store)])), expected(&sent, |_| true));
    }
    let demo = store.join("experiments/demo");
    assert_eq!(
        ids(&replay(&[arg(&demo)])),
        expected(&sent, |e| e.slug == "demo")
    );
    // The first one is full, so nothing more comes to it. Its file comes a little later than the
    // acknowledgement, which is the journal's.
    while segments(&demo).is_empty() {
        std::thread::yield_now();
    }
    let first = ids(&replay(&[arg(&segments(&demo)[0])]));
    let all = expected(&sent, |e| e.slug == "demo");
    assert!(!first.is_empty() && all.starts_with(&first), "{first:?}");
}

#[test]
fn a_copied_segment_needs_nothing_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &SMALL);
    let sent = fill(&server);
    let (status, _) = server.stop();
    assert!(status.success());
    let demo = segments(&store.join("experiments/demo"));
    assert!(demo.len() >= 2, "{demo:?}");
    let mut found = Vec::new();
    for (n, segment) in demo.iter().enumerate() {
        // Under any name.
        let copy = dir.path().join(format!("copy {n}"));
        fs::copy(segment, &copy).unwrap();
        let lines = replay(&[arg(&copy)]);
        assert!(lines.iter().all(|line| value(line, "experiment") == "demo"));
        found.extend(ids(&lines));
        let verified = run(&["verify", arg(&copy)]);
        assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    }
    assert_eq!(found, expected(&sent, |e| e.slug == "demo"));
    // A copy of the whole store, without its journal.
    let copy = dir.path().join("experiments-only");
    fs::create_dir(&copy).unwrap();
    for segment in &demo {
        fs::copy(segment, copy.join(segment.file_name().unwrap())).unwrap();
    }
    assert_eq!(ids(&replay(&[arg(&copy)])), found);
}
