//! The real server, killed with SIGKILL again and again while it takes entries and while it
//! starts: what it acknowledged is there, and nothing else that it shouldn't have.
//!
//! `TRIALOG_TEST_KILLS` says how often, `TRIALOG_TEST_SEED` chooses other moments.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use trialog::experiment::folder::read_store_id;
use trialog::fs::real;
use trialog::journal::scan::{Purpose, read_laps};
use trialog::log::reader::{Segment, list_segments};
use trialog::model::{LogId, Slug};

use crate::ledger::{Body, Ledger, Seen};
use crate::rig::slug;
use crate::server::{Answer, Client, Server, arg, run, trialog};

const EXPERIMENTS: [&str; 4] = ["alpha", "beta", "gamma", "delta"];
const WRITERS: u64 = 8;
/// So small that within a life segments roll and are sealed, and the journal begins new laps.
const SIZES: [&str; 4] = ["--segment-bytes", "65536", "--journal-bytes", "1048576"];
/// Groups of this size go around the journal.
const AROUND_BYTES: usize = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(60);

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn a_server_killed_again_and_again_loses_doubles_and_changes_nothing() {
    let kills = setting("TRIALOG_TEST_KILLS", 25);
    let mut random = fastrand::Rng::with_seed(setting("TRIALOG_TEST_SEED", 1));
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let server = Server::start(&store, &SIZES);
    for name in EXPERIMENTS {
        server.define(name);
    }
    server.kill();
    let mut ledger = Ledger::default();
    let mut total = Seen::default();
    for kill in 0..kills {
        // Sometimes it dies at its start, before it was asked for anything.
        if kill % 5 == 4 {
            kill_at_start(&store, Moment::of(kill / 5));
        } else {
            let acknowledgements = random.u64(1..2000);
            kill_under_load(&store, &mut ledger, acknowledgements, random.fork());
        }
        let verified = run(&["verify", arg(&store)]);
        let said = String::from_utf8_lossy(&verified.stdout);
        assert_eq!(verified.status.code(), Some(0), "kill {kill}: {said}");
        let seen = ledger.check(&store);
        total.unsure_there += seen.unsure_there;
        total.unsure_absent += seen.unsure_absent;
    }
    let server = Server::start(&store, &SIZES);
    read_some(&server, &ledger, &mut random);
    assert!(server.stop().0.success());
    let left = ledger.check(&store);
    assert_all_was_at_work(&store, kills + 2);
    eprintln!("{kills} kills, {} entries: {total:?}", left.entries);
}

/// Segments rolled and were sealed, and laps of the journal were used again within a life.
fn assert_all_was_at_work(store: &Path, starts: u64) {
    let disk = real::host().disk;
    let mut sealed = 0;
    for name in EXPERIMENTS {
        for listed in list_segments(&*disk, &store.join("experiments").join(name)).unwrap() {
            let segment = Segment::open(&*disk, &listed.path, listed.hint).unwrap();
            sealed += usize::from(segment.footer().is_some());
        }
    }
    assert!(sealed >= EXPERIMENTS.len(), "{sealed} segments are sealed");
    let store_id = read_store_id(&*disk, store).unwrap().unwrap();
    let (laps, _) = read_laps(&*disk, &store.join("journal"), store_id, Purpose::Look).unwrap();
    let last_lap = laps.iter().map(|lap| lap.header.lap).max();
    // Each start begins two.
    assert!(
        last_lap > Some(starts * 2),
        "{last_lap:?} laps in {starts} starts"
    );
}

/// Writers send until the server dies, which it does after this many acknowledgements.
fn kill_under_load(store: &Path, ledger: &mut Ledger, after: u64, mut random: fastrand::Rng) {
    let server = Server::start(store, &SIZES);
    let count = AtomicU64::new(0);
    let shared = Mutex::new(std::mem::take(ledger));
    let (enough, is_enough) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            let mut writer = Writer {
                client: server.connect(),
                key: server.key.clone(),
                random: random.fork(),
                ledger: &shared,
            };
            let (count, enough) = (&count, enough.clone());
            scope.spawn(move || {
                while writer.send_one() {
                    if count.fetch_add(1, Ordering::Relaxed) + 1 == after {
                        enough.send(()).expect("it is waited for");
                    }
                }
            });
        }
        is_enough.recv_timeout(PATIENCE).expect("acknowledgements");
        server.kill();
    });
    *ledger = shared.into_inner().expect("no writer panicked");
}

struct Writer<'a> {
    client: Client,
    key: String,
    random: fastrand::Rng,
    ledger: &'a Mutex<Ledger>,
}

impl Writer<'_> {
    /// Sends one request; `false` when the server didn't answer it.
    fn send_one(&mut self) -> bool {
        let experiment = slug(EXPERIMENTS[self.random.usize(..EXPERIMENTS.len())]);
        let bodies = self.bodies();
        let answer = self.post(&experiment, &bodies);
        let mut ledger = self.ledger.lock().expect("no writer panicked");
        match answer {
            Ok(answer) => {
                ledger.acknowledge(&experiment, ids_of(&answer), bodies);
                true
            }
            Err(_) => {
                ledger.leave_open(&experiment, bodies);
                false
            }
        }
    }

    fn post(&mut self, experiment: &Slug, bodies: &[Body]) -> std::io::Result<Answer> {
        let key = ("x-api-key", &*self.key);
        let path = format!("/experiment/{experiment}/log");
        if let [body] = bodies {
            return self.client.send("POST", &path, &[key], body);
        }
        let lines = bodies.join(&b'\n');
        let content = ("content-type", "application/x-ndjson");
        let path = format!("{path}s");
        self.client.send("POST", &path, &[key, content], &lines)
    }

    /// One entry mostly, sometimes a batch, at times one that goes around the journal.
    fn bodies(&mut self) -> Vec<Body> {
        let (count, padding) = match self.random.u8(..40) {
            0 => (40, AROUND_BYTES / 40),
            1..6 => (self.random.usize(2..20), 200),
            6..12 => (1, 6000),
            _ => (1, self.random.usize(..300)),
        };
        (0..count).map(|_| self.body(padding)).collect()
    }

    fn body(&mut self, padding: usize) -> Body {
        let variant = if self.random.bool() { "A" } else { "B" };
        let unique = self.random.u128(..);
        let padding = "x".repeat(padding);
        let body =
            format!(r#"{{"variantKey":"{variant}","input":{{"u":"{unique}","p":"{padding}"}}}}"#);
        body.into_bytes()
    }
}

fn ids_of(answer: &Answer) -> Vec<LogId> {
    let body = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, 200, "{body}");
    let json = answer.json();
    let id = |value: &serde_json::Value| value.as_str().and_then(|id| id.parse().ok());
    let ids = match json["logIds"].as_array() {
        Some(ids) => ids.iter().map(id).collect(),
        None => Some(vec![id(&json["logId"]).expect("a logId")]),
    };
    ids.expect("log ids")
}

/// When a starting server dies.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// At once.
    Spawned,
    /// When it has the folder, and recovers.
    Locked,
    /// When it has said something: the segments are up to date, the journal is renewed.
    Spoken,
}

impl Moment {
    fn of(n: u64) -> Self {
        [Self::Locked, Self::Spoken, Self::Spawned][n as usize % 3]
    }
}

fn kill_at_start(store: &Path, moment: Moment) {
    let mut child = trialog()
        .args(["serve", "--listen", "127.0.0.1:0", "--free-bytes", "0"])
        .args(["--data", arg(store)])
        .args(SIZES)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    match moment {
        Moment::Spawned => {}
        Moment::Locked => wait_until_locked(store, &mut child),
        Moment::Spoken => {
            let stderr = child.stderr.take().expect("piped");
            let mut line = String::new();
            BufReader::new(stderr).read_line(&mut line).expect("a line");
            assert!(!line.is_empty(), "it ended without a word");
        }
    }
    child.kill().expect("it was running");
    child.wait().expect("it was our child");
}

fn wait_until_locked(store: &Path, child: &mut Child) {
    let pid = child.id().to_string();
    loop {
        let holder = std::fs::read_to_string(store.join("LOCK")).unwrap_or_default();
        if holder.trim() == pid {
            return;
        }
        assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
        std::thread::yield_now();
    }
}

/// Entries are found by their ids, as they were sent.
fn read_some(server: &Server, ledger: &Ledger, random: &mut fastrand::Rng) {
    let mut client = server.connect();
    let key = ("x-api-key", &*server.key);
    let mut read = 0;
    for (experiment, id, body) in ledger.acknowledged() {
        if random.usize(..ledger.acknowledged_count()) >= 200 {
            continue;
        }
        let path = format!("/experiment/{experiment}/log/{id}");
        let answer = client.send("GET", &path, &[key], b"").unwrap();
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.body.ends_with(&body[1..]), "{path}");
        read += 1;
    }
    assert!(read > 0, "some are read");
}
