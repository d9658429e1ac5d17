//! Following a log: whatever happens between, each reader gets every entry behind its place once
//! and in order. Readers come and go at random, reads are dropped half-way, segments roll, actors
//! leave and the store is opened again.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use trialog::experiment::reading::{Met, Sink};
use trialog::experiment::tail::{Tail, TailError};
use trialog::experiment::{Store, StoreOptions};
use trialog::fs::sim::SimMachine;
use trialog::model::{Definition, LogId, NewEntry, Slug};

use crate::rig::{entry, slug};
use crate::server::PATIENCE;

/// What each reader wants.
const FILTERS: [&[&str]; 4] = [&[], &["A"], &["B"], &["none"]];

#[derive(Debug, Clone)]
enum Step {
    /// Entries of these variants, with so much padding.
    Append(Vec<bool>, usize),
    /// The same while a reader reads.
    Race(usize, Vec<bool>, usize),
    Read(usize),
    /// A read that is dropped when it was polled so often.
    HalfRead(usize, u8),
    /// The reader comes back from the place that it knows.
    Reconnect(usize),
    /// Long enough for the actor to leave.
    Idle,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let variants = || proptest::collection::vec(any::<bool>(), 1..30);
    let padding = || prop_oneof![4 => 0..300usize, 1 => 2000..6000usize];
    let reader = || 0..FILTERS.len();
    let step = prop_oneof![
        6 => (variants(), padding()).prop_map(|(of, padding)| Step::Append(of, padding)),
        4 => (reader(), variants(), padding()).prop_map(|(n, of, padding)| Step::Race(n, of, padding)),
        5 => reader().prop_map(Step::Read),
        4 => (reader(), 0..20u8).prop_map(|(n, polls)| Step::HalfRead(n, polls)),
        4 => reader().prop_map(Step::Reconnect),
        1 => Just(Step::Idle),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..40)
}

type Entries = Vec<(LogId, Vec<u8>)>;

#[derive(Default)]
struct Taken(Entries);

impl Sink for Taken {
    fn take(&mut self, met: Met<'_>) -> ControlFlow<()> {
        match met {
            Met::Entry(entry) => self.0.push((entry.id, entry.body.to_vec())),
            Met::Lost(lost) => panic!("{lost:?}"),
        }
        ControlFlow::Continue(())
    }

    fn is_full(&self) -> bool {
        // Small, so that most readings take several steps.
        self.0.len() >= 10
    }
}

/// One who follows the log, and what it got.
struct Follower {
    wanted: &'static [&'static str],
    tail: Option<Tail>,
    place: Option<LogId>,
    got: Entries,
    /// How much of the log was there when it began.
    passed: usize,
}

impl Follower {
    async fn tail(&mut self, store: &Arc<Store>, name: &Slug) -> &mut Tail {
        if self.tail.is_none() {
            let wanted = self.wanted.iter().map(|key| (*key).to_owned()).collect();
            let tail = Tail::begin(store.clone(), name, wanted, self.place).await;
            self.tail = Some(tail.unwrap());
        }
        let tail = self.tail.as_mut().unwrap();
        self.place = Some(tail.place());
        tail
    }

    async fn read(&mut self, store: &Arc<Store>, name: &Slug) {
        let tail = self.tail(store, name).await;
        let read = tokio::time::timeout(PATIENCE, tail.read(Taken::default())).await;
        let read = read.expect("there is something to read").unwrap();
        self.place = Some(tail.place());
        self.got.extend(read.sink.0);
    }

    async fn half_read(&mut self, store: &Arc<Store>, name: &Slug, polls: u8) {
        let tail = self.tail(store, name).await;
        let read = tokio::select! {
            biased;
            read = tail.read(Taken::default()) => read.unwrap(),
            () = yield_often(polls) => return,
        };
        self.place = Some(tail.place());
        self.got.extend(read.sink.0);
    }

    fn expected(&self, all: &Entries) -> Entries {
        let is_wanted = |body: &[u8]| {
            let is_of =
                |key: &&str| body.starts_with(format!(r#"{{"variantKey":"{key}","#).as_bytes());
            self.wanted.is_empty() || self.wanted.iter().any(is_of)
        };
        let behind = all[self.passed..].iter();
        behind
            .filter(|(_, body)| is_wanted(body))
            .cloned()
            .collect()
    }
}

async fn yield_often(times: u8) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

struct World {
    machine: SimMachine,
    /// Open, but in a restart.
    store: Option<Arc<Store>>,
    name: Slug,
    all: Entries,
    followers: Vec<Follower>,
    appended: u64,
}

fn open(machine: &SimMachine) -> Arc<Store> {
    let options = StoreOptions {
        dir: "/store".into(),
        segment_bytes: 16 << 10,
        journal_bytes: 1 << 20,
        large_group_bytes: 64 << 10,
        idle_timeout: Duration::from_millis(2),
        free_bytes_min: 0,
        ..StoreOptions::default()
    };
    Arc::new(Store::open(options, machine.host()).unwrap())
}

async fn define(store: &Store, name: &Slug) {
    let definition = Definition {
        open_variants: true,
        ..Definition::default()
    };
    store.define(name, definition).await.unwrap();
}

/// Appends; gives back what was acknowledged.
async fn append(store: &Store, name: &Slug, entries: Vec<NewEntry>) -> Entries {
    let bodies: Vec<_> = entries.iter().map(|entry| entry.body.to_vec()).collect();
    let permit = store.reserve(1000).unwrap();
    let appended = store.append_batch(name, entries, permit).await.unwrap();
    appended.ids.into_iter().zip(bodies).collect()
}

impl World {
    async fn new() -> Self {
        let machine = SimMachine::new(1, 512);
        let store = open(&machine);
        let name = slug("one");
        define(&store, &name).await;
        let follower = |wanted| Follower {
            wanted,
            tail: None,
            place: None,
            got: Vec::new(),
            passed: 0,
        };
        Self {
            machine,
            store: Some(store),
            name,
            all: Vec::new(),
            followers: FILTERS.into_iter().map(follower).collect(),
            appended: 0,
        }
    }

    fn entries(&mut self, of: &[bool], padding: usize) -> Vec<NewEntry> {
        let entries = of.iter().map(|is_a| {
            self.appended += 1;
            entry(if *is_a { "A" } else { "B" }, self.appended, padding)
        });
        entries.collect()
    }

    /// Whether a reader of all has something to read, or may have.
    fn has_more(&self, n: usize) -> bool {
        let follower = &self.followers[n];
        follower
            .place
            .is_none_or(|_| follower.got.len() < follower.expected(&self.all).len())
    }

    async fn step(&mut self, step: &Step) {
        let (store, name) = (self.store(), self.name.clone());
        match step {
            Step::Append(of, padding) => {
                let entries = self.entries(of, *padding);
                let appended = append(&store, &name, entries).await;
                self.all.extend(appended);
            }
            Step::Race(n, of, padding) => {
                let entries = self.entries(of, *padding);
                self.begin(*n).await;
                let reads = self.followers[*n].half_read(&store, &name, 200);
                let (appended, ()) = tokio::join!(append(&store, &name, entries), reads);
                self.all.extend(appended);
            }
            Step::Read(n) => {
                self.begin(*n).await;
                if self.has_more(*n) {
                    self.followers[*n].read(&store, &name).await;
                }
            }
            Step::HalfRead(n, polls) => {
                self.begin(*n).await;
                let follower = &mut self.followers[*n];
                follower.half_read(&store, &name, *polls).await;
            }
            Step::Reconnect(n) => self.followers[*n].tail = None,
            Step::Idle => tokio::time::sleep(Duration::from_millis(8)).await,
            Step::Restart => {
                drop(store);
                self.close().await;
                self.store = Some(open(&self.machine));
            }
        }
    }

    fn store(&self) -> Arc<Store> {
        self.store.clone().expect("it is open")
    }

    async fn close(&mut self) {
        for follower in &mut self.followers {
            follower.tail = None;
        }
        let store = self.store.take().expect("it is open");
        store.shutdown().await;
        let closed = Arc::into_inner(store);
        assert!(closed.is_some(), "who reads no more keeps no store");
    }

    /// A reader that comes for the first time begins at the end.
    async fn begin(&mut self, n: usize) {
        let (store, name, passed) = (self.store(), self.name.clone(), self.all.len());
        let follower = &mut self.followers[n];
        if follower.place.is_none() {
            follower.passed = passed;
            follower.tail(&store, &name).await;
        }
    }

    async fn finish(mut self) {
        for n in 0..FILTERS.len() {
            self.begin(n).await;
        }
        // Whatever came twice came before these.
        let entries = self.entries(&[true, false], 0);
        let (store, name) = (self.store(), self.name.clone());
        let appended = append(&store, &name, entries).await;
        self.all.extend(appended);
        for follower in &mut self.followers {
            let expected = follower.expected(&self.all);
            while follower.got.len() < expected.len() {
                follower.read(&store, &name).await;
            }
            let ids = |entries: &Entries| entries.iter().map(|(id, _)| *id).collect::<Vec<_>>();
            assert_eq!(ids(&follower.got), ids(&expected), "{:?}", follower.wanted);
            assert!(follower.got == expected);
        }
        drop(store);
        self.close().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn between_history_and_live_there_is_no_gap_and_no_double(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in &steps {
                world.step(step).await;
            }
            world.finish().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tail_of_a_deleted_experiment_ends_and_sees_nothing_of_the_next_one() {
    let world = World::new().await;
    let (store, name) = (world.store(), world.name.clone());
    let before = append(&store, &name, vec![entry("A", 1, 10)]).await;
    let begin = |after| Tail::begin(store.clone(), &name, Vec::new(), after);
    let mut waiting = begin(None).await.unwrap();
    assert_eq!(waiting.place(), before[0].0, "it begins at the end");
    let mut unread = begin(Some(LogId::MIN)).await.unwrap();
    store.delete(&name).await.unwrap();
    define(&store, &name).await;
    append(&store, &name, vec![entry("A", 2, 10)]).await;
    for tail in [&mut waiting, &mut unread] {
        let read = tokio::time::timeout(PATIENCE, tail.read(Taken::default())).await;
        let ended = read.expect("it ends").err().expect("nothing is read");
        assert!(matches!(ended, TailError::Deleted), "{ended}");
    }
}
