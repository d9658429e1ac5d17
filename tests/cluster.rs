//! A store on three nodes over three real NATS servers, started by `deploy/cluster-demo.sh`: what one node takes
//! all have, whatever is killed, stopped or cut off meanwhile. Needs the feature `nats`; where no NATS server is
//! installed, these tests say `NOT RUN`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "it/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "cluster/demo.rs"]
mod demo;
#[path = "cluster/link.rs"]
mod link;
#[path = "cluster/load.rs"]
mod load;
#[path = "it/server.rs"]
#[allow(dead_code)]
mod server;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use demo::{Demo, KEY};
use link::Link;
use load::{Acknowledged, Load};
use server::{Answer, Client, PATIENCE, Server, arg, run};

/// Two clusters at the same time would only wait for each other.
static ALONE: Mutex<()> = Mutex::new(());
/// How long the stream keeps messages where it is to age: for longer than a copy takes.
const KEPT: &str = "15s";
/// How long a node is stopped, or cut off.
const AWAY: Duration = Duration::from_secs(20);

fn ask_with(node: SocketAddr, key: &str, method: &str, path: &str, body: &str) -> Answer {
    let headers = [
        ("x-api-key", key),
        ("content-type", "application/json"),
        ("accept", "application/x-ndjson, application/json"),
    ];
    let mut client = Client::connect(node).expect("it listens");
    client
        .send(method, path, &headers, body.as_bytes())
        .expect("it answers")
}

fn ask(node: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
    ask_with(node, KEY, method, path, body)
}

/// Asks again until it is so.
fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What all of these nodes have of an experiment, once they have the same.
fn log_of(nodes: &[SocketAddr], slug: &str, count: usize) -> String {
    let path = format!("/experiment/{slug}/logs");
    wait_until("all nodes have the same entries", || {
        let logs = nodes.iter().map(|node| {
            let answer = ask(*node, "GET", &path, "");
            (answer.status == 200 && !answer.is_cut)
                .then(|| String::from_utf8(answer.body).unwrap())
        });
        let logs: Option<Vec<String>> = logs.collect();
        let mut logs = logs?;
        logs.dedup();
        match logs.as_slice() {
            [log] if log.lines().count() >= count => logs.pop(),
            _ => None,
        }
    })
}

/// Each acknowledged entry is there once, with its id; nothing is there twice; ids rise.
fn check(log: &str, slug: &str, acknowledged: &BTreeMap<u64, Acknowledged>) {
    let mut found = HashMap::new();
    let mut last = String::new();
    for line in log.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = entry["logId"].as_str().unwrap().to_owned();
        let n = entry["input"]["n"].as_u64().unwrap();
        assert!(id > last, "{id} comes behind {last}");
        last.clone_from(&id);
        let before = found.insert(n, id.clone());
        assert!(
            before.is_none(),
            "entry {n} is there twice: {before:?}, {id}"
        );
    }
    for (n, sent) in acknowledged.iter().filter(|(_, sent)| sent.slug == slug) {
        assert_eq!(found.get(n), Some(&sent.id), "entry {n}");
    }
}

#[test]
fn what_one_node_takes_all_have() {
    let _alone = ALONE.lock();
    let Some(mut demo) = Demo::start() else {
        return;
    };
    let [a, b, c] = [1, 2, 3].map(|node| demo.address(node));
    // Definitions.
    let made = ask(a, "PUT", "/experiment/search", r#"{"variants":["A","B"]}"#);
    assert_eq!(made.status, 201, "{made:?}");
    for node in [b, c] {
        wait_until("the definition is everywhere", || {
            let seen = ask(node, "GET", "/experiment/search", "");
            (seen.status == 200).then_some(())
        });
    }
    let again = ask(
        b,
        "PUT",
        "/experiment/search",
        r#"{"variants":["A","B","C"]}"#,
    );
    assert_eq!(again.status, 200, "{again:?}");
    // Entries: an id is found on another node at once, also as where a page begins.
    let body = r#"{"variantKey":"A","input":{"query":"here"}}"#;
    for (takes, has) in [(a, b), (b, c), (c, a)].repeat(10) {
        let answer = ask(takes, "POST", "/experiment/search/log", body);
        assert_eq!(answer.status, 200, "{answer:?}");
        let id = answer.json()["logId"].as_str().unwrap().to_owned();
        let entry = ask(has, "GET", &format!("/experiment/search/log/{id}"), "");
        assert_eq!(entry.status, 200, "{entry:?}");
        let page = ask(
            has,
            "GET",
            &format!("/experiment/search/logs?after={id}"),
            "",
        );
        assert_eq!(page.status, 200, "{page:?}");
    }
    assert_eq!(log_of(&[a, b, c], "search", 30).lines().count(), 30);
    // A retry at another node.
    let keyed = |node: SocketAddr| {
        let headers = [
            ("x-api-key", KEY),
            ("content-type", "application/json"),
            ("idempotency-key", "once"),
        ];
        let mut client = Client::connect(node).unwrap();
        let answer = client.send("POST", "/experiment/search/log", &headers, body.as_bytes());
        answer.unwrap().json()["logId"].clone()
    };
    assert_eq!(keyed(a), keyed(b));
    assert_eq!(log_of(&[a, b, c], "search", 31).lines().count(), 31);
    // Figures: what a node hasn't published it has followed, so all have the same number of messages.
    let figure = |node, name: &str| {
        let text = ask(node, "GET", "/metrics", "").body;
        let text = String::from_utf8(text).unwrap();
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("no {name}"))
            .parse::<u64>()
            .unwrap()
    };
    let published = |node| figure(node, "trialog_replica_published_messages_total");
    let sum = |of: &dyn Fn(SocketAddr) -> u64| [a, b, c].map(of).iter().sum::<u64>();
    wait_until("all have counted the same messages", || {
        let all = [a, b, c]
            .map(|node| published(node) + figure(node, "trialog_replica_followed_messages_total"));
        let stand = sum(&published);
        (stand > 31 && all == [stand; 3]).then_some(())
    });
    for node in [a, b, c] {
        assert_eq!(figure(node, "trialog_replica_shards{state=\"ready\"}"), 64);
        let observed = figure(node, "trialog_replica_publish_seconds_count");
        assert_eq!(observed, published(node));
    }
    let entries = |node| figure(node, "trialog_replica_message_entries_sum");
    assert_eq!(sum(&entries), 31);
    let passed = |node| {
        figure(
            node,
            "trialog_replica_passed_requests_total{outcome=\"done\"}",
        )
    };
    let taken = |node| figure(node, "trialog_replica_taken_requests_total");
    assert!(sum(&passed) <= sum(&taken), "some were done by nobody");
    // Keys.
    let new = r#"{"name":"reader","scopes":["read"]}"#;
    let made = ask(b, "POST", "/keys", new);
    assert_eq!(made.status, 201, "{made:?}");
    let (text, id) = (made.json()["key"].clone(), made.json()["id"].clone());
    let (text, id) = (text.as_str().unwrap(), id.as_str().unwrap());
    let status = |node| ask_with(node, text, "GET", "/experiment/search", "").status;
    for node in [a, b, c] {
        wait_until("the key is known", || (status(node) == 200).then_some(()));
    }
    let revoked = ask(c, "DELETE", &format!("/keys/{id}"), "");
    assert_eq!(revoked.status, 200, "{revoked:?}");
    for node in [a, b, c] {
        wait_until("the key is revoked", || (status(node) == 401).then_some(()));
    }
    // Deletion, and another life.
    let deleted = ask(c, "DELETE", "/experiment/search?confirm=search", "");
    assert_eq!(deleted.status, 200, "{deleted:?}");
    for node in [a, b] {
        wait_until("it is gone everywhere", || {
            let seen = ask(node, "GET", "/experiment/search", "");
            (seen.status == 404).then_some(())
        });
    }
    let made = ask(a, "PUT", "/experiment/search", r#"{"variants":["A"]}"#);
    assert_eq!(made.status, 201, "{made:?}");
    wait_until("its second life is everywhere", || {
        (ask(b, "GET", "/experiment/search", "").status == 200).then_some(())
    });
    assert_eq!(ask(b, "POST", "/experiment/search/log", body).status, 200);
    assert_eq!(log_of(&[a, b, c], "search", 1).lines().count(), 1);
    // By itself a node would write another log than the others.
    demo.end();
    let (status, words) = Server::try_start(&demo.store(1), &[]).err().unwrap();
    assert_eq!(status.code(), Some(1), "{words}");
    assert!(words.contains("is a node of a replicated store"), "{words}");
}

#[test]
fn whatever_is_killed_stopped_or_cut_off_nothing_acknowledged_is_lost_or_doubled() {
    let _alone = ALONE.lock();
    let Some(mut demo) = Demo::start() else {
        return;
    };
    let links: Vec<Link> = demo.nats().into_iter().map(Link::to).collect();
    let ends: Vec<SocketAddr> = links.iter().map(|link| link.address).collect();
    let folder = tempfile::tempdir().unwrap();
    let fourth_store = folder.path().join("node-4");
    let fourth = demo.another_node(&fourth_store, &ends, &[]);
    let mut nodes: Vec<SocketAddr> = [1, 2, 3].map(|node| demo.address(node)).into();
    nodes.push(fourth.address);
    let slugs = ["first", "second", "third"];
    for slug in slugs {
        let made = ask(
            nodes[0],
            "PUT",
            &format!("/experiment/{slug}"),
            r#"{"variants":["A"]}"#,
        );
        assert_eq!(made.status, 201, "{made:?}");
    }
    let load = Load::start(&nodes, &slugs, 0);
    load.wait_for(100);
    let tell = |what: &str| {
        load.wait_for(100);
        eprintln!(
            "{what}: at most {:?} without an acknowledgement",
            load.longest_pause()
        );
    };
    tell("nothing");
    for n in 1..=3 {
        demo.signal(&format!("nats-{n}"), "-KILL");
        tell(&format!("nats-{n} killed"));
    }
    for n in 1..=3 {
        demo.signal(&format!("node-{n}"), "-KILL");
        tell(&format!("node-{n} killed"));
    }
    demo.signal("node-2", "-STOP");
    let begun = Instant::now();
    while begun.elapsed() < AWAY {
        load.wait_for(10);
    }
    demo.signal("node-2", "-CONT");
    tell("node-2 stopped");
    links.iter().for_each(Link::cut);
    let begun = Instant::now();
    while begun.elapsed() < AWAY {
        load.wait_for(10);
    }
    let refused = ask(fourth.address, "GET", "/ready", "");
    assert_eq!(refused.status, 503, "{refused:?}");
    links.iter().for_each(Link::heal);
    tell("node-4 cut off");
    // Without a quorum nobody takes anything, and everybody answers.
    let acknowledged = load.end();
    for n in [1, 2] {
        demo.signal(&format!("nats-{n}"), "-STOP");
    }
    for node in &nodes {
        let body = r#"{"variantKey":"A","input":{"n":1000000000}}"#;
        let answer = ask(*node, "POST", "/experiment/first/log", body);
        answer.assert_error(503, "journal_unavailable", "", "without a quorum");
        assert!(answer.header("retry-after").is_some());
        assert_eq!(ask(*node, "GET", "/experiment/first/logs", "").status, 200);
    }
    for n in [1, 2] {
        demo.signal(&format!("nats-{n}"), "-CONT");
    }
    let begun = Instant::now();
    // New ones: what is sent again is acknowledged without a quorum.
    let more = Load::start(&nodes, &["second"], 1_000_000);
    more.wait_for(1);
    eprintln!(
        "a quorum again: {:?} until an acknowledgement",
        begun.elapsed()
    );
    more.wait_for(100);
    drop(more.end());
    // What was answered 503 may have come to stand since; as often as it was sent, at most.
    let logs = slugs.map(|slug| {
        let count = acknowledged
            .values()
            .filter(|sent| sent.slug == slug)
            .count();
        (slug, log_of(&nodes, slug, count))
    });
    for (slug, log) in &logs {
        if *slug == "third" {
            check(log, slug, &acknowledged);
        }
        let lines: Vec<&str> = log.lines().collect();
        let (mine, rest): (Vec<&str>, Vec<&str>) = lines
            .iter()
            .partition(|line| !line.contains(r#""n":1000000000}"#));
        assert!(rest.len() <= nodes.len(), "{rest:?}");
        if *slug == "first" {
            check(&mine.join("\n"), slug, &acknowledged);
        }
    }
    eprintln!("{} entries acknowledged", acknowledged.len());
    fourth.kill();
    demo.end();
    let replayed = |dir: &Path| demo.replayed(dir);
    let files = replayed(&demo.store(1));
    for dir in [demo.store(2), demo.store(3), fourth_store] {
        assert!(
            replayed(&dir) == files,
            "{} has other entries",
            dir.display()
        );
    }
    for (_, log) in &logs {
        for line in log.lines() {
            assert!(files.contains(line), "{line}");
        }
    }
}

fn words_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_aged_stream_stops_an_empty_node_and_is_followed_by_a_copy() {
    let _alone = ALONE.lock();
    let folder = tempfile::tempdir().unwrap();
    let archive = format!("file://{}", arg(&folder.path().join("archive")));
    std::fs::create_dir(folder.path().join("archive")).unwrap();
    let mut variables = vec![("TRIALOG_JOURNAL_RETENTION", KEPT)];
    if cfg!(feature = "archive") {
        variables.push(("TRIALOG_ARCHIVE", &archive));
        variables.push(("TRIALOG_SEGMENT_BYTES", "64KiB"));
    }
    let Some(mut demo) = Demo::start_with(&variables) else {
        return;
    };
    let mut nodes: Vec<SocketAddr> = [1, 2, 3].map(|node| demo.address(node)).into();
    let slugs = ["first", "second", "third"];
    for slug in slugs {
        let path = format!("/experiment/{slug}");
        let made = ask(nodes[0], "PUT", &path, r#"{"variants":["A"]}"#);
        assert_eq!(made.status, 201, "{made:?}");
    }
    let load = Load::start(&nodes, &slugs, 0);
    load.wait_for(300);
    // With entries coming all the time, what is old goes.
    let (held, ever) = wait_until("messages are dropped", || {
        let (held, ever) = demo.messages();
        (ever - held >= 100).then_some((held, ever))
    });
    eprintln!("the stream holds {held} of {ever} messages");
    // An empty node would have a log without its beginning.
    let keeps = ["--journal-retention", KEPT];
    let empty = demo.another_node(&folder.path().join("empty"), &demo.nats(), &keeps);
    let line = empty.wait_until_said("trialog backup");
    assert!(line.contains("ERROR"), "{line}");
    let refused = ask(empty.address, "GET", "/ready", "");
    assert_eq!(refused.status, 503, "{refused:?}");
    let list = ask(empty.address, "GET", "/experiments", "");
    assert_eq!(list.status, 200, "{list:?}");
    drop(empty.end());
    // A copy of another node's folder, taken while entries come, goes on from there.
    let copy = folder.path().join("copy");
    let (data, url) = (demo.store(2), format!("http://{}", nodes[1]));
    let begun = Instant::now();
    let copied = run(&[
        "backup",
        arg(&copy),
        "--data",
        arg(&data),
        "--server",
        &url,
        "--api-key",
        KEY,
    ]);
    assert!(copied.status.success(), "{copied:?}");
    assert!(copy.join("replica/identity.json").exists());
    assert!(!copy.join("replica/node.json").exists());
    let verified = run(&["verify", arg(&copy)]);
    assert!(verified.status.success(), "{verified:?}");
    assert!(!demo.replayed(&copy).is_empty());
    let (status, words) = Server::try_start(&copy, &[]).err().unwrap();
    assert_eq!(status.code(), Some(1), "{words}");
    assert!(words.contains("a copy of one"), "{words}");
    let fourth = demo.another_node(&copy, &demo.nats(), &keeps);
    eprintln!("a copy was made and started within {:?}", begun.elapsed());
    nodes.push(fourth.address);
    wait_until("the copy is ready", || {
        let ready = ask(fourth.address, "GET", "/ready", "");
        (ready.status == 200).then_some(())
    });
    // So does what another node's archive has.
    let (data, url) = (demo.store(3), format!("http://{}", nodes[2]));
    let restored = folder.path().join("restored");
    if cfg!(feature = "archive") {
        let of_server = ["--data", arg(&data), "--server", &url, "--api-key", KEY];
        let copied = run(&[&["backup", &*archive][..], &of_server].concat());
        assert!(copied.status.success(), "{copied:?}");
        let done = run(&["restore", &archive, arg(&restored)]);
        assert!(done.status.success(), "{done:?}");
        eprintln!("{}{}", words_of(&copied), words_of(&done));
    }
    let fifth =
        cfg!(feature = "archive").then(|| demo.another_node(&restored, &demo.nats(), &keeps));
    if let Some(fifth) = &fifth {
        nodes.push(fifth.address);
        wait_until("the restored node is ready", || {
            let ready = ask(fifth.address, "GET", "/ready", "");
            (ready.status == 200).then_some(())
        });
    }
    load.wait_for(100);
    let more = Load::start(&[fourth.address], &["third"], 1_000_000);
    more.wait_for(10);
    let mut acknowledged = load.end();
    acknowledged.extend(more.end());
    for slug in slugs {
        let sent = acknowledged.values().filter(|sent| sent.slug == slug);
        let log = log_of(&nodes, slug, sent.count());
        check(&log, slug, &acknowledged);
    }
    assert!(fourth.end().0.success());
    let mut dirs = vec![demo.store(2), demo.store(3), copy];
    if let Some(fifth) = fifth {
        assert!(fifth.end().0.success());
        dirs.push(restored);
    }
    demo.end();
    let files = demo.replayed(&demo.store(1));
    for dir in dirs {
        let is_same = demo.replayed(&dir) == files;
        assert!(is_same, "{} has other entries", dir.display());
    }
}
