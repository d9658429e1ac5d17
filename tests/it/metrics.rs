//! `GET /metrics`: the figures are those of what was done, and Prometheus itself reads them.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::faults::not_run;
use crate::server::{Answer, EXAMPLE, PATIENCE, Server};

const LOG: &str = "/experiment/demo/log";
const DASHBOARD: &str = include_str!("../../deploy/grafana.json");

fn scrape(server: &Server) -> String {
    text(server.ask("GET", "/metrics", ""))
}

fn text(answer: Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    let media_type = answer.header("content-type").unwrap();
    assert!(media_type.starts_with("text/plain; version=0.0.4"));
    String::from_utf8(answer.body).unwrap()
}

/// The value of a sample, by its name and labels as they are written.
fn sample(text: &str, name: &str) -> f64 {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("no {name} in {text}"));
    value.parse().unwrap()
}

fn requests(method: &str, route: &str, status: &str) -> String {
    format!(r#"trialog_http_requests_total{{method="{method}",route="{route}",status="{status}"}}"#)
}

fn refusals(code: &str) -> String {
    format!(r#"trialog_http_refusals_total{{code="{code}"}}"#)
}

fn entries(experiment: &str) -> String {
    format!(r#"trialog_entries_total{{experiment="{experiment}"}}"#)
}

#[test]
fn what_was_done_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--max-tails", "0", "--inflight-bytes", "1048576"];
    let server = Server::start(&dir.path().join("s"), &args);
    for _ in 0..3 {
        server.ask("POST", LOG, EXAMPLE).log_id();
    }
    let batch = format!("{EXAMPLE}\n").repeat(5);
    assert_eq!(
        server.ask("POST", "/experiment/demo/logs", &batch).status,
        200
    );
    // One that goes around the journal.
    let batch = format!("{EXAMPLE}\n").repeat(1000);
    assert_eq!(
        server.ask("POST", "/experiment/demo/logs", &batch).status,
        200
    );
    // One that is stored once.
    let key = [("x-api-key", server.key.as_str()), ("idempotency-key", "k")];
    for _ in 0..2 {
        let mut client = server.connect();
        client
            .send("POST", LOG, &key, EXAMPLE.as_bytes())
            .unwrap()
            .log_id();
    }
    assert_eq!(server.ask("POST", LOG, "{}").status, 400);
    assert_eq!(server.ask_as("wrong", "POST", LOG).status, 401);
    assert_eq!(server.ask("GET", "/experiment/none/logs", "").status, 404);
    assert_eq!(server.ask("GET", "/experiment/demo/tail", "").status, 503);
    // The body is only announced: who refuses it may close the connection while it is sent.
    let announce_large = |path: &str| {
        let mut client = server.connect();
        let key = &server.key;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: trialog\r\nx-api-key: {key}\r\ncontent-length: 1048577\r\n\r\n"
        );
        client.send_raw(head.as_bytes()).unwrap();
        client.read_answer(false).unwrap().status
    };
    assert_eq!(announce_large("/experiment/demo/logs"), 503);
    assert_eq!(announce_large(LOG), 413);

    let text = scrape(&server);
    for (name, expected) in [
        (requests("POST", "/experiment/:slug/log", "2xx"), 5.0),
        (requests("POST", "/experiment/:slug/log", "4xx"), 2.0),
        (requests("POST", "/experiment/:slug/logs", "2xx"), 2.0),
        (requests("POST", "/experiment/:slug/logs", "5xx"), 1.0),
        (requests("GET", "/experiment/:slug/logs", "4xx"), 1.0),
        (requests("none", "none", "4xx"), 1.0),
        (entries("demo"), 3.0 + 5.0 + 1000.0 + 1.0),
        (entries("_other"), 0.0),
        ("trialog_journal_batch_entries_sum".to_owned(), 1009.0),
        (refusals("variant_key_missing"), 1.0),
        (refusals("api_key_invalid"), 1.0),
        (refusals("experiment_not_found"), 1.0),
        (refusals("body_too_large"), 1.0),
        (refusals("overloaded"), 2.0),
        (r#"trialog_limits_met_total{limit="tails"}"#.to_owned(), 1.0),
        (
            r#"trialog_limits_met_total{limit="inflight_bytes"}"#.to_owned(),
            1.0,
        ),
        (
            r#"trialog_limits_met_total{limit="mailbox"}"#.to_owned(),
            0.0,
        ),
        ("trialog_experiments".to_owned(), 1.0),
        ("trialog_experiments_in_use".to_owned(), 1.0),
        ("trialog_mailbox_requests".to_owned(), 0.0),
        // This one.
        ("trialog_http_requests_in_flight".to_owned(), 1.0),
    ] {
        assert_eq!(sample(&text, &name), expected, "{name} in {text}");
    }
    let append = r#"{method="POST",route="/experiment/:slug/log""#;
    let duration = "trialog_http_request_duration_seconds";
    assert_eq!(sample(&text, &format!("{duration}_count{append}}}")), 7.0);
    assert_eq!(
        sample(&text, &format!("{duration}_bucket{append},le=\"+Inf\"}}")),
        7.0
    );
    assert!(sample(&text, &format!("{duration}_sum{append}}}")) > 0.0);
    // Each batch is one sync.
    let batches = sample(&text, "trialog_journal_batch_entries_count");
    assert_eq!(sample(&text, "trialog_journal_sync_seconds_count"), batches);
    let bytes = sample(&text, r#"trialog_segment_bytes_total{experiment="demo"}"#);
    assert!(bytes > 1009.0 * EXAMPLE.len() as f64, "{bytes}");
    assert!(sample(&text, "trialog_journal_bytes_total") > 9.0 * EXAMPLE.len() as f64);
    assert!(sample(&text, "trialog_http_connections_accepted_total") >= 13.0);
    assert!(sample(&text, "trialog_http_connections") >= 1.0);
    assert!(sample(&text, "process_open_fds") > 5.0);
    assert!(sample(&text, "process_resident_memory_bytes") > 1e6);
}

#[test]
fn experiments_beyond_the_bound_share_a_series() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--metrics-experiments", "2"];
    let server = Server::start(&dir.path().join("s"), &args);
    let post = |slug: &str| {
        server
            .ask("POST", &format!("/experiment/{slug}/log"), EXAMPLE)
            .log_id()
    };
    for slug in ["a", "b", "c", "d"] {
        server.define(slug);
        post(slug);
        post(slug);
    }
    let text = scrape(&server);
    let values = ["a", "b", "_other"].map(|slug| sample(&text, &entries(slug)));
    assert_eq!(values, [2.0, 2.0, 4.0]);
    assert!(!text.contains(r#"experiment="c""#));
    // A deleted one makes room, and what it counted stays.
    assert_eq!(
        server.ask("DELETE", "/experiment/a?confirm=a", "").status,
        200
    );
    server.define("e");
    post("e");
    let text = scrape(&server);
    let values = ["b", "e", "_other"].map(|slug| sample(&text, &entries(slug)));
    assert_eq!(values, [2.0, 1.0, 6.0]);
    // A key that doesn't reach one doesn't see its name.
    let (_, key) = server.make_key(r#"{"name":"t","scopes":["read"],"experiments":["e"]}"#);
    let seen = self::text(server.ask_as(&key, "GET", "/metrics"));
    let values = ["e", "_other"].map(|slug| sample(&seen, &entries(slug)));
    assert_eq!(values, [1.0, 8.0]);
    assert!(!seen.contains(r#"experiment="b""#));
}

#[test]
fn a_key_that_may_read_is_needed_and_may_be_a_bearer_token() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let (_, ingest) = server.make_key(r#"{"name":"t","scopes":["ingest"]}"#);
    let (_, read) = server.make_key(r#"{"name":"t","scopes":["read"]}"#);
    let bearer = |key: &str| format!("Bearer {key}");
    let ask = |path: &str, headers: &[(&str, &str)]| {
        let answer = server.connect().send("GET", path, headers, b"").unwrap();
        (answer.status, answer.code_or_empty())
    };
    let refused = |status: u16, code: &str| (status, code.to_owned());
    let (good, bad, weak) = (bearer(&read), bearer("tl_x_y"), bearer(&ingest));
    assert_eq!(ask("/metrics", &[]), refused(401, "api_key_missing"));
    assert_eq!(
        ask("/metrics", &[("authorization", &good)]),
        refused(200, "")
    );
    assert_eq!(
        ask("/metrics", &[("authorization", &bad)]),
        refused(401, "api_key_invalid")
    );
    assert_eq!(
        ask("/metrics", &[("authorization", &read)]),
        refused(401, "api_key_invalid")
    );
    assert_eq!(
        ask("/metrics", &[("authorization", &weak)]),
        refused(403, "scope_missing")
    );
    let both = [("x-api-key", "wrong"), ("authorization", good.as_str())];
    assert_eq!(ask("/metrics", &both), refused(401, "api_key_invalid"));
    // Nowhere else.
    assert_eq!(
        ask("/experiments", &[("authorization", &good)]),
        refused(401, "api_key_missing")
    );
    let posted = server.ask("POST", "/metrics", "");
    posted.assert_error(405, "method_not_allowed", "GET, HEAD", "POST");
}

#[test]
fn promtool_finds_nothing_to_say() {
    if Command::new("promtool").arg("--version").output().is_err() {
        return not_run("there is no promtool (Debian has it in the package prometheus)");
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    server.ask("POST", LOG, EXAMPLE).log_id();
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    promtool.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut checked = promtool.spawn().unwrap();
    let mut stdin = checked.stdin.take().unwrap();
    stdin.write_all(scrape(&server).as_bytes()).unwrap();
    drop(stdin);
    let output = checked.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
}

/// Ends what it holds.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _may_have_ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A scrape by the real one, and the dashboard's questions answered by it.
#[test]
fn prometheus_scrapes_it_and_answers_the_dashboard() {
    if Command::new("prometheus")
        .arg("--version")
        .output()
        .is_err()
    {
        return not_run("there is no prometheus");
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let (_, key) = server.make_key(r#"{"name":"prometheus","scopes":["read"]}"#);
    std::fs::write(dir.path().join("key"), key).unwrap();
    let config = format!(
        "scrape_configs:\n- job_name: trialog\n  scrape_interval: 100ms\n  scrape_timeout: 100ms\n  \
         authorization:\n    credentials_file: key\n  static_configs:\n  - targets: ['{}']\n",
        server.address
    );
    std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
    // It says nowhere which port it took, so one that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut prometheus = Command::new("prometheus");
    prometheus.current_dir(dir.path());
    prometheus.args(["--config.file=prometheus.yml", "--storage.tsdb.path=tsdb"]);
    prometheus.arg(format!("--web.listen-address={address}"));
    prometheus.stdout(Stdio::null()).stderr(Stdio::null());
    let _ends = Ends(prometheus.spawn().unwrap());

    let ask = |question: &str| {
        let encoded: String = question
            .bytes()
            .map(|byte| format!("%{byte:02X}"))
            .collect();
        let path = format!("/api/v1/query?query={encoded}");
        let mut client = crate::client::Client::connect(address).ok()?;
        let answer = client
            .send("GET", &path, &[("connection", "close")], b"")
            .ok()?;
        serde_json::from_slice::<Value>(&answer.body).ok()
    };
    let wait_for = |question: &str| {
        let until = Instant::now() + PATIENCE;
        loop {
            let answered = ask(question).filter(|answer| answer["data"]["result"][0].is_object());
            if let Some(answered) = answered {
                return answered;
            }
            assert!(
                Instant::now() < until,
                "no answer to {question}: {:?}",
                ask(question)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait_for("up == 1");
    server.ask("POST", LOG, EXAMPLE).log_id();
    server.ask("POST", LOG, "{}");
    let counted = wait_for(r#"trialog_entries_total{experiment="demo"} == 1"#);
    assert_eq!(counted["data"]["result"][0]["metric"]["job"], "trialog");
    for question in questions() {
        let answered = ask(&question.replace("$__rate_interval", "1m")).expect("an answer");
        assert_eq!(answered["status"], "success", "{question}: {answered}");
    }
}

/// What the dashboard asks for.
fn questions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    targets
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect()
}

/// The words of an expression that are names of ours.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("trialog_") || word.starts_with("process_"))
}

#[test]
fn the_dashboard_asks_for_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    server.ask("POST", LOG, EXAMPLE).log_id();
    let text = scrape(&server);
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let there: BTreeSet<&str> = samples.flat_map(|line| names(line).next()).collect();
    let questions = questions();
    assert!(questions.len() > 15);
    let mut used = BTreeSet::new();
    for question in &questions {
        for name in names(question) {
            assert!(there.contains(name), "{name} is not there: {question}");
            used.insert(name);
        }
    }
    assert!(used.len() > 20, "{used:?}");
}
