//! `GET /experiment/{slug}/tail` over sockets: how events look, coming back, ends, limits, and a
//! reader that doesn't read.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use trialog::auth::{Keyring, NewKey, SESSION_COOKIE, Scope};
use trialog::experiment::{Store, StoreOptions};
use trialog::fs::real;
use trialog::http::{AppState, Limits, serve};
use trialog::model::{Definition, Slug};

use crate::server::{Client, EXAMPLE, Server, trialog};

const LOG: &str = "/experiment/demo/log";
const TAIL: &str = "/experiment/demo/tail";

/// An event: its id, name and data.
#[derive(Debug, Default, PartialEq)]
struct Event {
    id: String,
    name: String,
    data: String,
}

impl Event {
    fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

/// A stream of events that is read line by line.
struct Events {
    client: Client,
    text: Vec<u8>,
}

impl Events {
    fn open(server: &Server, query: &str, headers: &[(&str, &str)]) -> Self {
        let mut client = server.connect();
        let mut head = format!("GET {TAIL}{query} HTTP/1.1\r\nhost: t\r\n");
        head += &format!("x-api-key: {}\r\n", server.key);
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        client.send_raw(format!("{head}\r\n").as_bytes()).unwrap();
        let answer = client.read_head().unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
        assert_eq!(answer.header("content-encoding"), None);
        let text = Vec::new();
        Self { client, text }
    }

    /// The next block of lines; `None` at the end of the body.
    fn block(&mut self) -> Option<String> {
        loop {
            let end = self.text.windows(2).position(|two| two == b"\n\n");
            if let Some(end) = end {
                let rest = self.text.split_off(end + 2);
                let block = std::mem::replace(&mut self.text, rest);
                return Some(String::from_utf8(block).unwrap());
            }
            let chunk = self.client.read_chunk().unwrap()?;
            self.text.extend(chunk);
        }
    }

    /// The next event; beats are passed over.
    fn event(&mut self) -> Option<Event> {
        loop {
            let mut event = Event::default();
            for line in self.block()?.lines() {
                match line.split_once(": ") {
                    Some(("id", id)) => event.id = id.into(),
                    Some(("event", name)) => event.name = name.into(),
                    Some(("data", data)) => event.data = data.into(),
                    _ => {}
                }
            }
            if !event.data.is_empty() {
                return Some(event);
            }
        }
    }
}

fn log(server: &Server, body: &str) -> String {
    server.ask("POST", LOG, body).log_id()
}

fn start(dir: &std::path::Path, args: &[&str]) -> Server {
    Server::start(&dir.join("s"), args)
}

#[test]
fn entries_come_as_events_and_a_reader_comes_back_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    let old = log(&server, EXAMPLE);
    let mut live = Events::open(&server, "", &[]);
    // Also who is cut off before the first entry knows where to go on.
    assert_eq!(live.block().unwrap(), format!("retry: 1000\nid: {old}\n\n"));
    let first = log(&server, "{\"variantKey\":\"A\",\r\n \"n\":1}\n");
    let event = live.event().unwrap();
    let data = String::from_utf8(server.ask("GET", &format!("{LOG}/{first}"), "").body).unwrap();
    assert_eq!(event.id, first);
    assert_eq!(
        (event.name.as_str(), event.json()["n"].as_i64()),
        ("", Some(1))
    );
    assert_eq!(event.data, data.replace(['\r', '\n'], " "));
    let second = log(&server, r#"{"variantKey":"B"}"#);
    assert_eq!(live.event().unwrap().id, second);
    drop(live);
    let third = log(&server, EXAMPLE);
    let ids = |query: &str, headers: &[(&str, &str)], count: usize| {
        let mut events = Events::open(&server, query, headers);
        (0..count)
            .map(|_| events.event().unwrap().id)
            .collect::<Vec<_>>()
    };
    let since_first = [("last-event-id", first.as_str())];
    assert_eq!(ids("", &since_first, 2), [second.as_str(), &third]);
    // A browser comes back to the address that it began with, and its header says more.
    let begun = format!("?after={old}");
    assert_eq!(ids(&begun, &since_first, 2), [second.as_str(), &third]);
    assert_eq!(ids(&begun, &[], 1), [first.as_str()]);
    let zeros = format!("?after=log_{}&variant=B", "0".repeat(26));
    assert_eq!(ids(&zeros, &[], 1), [second.as_str()]);

    for (query, headers, message) in [
        ("?after=5", &[][..], "after: a log id is"),
        ("?since=5", &[], "this path takes variant, after"),
        ("?variant=", &[], "1 to 128 bytes"),
        ("", &[("last-event-id", "7")], "last-event-id: a log id is"),
    ] {
        let mut headers = headers.to_vec();
        headers.push(("x-api-key", &server.key));
        let path = format!("{TAIL}{query}");
        let answer = server.connect().send("GET", &path, &headers, b"").unwrap();
        let code = ["bad_parameter", "unknown_parameter"][usize::from(query.contains("since"))];
        answer.assert_error(400, code, message, query);
    }
    assert_eq!(server.ask("HEAD", TAIL, "").status, 200);
    let ingest = server.make_key(r#"{"name":"i","scopes":["ingest"]}"#).1;
    let refused = server.ask_as(&ingest, "GET", TAIL);
    refused.assert_error(403, "scope_missing", "", "a key that may only write");
}

#[test]
fn tails_end_with_a_word_and_hold_up_no_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &["--max-tails", "2"]);
    let mut first = Events::open(&server, "", &[]);
    let mut second = Events::open(&server, "", &[]);
    let refused = server.ask("GET", TAIL, "");
    refused.assert_error(503, "overloaded", "there are 2 tails already", "the third");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(
        server
            .ask("DELETE", "/experiment/demo?confirm=demo", "")
            .status,
        200
    );
    let end = first.event().unwrap();
    assert_eq!(end.name, "end");
    assert_eq!(end.json()["error"]["code"], "experiment_not_found");
    assert_eq!(first.event(), None, "the body comes to its end");
    assert_eq!(second.event().unwrap().name, "end");
    assert_eq!(second.event(), None);

    server.define("demo");
    let mut waiting = Events::open(&server, "", &[]);
    let mut unread = server.connect();
    let key = &server.key;
    let head = format!("GET {TAIL} HTTP/1.1\r\nhost: t\r\nx-api-key: {key}\r\n\r\n");
    unread.send_raw(head.as_bytes()).unwrap();
    unread.wait_for_bytes();
    let (status, took) = server.stop();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}");
    let end = waiting.event().unwrap();
    assert_eq!(end.json()["error"]["code"], "shutting_down");
    assert_eq!(waiting.event(), None);
}

#[test]
fn a_reader_that_does_not_read_slows_nobody_and_misses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &["--segment-bytes", "10000000"]);
    let mut slow = Events::open(&server, "", &[]);
    let first = log(&server, EXAMPLE);
    assert_eq!(slow.event().unwrap().id, first);
    // Far more than the sockets between us hold; nobody reads it meanwhile.
    let padding = "y".repeat(100_000);
    let body = format!(r#"{{"variantKey":"A","input":{{"p":"{padding}"}}}}"#);
    let batch = format!("[{}]", vec![body; 100].join(","));
    let mut ids = Vec::new();
    for _ in 0..6 {
        let answer = server.ask("POST", "/experiment/demo/logs", &batch);
        assert_eq!(answer.status, 200);
        let json = answer.json();
        let new = json["logIds"].as_array().unwrap().iter();
        ids.extend(new.map(|id| id.as_str().unwrap().to_owned()));
    }
    let last = log(&server, EXAMPLE);
    ids.push(last.clone());
    let mut got = Vec::new();
    let mut lagged = Vec::new();
    while got.last() != Some(&last) {
        let event = slow.event().unwrap();
        match event.name.as_str() {
            "" => got.push(event.id),
            "lagged" => lagged.push((got.len(), event)),
            other => panic!("{other}: {}", event.data),
        }
    }
    assert!(got == ids);
    let (at, event) = &lagged[0];
    assert_eq!(lagged.len(), 1, "it is told once");
    assert_eq!(event.json()["after"], ids[at - 1], "from where to go on");
    assert!(*at > 80 && *at < 100, "it was 8 MiB behind: {at}");
}

#[test]
fn a_tail_names_what_is_lost_and_goes_on_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--segment-bytes", "20000"];
    let server = start(dir.path(), &args);
    let body = |n: usize| {
        format!(
            r#"{{"variantKey":"A","input":{{"n":{n},"p":"{}"}}}}"#,
            "x".repeat(200)
        )
    };
    let ids: Vec<_> = (0..300).map(|n| log(&server, &body(n))).collect();
    assert!(server.stop().0.success());
    crate::http_query::hit(dir.path(), r#"{"n":123,"#);
    let server = start(dir.path(), &args);
    let mut events = Events::open(&server, &format!("?after=log_{}", "0".repeat(26)), &[]);
    for id in &ids[..123] {
        assert_eq!(&events.event().unwrap().id, id);
    }
    let lost = events.event().unwrap();
    assert_eq!(lost.name, "lost");
    // As near to the lost entry as what is left of it says.
    let json = lost.json();
    let [after, before] = ["after", "before"].map(|name| json[name].as_str().unwrap());
    let bounds = [&*ids[122], after, &*ids[123], before, &*ids[124]];
    assert!(
        bounds.is_sorted() && after != ids[123] && before != ids[123],
        "{json}"
    );
    for id in &ids[124..] {
        assert_eq!(&events.event().unwrap().id, id);
    }
    let new = log(&server, EXAMPLE);
    assert_eq!(events.event().unwrap().id, new, "and is live then");
}

/// A server in this process, whose tails beat often.
async fn with_quick_beats(dir: &std::path::Path) -> (Arc<AppState>, std::net::SocketAddr) {
    let options = StoreOptions {
        dir: dir.join("s"),
        free_bytes_min: 0,
        ..StoreOptions::default()
    };
    let host = real::host();
    let store = Store::open(options, host.clone()).unwrap();
    let definition = Definition {
        open_variants: true,
        ..Definition::default()
    };
    store
        .define(&Slug::parse("demo").unwrap(), definition)
        .await
        .unwrap();
    let (keyring, _) = Keyring::open(&host, &dir.join("s")).unwrap();
    keyring.create_first(None, |_| Ok(())).unwrap();
    let limits = Limits {
        tail_beat: Duration::from_millis(50),
        ..Limits::default()
    };
    let state = Arc::new(AppState::new(store, keyring, limits));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, state.clone(), std::future::pending()));
    (state, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_revoked_or_ends_ends_its_tails() {
    let dir = tempfile::tempdir().unwrap();
    let (state, address) = with_quick_beats(dir.path()).await;
    let now_ms = real::host().clock.now_ms();
    for expires_at_ms in [None, Some(now_ms + 2000)] {
        let new = NewKey {
            name: "tail".into(),
            scopes: vec![Scope::Read],
            experiments: Vec::new(),
            expires_at_ms,
        };
        let (info, key) = state.keyring.create(new).unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut client = Client::connect(address).unwrap();
            let head = format!("GET {TAIL} HTTP/1.1\r\nhost: t\r\nx-api-key: {key}\r\n\r\n");
            client.send_raw(head.as_bytes()).unwrap();
            assert_eq!(client.read_head().unwrap().status, 200);
            let mut events = Events {
                client,
                text: Vec::new(),
            };
            assert!(events.block().unwrap().starts_with("retry: "));
            assert_eq!(events.block().unwrap(), ":\n\n", "a beat");
            events
        });
        let mut events = read.await.unwrap();
        if expires_at_ms.is_none() {
            state.keyring.revoke(&info.id).unwrap();
        }
        let end = tokio::task::spawn_blocking(move || (events.event(), events.event()));
        let (end, behind) = end.await.unwrap();
        let end = end.unwrap();
        assert_eq!(end.name, "end");
        assert_eq!(end.json()["error"]["code"], "api_key_invalid");
        assert_eq!(behind, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_key_is_revoked_ends_its_tails() {
    let dir = tempfile::tempdir().unwrap();
    let (state, address) = with_quick_beats(dir.path()).await;
    let new = NewKey {
        name: "tail".into(),
        scopes: vec![Scope::Read],
        experiments: Vec::new(),
        expires_at_ms: None,
    };
    let (info, key) = state.keyring.create(new).unwrap();
    let (_, token) = state.keyring.sign_in(key.as_bytes()).unwrap().unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let mut client = Client::connect(address).unwrap();
        let head = format!(
            "GET /ui/experiment/demo/tail HTTP/1.1\r\nhost: t\r\ncookie: {SESSION_COOKIE}={token}\r\n\r\n"
        );
        client.send_raw(head.as_bytes()).unwrap();
        assert_eq!(client.read_head().unwrap().status, 200);
        let text = Vec::new();
        let mut events = Events { client, text };
        assert!(events.block().unwrap().starts_with("retry: "));
        assert_eq!(events.block().unwrap(), ":\n\n", "a beat");
        events
    });
    let mut events = read.await.unwrap();
    state.keyring.revoke(&info.id).unwrap();
    let end = tokio::task::spawn_blocking(move || events.event());
    let end = end.await.unwrap().unwrap();
    assert_eq!(end.name, "end");
    assert_eq!(end.json()["error"]["code"], "api_key_invalid");
}

/// Passes connections on to a server that may be another one later.
fn pass_on(to: Arc<Mutex<std::net::SocketAddr>>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(client) = client else { return };
            let to = *to.lock().unwrap();
            let Ok(server) = TcpStream::connect(to) else {
                continue;
            };
            let ends = [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ];
            for (mut from, mut to) in ends {
                std::thread::spawn(move || {
                    let _broken = std::io::copy(&mut from, &mut to);
                    let _gone = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    address
}

#[test]
fn the_command_follows_over_a_killed_server_without_a_gap_or_a_double() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(dir.path(), &["--segment-bytes", "20000"]);
    let to = Arc::new(Mutex::new(server.address));
    let url = format!("http://{}", pass_on(to.clone()));
    let mut ids = vec![log(&server, EXAMPLE)];
    let mut command = trialog();
    command.args(["tail", "demo", "--from-start", "--server", &url]);
    command.args(["--api-key", &server.key]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next_id = || {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        line["logId"].as_str().unwrap().to_owned()
    };
    for _ in 0..3 {
        ids.extend((0..100).map(|_| log(&server, EXAMPLE)));
        // It is somewhere in the middle.
        for id in ids.drain(..50) {
            assert_eq!(next_id(), id);
        }
        server.kill();
        server = start(dir.path(), &["--segment-bytes", "20000"]);
        *to.lock().unwrap() = server.address;
    }
    ids.push(log(&server, EXAMPLE));
    for id in ids {
        assert_eq!(next_id(), id);
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "Ctrl-C is its end");

    // What can't be followed is told.
    let absent = server.command(&["tail", "absent"]);
    assert_eq!(absent.status.code(), Some(1));
    let said = String::from_utf8(absent.stderr).unwrap();
    assert!(
        said.contains("there is no experiment with this slug"),
        "{said}"
    );
}
