//! `trialog replay --to`: what is in one store, sent into another server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::json;

use crate::offline::{COUNT, SMALL, fill, replay};
use crate::server::{Server, arg, run, trialog};

/// Entries of a store that is sent while something is killed.
const MANY: usize = 60_000;

fn send_command(from: &Path, to: &str, key: &str, more: &[&str]) -> Command {
    let mut command = trialog();
    command.args(["replay", arg(from), "--to", to, "--api-key", key]);
    command.args(more);
    command
}

fn send(from: &Path, to: &Server, more: &[&str]) -> Output {
    let mut command = send_command(from, &to.url(), &to.key, more);
    command.output().expect("the binary runs")
}

/// What it said, of a run that ended with this code and printed nothing.
fn said(output: &Output, code: i32) -> String {
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{words}");
    assert!(output.stdout.is_empty());
    words
}

/// The entries in a store, experiment by experiment, without what a server adds to them.
fn bodies(store: &Path) -> Vec<String> {
    let lines = replay(&[arg(store)]);
    let body = |line: String| {
        let (_, experiment) = line.split_once(r#","experiment":"#).expect("ours");
        let (slug, rest) = experiment.split_once(',').expect("ours");
        let (_, body) = rest.split_once(',').expect("ours");
        format!("{slug} {body}")
    };
    lines.into_iter().map(body).collect()
}

/// A store with many small entries.
fn with_many(dir: &Path) -> PathBuf {
    let server = Server::start(dir, &["--segment-bytes", "1048576"]);
    let line = |n: usize| format!("{{\"variantKey\":\"{}\",\"n\":{n}}}\n", ["A", "B"][n % 2]);
    for part in 0..3 {
        let numbers = part * MANY / 3..(part + 1) * MANY / 3;
        let lines: String = numbers.map(line).collect();
        let answer = server.ask("POST", "/experiment/demo/logs", &lines);
        assert_eq!(answer.status, 200);
    }
    server.stop();
    dir.to_path_buf()
}

fn count(server: &Server, slug: &str) -> usize {
    let described = server.ask("GET", &format!("/experiment/{slug}"), "").json();
    described["count"].as_u64().expect("a count") as usize
}

/// Returns once the server has so many entries.
fn wait_for(server: &Server, sender: &mut Child, entries: usize) {
    while count(server, "demo") < entries {
        assert_eq!(sender.try_wait().unwrap(), None, "it is still sending");
    }
}

#[test]
fn all_is_sent_once_in_order_and_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let source = Server::start(&dir.path().join("from"), &SMALL);
    fill(&source);
    // Line ends in a body, numbers as they were written, a member of the client's own.
    let body = "{\"variantKey\":\"A\",\r\n  \"n\": 123456789012345678901234567890,\n\"x\":0.10,\"idempotencyKey\":\"é\"}";
    source.ask("POST", "/experiment/demo/log", body).log_id();
    let target = Server::start(&dir.path().join("to"), &SMALL);
    target.define("other");
    target.ask(
        "POST",
        "/experiment/demo/log",
        r#"{"variantKey":"B","own":true}"#,
    );

    // Beside the server that writes the source.
    let words = said(&send(&source.dir, &target, &["--experiment", "demo"]), 0);
    let address = target.address;
    let all = COUNT / 2 + 1;
    let expected =
        format!("trialog: demo: {all} entries are on http://{address}, 0 of them were before\n");
    assert_eq!(words, expected);
    // Again, with other batches, and the rest.
    let words = said(&send(&source.dir, &target, &["--rate", "70"]), 0);
    let demo = format!("demo: {all} entries are on http://{address}, {all} of them were before");
    let other = format!(
        "other: {} entries are on http://{address}, 0 of them were before",
        COUNT / 2
    );
    assert!(words.contains(&demo) && words.contains(&other), "{words}");
    let ids = crate::offline::ids(&replay(&[arg(&source.dir), "--experiment", "demo"]));
    let later = ["--experiment", "demo", "--after", &ids[5]];
    let words = said(&send(&source.dir, &target, &later), 0);
    assert!(
        words.contains(&format!(
            "{0} entries are on http://{address}, {0} of",
            all - 6
        )),
        "{words}"
    );
    source.stop();
    target.stop();

    let sent = bodies(&dir.path().join("from"));
    let mut there = bodies(&dir.path().join("to"));
    assert_eq!(there.remove(0), r#""demo" "variantKey":"B","own":true}"#);
    assert_eq!(there, sent);
    let verified = run(&["verify", arg(&dir.path().join("to"))]);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
}

#[test]
fn a_broken_run_is_repeated_without_doubles() {
    let dir = tempfile::tempdir().unwrap();
    let from = with_many(&dir.path().join("from"));
    let to = dir.path().join("to");
    let target = Server::start(&to, &[]);
    let begin = |target: &Server| -> Child {
        let mut command = send_command(&from, &target.url(), &target.key, &[]);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    // The sender is killed,
    let mut sender = begin(&target);
    wait_for(&target, &mut sender, MANY / 6);
    sender.kill().unwrap();
    sender.wait().unwrap();
    // then the receiver,
    let mut sender = begin(&target);
    wait_for(&target, &mut sender, MANY / 3);
    target.kill();
    let words = said(&sender.wait_with_output().unwrap(), 1);
    assert!(words.contains("failed 7 times: can't reach"), "{words}");
    assert!(words.contains("the same command goes on"), "{words}");
    assert!(words.contains("up to log_"), "{words}");
    // then both.
    let target = Server::start(&to, &[]);
    let mut sender = begin(&target);
    wait_for(&target, &mut sender, MANY / 2);
    sender.kill().unwrap();
    target.kill();
    sender.wait().unwrap();

    let target = Server::start(&to, &[]);
    assert!((MANY / 2..MANY).contains(&count(&target, "demo")));
    let words = said(&begin(&target).wait_with_output().unwrap(), 0);
    assert!(
        words.contains(&format!("demo: {MANY} entries are on")),
        "{words}"
    );
    assert_eq!(count(&target, "demo"), MANY);
    let words = said(&send(&from, &target, &[]), 0);
    let all_known = format!(
        "{MANY} entries are on http://{}, {MANY} of them",
        target.address
    );
    assert!(words.contains(&all_known), "{words}");
    target.stop();
    assert!(
        bodies(&from) == bodies(&to),
        "each once, in the order of the source"
    );
}

#[test]
fn what_a_forgetful_server_has_twice_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let source = Server::start(&dir.path().join("from"), &[]);
    let lines = "{\"variantKey\":\"A\"}\n".repeat(50);
    source.ask("POST", "/experiment/demo/logs", &lines);
    source.stop();
    let from = dir.path().join("from");
    let target = Server::start(&dir.path().join("to"), &["--idempotency-entries", "20"]);
    said(&send(&from, &target, &[]), 0);
    let words = said(&send(&from, &target, &[]), 1);
    assert!(words.contains("50 entries are on"), "{words}");
    assert!(
        words.contains("the order there is not the one here (places: 1)"),
        "{words}"
    );
    assert!(words.contains("entries are there twice"), "{words}");
    assert_eq!(count(&target, "demo"), 80);
}

#[test]
fn what_can_not_be_sent_says_why_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    let source = Server::start(&from, &[]);
    let made = json!({"openVariants": true});
    source.ask("PUT", "/experiment/search", &made.to_string());
    for variant in ["A", "it's"] {
        let body = json!({"variantKey": variant});
        source
            .ask("POST", "/experiment/search/log", &body.to_string())
            .log_id();
    }
    source.stop();
    let ids = crate::offline::ids(&replay(&[arg(&from)]));
    let to = dir.path().join("to");
    let target = Server::start(&to, &[]);
    let url = target.url();

    let words = said(&send(&from, &target, &[]), 1);
    let address = target.address;
    let make = "trialog experiment create search --variant 'A' --variant 'it'\\''s'";
    let line =
        format!("{address} has no experiment search. Make it first: {make} --server {url}\n");
    assert!(words.contains(&line), "{words}");
    assert!(words.contains("search: no entry was sent"), "{words}");
    target.define("search");
    let words = said(&send(&from, &target, &[]), 1);
    let refused = format!(
        "{address} refuses {}: variantKey is not one of \"A\", \"B\"",
        ids[1]
    );
    assert!(words.contains(&refused), "{words}");
    assert_eq!(count(&target, "search"), 0);
    // The command that was told, as it stands there.
    let told = make.replacen("trialog", env!("CARGO_BIN_EXE_trialog"), 1);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{told} --server {url}")]);
    let made = shell.env("TRIALOG_API_KEY", &target.key).output().unwrap();
    assert!(made.status.success(), "{made:?}");

    let (_, reader) = target.make_key(r#"{"name":"r","scopes":["read"]}"#);
    for (key, message) in [
        (
            "tl_wrong",
            "(the key is that of --api-key or TRIALOG_API_KEY)",
        ),
        (
            &*reader,
            "(the key is that of --api-key or TRIALOG_API_KEY)",
        ),
        ("line\nend", "the API key can't be sent"),
    ] {
        let output = send_command(&from, &url, key, &[]).output().unwrap();
        let words = said(&output, 1);
        assert!(words.contains(message) && !words.contains(key), "{words}");
    }
    let no_key = run(&["replay", arg(&from), "--to", &url]);
    assert!(said(&no_key, 1).contains("--to needs a key with the scope ingest"));
    let nothing = said(&send(&from, &target, &["--variant", "Z"]), 0);
    assert!(nothing.contains("nothing is selected"), "{nothing}");
    let nobody = send_command(&from, "http://127.0.0.1:1", "k", &[]).output();
    let words = said(&nobody.unwrap(), 1);
    let begin = "trialog: can't reach 127.0.0.1:1: is `trialog serve` running there?";
    assert!(words.starts_with(begin), "{words}");
    target.stop();

    let full = Server::start(&to, &["--min-free", &u64::MAX.to_string()]);
    // It looks for room in the background, once there is something to do.
    while full
        .ask("POST", "/experiment/demo/log", r#"{"variantKey":"A"}"#)
        .status
        == 200
    {}
    let words = said(&send(&from, &full, &[]), 1);
    assert!(words.contains("make room on the disk of"), "{words}");
    full.stop();
    let target = Server::start(&to, &[]);
    // With other bodies under the keys: as if another store had the same ids.
    let key = ("x-api-key", target.key.as_str());
    let other = [key, ("idempotency-key", ids[0].as_str())];
    let mut client = target.connect();
    let taken = client.send(
        "POST",
        "/experiment/search/log",
        &other,
        br#"{"variantKey":"A","x":1}"#,
    );
    taken.unwrap().log_id();
    let words = said(&send(&from, &target, &[]), 1);
    let refused = format!(
        "refuses {}: this idempotency key was given for something else",
        ids[0]
    );
    assert!(words.contains(&refused), "{words}");
    target.stop();
    let small = Server::start(&to, &["--max-batch", "1024"]);
    let long = dir.path().join("long");
    let source = Server::start(&long, &[]);
    let body = json!({"variantKey": "A", "text": "x".repeat(1024)});
    source
        .ask("POST", "/experiment/demo/log", &body.to_string())
        .log_id();
    source.stop();
    let words = said(&send(&long, &small, &[]), 1);
    assert!(words.contains("needs a higher --max-batch"), "{words}");

    for wrong in [
        &["--rate", "5"][..],
        &["--to", &url, "--rate", "0"],
        &["--to", &url, "--output", "x"],
        &["--to", "ftp://127.0.0.1:1"],
    ] {
        let output = run(&[&["replay", arg(&from)], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
    }
}

/// Reads one request; its keys, and how many bytes its body has.
fn read_request(stream: &mut BufReader<TcpStream>) -> (String, usize) {
    let (mut keys, mut len) = (String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        match line.trim_end().split_once(": ") {
            Some(("idempotency-keys", value)) => keys = value.to_owned(),
            Some(("content-length", value)) => len = value.parse().unwrap(),
            Some(_) => {}
            None if line.trim_end().is_empty() => break,
            None => assert!(
                line.starts_with("POST /experiment/demo/logs HTTP/1.1"),
                "{line}"
            ),
        }
    }
    stream.read_exact(&mut vec![0; len]).unwrap();
    (keys, len)
}

#[test]
fn a_server_that_is_busy_or_breaks_off_is_tried_again_with_the_same_keys() {
    let dir = tempfile::tempdir().unwrap();
    let source = Server::start(&dir.path().join("from"), &[]);
    let lines = "{\"variantKey\":\"A\"}\n".repeat(450);
    source.ask("POST", "/experiment/demo/logs", &lines);
    source.stop();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut command = send_command(&dir.path().join("from"), &url, "key", &[]);
    let sender = command.stderr(Stdio::piped()).spawn().unwrap();
    let answer = |stream: &mut BufReader<TcpStream>, head: &str, body: &str| {
        let len = body.len();
        let text = format!("HTTP/1.1 {head}\r\ncontent-length: {len}\r\n\r\n{body}");
        stream.get_mut().write_all(text.as_bytes()).unwrap();
    };
    let busy = r#"{"success":false,"error":{"code":"overloaded","message":"later"}}"#;
    let accept = || BufReader::new(listener.accept().unwrap().0);
    let mut all_keys = Vec::new();
    let mut stream = accept();
    for batch in 0..3 {
        let (keys, len) = read_request(&mut stream);
        assert!(len < 10_000 && keys.len() < 8000);
        answer(
            &mut stream,
            "503 Service Unavailable\r\nretry-after: 0",
            busy,
        );
        assert_eq!(read_request(&mut stream).0, keys);
        // It breaks off, in the middle of an answer.
        stream
            .get_mut()
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{")
            .unwrap();
        drop(stream);
        stream = accept();
        assert_eq!(read_request(&mut stream).0, keys);
        let ids: Vec<&str> = keys.split(' ').collect();
        assert_eq!(ids.len(), [200, 200, 50][batch]);
        let taken = json!({"success": true, "count": ids.len(), "logIds": ids});
        answer(&mut stream, "200 OK", &taken.to_string());
        all_keys.extend(ids.into_iter().map(str::to_owned));
    }
    let words = said(&sender.wait_with_output().unwrap(), 0);
    assert!(words.contains("demo: 450 entries are on"), "{words}");
    let from = dir.path().join("from");
    assert_eq!(all_keys, crate::offline::ids(&replay(&[arg(&from)])));
}
