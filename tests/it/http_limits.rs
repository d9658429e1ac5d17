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

    pub fn metrics(&self) -> String {
        String::from_utf8(self.ask("GET", "/metrics", "").body).unwrap()
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
    let met = r#"trialog_limits_met_total{limit="mailbox"} 1"#;
    assert!(front.metrics().contains(met), "{}", front.metrics());
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
    let metrics = front.metrics();
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
    let met = r#"trialog_http_refusals_total{code="too_many_experiments"} 1"#;
    assert!(front.metrics().contains(met), "{}", front.metrics());
    // Those that are there can be changed, and one that goes makes room.
    assert_eq!(front.ask("PUT", "/experiment/a", DEMO).status, 200);
    assert_eq!(
        front.ask("DELETE", "/experiment/a?confirm=a", "").status,
        200
    );
    assert_eq!(front.ask("PUT", "/experiment/c", DEMO).status, 201);
}

#[test]
fn entries_are_nested_so_deep_and_no_deeper() {
    let limits = Limits {
        nesting_max: 3,
        ..Limits::default()
    };
    let front = Front::start(StoreOptions::default(), limits);
    let nested = |levels: usize| {
        let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
        format!(r#"{{"variantKey":"A","x":{open}{close}}}"#)
    };
    front.ask("POST", LOG, &nested(3)).log_id();
    let refused = front.ask("POST", LOG, &nested(4));
    let words = "nested deeper than 3 levels (line 1, column 25)";
    refused.assert_error(400, "json_too_deep", words, "one level more");
    // The array of a batch is no level of its entries.
    let batch = |levels: usize| {
        let body = format!("[{},{}]", nested(3), nested(levels));
        front.ask("POST", "/experiment/demo/logs", &body)
    };
    assert_eq!(batch(3).status, 200);
    let words = "element 2: nested deeper than 3 levels";
    batch(4).assert_error(400, "json_too_deep", words, "in a batch");
    // What is broken behind that, too.
    let broken = format!("[{}", "[".repeat(200));
    let refused = front.ask("POST", "/experiment/demo/logs", &broken);
    let words = "element 1: nested deeper than 3 levels (line 1, column 5)";
    refused.assert_error(400, "json_too_deep", words, "broken");
    assert_eq!(front.count(), 3);
    let met = r#"trialog_http_refusals_total{code="json_too_deep"} 3"#;
    assert!(front.metrics().contains(met), "{}", front.metrics());
    // From the next request on.
    front.state.set_limits(Limits::default());
    front.ask("POST", LOG, &nested(128)).log_id();
}

#[test]
fn an_experiment_has_so_many_variants_and_no_more() {
    let options = StoreOptions {
        variants_max: 3,
        ..StoreOptions::default()
    };
    let front = Front::start(options, Limits::default());
    let put = |slug: &str, body: &str| front.ask("PUT", &format!("/experiment/{slug}"), body);
    let four = r#"{"variants":["A","B","C","D"]}"#;
    for slug in ["demo", "new"] {
        let refused = put(slug, four);
        refused.assert_error(400, "bad_definition", "at most 3 variants", slug);
    }
    assert_eq!(put("demo", r#"{"variants":["A","B","C"]}"#).status, 200);
    // In an open one those that are met count, too.
    let open = r#"{"variants":["A","B"],"openVariants":true}"#;
    assert_eq!(put("open", open).status, 201);
    let log = |key: &str| {
        let body = format!(r#"{{"variantKey":"{key}"}}"#);
        front.ask("POST", "/experiment/open/log", &body)
    };
    log("C").log_id();
    let words = "this experiment has the largest number of variants";
    log("D").assert_error(400, "too_many_variants", words, "one more");
    log("C").log_id();
    let met = r#"trialog_limits_met_total{limit="variants"} 3"#;
    assert!(front.metrics().contains(met), "{}", front.metrics());
}

/// The setting was another when it was made: none of its variants goes, and no more come.
#[test]
fn an_experiment_with_more_variants_than_it_may_have_keeps_them_and_can_be_changed() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &[]);
    let three = r#"{"variants":["A","B","C"]}"#;
    assert_eq!(server.ask("PUT", "/experiment/more", three).status, 201);
    server.stop();
    let server = Server::start(&store, &["--max-variants", "2"]);
    server
        .ask("POST", "/experiment/more/log", r#"{"variantKey":"C"}"#)
        .log_id();
    let three = r#"{"variants":["A","B","C"],"description":"still three"}"#;
    assert_eq!(server.ask("PUT", "/experiment/more", three).status, 200);
    let four = r#"{"variants":["A","B","C","D"]}"#;
    let refused = server.ask("PUT", "/experiment/more", four);
    refused.assert_error(400, "bad_definition", "at most 3 variants", "more still");
    let refused = server.ask("PUT", "/experiment/new", three);
    refused.assert_error(400, "bad_definition", "at most 2 variants", "a new one");
}

/// The first ones in the log, as with the highest limit; what isn't kept is counted.
#[test]
fn figures_have_so_many_names_of_metrics_and_no_more() {
    let options = StoreOptions {
        metrics_max: 2,
        ..StoreOptions::default()
    };
    let front = Front::start(options, Limits::default());
    let log = |metrics: &str| {
        let body = format!(r#"{{"variantKey":"A","metrics":{metrics},"context":{{"in":"x"}}}}"#);
        front.ask("POST", LOG, &body).log_id();
    };
    let met = |count: usize| {
        let line = format!("trialog_limits_met_total{{limit=\"metrics\"}} {count}\n");
        assert!(front.metrics().contains(&line), "{line}{}", front.metrics());
    };
    log(r#"{"a":1,"b":2}"#);
    let stats = || front.ask("GET", "/experiment/demo/stats", "").json();
    assert_eq!(stats()["droppedMetrics"]["valueCount"], 0);
    met(0);
    log(r#"{"c":1,"a":3,"d":4}"#);
    let found = stats();
    let dropped = json!({"nameCount": 2, "valueCount": 2});
    assert_eq!(found["droppedMetrics"], dropped);
    let metrics = found["variants"][0]["metrics"].as_array().unwrap().clone();
    let names: Vec<_> = metrics.iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(metrics[0]["sum"], 4.0);
    met(1);
    for split in ["", "?by=context.in"] {
        let path = format!("/experiment/demo/report{split}");
        let report = String::from_utf8(front.ask("GET", &path, "").body).unwrap();
        let words = "more metrics than the 2 that are kept: 2 values of 2 further names";
        assert!(report.contains(words), "{report}");
    }
    met(3);
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
