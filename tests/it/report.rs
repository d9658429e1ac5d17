//! The report from files: of real entries, of a running, a stopped and a copied log.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::faults::report as say;
use crate::offline::segments;
use crate::real_entries::{lines, shared};
use crate::server::{Server, arg, run};

const SMALL: [&str; 2] = ["--segment-bytes", "16384"];

/// What `trialog report` printed, and nothing else.
pub fn printed(args: &[&str]) -> String {
    let output = run(&[&["report"], args].concat());
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Fails unless the command failed with `code` and these words, and printed nothing.
fn refused(args: &[&str], code: i32, words: &str) {
    let output = run(&[&["report"], args].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
    assert!(said.contains(words), "{args:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// Posts lines as batches, so that it is quick.
pub fn post(server: &Server, slug: &str, lines: &[String]) {
    let headers = [
        ("x-api-key", &*server.key),
        ("content-type", "application/x-ndjson"),
    ];
    let path = format!("/experiment/{slug}/logs");
    let mut client = server.connect();
    for batch in lines.chunks(20) {
        let body = batch.join("\n");
        let answer = client.send("POST", &path, &headers, body.as_bytes());
        assert_eq!(answer.expect("an answer").status, 200);
    }
}

/// An experiment with a unit and a split, and 600 entries of 60 sessions in it.
pub fn fill(server: &Server, slug: &str) {
    let definition = r#"{"variants":[{"key":"A","weight":0.5},{"key":"B","weight":0.5,"control":true}],"unit":"context.session"}"#;
    let path = format!("/experiment/{slug}");
    assert_eq!(server.ask("PUT", &path, definition).status, 201);
    let line = |n: usize| {
        let (variant, place) = (["A", "B"][n % 60 % 2], ["eu", "us", "asia"][n % 60 % 3]);
        let (session, ms, ok) = (n % 60, n * 7919 % 1000, !n.is_multiple_of(7));
        format!(
            r#"{{"variantKey":"{variant}","metrics":{{"ms":{ms}.25,"ok":{ok},"deep":{{"tokens":{n}}}}},"context":{{"session":"s{session}","place":"{place}"}}}}"#
        )
    };
    post(server, slug, &(0..600).map(line).collect::<Vec<_>>());
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// With fewer names than segments keep, a server and files say the same, of what is sealed and of what
/// isn't; and a server with more says what it always did.
#[test]
fn fewer_names_of_metrics_are_the_same_ones_for_a_server_and_for_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &[&SMALL[..], &["--metrics-limit", "2"]].concat());
    fill(&server, "few");
    assert!(
        segments(&store.join("experiments/few")).len() > 2,
        "most of it is sealed"
    );
    let all = [arg(&store), "--experiment", "few"];
    for split in [&[][..], &["--by", "context.place"]] {
        let url = server.url();
        let asked = ["--server", &url, "--experiment", "few", "--api-key"];
        let online = printed(&[&asked[..], &[&*server.key], split].concat());
        let files = printed(&[&all[..], &["--metrics-limit", "2"], split].concat());
        assert_eq!(online, files, "{split:?}");
        assert!(
            online.contains("ok ") && !online.contains("deep.tokens "),
            "{online}"
        );
        let whole = printed(&[&all[..], split].concat());
        assert!(whole.contains("deep.tokens "), "{whole}");
    }
    let asked = ["--experiment", "few", "--metrics-limit", "257"];
    refused(
        &[&[arg(&store)][..], &asked].concat(),
        2,
        "257 is not in 1..=256",
    );
    server.stop();
    let server = Server::start(&store, &SMALL);
    let report = server.ask("GET", "/experiment/few/report?format=table", "");
    assert_eq!(String::from_utf8(report.body).unwrap(), printed(&all));
}

#[test]
fn real_entries_give_the_published_figures_from_files() {
    let (Some(lines), Some(published)) = (lines(), shared("data/alpaca-eval-published.csv")) else {
        return say("NOT RUN: the real entries aren't in ../shared, nor in TRIALOG_TEST_SHARED");
    };
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &["--segment-bytes", "1000000"]);
    let open = r#"{"variants":[],"openVariants":true}"#;
    assert_eq!(server.ask("PUT", "/experiment/alpaca", open).status, 201);
    post(&server, "alpaca", &lines);
    let asked = [arg(&store), "--experiment", "alpaca", "--format", "json"];
    let beside = printed(&asked);
    server.kill();
    assert_eq!(printed(&asked), beside, "what was killed says the same");

    let report: Value = serde_json::from_str(&beside).unwrap();
    assert_eq!(report["count"], lines.len());
    let published = fs::read_to_string(published).unwrap();
    for row in published.lines().skip(1) {
        let row: Vec<&str> = row.split(',').collect();
        let variants = report["variants"].as_array().unwrap();
        let variant = variants.iter().find(|one| one["key"] == row[0]).unwrap();
        let metrics = variant["metrics"].as_array().unwrap();
        let metric = |name: &str| metrics.iter().find(|one| one["name"] == name).unwrap();
        let six = |value: f64| format!("{value:.5e}");
        let figure = |name: &str| six(metric("win_rate")[name].as_f64().unwrap());
        let expected = |column: usize| six(row[column].parse().unwrap());
        assert_eq!(figure("mean"), expected(1), "{row:?}");
        assert_eq!(figure("standardError"), expected(2), "{row:?}");
        let length = metric("length")["mean"].as_f64().unwrap().floor();
        assert_eq!(length.to_string(), row[3], "{row:?}");
        assert_eq!(metric("win_rate")["count"].to_string(), row[4], "{row:?}");
    }
}

#[test]
fn a_running_a_killed_and_a_copied_log_give_the_same_report() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &SMALL);
    fill(&server, "ranker");
    for extra in [&[][..], &["--by", "context.place"], &["--adjust", "bh"]] {
        for format in ["table", "json", "markdown"] {
            let of = |paths: &[&str]| {
                printed(
                    &[
                        paths,
                        &["--experiment", "ranker", "--format", format],
                        extra,
                    ]
                    .concat(),
                )
            };
            let beside = of(&[arg(&store)]);
            assert!(beside.contains("deep.tokens"), "{beside}");
            assert_eq!(of(&[arg(&store.join("experiments/ranker"))]), beside);
        }
    }
    let asked = ["--format", "json"];
    let folder = store.join("experiments/ranker");
    let beside = printed(&[&[arg(&folder)], &asked[..]].concat());
    let report: Value = serde_json::from_str(&beside).unwrap();
    assert_eq!(report["count"], 600);
    assert_eq!(report["control"], "B");
    assert_eq!(report["unit"]["field"], "context.session");
    assert_eq!(report["variants"][0]["unitCount"], 30);
    server.kill();
    assert_eq!(printed(&[&[arg(&folder)], &asked[..]].concat()), beside);
    let server = Server::start(&store, &SMALL);
    assert!(server.stop().0.success());
    // The segments one by one, in any order and one of them twice; what lies beside them says what
    // the experiment is.
    let copy = dir.path().join("copy");
    copy_folder(&folder, &copy);
    let mut copies = segments(&copy);
    assert!(copies.len() > 3, "{copies:?}");
    copies.rotate_left(1);
    copies.push(copies[0].clone());
    let mut args: Vec<&str> = copies.iter().map(|path| arg(path)).collect();
    args.extend(asked);
    assert_eq!(printed(&args), beside);
    // Without it, the entries alone.
    fs::remove_file(copy.join("experiment.json")).unwrap();
    let output = run(&["report", arg(&copy), "--unit", "context.session"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no experiment.json"), "{said}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("A (control)"), "{text}");
    // What is split by a field says for which value each is.
    let split = printed(&[arg(&folder), "--by", "context.place", "--format", "json"]);
    let split: Value = serde_json::from_str(&split).unwrap();
    let parts = split["reports"].as_array().unwrap().iter();
    let parts: Vec<_> = parts.map(|one| (&one["part"], &one["count"])).collect();
    let expected = [
        ("context.place = eu", 200),
        ("context.place = us", 200),
        ("context.place = asia", 200),
    ];
    assert_eq!(split["by"], "context.place");
    for ((part, count), expected) in parts.iter().zip(expected) {
        assert_eq!(
            (part.as_str(), count.as_u64()),
            (Some(expected.0), Some(expected.1))
        );
    }
    assert_eq!(parts.len(), 3);
}

#[test]
fn what_can_not_be_answered_is_said_and_nothing_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &SMALL);
    fill(&server, "ranker");
    server.kill();
    let (path, none) = (arg(&store), dir.path().join("none"));
    for (args, code, words) in [
        (&[][..], 2, "PATH"),
        (&[arg(&none)], 1, "none"),
        (&[arg(dir.path())], 1, "neither a trialog store"),
        (&[path], 1, "name one with --experiment: demo, ranker"),
        (
            &[path, "--experiment", "other"],
            1,
            "there is no experiment other",
        ),
        (&[path, "--experiment", "UP"], 2, "UP"),
        (
            &[path, "--format", "csv"],
            2,
            "a format is table, json or markdown",
        ),
        (
            &[path, "--adjust", "none"],
            2,
            "an adjustment is holm or bh",
        ),
        (
            &[path, "--experiment", "ranker", "--by", "context.nope"],
            1,
            "no entry has the field context.nope",
        ),
        (
            &[path, "--experiment", "ranker", "--by", "metrics.ms"],
            1,
            "the field metrics.ms has more than 64 values",
        ),
        (&[path, "--server", "nonsense"], 2, "server"),
    ] {
        refused(args, code, words);
    }
    // No entries yet is no failure.
    let text = printed(&[path, "--experiment", "demo"]);
    assert!(text.starts_with("Report on demo: 0 entries"), "{text}");
}
