//! `GET /experiment/{slug}/logs` over HTTP: pages, streams, what is refused, damage, and reading
//! beside ingest.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::real_entries;
use crate::server::{Answer, Client, Server};

const LOGS: &str = "/experiment/demo/logs";
const NDJSON: &str = "application/x-ndjson";

/// A server with small segments and the experiment `demo`, which takes any variant.
fn start(dir: &std::path::Path) -> Server {
    let server = Server::start(&dir.join("s"), &["--segment-bytes", "200000"]);
    let open = r#"{"variants":["A","B"],"openVariants":true}"#;
    assert_eq!(server.ask("PUT", "/experiment/demo", open).status, 200);
    server
}

fn get(server: &Server, query: &str) -> Answer {
    server.ask("GET", &format!("{LOGS}?{query}"), "")
}

fn stream(server: &Server, query: &str) -> Answer {
    let headers = [("x-api-key", &*server.key), ("accept", NDJSON)];
    let mut client = server.connect();
    let path = format!("{LOGS}?{query}");
    client.send("GET", &path, &headers, b"").expect("an answer")
}

fn lines(answer: &Answer) -> Vec<String> {
    let text = std::str::from_utf8(&answer.body).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Logs these lines; gives back their ids.
fn log(server: &Server, lines: &[String]) -> Vec<String> {
    let answer = server.ask("POST", LOGS, &format!("[{}]", lines.join(",")));
    assert_eq!(answer.status, 200, "{answer:?}");
    let json = answer.json();
    let ids = json["logIds"].as_array().unwrap().iter();
    ids.map(|id| id.as_str().unwrap().to_owned()).collect()
}

fn numbered(variant: &str, n: usize) -> String {
    let padding = "x".repeat(300);
    format!(r#"{{"variantKey":"{variant}","input":{{"n":{n},"p":"{padding}"}}}}"#)
}

/// The text of each entry of a page, and its `next`.
fn page(answer: &Answer) -> (Vec<String>, Option<String>) {
    assert_eq!(answer.status, 200, "{answer:?}");
    #[derive(serde::Deserialize)]
    struct Page {
        logs: Vec<Box<serde_json::value::RawValue>>,
        next: Option<String>,
    }
    let page: Page = serde_json::from_slice(&answer.body).unwrap();
    let logs = page.logs.iter().map(|log| log.get().to_owned());
    (logs.collect(), page.next)
}

/// All pages of a query, each as long as `limit` but the last.
fn all_pages(server: &Server, query: &str, limit: usize, is_desc: bool) -> Vec<String> {
    let mut entries = Vec::new();
    let mut from = String::new();
    loop {
        let (logs, next) = page(&get(server, &format!("{query}&limit={limit}{from}")));
        assert!(logs.len() == limit || next.is_none());
        entries.extend(logs);
        let Some(next) = next else { return entries };
        assert!(entries.last().unwrap().contains(&next));
        let bound = if is_desc { "before" } else { "after" };
        from = format!("&{bound}={next}");
    }
}

#[test]
fn pages_and_streams_give_what_was_logged() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let key = |n: usize| if n.is_multiple_of(7) { "C d+é" } else { "A" };
    let sent: Vec<_> = (0..2500).map(|n| numbered(key(n), n)).collect();
    let ids: Vec<_> = sent
        .chunks(500)
        .flat_map(|some| log(&server, some))
        .collect();
    let one_by_one = ids.iter().map(|id| {
        let answer = server.ask("GET", &format!("/experiment/demo/log/{id}"), "");
        String::from_utf8(answer.body).unwrap()
    });
    let whole: Vec<_> = one_by_one.collect();

    let streamed = stream(&server, "");
    assert_eq!(streamed.header("content-type"), Some(NDJSON));
    assert_eq!(streamed.header("content-length"), None);
    assert!(lines(&streamed) == whole && !streamed.is_cut);
    assert!(all_pages(&server, "order=asc", 1000, false) == whole);
    let (first, next) = page(&get(&server, ""));
    assert_eq!((first.len(), next.as_deref()), (100, Some(&*ids[99])));

    let newest_first: Vec<_> = whole.iter().rev().cloned().collect();
    assert!(lines(&stream(&server, "order=desc")) == newest_first);
    assert!(all_pages(&server, "order=desc", 333, true) == newest_first);

    let of_c = whole.iter().step_by(7).cloned().collect::<Vec<_>>();
    for variant in ["C%20d%2B%C3%A9", "C+d%2b%c3%a9"] {
        assert!(lines(&stream(&server, &format!("variant={variant}"))) == of_c);
    }
    assert!(all_pages(&server, "variant=C%20d%2B%C3%A9", 10, false) == of_c);
    assert_eq!(lines(&stream(&server, "variant=D")), [""; 0]);

    let between = format!("after={}&before={}", ids[700], ids[1400]);
    assert!(lines(&stream(&server, &between)) == whole[701..1400]);
    assert!(
        lines(&stream(&server, &format!("{between}&limit=5&order=desc")))
            .iter()
            .eq(whole[1395..1400].iter().rev())
    );
    // The beginning of any log.
    let all_zeros = format!("after=log_{}", "0".repeat(26));
    assert!(lines(&stream(&server, &all_zeros)) == whole);

    let time = |n: usize| {
        let entry: Value = serde_json::from_str(&whole[n]).unwrap();
        entry["receivedAt"].as_str().unwrap().to_owned()
    };
    let (since, until) = (time(600), time(2400));
    let in_time: Vec<_> = (0..whole.len())
        .filter(|n| (since.as_str()..until.as_str()).contains(&&*time(*n)))
        .map(|n| whole[n].clone())
        .collect();
    assert!(!in_time.is_empty() && in_time.len() < whole.len());
    let query = format!("since={since}&until={until}");
    assert!(lines(&stream(&server, &query)) == in_time);

    // HEAD says what GET would, without a body.
    let head = server.ask("HEAD", LOGS, "");
    let len = get(&server, "").body.len().to_string();
    assert_eq!(head.header("content-length"), Some(&*len));
    let ingest = server.make_key(r#"{"name":"i","scopes":["ingest"]}"#).1;
    let refused = server.ask_as(&ingest, "GET", LOGS);
    refused.assert_error(403, "scope_missing", "", "a key that may only write");
}

#[test]
fn what_can_not_be_meant_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let ids = log(&server, &[numbered("A", 0), numbered("A", 1)]);
    let (first, second) = (&ids[0], &ids[1]);
    let long = format!("variant={}", "v".repeat(129));
    let turned = format!("after={second}&before={first}");
    let equal = format!("after={first}&before={first}");
    let unknown = "unknown_parameter";
    let bad = "bad_parameter";
    for (query, code, message) in [
        ("limits=5", unknown, "this path takes variant, after"),
        ("variants=A", unknown, ""),
        ("limit=5&limit=5", bad, "limit is there twice"),
        ("limit=0", bad, "from 1 to 1000"),
        ("limit=1001", bad, "from 1 to 1000"),
        ("limit=1000000000", bad, "from 1 to 1000"),
        ("limit=-1", bad, "from 1 to 1000"),
        ("limit=99999999999999999999999", bad, "from 1 to 1000"),
        ("limit=", bad, "from 1 to 1000"),
        ("limit=ten", bad, "from 1 to 1000"),
        ("order=up", bad, "asc or desc"),
        ("order=ASC", bad, "asc or desc"),
        ("order=", bad, "asc or desc"),
        ("after=5", bad, "after: a log id is"),
        ("after=", bad, "after: a log id is"),
        ("before=log_123", bad, "before: a log id is"),
        ("before=LOG_00000000000000000000000000", bad, "before: "),
        ("after=log_ZZZZZZZZZZZZZZZZZZZZZZZZZZ", bad, "after: "),
        ("since=yesterday", bad, "since is a time"),
        ("since=2026-11-24", bad, "since is a time"),
        ("since=2026-11-24T12:00:00", bad, "since is a time"),
        ("since=2026-13-24T12:00:00Z", bad, "since is a time"),
        ("until=1764000000000", bad, "until is a time"),
        ("until=2026-11-24T12:00:00+01:00", bad, "%2B"),
        (
            "since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z",
            bad,
            "since is behind until",
        ),
        ("variant=", bad, "1 to 128 bytes"),
        (&long, bad, "1 to 128 bytes"),
        ("variant=%", bad, "hexadecimal"),
        ("variant=%ff", bad, "UTF-8"),
        (&turned, bad, "after is not in front of before"),
        (&equal, bad, "after is not in front of before"),
    ] {
        get(&server, query).assert_error(400, code, message, query);
        stream(&server, query).assert_error(400, code, message, query);
    }
    // What looks odd and isn't.
    for query in [
        "",
        "&&",
        "limit=1000",
        "since=2020-01-01T00:00:00Z&until=2020-01-01T00:00:00Z",
        "since=2020-01-01T00:00:00%2B02:00",
        "until=1960-01-01T00:00:00Z",
        "variant=not-there-yet",
    ] {
        assert_eq!(get(&server, query).status, 200, "{query}");
    }
    let absent = server.ask("GET", "/experiment/none/logs", "");
    absent.assert_error(404, "experiment_not_found", "", "no such experiment");
    let deleted = server.ask("DELETE", LOGS, "");
    deleted.assert_error(
        405,
        "method_not_allowed",
        "GET, HEAD, POST",
        "no such method",
    );
}

#[test]
fn a_bound_of_another_experiment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    server.define("other");
    let log_to = |slug: &str| {
        let path = format!("/experiment/{slug}/log");
        server.ask("POST", &path, r#"{"variantKey":"A"}"#).log_id()
    };
    // In front of all that is here, among it, and behind it.
    let mut foreign = vec![log_to("other")];
    let mut own = Vec::new();
    for _ in 0..3 {
        own.push(log_to("demo"));
        foreign.push(log_to("other"));
    }
    for id in &foreign {
        for bound in ["after", "before"] {
            let query = format!("{bound}={id}");
            let message = format!("{bound}: no entry of this experiment has the log id {id}");
            get(&server, &query).assert_error(400, "bad_parameter", &message, &query);
            stream(&server, &query).assert_error(400, "bad_parameter", &message, &query);
        }
        let tail = server.ask("GET", &format!("/experiment/demo/tail?after={id}"), "");
        tail.assert_error(400, "bad_parameter", "no entry of this experiment", id);
    }
    let absent = server.ask(
        "GET",
        &format!("/experiment/none/logs?after={}", own[0]),
        "",
    );
    absent.assert_error(404, "experiment_not_found", "", "no such experiment");
    for id in &own {
        assert_eq!(get(&server, &format!("after={id}")).status, 200);
        assert_eq!(get(&server, &format!("before={id}")).status, 200);
    }
    // Nor is one of an earlier experiment of this name.
    let gone = server.ask("DELETE", "/experiment/demo?confirm=demo", "");
    assert_eq!(gone.status, 200);
    server.define("demo");
    log_to("demo");
    let query = format!("after={}", own[0]);
    get(&server, &query).assert_error(400, "bad_parameter", "no entry of this", &query);
}

/// Damages the entry that holds `what` in one of the files of segments.
pub fn hit(dir: &std::path::Path, what: &str) {
    let files = std::fs::read_dir(dir.join("s/experiments/demo")).unwrap();
    for path in files.map(|file| file.unwrap().path()) {
        let mut bytes = std::fs::read(&path).unwrap();
        let what = what.as_bytes();
        let found = bytes.windows(what.len()).position(|bytes| bytes == what);
        if let Some(at) = found {
            bytes[at] ^= 1;
            return std::fs::write(&path, bytes).unwrap();
        }
    }
    panic!("{what} is in no segment");
}

#[test]
fn damage_is_told_and_the_rest_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let sent: Vec<_> = (0..2000).map(|n| numbered("A", n)).collect();
    let ids: Vec<_> = sent
        .chunks(100)
        .flat_map(|some| log(&server, some))
        .collect();
    assert!(server.stop().0.success());
    hit(dir.path(), r#"{"n":1234,"#);
    let server = Server::start(&dir.path().join("s"), &["--segment-bytes", "200000"]);

    for (query, count) in [("", 1999), ("order=desc", 1999), ("variant=A", 1999)] {
        let streamed = stream(&server, query);
        assert!(
            streamed.is_cut,
            "{query}: whoever reads no lines sees that it isn't whole"
        );
        let mut lines = lines(&streamed);
        let last: Value = serde_json::from_str(&lines.pop().unwrap()).unwrap();
        assert_eq!(last["error"]["code"], "log_damaged", "{query}: {last}");
        assert_eq!(lines.len(), count, "{query}");
    }
    // Elsewhere nothing is to be seen of it.
    let elsewhere = stream(&server, &format!("after={}", ids[1234]));
    assert!(!elsewhere.is_cut && lines(&elsewhere).len() == 2000 - 1235);

    // Pages end in front of it, and go on behind it.
    let (logs, next) = page(&get(&server, &format!("after={}", ids[1199])));
    assert_eq!((logs.len(), next.as_deref()), (34, Some(&*ids[1233])));
    let damaged = get(&server, &format!("after={}", ids[1233]));
    let further = format!("after={}", ids[1234]);
    damaged.assert_error(500, "log_damaged", &further, "at the damage");
    assert!(!damaged.message().contains('/') || damaged.message().contains(NDJSON));
    let (logs, _) = page(&get(&server, &format!("{further}&limit=1")));
    assert!(logs[0].contains(&ids[1235]));
    let damaged = get(&server, &format!("order=desc&before={}", ids[1235]));
    let further = format!("before={}", ids[1234]);
    damaged.assert_error(500, "log_damaged", &further, "at the damage from behind");
    let (logs, _) = page(&get(&server, &format!("order=desc&{further}&limit=1")));
    assert!(logs[0].contains(&ids[1233]));
}

#[test]
fn beside_ingest_a_reader_sees_a_beginning_of_the_log_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let is_done = AtomicBool::new(false);
    let mut acknowledged = Vec::new();
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let server = &server;
                scope.spawn(move || {
                    let key = ("x-api-key", &*server.key);
                    let mut client = server.connect();
                    let mut ids = Vec::new();
                    for n in 0..400 {
                        let body = numbered(if n % 9 == 0 { "B" } else { "A" }, writer * 1000 + n);
                        let path = "/experiment/demo/log";
                        let answer = client.send("POST", path, &[key], body.as_bytes());
                        ids.push(answer.unwrap().log_id());
                    }
                    ids
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            let mut seen: Vec<Vec<String>> = Vec::new();
            while !is_done.load(Ordering::Acquire) {
                seen.push(lines(&stream(&server, "")));
                let mut newest_first = lines(&stream(&server, "order=desc"));
                newest_first.reverse();
                seen.push(newest_first);
            }
            seen
        });
        for writer in writers {
            acknowledged.extend(writer.join().unwrap());
        }
        is_done.store(true, Ordering::Release);
        seen = reader.join().unwrap();
    });
    let whole = lines(&stream(&server, ""));
    acknowledged.sort();
    assert_eq!(whole.len(), acknowledged.len());
    let in_order = whole.iter().zip(&acknowledged);
    assert!(
        in_order
            .into_iter()
            .all(|(line, id)| line.contains(id.as_str()))
    );
    assert!(seen.len() >= 4, "it was read {} times", seen.len());
    let mut longest = 0;
    for reading in seen {
        assert!(reading.len() >= longest, "what was seen is seen again");
        longest = reading.len();
        assert!(
            whole.starts_with(&reading),
            "{} lines aren't its beginning",
            reading.len()
        );
    }
}

#[test]
fn a_client_that_goes_away_or_reads_nothing_costs_no_more_than_a_piece() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let large = format!(
        r#"{{"variantKey":"A","input":{{"p":"{}"}}}}"#,
        "y".repeat(100_000)
    );
    // Far more than the sockets between us hold.
    for _ in 0..4 {
        log(&server, &vec![large.clone(); 200]);
    }
    let before = memory_kib(&server);
    let mut silent = Vec::new();
    for _ in 0..20 {
        let mut client: Client = server.connect();
        let key = &server.key;
        let head = format!(
            "GET {LOGS} HTTP/1.1\r\nhost: t\r\nx-api-key: {key}\r\naccept: {NDJSON}\r\n\r\n"
        );
        client.send_raw(head.as_bytes()).unwrap();
        client.wait_for_bytes();
        silent.push(client);
    }
    let grown = memory_kib(&server).saturating_sub(before);
    // 80 MB for each would be 1.6 GB.
    assert!(
        grown < 150_000,
        "{grown} KiB for 20 readers that don't read"
    );
    drop(silent);
    assert_eq!(lines(&stream(&server, "")).len(), 800);
}

/// The memory of its own that the server holds, mapped files aside.
fn memory_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn real_entries_are_selected_as_a_plain_filter_does() {
    let Some(sent) = real_entries::lines() else {
        return crate::faults::report(
            "NOT RUN: the real entries aren't in ../shared, nor in TRIALOG_TEST_SHARED",
        );
    };
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    for some in sent.chunks(300) {
        log(&server, some);
    }
    let whole = lines(&stream(&server, ""));
    assert_eq!(whole.len(), sent.len());
    let key = |line: &str| {
        let json: Value = serde_json::from_str(line).unwrap();
        json["variantKey"].as_str().unwrap().to_owned()
    };
    let mut keys: Vec<_> = sent.iter().map(|line| key(line)).collect();
    keys.sort();
    keys.dedup();
    assert!(keys.len() > 1);
    for wanted in keys {
        let query = format!("variant={}", wanted.replace(' ', "%20").replace('+', "%2B"));
        let of_it: Vec<_> = whole
            .iter()
            .filter(|line| key(line) == wanted)
            .cloned()
            .collect();
        assert!(lines(&stream(&server, &query)) == of_it, "{wanted}");
        assert!(
            all_pages(&server, &query, 100, false) == of_it,
            "{wanted}, page by page"
        );
    }
}
