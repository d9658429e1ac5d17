//! Too much at once, and no room on the disk: refused before anything is stored, and it passes.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::server::{Answer, Client, EXAMPLE, Server};

const LOG: &str = "/experiment/demo/log";
const BUDGET: &str = "1048576";

fn count(server: &Server) -> u64 {
    let described = server.ask("GET", "/experiment/demo", "").json();
    described["count"].as_u64().expect("a count")
}

/// A request that has been given all bytes that may be in flight, and hasn't sent them yet.
fn holder(server: &Server) -> Client {
    let key = &server.key;
    let head = format!(
        "POST {LOG} HTTP/1.1\r\nhost: trialog\r\nx-api-key: {key}\r\nexpect: 100-continue\r\n\
         content-length: {BUDGET}\r\n\r\n"
    );
    loop {
        let mut client = server.connect();
        client.send_raw(head.as_bytes()).unwrap();
        let answer = client.read_answer(false).unwrap();
        if answer.status == 100 {
            return client;
        }
        // The bytes of a request come back a moment after its answer.
        assert_eq!(answer.code(), "overloaded");
    }
}

/// Retries while the server is overloaded, as it asks for.
fn retried(mut ask: impl FnMut() -> Answer) -> Answer {
    loop {
        let answer = ask();
        if answer.code() != "overloaded" {
            return answer;
        }
    }
}

#[test]
fn bytes_in_flight_are_bounded_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &["--inflight-bytes", BUDGET]);
    let id = server.ask("POST", LOG, EXAMPLE).log_id();
    let mut held = holder(&server);
    let words = "too many requests are in flight; nothing was stored, try again";
    let overloaded = |answer: Answer, what: &str| {
        answer.assert_error(503, "overloaded", words, what);
        assert_eq!(answer.header("retry-after"), Some("1"), "{what}");
    };
    overloaded(server.ask("POST", LOG, EXAMPLE), "an entry");
    overloaded(
        server.ask("POST", "/experiment/demo/logs", EXAMPLE),
        "a batch",
    );
    overloaded(server.ask("PUT", "/experiment/new", "{}"), "a definition");
    let key = &server.key;
    let mut client = server.connect();
    let chunked = format!(
        "POST {LOG} HTTP/1.1\r\nhost: trialog\r\nx-api-key: {key}\r\n\
         transfer-encoding: chunked\r\n\r\n13f\r\n{EXAMPLE}\r\n0\r\n\r\n"
    );
    client.send_raw(chunked.as_bytes()).unwrap();
    overloaded(client.read_answer(false).unwrap(), "one without a length");
    // Who may not ask, and who asks for what isn't there, is told so all the same.
    assert_eq!(server.ask_as("", "POST", LOG).status, 401);
    assert_eq!(
        server.ask("POST", "/experiment/none/log", EXAMPLE).status,
        404
    );
    // What takes no body goes on.
    assert_eq!(server.ask("GET", "/ready", "").status, 200);
    assert_eq!(server.ask("GET", &format!("{LOG}/{id}"), "").status, 200);
    assert_eq!(count(&server), 1);
    // The one that was let in is answered; with it the bytes come back.
    let rest = 1048576 - EXAMPLE.len();
    held.send_raw(format!("{EXAMPLE}{}", " ".repeat(rest)).as_bytes())
        .unwrap();
    held.read_answer(false).unwrap().log_id();
    retried(|| server.ask("POST", LOG, EXAMPLE)).log_id();
    // So they do when a client goes away in the middle.
    let mut held = holder(&server);
    held.send_raw(EXAMPLE.as_bytes()).unwrap();
    drop(held);
    retried(|| server.ask("POST", LOG, EXAMPLE)).log_id();
    assert_eq!(count(&server), 4);
}

#[test]
fn whoever_is_refused_for_a_full_mailbox_stored_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &["--mailbox", "1"]);
    let taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = server.connect();
                let key = ("x-api-key", server.key.as_str());
                for _ in 0..50 {
                    let answer = client
                        .send("POST", LOG, &[key], EXAMPLE.as_bytes())
                        .unwrap();
                    if answer.status == 503 {
                        let words = "nothing was stored, try again";
                        answer.assert_error(503, "overloaded", words, "a full mailbox");
                        assert_eq!(answer.header("retry-after"), Some("1"));
                    } else {
                        answer.log_id();
                        taken.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(count(&server), taken.into_inner() as u64);
}

#[test]
fn a_full_disk_is_told_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &[]);
    let id = server.ask("POST", LOG, EXAMPLE).log_id();
    server.stop();
    // More than any disk has: it is full from the start, as soon as somebody looks.
    let server = Server::start(&store, &["--min-free", "1000000000000000000"]);
    let mut stored = 1;
    let refused = loop {
        let answer = server.ask("POST", LOG, EXAMPLE);
        if answer.status != 200 {
            break answer;
        }
        stored += 1;
    };
    let words = "the disk is full; nothing was stored";
    refused.assert_error(507, "storage_full", words, "an entry");
    for (method, path, body) in [
        ("POST", LOG, EXAMPLE),
        ("POST", "/experiment/demo/logs", EXAMPLE),
        ("PUT", "/experiment/new", r#"{"variants":["A"]}"#),
    ] {
        server
            .ask(method, path, body)
            .assert_error(507, "storage_full", words, path);
    }
    let ready = server.ask("GET", "/ready", "");
    let expected = r#"{"status":"unavailable","reason":"storage_full"}"#;
    assert_eq!(
        (ready.status, ready.body.as_slice()),
        (503, expected.as_bytes())
    );
    assert_eq!(server.ask("GET", "/health", "").status, 200);
    assert_eq!(server.ask("GET", &format!("{LOG}/{id}"), "").status, 200);
    assert_eq!(server.ask("GET", "/experiments", "").status, 200);
    assert_eq!(count(&server), stored);
    let (status, _) = server.stop();
    assert!(status.success());
    let server = Server::start(&store, &[]);
    server.ask("POST", LOG, EXAMPLE).log_id();
    assert_eq!(count(&server), stored + 1);
}
