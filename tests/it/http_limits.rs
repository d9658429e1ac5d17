//! Limits that a client runs into: each is told with a code of its own, and costs nobody else.
//!
//! The front end runs within the test where a limit has to be small, or the disk has to stand still.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use trialog::auth::{Keyring, NewKey, Scope};
use trialog::experiment::{Store, StoreOptions};
use trialog::fs::sim::{Failure, Fault, Op, SimMachine};
use trialog::http::{AppState, Limits, serve};
use trialog::model::NewEntry;

use crate::rig::{STORE, slug};
use crate::scene::JOURNAL;
use crate::server::{Answer, Client, EXAMPLE, Server};

const LOG: &str = "/experiment/demo/log";
const DEMO: &str = r#"{"variants":["A","B"]}"#;

/// The front end on real sockets, over a store on a simulated machine.
pub struct Front {
    machine: SimMachine,
    pub state: Arc<AppState>,
    pub address: SocketAddr,
    pub key: String,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<tokio::task::JoinHandle<()>>,
    runtime: Runtime,
}

impl Front {
    pub fn start(options: StoreOptions, limits: Limits) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let machine = SimMachine::new(1, 512);
        let options = StoreOptions {
            dir: STORE.into(),
            free_bytes_min: 0,
            ..options
        };
        let store = Store::open(options, machine.host()).unwrap();
        let (keyring, _) = Keyring::open(&machine.host(), STORE.as_ref()).unwrap();
        let admin = NewKey {
            name: "t".into(),
            scopes: vec![Scope::Admin],
            experiments: Vec::new(),
            expires_at_ms: None,
        };
        let (_, key) = keyring.create(admin).unwrap();
        let state = Arc::new(AppState::new(store, keyring, limits));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = runtime.spawn(serve(listener, state.clone(), async {
            let _either_way = stopped.await;
        }));
        let front = Self {
            machine,
            state,
            address,
            key,
            stop: Some(stop),
            serving: Some(serving),
            runtime,
        };
        assert_eq!(front.ask("PUT", "/experiment/demo", DEMO).status, 201);
        front
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address).unwrap()
    }

    pub fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let key = ("x-api-key", self.key.as_str());
        let asked = self.connect().send(method, path, &[key], body.as_bytes());
        asked.unwrap()
    }

    /// A request on a connection of its own, whose answer is read later.
    pub fn begin(&self, path: &str, len: usize, body: &str) -> Client {
        let mut client = self.connect();
        let key = &self.key;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: t\r\nx-api-key: {key}\r\ncontent-length: {len}\r\n\r\n"
        );
        client.send_raw(format!("{head}{body}").as_bytes()).unwrap();
        client
    }

    pub fn count(&self) -> Value {
        self.ask("GET", "/experiment/demo", "").json()["count"].take()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // The threads of a test that failed can end, too.
        self.machine.heal();
        drop(self.stop.take());
        if let Some(serving) = self.serving.take() {
            let _panicked = self.runtime.block_on(serving);
        }
        self.runtime.block_on(self.state.store.shutdown());
    }
}

#[test]
fn a_full_mailbox_is_told_at_once_and_nothing_of_it_is_stored() {
    let options = StoreOptions {
        mailbox_len: 1,
        ..StoreOptions::default()
    };
    let front = Front::start(options, Limits::default());
    // No write to the journal ends from here on: each is interrupted and tried again.
    front.machine.fail(Fault {
        op: Op::Write,
        path: JOURNAL,
        after: 0,
        failure: Failure::Interrupted,
        is_sticky: true,
    });
    let begun = front.machine.count(Op::Write, JOURNAL);
    let mut first = front.begin(LOG, EXAMPLE.len(), EXAMPLE);
    while front.machine.count(Op::Write, JOURNAL) == begun {
        std::thread::yield_now();
    }
    // The actor is with the first one. Of two more, one waits in the mailbox and the other is told.
    let (told, answers) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (mut client, told) = (front.begin(LOG, EXAMPLE.len(), EXAMPLE), told.clone());
            scope.spawn(move || told.send(client.read_answer(false).unwrap()).unwrap());
        }
        let refused = answers.recv().unwrap();
        let words = "too many requests are in flight; nothing was stored, try again";
        refused.assert_error(503, "overloaded", words, "a full mailbox");
        assert_eq!(refused.header("retry-after"), Some("1"));
        front.machine.heal();
        answers.recv().unwrap().log_id();
    });
    first.read_answer(false).unwrap().log_id();
    assert_eq!(front.count(), 2);
}

#[test]
fn so_many_requests_are_worked_on_and_health_is_told_beyond_that() {
    let limits = Limits {
        requests_max: 1,
        ..Limits::default()
    };
    let front = Front::start(StoreOptions::default(), limits);
    let (begin, end) = EXAMPLE.split_at(100);
    let mut first = front.begin(LOG, EXAMPLE.len(), begin);
    while front.state.metrics.in_flight() == 0 {
        std::thread::yield_now();
    }
    for path in [LOG, "/experiment/demo/logs"] {
        let refused = front.ask("POST", path, EXAMPLE);
        let words = "too many requests are in flight; nothing was stored, try again";
        refused.assert_error(503, "overloaded", words, path);
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    assert_eq!(front.ask("GET", "/health", "").status, 200);
    assert_eq!(front.ask("GET", "/ready", "").status, 200);
    first.send_raw(end.as_bytes()).unwrap();
    first.read_answer(false).unwrap().log_id();
    while front.state.metrics.in_flight() > 0 {
        std::thread::yield_now();
    }
    front.ask("POST", LOG, EXAMPLE).log_id();
    assert_eq!(front.count(), 2);
    let metrics = front.ask("GET", "/metrics", "");
    let metrics = String::from_utf8(metrics.body).unwrap();
    let met = r#"trialog_limits_met_total{limit="inflight_requests"} 2"#;
    assert!(metrics.contains(met), "{metrics}");
}

#[test]
fn a_client_that_is_silent_in_the_middle_of_a_body_is_told_and_its_bytes_come_back() {
    let half = &EXAMPLE[..EXAMPLE.len() / 2];
    let options = StoreOptions {
        // For one such body, and not for two.
        inflight_bytes: EXAMPLE.len() + 10,
        ..StoreOptions::default()
    };
    let limits = Limits {
        body_silence_max: Duration::from_millis(200),
        ..Limits::default()
    };
    let front = Front::start(options, limits);
    for path in [LOG, "/experiment/demo/logs"] {
        // The bytes of a request come back a moment after its answer.
        let (mut silent, answer) = loop {
            let mut silent = front.begin(path, EXAMPLE.len(), half);
            let answer = silent.read_answer(false).unwrap();
            if answer.status != 503 {
                break (silent, answer);
            }
        };
        let words = "the body did not come in time";
        answer.assert_error(408, "body_timeout", words, path);
        assert!(silent.is_closed(), "what comes of the body is no request");
        while front.ask("POST", LOG, EXAMPLE).status == 503 {}
    }
    assert_eq!(front.count(), 2);
}

#[test]
fn a_store_has_so_many_experiments_and_no_more() {
    let options = StoreOptions {
        experiments_max: 3,
        ..StoreOptions::default()
    };
    let front = Front::start(options, Limits::default());
    for name in ["a", "b"] {
        let made = front.ask("PUT", &format!("/experiment/{name}"), DEMO);
        assert_eq!(made.status, 201);
    }
    let words = "the store has the largest number of experiments";
    let refused = front.ask("PUT", "/experiment/c", DEMO);
    refused.assert_error(409, "too_many_experiments", words, "one more");
    // Those that are there can be changed, and one that goes makes room.
    assert_eq!(front.ask("PUT", "/experiment/a", DEMO).status, 200);
    assert_eq!(
        front.ask("DELETE", "/experiment/a?confirm=a", "").status,
        200
    );
    assert_eq!(front.ask("PUT", "/experiment/c", DEMO).status, 201);
}

#[test]
fn there_are_so_many_keys_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let keys = server.dir.join("keys.json");
    let (dir, args) = (server.dir.clone(), []);
    assert!(server.stop().0.success());
    // Written by hand, with no checksum: 10,000 keys, of which one can be used.
    let mut file: Value = serde_json::from_slice(&std::fs::read(&keys).unwrap()).unwrap();
    file.as_object_mut().unwrap().remove("crc32");
    let list = file["keys"].as_array_mut().unwrap();
    let first = list[0].clone();
    for n in 1..10_000 {
        let mut key = first.clone();
        key["id"] = json!(format!("k{n}"));
        list.push(key);
    }
    std::fs::write(&keys, file.to_string()).unwrap();
    let server = Server::start(&dir, &args);
    let request = r#"{"name":"one more","scopes":["read"]}"#;
    let words = "there are 10000 keys already: revoke some first";
    let refused = server.ask("POST", "/keys", request);
    refused.assert_error(409, "too_many_keys", words, "one more");
    assert_eq!(server.ask("DELETE", "/keys/k7", "").status, 200);
    assert_eq!(server.ask("POST", "/keys", request).status, 201);
    let refused = server.ask("POST", "/keys", request);
    refused.assert_error(409, "too_many_keys", words, "full again");
}

#[test]
fn a_batch_has_so_many_entries_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let post = |body: &str| server.ask("POST", "/experiment/demo/logs", body);
    let lines = "{\"variantKey\":\"A\"}\n".repeat(1_000_001);
    let words = "more than 1000000 entries (line 1000001, column 1)";
    post(&lines).assert_error(413, "batch_too_long", words, "lines");
    let elements = lines.trim_end().replace('\n', ",");
    let array = format!("[{elements}]");
    post(&array).assert_error(413, "batch_too_long", "more than 1000000 entries", "array");
    let described = server.ask("GET", "/experiment/demo", "").json();
    assert_eq!(described["count"], 0, "nothing was stored");
    assert_eq!(post(EXAMPLE).status, 200);
}

/// Entries with members of our names are refused; those that were stored before that are given back.
#[test]
fn members_that_the_server_gives_are_refused_and_old_ones_come_back() {
    let front = Front::start(StoreOptions::default(), Limits::default());
    for name in ["logId", "experiment", "receivedAt"] {
        let body = format!(r#"{{"variantKey":"A","{name}":"x"}}"#);
        let words =
            format!("{name} is given by the server: send it by another name (line 1, column");
        let refused = front.ask("POST", LOG, &body);
        refused.assert_error(400, "reserved_field", &words, name);
        let batch = format!("{EXAMPLE}\n{body}\n");
        let refused = front.ask("POST", "/experiment/demo/logs", &batch);
        let words = format!("line 2: {name} is given by the server");
        refused.assert_error(400, "reserved_field", &words, name);
        let inside = format!(r#"{{"variantKey":"A","context":{{"{name}":"x"}}}}"#);
        front.ask("POST", LOG, &inside).log_id();
    }
    assert_eq!(front.count(), 3);
    let body = r#"{"variantKey":"A","logId":"mine","experiment":1}"#;
    let store = &front.state.store;
    let entry = NewEntry {
        variant_key: "A".into(),
        body: body.into(),
        idempotency: None,
    };
    let permit = store.reserve(body.len()).unwrap();
    let name = slug("demo");
    let id = front.runtime.block_on(store.append(&name, entry, permit));
    let found = front.ask("GET", &format!("{LOG}/{}", id.unwrap()), "");
    let text = String::from_utf8(found.body).unwrap();
    assert!(text.ends_with(&format!(",{}", &body[1..])), "{text}");
}
