//! `/stats` and `/report` over HTTP, and the same report from the server's files.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::faults::report as say;
use crate::offline::segments;
use crate::real_entries::{lines, shared};
use crate::report::{fill, post, printed};
use crate::server::{Answer, Server, arg, run};

const SMALL: [&str; 2] = ["--segment-bytes", "16384"];

fn get(server: &Server, path: &str) -> Answer {
    server.ask("GET", &format!("/experiment/{path}"), "")
}

fn stats(server: &Server, slug: &str) -> Value {
    let answer = get(server, &format!("{slug}/stats"));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn text(answer: Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    String::from_utf8(answer.body).unwrap()
}

#[test]
fn stats_are_those_of_the_entries() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let none = stats(&server, "demo");
    let nobody = |key| json!({"key": key, "count": 0, "rate": null, "firstAt": null, "lastAt": null, "metrics": []});
    let empty = json!({"experiment": "demo", "count": 0, "variants": [nobody("A"), nobody("B")],
        "droppedMetrics": {"nameCount": 0, "valueCount": 0}, "droppedEntries": 0});
    assert_eq!(none, empty);

    let sent = [
        r#"{"variantKey":"B","metrics":{"ms":1,"deep":{"er":{"ok":true}},"note":"text"}}"#,
        r#"{"variantKey":"B","metrics":{"ms":3,"deep":{"er":{"ok":false}},"big":1e400}}"#,
        r#"{"variantKey":"B","metrics":{"ms":null}}"#,
    ];
    post(&server, "demo", &sent.map(str::to_owned));
    let found = stats(&server, "demo");
    let b = &found["variants"][1];
    assert_eq!((&found["count"], &b["count"]), (&json!(3), &json!(3)));
    assert_eq!(found["variants"][0], nobody("A"));
    assert_eq!(b["firstAt"], b["lastAt"], "one batch has one time");
    assert_eq!(b["rate"], Value::Null);
    let ms = json!({"name": "ms", "count": 2, "sum": 4.0, "mean": 2.0, "variance": 2.0, "min": 1.0, "max": 3.0,
        "quantiles": {"0.5": 1.0, "0.9": 1.0, "0.95": 1.0, "0.99": 1.0},
        "nonNumericCount": 1, "notFiniteCount": 0, "isIncomplete": false});
    assert_eq!(b["metrics"][0], ms);
    let named = |name: &str| {
        let metrics = b["metrics"].as_array().unwrap();
        metrics.iter().find(|one| one["name"] == name).unwrap()
    };
    assert_eq!(named("deep.er.ok")["mean"], 0.5);
    assert_eq!(named("note")["nonNumericCount"], 1);
    assert_eq!(named("note")["mean"], Value::Null);
    assert_eq!(named("big")["notFiniteCount"], 1);

    // Names beyond those that are kept are counted.
    let many: Vec<_> = (0..300).map(|n| format!(r#""n{n}":{n}"#)).collect();
    let many = format!(r#"{{"variantKey":"A","metrics":{{{}}}}}"#, many.join(","));
    post(&server, "demo", &[many.clone(), many]);
    let found = stats(&server, "demo");
    // ms, deep.er.ok, note and big came first.
    assert_eq!(
        found["droppedMetrics"],
        json!({"nameCount": 48, "valueCount": 96})
    );
    assert_eq!(
        found["variants"][0]["metrics"].as_array().unwrap().len(),
        252
    );
    assert!(
        text(get(&server, "demo/report?format=table")).contains("96 values of 48 further names")
    );

    let (_, ingest) = server.make_key(r#"{"name":"w","scopes":["ingest"]}"#);
    let (_, read) = server.make_key(r#"{"name":"r","scopes":["read"]}"#);
    for what in ["stats", "report"] {
        let path = format!("/experiment/demo/{what}");
        assert_eq!(server.ask_as(&read, "GET", &path).status, 200);
        assert_eq!(server.ask_as(&ingest, "GET", &path).status, 403);
        assert_eq!(server.ask_as("none", "GET", &path).status, 401);
        assert_eq!(server.ask("POST", &path, "").status, 405);
        assert_eq!(get(&server, &format!("nowhere/{what}")).status, 404);
        let head = server.ask("HEAD", &path, "");
        assert_eq!((head.status, head.body.len()), (200, 0));
    }
}

#[test]
fn stats_go_on_over_kills_and_clean_ends() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let mut server = Server::start(&store, &SMALL);
    fill(&server, "ranker");
    let first = stats(&server, "ranker");
    assert_eq!(first["count"], 600);
    server.kill();
    server = Server::start(&store, &SMALL);
    assert_eq!(stats(&server, "ranker"), first);
    assert!(server.stop().0.success());
    server = Server::start(&store, &SMALL);
    assert_eq!(stats(&server, "ranker"), first);
    post(
        &server,
        "ranker",
        &[r#"{"variantKey":"A","metrics":{"ms":1000.25}}"#.to_owned()],
    );
    let more = stats(&server, "ranker");
    assert_eq!(more["count"], 601);
    assert_eq!(more["variants"][0]["metrics"][0]["max"], 1000.25);
}

/// The reports that are compared.
const ASKED: [&[&str]; 6] = [
    &["--format", "json"],
    &["--format", "json", "--by", "context.place"],
    &["--format", "table", "--alpha", "0.1", "--adjust", "bh"],
    &["--format", "markdown", "--control", "A", "--metric", "ms"],
    &["--format", "json", "--unit", "context.place"],
    &[
        "--format",
        "json",
        "--by",
        "context.place",
        "--unit",
        "context.session",
    ],
];

fn online(server: &Server) -> Vec<String> {
    let ask = |args: &&[&str]| {
        let output = server.command(&[&["report", "--experiment", "ranker"], *args].concat());
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        String::from_utf8(output.stdout).unwrap()
    };
    ASKED.iter().map(ask).collect()
}

fn offline(paths: &[&str]) -> Vec<String> {
    let ask = |args: &&[&str]| printed(&[paths, &["--experiment", "ranker"], *args].concat());
    ASKED.iter().map(ask).collect()
}

/// Flips a bit of each footer.
fn damage_footers(dir: &Path) {
    for path in segments(dir) {
        let mut bytes = fs::read(&path).unwrap();
        let footer = (512..bytes.len()).find(|at| bytes[*at..].starts_with(b"TLFOOTER"));
        if let Some(at) = footer {
            bytes[at + 40] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
}

#[test]
fn a_report_is_the_same_from_a_server_its_files_copies_and_footers_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &SMALL);
    fill(&server, "ranker");
    let folder = store.join("experiments/ranker");
    let reports = online(&server);
    assert!(
        reports[0].contains(r#""field": "context.session""#),
        "{}",
        reports[0]
    );
    assert!(reports[3].contains("A (control)"), "{}", reports[3]);
    assert_eq!(reports[1].matches(r#""part": "context.place"#).count(), 3);
    assert_eq!(offline(&[arg(&store)]), reports, "beside a server");
    server.kill();
    assert_eq!(offline(&[arg(&folder)]), reports, "of one that was killed");
    let server = Server::start(&store, &SMALL);
    assert_eq!(online(&server), reports, "started again");
    assert!(server.stop().0.success());

    let paths = segments(&folder);
    let shown = run(&["inspect", arg(&paths[0])]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("metrics         3, in "), "{shown}");
    let paths: Vec<_> = paths.iter().rev().map(|path| arg(path)).collect();
    assert_eq!(offline(&paths), reports, "one by one");

    damage_footers(&folder);
    assert_eq!(offline(&[arg(&folder)]), reports, "with damaged footers");
    let server = Server::start(&store, &SMALL);
    assert_eq!(
        online(&server),
        reports,
        "from a server with damaged footers"
    );
    assert!(server.stop().0.success());
    let repaired = run(&["verify", "--repair", arg(&store)]);
    assert_eq!(repaired.status.code(), Some(1), "{repaired:?}");
    assert_eq!(offline(&[arg(&store)]), reports, "with footers made anew");
    let server = Server::start(&store, &SMALL);
    assert_eq!(
        online(&server),
        reports,
        "from a server with footers made anew"
    );
}

#[test]
fn lost_entries_are_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &SMALL);
    fill(&server, "ranker");
    assert!(server.stop().0.success());
    let first = segments(&store.join("experiments/ranker")).remove(0);
    let mut bytes = fs::read(&first).unwrap();
    bytes[3000] ^= 1;
    fs::write(&first, bytes).unwrap();
    let server = Server::start(&store, &SMALL);
    // The footer still says what was there; with a unit the entries are read.
    let answer = get(&server, "ranker/stats");
    assert_eq!(
        (
            answer.json()["count"].as_u64(),
            answer.header("trialog-damaged-places")
        ),
        (Some(600), None)
    );
    let answer = get(&server, "ranker/report");
    assert_eq!(
        (answer.status, answer.header("trialog-damaged-places")),
        (200, Some("1"))
    );
    let online = server.command(&["report", "--experiment", "ranker"]);
    assert_eq!(online.status.code(), Some(1));
    let said = String::from_utf8_lossy(&online.stderr);
    assert!(said.contains("1 damaged places"), "{said}");
    let offline = run(&["report", arg(&store), "--experiment", "ranker"]);
    assert_eq!(
        (offline.status.code(), offline.stdout),
        (Some(1), online.stdout)
    );
}

#[test]
fn real_entries_give_the_published_figures_over_http() {
    let (Some(lines), Some(published)) = (lines(), shared("data/alpaca-eval-published.csv")) else {
        return say("NOT RUN: the real entries aren't in ../shared, nor in TRIALOG_TEST_SHARED");
    };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &["--segment-bytes", "1000000"]);
    let open = r#"{"variants":[],"openVariants":true}"#;
    assert_eq!(server.ask("PUT", "/experiment/alpaca", open).status, 201);
    post(&server, "alpaca", &lines);
    let found = stats(&server, "alpaca");
    assert_eq!(found["count"], lines.len());
    let reported = get(&server, "alpaca/report").json();
    let published = fs::read_to_string(published).unwrap();
    for row in published.lines().skip(1) {
        let row: Vec<&str> = row.split(',').collect();
        let metric = |json: &Value, name: &str| {
            let variants = json["variants"].as_array().unwrap().clone();
            let variant = variants
                .into_iter()
                .find(|one| one["key"] == row[0])
                .unwrap();
            let metrics = variant["metrics"].as_array().unwrap().clone();
            metrics.into_iter().find(|one| one["name"] == name).unwrap()
        };
        let number = |value: &Value| value.as_f64().unwrap();
        let six = |value: f64| format!("{value:.5e}");
        let expected = |column: usize| six(row[column].parse().unwrap());
        let rate = metric(&found, "win_rate");
        let error = (number(&rate["variance"]) / number(&rate["count"])).sqrt();
        assert_eq!(six(number(&rate["mean"])), expected(1), "{row:?}");
        assert_eq!(six(error), expected(2), "{row:?}");
        assert_eq!(rate["count"].to_string(), row[4], "{row:?}");
        let length = number(&metric(&found, "length")["mean"]).floor();
        assert_eq!(length.to_string(), row[3], "{row:?}");
        let rate = metric(&reported, "win_rate");
        assert_eq!(six(number(&rate["mean"])), expected(1), "{row:?}");
        assert_eq!(six(number(&rate["standardError"])), expected(2), "{row:?}");
    }
}

#[test]
fn a_report_comes_in_the_form_that_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let form = |query: &str, accept: &str| {
        let headers = [("x-api-key", &*server.key), ("accept", accept)];
        let path = format!("/experiment/demo/report{query}");
        let answer = server.connect().send("GET", &path, &headers, b"");
        answer.unwrap().header("content-type").unwrap().to_owned()
    };
    let (table, markdown) = ("text/plain; charset=utf-8", "text/markdown; charset=utf-8");
    for (query, accept, expected) in [
        ("", "*/*", "application/json"),
        ("", "text/plain", table),
        ("", "text/html, text/markdown;q=0.9", markdown),
        ("?format=table", "application/json", table),
        ("?format=json", "text/plain", "application/json"),
        ("?format=markdown", "*/*", markdown),
    ] {
        assert_eq!(form(query, accept), expected, "{query} {accept}");
    }
}

#[test]
fn what_can_not_be_answered_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &SMALL);
    fill(&server, "ranker");
    for (query, code, words) in [
        ("stats?by=x", "unknown_parameter", "this path takes none"),
        (
            "report?nope=1",
            "unknown_parameter",
            "control, metric, alpha, adjust, by, unit, format",
        ),
        ("report?by=a&by=b", "bad_parameter", "by is there twice"),
        (
            "report?control=C",
            "bad_parameter",
            "no variant is C: there are A, B",
        ),
        (
            "report?metric=speed",
            "bad_parameter",
            "no entry has the metric speed: there are ms, ok, deep.tokens",
        ),
        ("report?alpha=0", "bad_parameter", "alpha is a number from"),
        (
            "report?alpha=NaN",
            "bad_parameter",
            "alpha is a number from",
        ),
        ("report?alpha=", "bad_parameter", "alpha is empty"),
        (
            "report?adjust=none",
            "bad_parameter",
            "an adjustment is holm or bh",
        ),
        (
            "report?format=csv",
            "bad_parameter",
            "a format is table, json or markdown",
        ),
        ("report?by=", "bad_parameter", "by is empty"),
        ("report?by=%zz", "bad_parameter", "hexadecimal"),
        (
            "report?by=context.nope",
            "bad_parameter",
            "no entry has the field context.nope",
        ),
        (
            "report?by=metrics.ms",
            "bad_parameter",
            "more than 64 values",
        ),
    ] {
        let answer = get(&server, &format!("ranker/{query}"));
        let json = answer.json();
        assert_eq!(
            (answer.status, &json["error"]["code"]),
            (400, &json!(code)),
            "{query}"
        );
        let message = json["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{query}: {message}");
    }
    let asked = |args: &[&str]| {
        let output = server.command(&[&["report"], args].concat());
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, said) = asked(&["--experiment", "ranker", "--control", "C&by=x"]);
    assert!(
        code == Some(1) && said.contains("no variant is C&by=x"),
        "{said}"
    );
    assert_eq!(asked(&[]).0, Some(2), "it takes an experiment");
    assert_eq!(asked(&["--experiment", "nowhere"]).0, Some(1));
    assert_eq!(
        asked(&["somewhere", "--experiment", "ranker"]).0,
        Some(2),
        "a path, too"
    );
}
