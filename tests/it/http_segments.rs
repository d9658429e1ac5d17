//! Segments over HTTP: the list, whole and resumed downloads, what is refused; and what was
//! downloaded replays and verifies by itself.

use std::time::Instant;

use serde_json::Value;

use crate::server::{Answer, EXAMPLE, PATIENCE, Server, arg, run};

const SEGMENTS: &str = "/experiment/demo/segments";

fn list(server: &Server) -> Vec<Value> {
    let answer = server.ask("GET", SEGMENTS, "");
    assert_eq!(answer.status, 200, "{answer:?}");
    let json = answer.json();
    assert_eq!(json["next"], Value::Null);
    json["segments"].as_array().unwrap().clone()
}

/// The list, once all but the last segment are sealed.
fn sealed(server: &Server) -> Vec<Value> {
    let until = Instant::now() + PATIENCE;
    loop {
        let listed = list(server);
        let (last, front) = listed.split_last().unwrap();
        assert_eq!(last["state"], "active");
        if front.iter().all(|segment| segment["state"] == "sealed") {
            return listed;
        }
        assert!(Instant::now() < until, "{listed:?}");
        std::thread::yield_now();
    }
}

fn get(server: &Server, method: &str, number: u64, headers: &[(&str, &str)]) -> Answer {
    let mut headers = headers.to_vec();
    headers.push(("x-api-key", &server.key));
    let path = format!("{SEGMENTS}/{number}");
    server.connect().send(method, &path, &headers, b"").unwrap()
}

#[test]
fn what_is_downloaded_replays_and_verifies_alone() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &["--segment-bytes", "100000"]);
    for _ in 0..10 {
        let batch = format!("[{}]", [EXAMPLE; 100].join(","));
        assert_eq!(
            server.ask("POST", "/experiment/demo/logs", &batch).status,
            200
        );
    }
    let listed = sealed(&server);
    assert!(listed.len() > 3, "{listed:?}");
    let entries: u64 = listed
        .iter()
        .map(|segment| segment["entries"].as_u64().unwrap())
        .sum();
    assert_eq!(entries, 1000);
    let mut client = server.connect();
    let headers = [
        ("x-api-key", &*server.key),
        ("accept", "application/x-ndjson"),
    ];
    let logs = client
        .send("GET", "/experiment/demo/logs", &headers, b"")
        .unwrap();
    let logs = String::from_utf8(logs.body).unwrap();
    let mut logs = logs.lines();

    let copies = dir.path().join("copies");
    std::fs::create_dir(&copies).unwrap();
    for (number, segment) in (0..).zip(&listed[..listed.len() - 1]) {
        let (etag, file) = (
            segment["etag"].as_str().unwrap(),
            segment["file"].as_str().unwrap(),
        );
        let whole = get(&server, "GET", number, &[]);
        assert_eq!(whole.status, 200);
        assert_eq!(whole.header("etag"), Some(etag));
        assert_eq!(whole.header("accept-ranges"), Some("bytes"));
        let disposition = format!("attachment; filename=\"{file}\"");
        assert_eq!(whole.header("content-disposition"), Some(&*disposition));
        assert_eq!(segment["bytes"], whole.body.len());
        let stored = server.dir.join("experiments/demo").join(file);
        assert!(whole.body == std::fs::read(stored).unwrap());

        // Cut off in the middle, and resumed.
        let middle = whole.body.len() / 3;
        let (first, rest) = (
            format!("bytes=0-{}", middle - 1),
            format!("bytes={middle}-"),
        );
        let mut body = Vec::new();
        for range in [&first, &rest] {
            let part = get(
                &server,
                "GET",
                number,
                &[("range", range), ("if-range", etag)],
            );
            assert_eq!(part.status, 206);
            let (begin, len) = (body.len(), whole.body.len());
            body.extend_from_slice(&part.body);
            let content = format!("bytes {begin}-{}/{len}", body.len() - 1);
            assert_eq!(part.header("content-range"), Some(&*content));
        }
        assert!(body == whole.body);
        let copy = copies.join(file);
        std::fs::write(&copy, &body).unwrap();
        assert_eq!(run(&["verify", arg(&copy)]).status.code(), Some(0));
        let replayed = run(&["replay", arg(&copy)]);
        assert_eq!(replayed.status.code(), Some(0), "{replayed:?}");
        let replayed = String::from_utf8(replayed.stdout).unwrap();
        let count = replayed.lines().count();
        assert_eq!(segment["entries"], count);
        let id = |line: Option<&str>| line.unwrap()["{\"logId\":\"".len()..][..30].to_owned();
        assert_eq!(segment["firstLogId"], id(replayed.lines().next()));
        assert_eq!(segment["lastLogId"], id(replayed.lines().last()));
        assert!(replayed.lines().eq(logs.by_ref().take(count)));
    }
    // All of them together are the beginning of the log.
    let verified = run(&["verify", arg(&copies)]);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    assert!(server.stop().0.success());
}

#[test]
fn what_the_client_has_is_not_sent_and_what_is_written_to_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &["--segment-bytes", "20000"]);
    assert_eq!(list(&server), Vec::<Value>::new());
    for _ in 0..120 {
        server.ask("POST", "/experiment/demo/log", EXAMPLE).log_id();
    }
    let listed = sealed(&server);
    let etag = listed[0]["etag"].as_str().unwrap();
    let len = listed[0]["bytes"].as_u64().unwrap();

    let same = get(&server, "GET", 0, &[("if-none-match", etag)]);
    assert_eq!((same.status, same.header("etag")), (304, Some(etag)));
    assert!(same.body.is_empty());
    let other = [("range", "bytes=5-9"), ("if-range", "\"other\"")];
    let other = get(&server, "GET", 0, &other);
    assert_eq!((other.status, other.body.len() as u64), (200, len));
    let behind = get(&server, "GET", 0, &[("range", &format!("bytes={len}-"))]);
    behind.assert_error(416, "range_not_satisfiable", "", "behind the end");
    let content = format!("bytes */{len}");
    assert_eq!(behind.header("content-range"), Some(&*content));
    let head = get(&server, "HEAD", 0, &[("range", "bytes=0-1")]);
    assert_eq!((head.status, head.header("etag")), (200, Some(etag)));
    assert_eq!(head.header("content-length"), Some(&*len.to_string()));

    let active = listed.last().unwrap()["number"].as_u64().unwrap();
    assert_eq!(listed.last().unwrap()["etag"], Value::Null);
    let refused = get(&server, "GET", active, &[]);
    refused.assert_error(
        409,
        "segment_not_sealed",
        "still written to",
        "the active one",
    );
    let none = get(&server, "GET", active + 1, &[]);
    none.assert_error(404, "segment_not_found", "", "none of that number");
    for id in ["x", "-1", "99999999999999999999999"] {
        let answer = server.ask("GET", &format!("{SEGMENTS}/{id}"), "");
        answer.assert_error(404, "segment_not_found", "", id);
    }
    let page = server
        .ask("GET", &format!("{SEGMENTS}?after=0&limit=1"), "")
        .json();
    assert_eq!(page["segments"][0]["number"], 1);
    assert_eq!(page["next"], 1);
    let bad = server.ask("GET", &format!("{SEGMENTS}?after=x"), "");
    bad.assert_error(400, "bad_parameter", "the number of a segment", "after=x");
    let ingest = server.make_key(r#"{"name":"i","scopes":["ingest"]}"#).1;
    let refused = server.ask_as(&ingest, "GET", &format!("{SEGMENTS}/0"));
    refused.assert_error(403, "scope_missing", "", "a key that may only write");
    // A restart changes nothing of a sealed one.
    assert!(server.stop().0.success());
    let server = Server::start(&dir.path().join("s"), &["--segment-bytes", "20000"]);
    let same = get(&server, "GET", 0, &[("if-none-match", etag)]);
    assert_eq!(same.status, 304);
}

/// A server with a sealed segment that is larger than what sockets hold.
fn with_large_segment(dir: &std::path::Path) -> Server {
    let server = Server::start(&dir.join("s"), &["--segment-bytes", "20000000"]);
    let padding = "y".repeat(100_000);
    let body = format!(r#"{{"variantKey":"A","input":{{"p":"{padding}"}}}}"#);
    let batch = format!("[{}]", vec![body; 100].join(","));
    for _ in 0..4 {
        let answer = server.ask("POST", "/experiment/demo/logs", &batch);
        assert_eq!(answer.status, 200);
    }
    sealed(&server);
    server
}

/// A download of which nothing is read yet, but that it has begun.
fn begun(server: &Server) -> crate::server::Client {
    let mut client = server.connect();
    let key = &server.key;
    let head = format!("GET {SEGMENTS}/0 HTTP/1.1\r\nhost: t\r\nx-api-key: {key}\r\n\r\n");
    client.send_raw(head.as_bytes()).unwrap();
    client.wait_for_bytes();
    client
}

#[test]
fn at_most_64_are_sent_at_once_and_one_that_ends_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let server = with_large_segment(dir.path());
    let mut slow: Vec<_> = (0..64).map(|_| begun(&server)).collect();
    let refused = get(&server, "GET", 0, &[]);
    refused.assert_error(503, "overloaded", "64 segments are being sent", "the 65th");
    assert!(refused.header("retry-after").is_some());
    // Everything else goes on.
    server.ask("POST", "/experiment/demo/log", EXAMPLE).log_id();
    assert_eq!(server.ask("GET", SEGMENTS, "").status, 200);
    drop(slow.pop());
    let until = Instant::now() + PATIENCE;
    let stored =
        std::fs::read(&crate::offline::segments(&server.dir.join("experiments/demo"))[0]).unwrap();
    loop {
        let answer = get(&server, "GET", 0, &[]);
        if answer.status == 200 {
            assert!(answer.body == stored);
            break;
        }
        assert!(Instant::now() < until, "no place becomes free");
    }
    let whole = slow.remove(0).read_answer(false).unwrap();
    assert!(whole.body == stored, "who was slow gets all of it");
}

#[test]
fn a_download_that_has_begun_ends_whole_when_its_experiment_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let server = with_large_segment(dir.path());
    let stored =
        std::fs::read(&crate::offline::segments(&server.dir.join("experiments/demo"))[0]).unwrap();
    let mut client = begun(&server);
    let deleted = server.ask("DELETE", "/experiment/demo?confirm=demo", "");
    assert_eq!(deleted.status, 200, "{deleted:?}");
    let after = get(&server, "GET", 0, &[]);
    after.assert_error(404, "experiment_not_found", "", "a new one");
    server.define("demo");
    let answer = client.read_answer(false).unwrap();
    assert!(answer.status == 200 && answer.body == stored);
}
