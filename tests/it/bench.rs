//! `trialog bench` on real servers: its numbers are those of the store, and what it can't do
//! it says in a sentence.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::server::{Server, arg, run, trialog};

/// A run that is over soon, with every entry in its numbers.
const SHORT: [&str; 4] = ["--duration", "0.3", "--warm-up", "0"];
/// `trialog bench` with a store of its own in `dir`.
pub fn bench(dir: &Path, args: &[&str]) -> Command {
    let mut command = trialog();
    command.args(["bench", "--dir", arg(dir)]).args(args);
    command
}

/// `trialog bench` on a server that runs.
fn on(server: &Server, args: &[&str]) -> Output {
    server.command(&[&["bench"], args].concat())
}

pub fn document(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("stdout is one JSON document")
}

pub fn count(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is a count"))
}

fn sum(values: &Value, pointer: &str) -> u64 {
    let values = values.as_array().expect("a list").iter();
    values
        .map(|value| count(value.pointer(pointer).expect("it is there")))
        .sum()
}

pub fn lines(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).expect("UTF-8")
}

/// What lies in the folder that stores of its own are made in.
pub fn left_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn what_it_counts_is_in_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    for (slug, batch) in [("single", None), ("batches", Some("7"))] {
        server.define(slug);
        let mut args = vec!["--experiment", slug, "--clients", "8", "--json", "-"];
        args.extend(SHORT);
        args.extend(batch.into_iter().flat_map(|count| ["--batch", count]));
        let output = on(&server, &args);
        let document = document(&output);
        let result = &document["results"][0];
        let there = server.ask("GET", &format!("/experiment/{slug}"), "").json();
        let entries = count(&result["entries"]);
        assert!(entries > 0);
        assert_eq!(there["count"], entries);
        let requests = count(&result["requests"]);
        let per_request = batch.map_or(1, |count| count.parse().unwrap());
        assert_eq!(requests * per_request, entries);
        assert_eq!(sum(&result["histogram"]["buckets"], "/1"), requests);
        assert_eq!(sum(&result["bySecond"], "/entries"), entries);
        assert_eq!(sum(&result["rounds"], "/entries"), entries);
        assert_eq!(result["errors"], json!({}));
        assert_eq!(document["durability"], "sync");
        assert_eq!(document["settings"]["clients"], 8);
        assert!(count(&document["machine"]["processors"]) > 0);
        // The table says the same.
        let table = lines(&output.stderr);
        let row = table
            .lines()
            .find(|line| line.starts_with("trialog "))
            .unwrap();
        let rate = result["entriesPerSecond"].as_f64().unwrap();
        let said = row.split_whitespace().nth(1).unwrap().replace(',', "");
        assert_eq!(said, format!("{rate:.0}"), "{table}");
        assert!(row.ends_with(" 0"), "no errors: {table}");
    }
    // More than one experiment are made only when that is allowed.
    let several = [
        "--experiment",
        "load",
        "--experiments",
        "3",
        "--connections",
        "2",
    ];
    let args = [
        &several[..],
        &["--clients", "5", "--zipf", "1", "--json", "-"],
        &SHORT,
    ]
    .concat();
    let refused = on(&server, &args);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(server.ask("GET", "/experiment/load-0", "").status, 404);
    let document = document(&on(
        &server,
        &[&args[..], &["--create", "--check"]].concat(),
    ));
    let there = |n| {
        count(
            &server
                .ask("GET", &format!("/experiment/load-{n}"), "")
                .json()["count"],
        )
    };
    let entries = count(&document["results"][0]["entries"]);
    assert_eq!(there(0) + there(1) + there(2), entries);
    assert!(
        there(0) > there(2),
        "the first one gets three times as much"
    );
    let check = &document["check"];
    assert_eq!(
        (&check["found"], &check["lost"]),
        (&json!(entries), &json!(0))
    );
    // It needs no read scope unless it is to check.
    let (_, key) = server.make_key(r#"{"name":"k","scopes":["ingest"],"experiments":["load-*"]}"#);
    let url = server.url();
    let ingest = [&["bench", "--server", &url, "--api-key", &key], &args[..]].concat();
    assert_eq!(run(&ingest).status.code(), Some(0));
    let checked = run(&[&ingest[..], &["--check"]].concat());
    assert_eq!(checked.status.code(), Some(1));
    let words = lines(&checked.stderr);
    assert!(
        words.contains("403 scope_missing: this key lacks the scope read"),
        "{words}"
    );
}

#[test]
fn a_store_of_its_own_is_checked_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "--experiments",
        "5",
        "--check",
        "--json",
        "-",
        "--duration",
        "0.3",
    ];
    let args = [
        &args[..],
        &["--warm-up", "0.1", "--", "--durability", "relaxed"],
    ]
    .concat();
    let output = bench(dir.path(), &args).output().unwrap();
    let document = document(&output);
    assert_eq!(
        document["durability"], "relaxed",
        "the server got its flags"
    );
    let check = &document["check"];
    // What was sent to warm up is there, too.
    let entries = count(&document["results"][0]["entries"]);
    assert!(entries > 0 && count(&check["acknowledged"]) > entries);
    assert_eq!(check["found"], check["acknowledged"]);
    for what in [
        "lost",
        "doubled",
        "changed",
        "unexpected",
        "torn",
        "unknown",
    ] {
        assert_eq!(check[what], 0, "{what}");
    }
    assert_eq!(check["damage"], json!([]));
    assert!(
        lines(&output.stderr).contains("0 lost, 0 doubled"),
        "{output:?}"
    );
    assert_eq!(left_in(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn an_open_loop_sends_what_is_due_and_counts_what_it_could_not() {
    let dir = tempfile::tempdir().unwrap();
    for (rate, due) in [("1000", 300), ("333", 100)] {
        let args = [&["--rate", rate, "--json", "-"][..], &SHORT].concat();
        let document = document(&bench(dir.path(), &args).output().unwrap());
        let result = &document["results"][0];
        let (sent, unsent) = (count(&result["requests"]), count(&result["unsent"]));
        assert_eq!(sent + unsent, due, "{result}");
    }
}

#[test]
fn peers_get_the_same_work_in_turns() {
    let dir = tempfile::tempdir().unwrap();
    for peer in ["noop", "fdatasync"] {
        let file = dir.path().join("result.json");
        let args = [
            "--against",
            peer,
            "--clients",
            "4",
            "--json",
            arg(&file),
            "--check",
        ];
        let stores = tempfile::tempdir().unwrap();
        // Two rounds of each.
        let args = [&args[..], &["--duration", "2.2", "--warm-up", "0.1"]].concat();
        let output = bench(stores.path(), &args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let document: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let results = document["results"].as_array().unwrap();
        let names: Vec<_> = results.iter().map(|result| &result["name"]).collect();
        assert_eq!(names, ["trialog", peer]);
        for result in results {
            assert!(count(&result["entries"]) > 0, "{result}");
            assert_eq!(result["rounds"].as_array().unwrap().len(), 2);
        }
        assert_eq!(document["ratio"]["rounds"].as_array().unwrap().len(), 2);
        let table = lines(&output.stdout);
        let row = |name: &str| table.lines().any(|line| line.starts_with(name));
        assert!(row("trialog ") && row(peer) && row("ratio "), "{table}");
        // Only what trialog took is looked for in the store.
        assert_eq!(document["check"]["lost"], 0);
        assert_eq!(left_in(stores.path()), Vec::<PathBuf>::new());
    }
}

#[test]
fn what_is_wrong_is_said_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let (url, key) = (server.url(), server.key.as_str());
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        arg(&path).to_owned()
    };
    let bad = file("bad", "{\"variantKey\":\"A\"}\n{\"variantKey\":7}\n");
    let other = file("other", "{\"variantKey\":\"Z\"}\n");
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute_url = format!("http://{}", mute.local_addr().unwrap());
    let talking = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = mute.accept().unwrap();
        stream.write_all(b"+OK not HTTP\r\n").unwrap();
    });
    let at = |url, key, slug| ["--server", url, "--api-key", key, "--experiment", slug];
    let demo = at(&url, key, "demo");
    let with = |more: &[&'static str]| [&demo[..], more].concat();
    for (args, code, words) in [
        (vec!["--clients", "0"], 2, "0 is not in 1..=10000"),
        (vec!["--clients", "two"], 2, "invalid digit"),
        (vec!["--duration", "0"], 2, "it is more than 0"),
        (vec!["--duration", "inf"], 2, "a number of seconds"),
        (vec!["--zipf=-1"], 2, "a number above 0"),
        (vec!["--rate", "0"], 2, "0 is not in 1..=10000000"),
        (
            vec!["--connections", "65"],
            2,
            "more --connections than --clients",
        ),
        (vec!["--against", "sqlite"], 2, "invalid value 'sqlite'"),
        (
            vec!["--against", "noop", "--peer-url", "redis://127.0.0.1"],
            2,
            "--peer-url is for redis, nats and postgres",
        ),
        (
            vec!["--against", "nats", "--rate", "1000"],
            2,
            "--rate can't be kept with redis, nats and postgres",
        ),
        #[cfg(not(feature = "peers"))]
        (
            vec!["--against", "redis"],
            1,
            "this trialog has no client for redis: build it with --features peers",
        ),
        (vec!["--experiment", "Not A Slug"], 2, "a slug is"),
        (vec!["--kills", "3"], 2, "--audit"),
        (vec!["--server", &url], 2, "--experiment"),
        (
            demo[..2].iter().chain(&demo[4..]).copied().collect(),
            2,
            "needs --api-key",
        ),
        (
            vec!["--server", "ftp://x", "--experiment", "x"],
            2,
            "a server is http://HOST:PORT",
        ),
        (with(&["--audit"]), 2, "cannot be used with"),
        (
            with(&["--", "--durability", "relaxed"]),
            2,
            "cannot be used with",
        ),
        (vec!["--create"], 2, "--server"),
        (
            vec!["--entry", &bad],
            1,
            "bad, line 2: invalid type: integer `7`",
        ),
        (vec!["--entry", "/none"], 1, "can't read /none"),
        (vec!["--dir", "/none"], 1, "can't make a folder in /none"),
        (
            vec!["--", "--durability", "never"],
            1,
            "the server didn't start",
        ),
        (
            at("http://127.0.0.1:1", key, "demo").into(),
            1,
            "can't reach a server at 127.0.0.1:1",
        ),
        (
            at("http://no.host.invalid", key, "x").into(),
            1,
            "there is no host no.host.invalid",
        ),
        (
            at(&mute_url, key, "demo").into(),
            1,
            "doesn't speak HTTP/1.1",
        ),
        (at(&url, "wrong", "demo").into(), 1, "401 api_key_invalid"),
        (
            at(&url, "a\nb", "demo").into(),
            1,
            "the API key can't be sent",
        ),
        (
            at(&url, key, "none").into(),
            1,
            "there is no experiment none at",
        ),
        (with(&["--json", "/none/x"]), 1, "can't write /none/x"),
        (
            [&demo[..], &["--entry", &other]].concat(),
            1,
            "400 unknown_variant",
        ),
    ] {
        let mut all = vec!["bench", "--warm-up", "0"];
        if !args.contains(&"--duration") {
            all.extend(["--duration", "0.3"]);
        }
        let output = run(&[&all[..], &args].concat());
        let said = lines(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        assert!(
            !said.contains("panicked") && !said.contains("RUST_BACKTRACE"),
            "{said}"
        );
    }
    talking.join().unwrap();
}
