//! Writers that load a server until something ends it, and note in a ledger what it answered.

use std::io;
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use trialog::experiment::folder::read_store_id;
use trialog::fs::real;
use trialog::journal::scan::{Purpose, read_laps};
use trialog::log::reader::{Segment, list_segments};
use trialog::model::Slug;

use crate::ledger::{Body, Ledger, Outcome, Seen};
use crate::rig::slug;
use crate::server::{Answer, Client, PATIENCE, Server, arg, run};

/// What the writers write to.
pub const EXPERIMENTS: [&str; 4] = ["alpha", "beta", "gamma", "delta"];
/// So small that within a life segments roll and are sealed, and the journal begins new laps.
pub const SIZES: [&str; 4] = ["--segment-bytes", "65536", "--journal-bytes", "1048576"];
/// After so many ends a long run goes on with a new store: each end is followed by a look at
/// everything.
pub const ENDS_PER_STORE: u64 = 25;

const WRITERS: u64 = 8;
/// Groups of this size go around the journal.
const AROUND_BYTES: usize = 256 << 10;
/// How often a writer asks again when the storage has failed.
const FAILURES_MAX: u32 = 10;
/// How long a writer waits when the disk is full, as a client would.
const WHEN_FULL: Duration = Duration::from_millis(1);

/// A number that the environment gives, for longer runs and other moments.
pub fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().expect("a number"))
}

/// A store that was made and killed; its experiments are there.
pub fn make_store(store: &Path) {
    let server = Server::start(store, &SIZES);
    for name in EXPERIMENTS {
        server.define(name);
    }
    server.kill();
}

/// Writers send to `server` while `work` has it, which must end it.
pub fn under_load<T>(
    server: Server,
    ledger: &mut Ledger,
    random: &mut fastrand::Rng,
    work: impl FnOnce(Server, &Tally) -> T,
) -> T {
    let tally = Tally::default();
    let shared = Mutex::new(std::mem::take(ledger));
    let done = std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            let mut writer = Writer {
                client: server.connect(),
                key: server.key.clone(),
                random: random.fork(),
                ledger: &shared,
                tally: &tally,
                failures: 0,
            };
            scope.spawn(move || while writer.send_one() {});
        }
        work(server, &tally)
    });
    *ledger = shared.into_inner().expect("no writer panicked");
    done
}

/// How often writers were answered in which way.
#[derive(Default)]
pub struct Tally {
    counts: Mutex<Counts>,
    changed: Condvar,
}

/// Requests by their answers.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub acknowledged: u64,
    pub failed: u64,
    pub full: u64,
}

impl Tally {
    /// What it is now.
    pub fn now(&self) -> Counts {
        *self.counts.lock().unwrap()
    }

    /// Waits until `is_enough`.
    pub fn wait_until(&self, is_enough: impl Fn(Counts) -> bool) {
        let counts = self.counts.lock().unwrap();
        let waited = self
            .changed
            .wait_timeout_while(counts, PATIENCE, |counts| !is_enough(*counts));
        let (counts, timeout) = waited.unwrap();
        assert!(!timeout.timed_out(), "only {counts:?}");
    }

    fn add(&self, outcome: Outcome) {
        let mut counts = self.counts.lock().unwrap();
        match outcome {
            Outcome::Acknowledged => counts.acknowledged += 1,
            Outcome::AppendFailed | Outcome::StorageFailed => counts.failed += 1,
            Outcome::StorageFull => counts.full += 1,
            Outcome::Overloaded | Outcome::NoAnswer => {}
        }
        drop(counts);
        self.changed.notify_all();
    }
}

struct Writer<'a> {
    client: Client,
    key: String,
    random: fastrand::Rng,
    ledger: &'a Mutex<Ledger>,
    tally: &'a Tally,
    failures: u32,
}

impl Writer<'_> {
    /// Sends one request; `false` when there is no sense in going on.
    fn send_one(&mut self) -> bool {
        let experiment = slug(EXPERIMENTS[self.random.usize(..EXPERIMENTS.len())]);
        let bodies = self.bodies();
        let failed_before = self.tally.now().failed;
        let answer = post(&mut self.client, &self.key, &experiment, &bodies);
        let mut ledger = self.ledger.lock().expect("no writer panicked");
        let outcome = ledger.note(&experiment, bodies, answer);
        drop(ledger);
        self.tally.add(outcome);
        match outcome {
            Outcome::Acknowledged => {
                assert_eq!(
                    failed_before, 0,
                    "acknowledged after a failed write or sync"
                );
            }
            Outcome::StorageFull | Outcome::Overloaded => std::thread::sleep(WHEN_FULL),
            Outcome::AppendFailed | Outcome::StorageFailed => self.failures += 1,
            Outcome::NoAnswer => return false,
        }
        self.failures < FAILURES_MAX
    }

    /// One entry mostly, sometimes a batch, at times one that goes around the journal.
    fn bodies(&mut self) -> Vec<Body> {
        let (count, padding) = match self.random.u8(..40) {
            0 => (40, AROUND_BYTES / 40),
            1 => (self.random.usize(100..400), 10),
            2..6 => (self.random.usize(2..20), 200),
            6..12 => (1, 6000),
            _ => (1, self.random.usize(..300)),
        };
        let random = &mut self.random;
        (0..count).map(|_| body(random, padding)).collect()
    }
}

/// A body that no other equals.
pub fn body(random: &mut fastrand::Rng, padding: usize) -> Body {
    let variant = if random.bool() { "A" } else { "B" };
    let unique = random.u128(..);
    let padding = "x".repeat(padding);
    let body =
        format!(r#"{{"variantKey":"{variant}","input":{{"u":"{unique}","p":"{padding}"}}}}"#);
    body.into_bytes()
}

/// Sends one entry, or a batch of them.
pub fn post(
    client: &mut Client,
    key: &str,
    experiment: &Slug,
    bodies: &[Body],
) -> io::Result<Answer> {
    let key = ("x-api-key", key);
    let path = format!("/experiment/{experiment}/log");
    if let [body] = bodies {
        return client.send("POST", &path, &[key], body);
    }
    let lines = bodies.join(&b'\n');
    let content = ("content-type", "application/x-ndjson");
    let path = format!("{path}s");
    client.send("POST", &path, &[key, content], &lines)
}

/// `verify` finds nothing, and the store in `dir` holds what the ledger says.
pub fn assert_whole(dir: &Path, ledger: &mut Ledger, case: &str) -> Seen {
    let verified = run(&["verify", arg(dir)]);
    assert_eq!(verified.status.code(), Some(0), "{case}: {verified:?}");
    ledger.check(dir)
}

/// Entries are found by their ids, as they were sent.
pub fn assert_some_are_read(server: &Server, ledger: &Ledger, random: &mut fastrand::Rng) {
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

/// Segments rolled and were sealed, and laps of the journal were used again within a life.
pub fn assert_all_was_at_work(store: &Path, starts: u64) {
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
