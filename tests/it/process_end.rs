//! How the server ends: it finishes what it accepted, loses nothing, and is gone in time.

use std::collections::HashSet;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use crate::server::{Client, EXAMPLE, Server, arg, run};

const LOG: &str = "/experiment/demo/log";
/// What is promised of SIGTERM.
pub const END_WITHIN: Duration = Duration::from_secs(10);

/// A request that was accepted and whose body has yet to come.
fn begun(server: &Server) -> Client {
    let mut client = server.connect();
    let (key, len) = (&server.key, EXAMPLE.len());
    let head = format!(
        "POST {LOG} HTTP/1.1\r\nhost: trialog\r\nx-api-key: {key}\r\nexpect: 100-continue\r\n\
         content-length: {len}\r\n\r\n"
    );
    client.send_raw(head.as_bytes()).unwrap();
    assert_eq!(client.read_answer(false).unwrap().status, 100);
    client
}

/// Waits until the server doesn't take connections any more.
fn wait_until_refused(server: &Server) {
    loop {
        match Client::connect(server.address) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return,
            // It may have been in the queue of those that wait to be accepted.
            _ => {}
        }
    }
}

fn replayed_ids(server_dir: &std::path::Path) -> Vec<String> {
    let replayed = run(&["replay", arg(server_dir)]);
    assert!(replayed.status.success(), "{replayed:?}");
    let lines = String::from_utf8(replayed.stdout).unwrap();
    let id = |line: &str| line["{\"logId\":\"".len()..][..30].to_owned();
    lines.lines().map(id).collect()
}

#[test]
fn sigterm_under_load_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &[]);
    let acknowledged = Mutex::new(Vec::new());
    let (status, took) = std::thread::scope(|scope| {
        for _ in 0..16 {
            let mut client = server.connect();
            let (key, acknowledged) = (server.key.clone(), &acknowledged);
            scope.spawn(move || {
                // Until the server says or shows that it is going.
                while let Ok(answer) =
                    client.send("POST", LOG, &[("x-api-key", &key)], EXAMPLE.as_bytes())
                {
                    match answer.status {
                        200 => acknowledged.lock().unwrap().push(answer.log_id()),
                        _ => return assert_eq!(answer.code(), "shutting_down"),
                    }
                }
            });
        }
        while acknowledged.lock().unwrap().len() < 500 {
            std::thread::yield_now();
        }
        server.stop()
    });
    assert_eq!(status.code(), Some(0));
    assert!(took < END_WITHIN, "{took:?}");
    let acknowledged = acknowledged.into_inner().unwrap();
    let replayed = replayed_ids(&store);
    assert!(replayed.is_sorted_by(|a, b| a < b));
    let replayed: HashSet<_> = replayed.into_iter().collect();
    for id in &acknowledged {
        assert!(replayed.contains(id), "{id} is lost");
    }
    assert_eq!(run(&["verify", arg(&store)]).status.code(), Some(0));
    // The next start has nothing to redo.
    let server = Server::start(&store, &[]);
    assert!(
        !server.said().contains("brought up to date"),
        "{}",
        server.said()
    );
    assert_eq!(
        server.ask("GET", "/experiment/demo", "").json()["count"],
        replayed.len()
    );
}

#[test]
fn what_was_accepted_is_finished_and_nothing_more_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &[]);
    let mut idle = server.connect();
    idle.send("GET", "/health", &[], b"").unwrap();
    let mut accepted = begun(&server);
    server.terminate();
    server.wait_until_said("shutting down");
    wait_until_refused(&server);
    assert!(idle.is_closed());
    // Impatience changes nothing.
    server.terminate();
    accepted.send_raw(EXAMPLE.as_bytes()).unwrap();
    let answer = accepted.read_answer(false).unwrap();
    let id = answer.log_id();
    assert!(accepted.is_closed());
    let (status, said) = server.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("everything is in the segments"), "{said}");
    assert_eq!(replayed_ids(&store), [id]);
}

#[test]
fn a_client_that_never_finishes_does_not_hold_it_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &[]);
    let id = server.ask("POST", LOG, EXAMPLE).log_id();
    let mut never = begun(&server);
    never.send_raw(&EXAMPLE.as_bytes()[..100]).unwrap();
    let mut half_a_head = server.connect();
    half_a_head.send_raw(b"POST /experi").unwrap();
    let (status, took) = server.stop();
    assert_eq!(status.code(), Some(0));
    assert!(took < END_WITHIN, "{took:?}");
    assert_eq!(replayed_ids(&store), [id]);
    assert_eq!(run(&["verify", arg(&store)]).status.code(), Some(0));
}

#[test]
fn a_reader_of_its_words_that_goes_away_does_not_end_it() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--log-level", "trace"];
    let server = Server::start_unread(&dir.path().join("s"), &args);
    for _ in 0..3 {
        server.ask("POST", LOG, EXAMPLE).log_id();
        assert_eq!(server.ask("GET", "/nothing", "").status, 404);
    }
    server.define("new");
    assert_eq!(server.ask("GET", "/ready", "").status, 200);
    let (status, _) = server.stop();
    assert_eq!(status.code(), Some(0));
}
