//! Seeded interleavings of the real store: registry, actors, batches, budget and committer.
//!
//! Everything that a scheduler decides elsewhere is a step here, on one thread, in an order that
//! the seed gives: a client's future is polled only once it was woken, the runtime polls one
//! actor's task, waiting groups are committed, one answer of them is given, time passes, a client
//! goes away, a sync fails, the store shuts down. What blocks has ended before the next step. So a
//! seed repeats its run exactly, and a wake-up that got lost leaves somebody unanswered when there
//! is nothing left to do.
//!
//! The journal's own threads and the sealing one are not in it: nothing is sealed here, and the
//! test stands for the journal's queue.

mod hands;
mod logs;
mod taken_back;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Runtime;

use self::hands::{Answer, Client, Flag, Gate, Stepped, definition, idempotency, poll, runtime};
use self::logs::{Expected, entries};
use super::*;
use crate::fs::sim::{Failure, Fault, Op, SimMachine};
use crate::journal::checkpoint::Checkpointer;
use crate::journal::committer::Committer;
use crate::journal::{CommitError, Group};

const STORE: &str = "/store";
/// Two whose logs are compared, and one that is deleted and made again.
const NAMES: [&str; 3] = ["one", "two", "remade"];
const IDLE: Duration = Duration::from_secs(60);
/// As many polls of the runtime, with nothing else to do, show that nobody will be woken.
const POLLS_TO_SETTLE: usize = 96;
const INTERLEAVINGS: u64 = 10_000;

#[test]
fn every_request_gets_its_one_answer_in_any_order_of_events() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let count = number("TRIALOG_TEST_INTERLEAVINGS").unwrap_or(INTERLEAVINGS);
    let first = number("TRIALOG_TEST_SEED").unwrap_or(0);
    let mut met = Met::default();
    for seed in first..first + count {
        let _told = TellSeed(seed);
        met.add(&run(seed));
    }
    eprintln!("{count} interleavings from seed {first} on: {met:?}");
    // Each kind of event is met often, or the steps are drawn badly.
    if count >= INTERLEAVINGS {
        let kinds = [met.appended, met.refused, met.cancelled, met.came_back];
        assert!(kinds.iter().all(|times| *times > count / 10), "{met:?}");
        assert!(
            met.failed > count / 50 && met.around > count / 10 && met.repeated > count / 10,
            "{met:?}"
        );
        assert!(
            met.waited > count / 50 && met.taken_back > count / 100,
            "{met:?}"
        );
    }
}

#[test]
fn a_seed_repeats_its_run() {
    for seed in 0..50 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

/// What a run came across.
#[derive(Debug, Default, PartialEq, Eq)]
struct Met {
    appended: u64,
    refused: u64,
    failed: u64,
    cancelled: u64,
    around: u64,
    /// Requests that were answered as one before them.
    repeated: u64,
    /// Actors that had left and came back.
    came_back: u64,
    /// Commits that left groups waiting for a lap.
    waited: u64,
    /// Groups that were staged and are taken back, since the disk is full.
    taken_back: u64,
    steps: u64,
    ids: Vec<LogId>,
}

impl Met {
    fn add(&mut self, run: &Self) {
        self.appended += run.appended;
        self.refused += run.refused;
        self.failed += run.failed;
        self.cancelled += run.cancelled;
        self.around += run.around;
        self.repeated += run.repeated;
        self.came_back += run.came_back;
        self.waited += run.waited;
        self.taken_back += run.taken_back;
        self.steps += run.steps;
    }
}

/// Says which seed it was when a run panics.
struct TellSeed(u64);

impl Drop for TellSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("repeat with TRIALOG_TEST_SEED={seed} TRIALOG_TEST_INTERLEAVINGS=1");
        }
    }
}

fn run(seed: u64) -> Met {
    let runtime = runtime();
    let mut run = Run::new(&runtime, seed);
    while !run.is_over() {
        run.step();
    }
    run.check()
}

type Answers = Arc<Mutex<VecDeque<Box<dyn FnOnce() + Send>>>>;

struct Run<'r> {
    runtime: &'r Runtime,
    gate: Gate,
    random: fastrand::Rng,
    machine: SimMachine,
    store: Arc<Store>,
    journal: Arc<Stepped>,
    committer: Committer,
    checkpointer: Checkpointer,
    answers: Answers,
    taken_back: Arc<Mutex<u64>>,
    clients: Vec<Client>,
    /// How many requests come still.
    left: usize,
    shutdown: Option<Client>,
    is_shut_down: bool,
    can_fail: bool,
    /// Whether the disk may fill, and have room again, any number of times.
    can_fill: bool,
    is_full: bool,
    has_failed: bool,
    can_cancel: bool,
    idle_polls: usize,
    expected: [Expected; NAMES.len()],
    body_count: u64,
    met: Met,
}

impl<'r> Run<'r> {
    fn new(runtime: &'r Runtime, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        // In some runs both laps are soon full, or a mailbox.
        let journal_bytes = [32 << 10, 8 << 10][usize::from(random.u8(..4) != 0)];
        let mailbox_len = [2, 64][usize::from(random.u8(..4) != 0)];
        Self::with(runtime, random, journal_bytes, mailbox_len)
    }

    fn with(
        runtime: &'r Runtime,
        mut random: fastrand::Rng,
        journal_bytes: u64,
        mailbox_len: usize,
    ) -> Self {
        let machine = SimMachine::new(random.get_seed(), 512);
        let host = machine.host();
        let options = StoreOptions {
            dir: STORE.into(),
            journal_bytes,
            large_group_bytes: 2048,
            mailbox_len,
            inflight_bytes: 64 << 10,
            idle_timeout: IDLE,
            free_bytes_min: 0,
            ..StoreOptions::default()
        };
        let folder = Folder::open(&host, &options.dir).unwrap();
        let resume = folder.recover(&host).unwrap();
        let local = LocalOptions {
            store_dir: options.dir.clone(),
            store_id: folder.store_id,
            durability: options.durability,
            lap_bytes_max: options.journal_bytes,
            free_bytes_min: 0,
        };
        for name in NAMES {
            let slug = Slug::parse(name).unwrap();
            folder::create_experiment(&host, &options.dir, &slug, definition()).unwrap();
        }
        let parts = Parts::open(&host, &local, resume).unwrap();
        let journal = Arc::new(Stepped {
            shared: parts.shared,
            sector_bytes: parts.sector_bytes,
            waiting: Mutex::default(),
            is_ending: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        });
        let actors = runtime.handle().clone();
        let store = Store::open_on(options, host, folder, actors, journal.clone()).unwrap();
        Self {
            runtime,
            gate: Gate::close(runtime, Gate::default()),
            machine,
            store: Arc::new(store),
            journal,
            committer: parts.committer,
            checkpointer: parts.checkpointer,
            answers: Answers::default(),
            taken_back: Arc::default(),
            clients: Vec::new(),
            left: random.usize(4..24),
            shutdown: None,
            is_shut_down: false,
            can_fail: random.u8(..8) == 0,
            can_fill: random.u8(..4) == 0,
            is_full: false,
            has_failed: false,
            can_cancel: random.bool(),
            idle_polls: 0,
            expected: Default::default(),
            body_count: 0,
            met: Met::default(),
            random,
        }
    }

    fn is_over(&self) -> bool {
        self.is_shut_down && self.clients.is_empty()
    }

    fn step(&mut self) {
        self.met.steps += 1;
        match self.random.u8(..64) {
            0..14 if self.left > 0 => self.begin(),
            14..32 => self.poll_client(),
            32..40 => self.commit_or_answer(),
            40 => self.checkpointer.step(),
            46 if self.can_fill => self.fill_or_make_room(),
            41 if self.can_cancel => self.cancel(),
            42 => self.pass_time(),
            43 if self.can_fail => self.fail(),
            44 if self.left < 4 => self.begin_shutdown(),
            45 if self.left == 0 && self.clients.is_empty() => self.begin_shutdown(),
            _ => self.poll_runtime(),
        }
        self.poll_shutdown();
        assert!(
            self.idle_polls < POLLS_TO_SETTLE,
            "{} clients wait, and nothing will wake them",
            self.clients.len() + usize::from(self.shutdown.is_some())
        );
    }

    /// A client sends a request.
    fn begin(&mut self) {
        self.left -= 1;
        let which = self.random.usize(..NAMES.len());
        let slug = Slug::parse(NAMES[which]).unwrap();
        let store = self.store.clone();
        let kind = self.random.u8(..16);
        let is_remade = which == 2;
        match kind {
            0 => self.add(None, async move {
                let _there = store.describe(&slug).await;
                Answer::Other
            }),
            1 => self.add(None, async move {
                let _there = store.get(&slug, LogId::from_u128(1)).await;
                Answer::Other
            }),
            2 => self.add(None, async move {
                let _defined = store.define(&slug, definition()).await;
                Answer::Other
            }),
            3 if is_remade => self.add(None, async move {
                let _deleted = store.delete(&slug).await;
                let _defined = store.define(&slug, definition()).await;
                Answer::Other
            }),
            _ => self.begin_append(which, slug, kind),
        }
    }

    fn begin_append(&mut self, which: usize, slug: Slug, kind: u8) {
        let is_large = kind == 4;
        // Some send one of a few entries with a key, mostly again.
        let key = (kind > 11).then(|| self.random.u8(..3));
        let count = if kind < 8 { self.random.usize(1..4) } else { 1 };
        let bodies: Vec<Bytes> = match key {
            Some(key) => {
                let large = if key == 0 { 2100 } else { 0 };
                vec![
                    format!(
                        r#"{{"variantKey":"A","input":{{"key":{key},"p":"{:large$}"}}}}"#,
                        ""
                    )
                    .into(),
                ]
            }
            None => (0..count).map(|_| self.body(is_large)).collect(),
        };
        let entries: Vec<NewEntry> = bodies
            .iter()
            .map(|body| NewEntry {
                variant_key: "A".into(),
                body: body.clone(),
                idempotency: key.map(|key| idempotency(key, body)),
            })
            .collect();
        let bytes = bodies.iter().map(Bytes::len).sum();
        let Ok(permit) = self.store.reserve(bytes) else {
            self.met.refused += 1;
            return;
        };
        self.met.around += u64::from(is_large);
        let store = self.store.clone();
        self.add(Some((which, bodies)), async move {
            Answer::Append(
                store
                    .append_batch(&slug, entries, permit)
                    .await
                    .map(|appended| appended.ids),
            )
        });
    }

    fn body(&mut self, is_large: bool) -> Bytes {
        self.body_count += 1;
        let (n, len) = (self.body_count, if is_large { 2100 } else { 8 });
        format!(
            r#"{{"variantKey":"A","input":{{"n":{n},"p":"{:len$}"}}}}"#,
            ""
        )
        .into()
    }

    fn add(
        &mut self,
        append: Option<(usize, Vec<Bytes>)>,
        future: impl Future<Output = Answer> + 'static,
    ) {
        self.clients.push(Client {
            future: Box::pin(future),
            woken: Arc::new(Flag(AtomicBool::new(true))),
            append,
        });
    }

    /// Polls one of the clients that were woken.
    fn poll_client(&mut self) {
        let woken = |client: &Client| client.woken.0.load(Ordering::Acquire);
        let ready: Vec<usize> = (0..self.clients.len())
            .filter(|at| woken(&self.clients[*at]))
            .collect();
        let Some(at) = self.random.choice(ready) else {
            return;
        };
        self.idle_polls = 0;
        let polled = poll(self.runtime, &mut self.clients[at]);
        self.let_blocking_run();
        if let Poll::Ready(answer) = polled {
            let client = self.clients.swap_remove(at);
            self.note(client.append, answer);
        }
    }

    fn note(&mut self, append: Option<(usize, Vec<Bytes>)>, answer: Answer) {
        let (Some((which, bodies)), Answer::Append(result)) = (append, answer) else {
            return;
        };
        let expected = &mut self.expected[which];
        match result {
            Ok(ids) => {
                self.met.appended += 1;
                self.met.ids.extend(&ids);
                let is_known = |id| expected.acknowledged.iter().any(|(known, _)| known == id);
                self.met.repeated += u64::from(ids.iter().all(is_known));
                assert_eq!(ids.len(), bodies.len());
                expected.acknowledged.extend(ids.into_iter().zip(bodies));
            }
            Err(AppendError::Failed) => {
                assert!(self.has_failed, "nothing was wrong with the disk");
                self.met.failed += 1;
                expected.unsure.push(bodies);
            }
            // Nothing was tried.
            Err(_) => self.met.refused += 1,
        }
    }

    /// Commits the groups that wait; or, while some of those committed are unanswered, answers one.
    fn commit_or_answer(&mut self) {
        let answer = self.answers.lock().unwrap().pop_front();
        if let Some(answer) = answer {
            self.idle_polls = 0;
            return answer();
        }
        let groups = std::mem::take(&mut *self.journal.waiting.lock().unwrap());
        if groups.is_empty() {
            return;
        }
        self.idle_polls = 0;
        let postponed = groups.into_iter().map(|mut group| {
            let (done, answers) = (group.done, self.answers.clone());
            let taken_back = self.taken_back.clone();
            group.done = Box::new(move |result| {
                // What is taken back is so before the actor's next turn.
                if matches!(result, Err(CommitError::Full)) {
                    *taken_back.lock().unwrap() += 1;
                    return done(result);
                }
                let answer = Box::new(move || done(result));
                answers.lock().unwrap().push_back(answer);
            });
            group
        });
        let left = self.committer.commit(postponed.collect());
        self.met.waited += u64::from(!left.is_empty());
        self.met.taken_back = *self.taken_back.lock().unwrap();
        self.journal.put_back(left);
    }

    /// The runtime polls one actor's task.
    fn poll_runtime(&mut self) {
        let mut is_first = true;
        self.runtime.block_on(poll_fn(|context| {
            if std::mem::take(&mut is_first) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        }));
        self.let_blocking_run();
        let woken = |client: &Client| client.woken.0.load(Ordering::Acquire);
        let is_settled = !self.clients.iter().chain(&self.shutdown).any(woken)
            && self.journal.waiting.lock().unwrap().is_empty()
            && self.answers.lock().unwrap().is_empty();
        let waits = !self.clients.is_empty() || self.shutdown.is_some();
        self.idle_polls += usize::from(is_settled && waits);
    }

    /// Long enough that an actor which isn't used leaves.
    fn pass_time(&mut self) {
        let slug = |name| Slug::parse(name).unwrap();
        let live =
            |store: &Store| NAMES.map(|name| store.registry.live_handle(&slug(name)).is_some());
        let before = live(&self.store);
        for _ in 0..2 {
            self.runtime.block_on(tokio::time::advance(IDLE));
            for _ in 0..8 {
                self.poll_runtime();
            }
        }
        let after = live(&self.store);
        let left = before
            .iter()
            .zip(after)
            .filter(|(before, after)| **before && !after);
        self.met.came_back += left.count() as u64;
    }

    /// A client goes away.
    fn cancel(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let at = self.random.usize(..self.clients.len());
        let client = self.clients.swap_remove(at);
        self.met.cancelled += 1;
        if let Some((which, bodies)) = client.append {
            self.expected[which].unsure.push(bodies);
        }
    }

    fn fail(&mut self) {
        self.can_fail = false;
        self.has_failed = true;
        self.machine.fail(Fault {
            op: if self.random.bool() {
                Op::Sync
            } else {
                Op::Write
            },
            path: ".journal",
            after: 0,
            failure: Failure::Io,
            is_sticky: false,
        });
    }

    /// The disk fills, for segments, or has room again.
    fn fill_or_make_room(&mut self) {
        self.is_full = !self.is_full;
        if !self.is_full {
            return self.machine.heal();
        }
        self.machine.fail(Fault {
            op: Op::Write,
            path: ".segment",
            after: 0,
            failure: Failure::Full,
            is_sticky: true,
        });
    }

    fn begin_shutdown(&mut self) {
        if self.shutdown.is_some() || self.is_shut_down {
            return;
        }
        self.left = 0;
        let store = self.store.clone();
        self.shutdown = Some(Client {
            future: Box::pin(async move {
                store.shutdown().await;
                Answer::Other
            }),
            woken: Arc::new(Flag(AtomicBool::new(true))),
            append: None,
        });
    }

    fn poll_shutdown(&mut self) {
        let Some(shutdown) = &mut self.shutdown else {
            return;
        };
        if shutdown.woken.0.load(Ordering::Acquire) {
            self.idle_polls = 0;
            let polled = poll(self.runtime, shutdown);
            self.let_blocking_run();
            if polled.is_ready() {
                self.shutdown = None;
                self.is_shut_down = true;
            }
        }
    }

    /// Lets everything that blocks run to its end, and holds what comes next until then: so that
    /// a poll never finds it done by chance.
    fn let_blocking_run(&mut self) {
        self.gate = Gate::close(self.runtime, std::mem::take(&mut self.gate));
    }

    /// What must hold once everybody is answered.
    fn check(mut self) -> Met {
        // Of clients that left, something may be on its way still; a journal that shuts down
        // commits what it has.
        self.machine.heal();
        for _ in 0..POLLS_TO_SETTLE {
            self.checkpointer.step();
            self.commit_or_answer();
            self.poll_runtime();
        }
        assert_eq!(self.store.budget.used(), 0, "all bytes are given back");
        assert!(self.journal.waiting.lock().unwrap().is_empty());
        let known = self.store.slugs(None, usize::MAX);
        drop(self.store);
        self.machine.kill();
        let host = self.machine.host();
        let folder = Folder::open(&host, Path::new(STORE)).unwrap();
        folder.recover(&host).unwrap();
        let mut there = folder.experiments(&host).unwrap();
        there.sort();
        assert_eq!(known, there, "what was known and what is there");
        for (name, expected) in NAMES.iter().zip(self.expected) {
            if *name != "remade" {
                expected.check(&entries(&host, name));
            }
        }
        self.met
    }
}
