//! Clients that ask too much, too slowly or nothing that makes sense: each meets its limit, and
//! whoever does it right is served meanwhile and afterwards.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use trialog::auth::{NewKey, Scope};
use trialog::experiment::StoreOptions;
use trialog::http::Limits;

use crate::client::{Answer, Client};
use crate::faults::not_run;
use crate::http_limits::Front;
use crate::server::{EXAMPLE, PATIENCE, Server};

const LOG: &str = "/experiment/demo/log";
const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nhost: t\r\n\r\n";

fn front(limits: Limits) -> Front {
    Front::start(StoreOptions::default(), limits)
}

impl Front {
    /// Whether `/metrics` has this line, asked for with another key.
    fn has_metric(&self, key: &str, line: &str) -> bool {
        let key = ("x-api-key", key);
        let metrics = self.connect().send("GET", "/metrics", &[key], b"").unwrap();
        let text = String::from_utf8(metrics.body).unwrap();
        text.lines().any(|found| found == line)
    }

    fn another_key(&self) -> String {
        let new = NewKey {
            name: "another".into(),
            scopes: vec![Scope::Admin],
            experiments: Vec::new(),
            expires_at_ms: None,
        };
        self.state.keyring.create(new).unwrap().1
    }

    fn ask_as(&self, key: &str) -> Answer {
        let key = ("x-api-key", key);
        let asked = self.connect().send("GET", "/experiment/demo", &[key], b"");
        asked.unwrap()
    }

    /// A good client appends on one connection while `other` does what it does; all of it is
    /// answered, and in the log.
    fn serves_a_good_client_beside(&self, other: impl FnOnce(TcpStream) + Send) {
        let before = self.count().as_u64().unwrap();
        let over = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let stream = TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            let over = &over;
            scope.spawn(move || {
                other(stream);
                over.store(true, Ordering::Release);
            });
            let mut client = self.connect();
            let mut sent = 0;
            while sent < 20 || !over.load(Ordering::Acquire) {
                let key = ("x-api-key", self.key.as_str());
                let asked = client.send("POST", LOG, &[key], EXAMPLE.as_bytes());
                asked.unwrap().log_id();
                sent += 1;
            }
            sent
        });
        assert_eq!(self.count(), before + sent);
    }
}

/// Asks until the answer has this status.
fn until(status: u16, mut ask: impl FnMut() -> Answer) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = ask();
        if answer.status == status {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer:?}");
    }
}

#[test]
fn a_head_has_a_size() {
    let front = front(Limits {
        url_bytes_max: 1000,
        header_bytes_max: 2000,
        ..Limits::default()
    });
    let path = format!("/experiment/demo?x={}", "y".repeat(1000));
    let words = "path and query have more than 1000 bytes";
    front
        .ask("GET", &path, "")
        .assert_error(414, "url_too_long", words, "url");
    // Before it is looked at whose it is.
    let long = "z".repeat(2000);
    let asked = front
        .connect()
        .send("GET", "/experiments", &[("x-long", &long)], b"");
    let words = "the headers have more than 2000 bytes";
    asked
        .unwrap()
        .assert_error(431, "headers_too_large", words, "headers");
    // A head that hardly ends is refused long before its end.
    let mut client = front.connect();
    let endless = format!("GET /health HTTP/1.1\r\nx: {}", "z".repeat(20_000));
    client.send_raw(endless.as_bytes()).unwrap();
    let words = "the head is larger than any that is read";
    let refused = client.read_answer(false).unwrap();
    refused.assert_error(431, "headers_too_large", words, "an endless head");
    let line = r#"trialog_limits_met_total{limit="head"} 1"#;
    let begun = Instant::now();
    while !front.has_metric(&front.key, line) {
        assert!(begun.elapsed() < PATIENCE, "it is counted");
    }
    for (code, count) in [("url_too_long", 1), ("headers_too_large", 2)] {
        let line = format!(r#"trialog_http_refusals_total{{code="{code}"}} {count}"#);
        assert!(front.has_metric(&front.key, &line), "{line}");
    }
    front.ask("POST", LOG, EXAMPLE).log_id();
}

#[test]
fn a_peer_has_so_many_connections_and_no_more() {
    let front = front(Limits {
        peer_connections_max: 2,
        ..Limits::default()
    });
    // Those before these are closed a moment after their answers.
    let enter = || {
        let begun = Instant::now();
        loop {
            let mut client = front.connect();
            // One that is refused is told before it asks; it may not even get to ask.
            let asked = client.send("GET", "/health", &[], b"");
            if asked.is_ok_and(|answer| answer.status == 200) {
                return client;
            }
            assert!(begun.elapsed() < PATIENCE, "there is a place");
        }
    };
    let (mut first, second) = (enter(), enter());
    let mut third = front.connect();
    let told = third.read_answer(false).unwrap();
    let words = "this address has too many connections";
    told.assert_error(503, "overloaded", words, "one too many");
    assert_eq!(told.header("retry-after"), Some("1"));
    assert!(told.header("x-request-id").is_some());
    assert!(third.is_closed());
    drop(second);
    drop(enter());
    let key = ("x-api-key", front.key.as_str());
    let metrics = first.send("GET", "/metrics", &[key], b"").unwrap();
    let metrics = String::from_utf8(metrics.body).unwrap();
    let met = metrics.lines().find_map(|line| {
        line.strip_prefix(r#"trialog_limits_met_total{limit="peer_connections"} "#)
    });
    assert!(met.unwrap().parse::<u64>().unwrap() >= 1);
}

#[test]
fn so_many_connections_are_open_and_further_ones_wait() {
    let front = front(Limits {
        connections_max: 2,
        ..Limits::default()
    });
    // The one that made the experiment is closed a moment after its answer.
    let (mut first, mut second) = (front.connect(), front.connect());
    let key = ("x-api-key", front.key.as_str());
    let metrics = first.send("GET", "/metrics", &[key], b"").unwrap();
    assert_eq!(second.send("GET", "/health", &[], b"").unwrap().status, 200);
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(
        metrics.contains("\ntrialog_http_connections_max 2\n"),
        "{metrics}"
    );
    let again = first.send("GET", "/metrics", &[key], b"").unwrap();
    let again = String::from_utf8(again.body).unwrap();
    assert!(again.contains("\ntrialog_http_connections 2\n"), "{again}");
    let mut third = TcpStream::connect(front.address).unwrap();
    third.write_all(HEALTH).unwrap();
    third
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let waits = third.read(&mut [0; 1]).unwrap_err();
    assert_eq!(waits.kind(), ErrorKind::WouldBlock, "it is not accepted");
    drop(second);
    third.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(third.read(&mut [0; 8]).unwrap(), 8, "its turn came");
}

#[test]
fn a_first_head_that_does_not_come_ends_its_connection_and_no_other() {
    let front = front(Limits {
        head_max: Duration::from_millis(50),
        quiet_max: Duration::from_secs(3600),
        ..Limits::default()
    });
    let mut good = front.connect();
    assert_eq!(good.send("GET", "/health", &[], b"").unwrap().status, 200);
    let mut half = front.connect();
    half.send_raw(b"GET /health HTTP/1.1\r\nhost:").unwrap();
    let mut silent = front.connect();
    assert!(half.is_closed() && silent.is_closed());
    assert_eq!(good.send("GET", "/health", &[], b"").unwrap().status, 200);
    let key = ("x-api-key", front.key.as_str());
    let metrics = good.send("GET", "/metrics", &[key], b"").unwrap();
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(metrics.contains(r#"trialog_limits_met_total{limit="slow_head"} 2"#));
    assert!(metrics.contains(r#"trialog_limits_met_total{limit="quiet_connection"} 0"#));
}

#[test]
fn a_connection_that_is_quiet_for_long_is_ended() {
    let front = front(Limits {
        head_max: Duration::from_millis(50),
        quiet_max: Duration::from_millis(100),
        ..Limits::default()
    });
    let mut quiet = front.connect();
    assert_eq!(quiet.send("GET", "/health", &[], b"").unwrap().status, 200);
    assert!(quiet.is_closed());
    let line = r#"trialog_limits_met_total{limit="quiet_connection"} 0"#;
    assert!(!front.has_metric(&front.key, line), "it is counted");
    front.ask("POST", LOG, EXAMPLE).log_id();
}

#[test]
fn a_whole_body_comes_in_time_or_is_refused() {
    let front = front(Limits {
        body_time_max: Duration::from_millis(100),
        body_silence_max: Duration::from_secs(3600),
        ..Limits::default()
    });
    for path in [LOG, "/experiment/demo/logs"] {
        let mut slow = front.begin(path, EXAMPLE.len(), &EXAMPLE[..10]);
        let words = "the body did not come in time";
        let refused = slow.read_answer(false).unwrap();
        refused.assert_error(408, "body_timeout", words, path);
        assert!(slow.is_closed());
    }
    let line = r#"trialog_http_refusals_total{code="body_timeout"} 2"#;
    assert!(front.has_metric(&front.key, line));
    front.ask("POST", LOG, EXAMPLE).log_id();
    assert_eq!(front.count(), 1);
}

#[test]
fn a_key_has_so_many_requests_a_second_and_another_key_has_its_own() {
    let front = front(Limits {
        key_rate: 1,
        ..Limits::default()
    });
    let others: Vec<_> = (0..3).map(|_| front.another_key()).collect();
    let refused = until(429, || front.ask_as(&front.key));
    let words = "a key may ask 1 times a second: nothing was done, wait a moment";
    refused.assert_error(429, "rate_limited", words, "rate");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(front.ask_as(&others[0]).status, 200);
    assert_eq!(
        front
            .connect()
            .send("GET", "/health", &[], b"")
            .unwrap()
            .status,
        200
    );
    let line = r#"trialog_http_refusals_total{code="rate_limited"} 1"#;
    assert!(front.has_metric(&others[1], line));
    until(200, || front.ask_as(&front.key));
    // It holds for the requests from now on.
    front.state.set_limits(Limits::default());
    for _ in 0..10 {
        assert_eq!(front.ask_as(&front.key).status, 200);
    }
}

#[test]
fn wrong_keys_are_slowed_down_and_good_ones_of_the_same_address_are_not() {
    let front = front(Limits {
        failures_max: 3,
        ..Limits::default()
    });
    let wrong = "tl_wrongwrong_wrongwrongwrongwrongwrong";
    front
        .ask_as(wrong)
        .assert_error(401, "api_key_invalid", "no valid key", "first");
    let refused = until(429, || front.ask_as(wrong));
    let words = "too many requests of this address had no valid key: wait a moment";
    refused.assert_error(429, "too_many_failures", words, "failures");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    for _ in 0..10 {
        assert_eq!(front.ask_as(&front.key).status, 200);
    }
    // Without a key nothing was guessed.
    let asked = front.connect().send("GET", "/experiments", &[], b"");
    assert_eq!(asked.unwrap().status, 401);
    let line = r#"trialog_http_refusals_total{code="too_many_failures"} 1"#;
    assert!(front.has_metric(&front.key, line));
}

#[test]
fn pipelined_requests_are_all_answered_in_order() {
    let front = front(Limits::default());
    front.serves_a_good_client_beside(|mut stream| {
        const COUNT: usize = 1000;
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || writer.write_all(&HEALTH.repeat(COUNT)));
        let mut answers = Vec::new();
        let mut piece = [0; 4096];
        let count = |answers: &[u8]| {
            let text = String::from_utf8_lossy(answers);
            text.matches("HTTP/1.1 200 OK").count()
        };
        while count(&answers) < COUNT {
            let len = stream.read(&mut piece).unwrap();
            assert!(len > 0, "it ended early");
            answers.extend_from_slice(&piece[..len]);
        }
        writing.join().unwrap().unwrap();
    });
}

#[test]
fn random_bytes_end_their_connection_alone() {
    let front = front(Limits::default());
    let address = front.address;
    front.serves_a_good_client_beside(|first| {
        drop(first);
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let mut client = Client::connect(address).unwrap();
            let bytes: Vec<u8> = (0..random.usize(1..5000)).map(|_| random.u8(..)).collect();
            // It may be closed before all is sent.
            let _sent = client.send_raw(&bytes);
        }
    });
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn begin_http2(stream: &mut TcpStream) {
    let settings = frame(4, 0, 0, &[]);
    stream.write_all(&[PREFACE, &settings].concat()).unwrap();
}

/// `GET /health` as HPACK has it without a table of its own.
const GET_HEALTH: &[u8] = b"\x82\x86\x04\x07/health\x01\x01t";

#[test]
fn a_flood_of_continuations_ends_its_connection_alone() {
    let front = front(Limits::default());
    front.serves_a_good_client_beside(|mut stream| {
        begin_http2(&mut stream);
        stream
            .write_all(&frame(1, END_STREAM, 1, GET_HEALTH))
            .unwrap();
        // Headers of a name and a value that never end.
        let header = [b"\x00\x01x\x7f\x81\x7d".as_slice(), &[b'y'; 16_000]].concat();
        let continuation = frame(9, 0, 1, &header);
        let mut sent = 0;
        while stream.write_all(&continuation).is_ok() {
            sent += continuation.len();
            assert!(sent < 64 << 20, "it takes them all");
        }
    });
}

#[test]
fn streams_that_are_reset_at_once_keep_nobody_from_being_served() {
    let front = front(Limits::default());
    front.serves_a_good_client_beside(|mut stream| {
        begin_http2(&mut stream);
        for n in 0..20_000 {
            let id = 2 * n + 1;
            let request = frame(1, END_STREAM | END_HEADERS, id, GET_HEALTH);
            let reset = frame(3, 0, id, &8_u32.to_be_bytes());
            // The server may have had enough.
            if stream.write_all(&[request, reset].concat()).is_err() {
                return;
            }
        }
    });
    let begun = Instant::now();
    while front.state.metrics.in_flight() > 0 {
        assert!(begun.elapsed() < PATIENCE, "nothing of it stays");
        std::thread::yield_now();
    }
}

/// The descriptors and the kilobytes of memory that a server has.
fn holdings(server: &Server) -> (usize, u64) {
    let of_process = format!("/proc/{}", server.pid());
    let descriptors = std::fs::read_dir(format!("{of_process}/fd")).unwrap();
    let status = std::fs::read_to_string(format!("{of_process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    (descriptors.count(), kilobytes.parse().unwrap())
}

#[test]
fn thousands_of_idle_connections_keep_nobody_from_being_served_and_leave_nothing() {
    const COUNT: usize = 5_000;
    let limit = getrlimit(Resource::Nofile);
    let needed = Some(COUNT as u64 + 1000);
    if limit.maximum.is_some_and(|maximum| Some(maximum) < needed) {
        return not_run("this process may not have 6,000 descriptors");
    }
    if limit.current.is_some_and(|current| Some(current) < needed) {
        let current = needed;
        setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let mut good = server.connect();
    let mut append = || {
        let key = [("x-api-key", server.key.as_str())];
        let answer = good.send("POST", LOG, &key, EXAMPLE.as_bytes());
        answer.unwrap().log_id();
    };
    (0..200).for_each(|_| append());
    let (descriptors_before, kilobytes_before) = holdings(&server);
    let mut idle = Vec::new();
    for n in 0..COUNT {
        let mut stream = TcpStream::connect(server.address).unwrap();
        // Some say nothing, some begin to.
        if n % 2 == 0 {
            stream
                .write_all(b"POST /experiment/demo/log HTTP/1.1\r\nhost:")
                .unwrap();
        }
        idle.push(stream);
        if n % 50 == 0 {
            append();
        }
    }
    (0..200).for_each(|_| append());
    let (descriptors, kilobytes) = holdings(&server);
    assert!(descriptors >= descriptors_before + COUNT, "{descriptors}");
    let each = kilobytes.saturating_sub(kilobytes_before) * 1024 / COUNT as u64;
    assert!(each < 32 << 10, "{each} bytes for each connection");
    drop(idle);
    let begun = Instant::now();
    while holdings(&server).0 > descriptors_before + 20 {
        assert!(
            begun.elapsed() < PATIENCE,
            "descriptors stay: {:?}",
            holdings(&server)
        );
        std::thread::yield_now();
    }
    (0..200).for_each(|_| append());
    let count = server.ask("GET", "/experiment/demo", "").json()["count"].clone();
    assert_eq!(count, 600 + COUNT / 50);
}
