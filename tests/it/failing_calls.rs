//! One call of the disk fails, or all from one on: each kind of call on each kind of file, each
//! error, through the whole store. What isn't durable isn't acknowledged, a failed sync is never
//! tried again, a start that can't be says why, and once the disk is well all is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use trialog::auth::Keyring;
use trialog::experiment::{AppendError, Store, StoreHealth, StoreOptions};
use trialog::fs::sim::{Crash, Failure, Fault, Op, SimMachine};
use trialog::model::{Definition, LogId, Retention};
use trialog::offline::verify::verify;

use crate::rig::{STORE, entry, slug};
use crate::scene::replay_of;

/// Far more than anything here takes: what isn't there by then never comes.
const PATIENCE: Duration = Duration::from_secs(60);
const EXPERIMENTS: [&str; 2] = ["one", "two"];
/// Keeps its last segment only, once it is asked to.
const RETAINED: &str = "old";
/// Parts of paths, the first that fits counts.
const FAMILIES: [&str; 12] = [
    "/keys.",
    "/FORMAT",
    "/LOCK",
    ".journal",
    ".segment",
    "/experiment.",
    "/dropped.",
    "/experiments/.",
    "/experiments/",
    "/experiments",
    "/journal",
    "/",
];
const FAILURES: [Failure; 5] = [
    Failure::Io,
    Failure::Full,
    Failure::Interrupted,
    Failure::TooManyFiles,
    Failure::Short,
];
/// How many calls in a row a signal interrupts. (Without an end, nothing would ever get on.)
const INTERRUPTIONS: usize = 20;

type Call = (Op, String);

/// A call that fails, or the first of all those that do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    op: Op,
    family: &'static str,
    /// How many calls of this kind, on paths that contain that, go well before.
    after: usize,
    failure: usize,
    is_sticky: bool,
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    PowerCut(Crash),
    Healed,
}

const ENDS: [End; 3] = [
    End::PowerCut(Crash::LoseAll),
    End::PowerCut(Crash::RandomTorn),
    End::Healed,
];

fn family_of(path: &str) -> &'static str {
    let mut families = FAMILIES.into_iter();
    families.find(|family| path.contains(family)).unwrap()
}

/// A store that lives through a history, and what it owes.
struct Run {
    machine: SimMachine,
    life: Option<(Runtime, Store)>,
    /// Those that were made, and not deleted since.
    acked: BTreeMap<&'static str, Vec<(LogId, Vec<u8>)>>,
    unsure: Vec<(&'static str, Vec<Vec<u8>>)>,
    /// Experiments of which nothing is known any more: making or deleting them failed.
    unknown: BTreeSet<&'static str>,
    n: u64,
    /// All calls, by life.
    calls: Vec<Vec<Call>>,
    /// Why starts were refused.
    refusals: Vec<String>,
    full: usize,
    /// Segments that were dropped.
    dropped: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let machine = SimMachine::new(seed, 512);
        machine.record();
        Self {
            machine,
            life: None,
            acked: BTreeMap::new(),
            unsure: Vec::new(),
            unknown: BTreeSet::new(),
            n: 0,
            calls: Vec::new(),
            refusals: Vec::new(),
            full: 0,
            dropped: 0,
        }
    }

    fn start(&mut self) -> bool {
        let options = StoreOptions {
            dir: STORE.into(),
            segment_bytes: 4096,
            journal_bytes: 24 << 10,
            large_group_bytes: 6000,
            free_bytes_min: 0,
            ..StoreOptions::default()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build();
        match Store::open(options, self.machine.host()) {
            Ok(store) => {
                self.life = Some((runtime.unwrap(), store));
                true
            }
            Err(refused) => {
                self.refusals.push(refused.to_string());
                false
            }
        }
    }

    /// A start; once more, if what failed was one call.
    fn start_again(&mut self) -> bool {
        self.start() || {
            self.next_life();
            self.start()
        }
    }

    fn next_life(&mut self) {
        self.life = None;
        self.calls.push(self.machine.recorded());
        self.machine.record();
    }

    /// What is answered. Nothing waits until the disk is well again.
    fn answer<T>(&self, asked: impl Future<Output = T>) -> T {
        let (runtime, _) = self.life.as_ref().expect("alive");
        runtime.block_on(async {
            let answer = tokio::time::timeout(PATIENCE, asked).await;
            answer.expect("it waits for something that never comes")
        })
    }

    fn make(&mut self, name: &'static str) {
        let (_, store) = self.life.as_ref().expect("alive");
        let retention = Retention {
            max_age: None,
            max_bytes: Some(1),
        };
        let definition = Definition {
            open_variants: true,
            retention: Some(retention).filter(|_| name == RETAINED),
            ..Definition::default()
        };
        let made = self.answer(store.define(&slug(name), definition));
        match made {
            Ok(made) if made.created => drop(self.acked.insert(name, Vec::new())),
            Ok(_) => {}
            Err(_) => drop(self.unknown.insert(name)),
        }
    }

    fn delete(&mut self, name: &'static str) {
        let (_, store) = self.life.as_ref().expect("alive");
        if self.answer(store.delete(&slug(name))).is_err() {
            if store.health() != StoreHealth::StorageFailed {
                // It is as it was.
                return;
            }
            self.unknown.insert(name);
        }
        self.acked.remove(name);
        self.unsure.retain(|(of, _)| *of != name);
    }

    fn put(&mut self, name: &'static str, count: usize, padding: usize) {
        if self.unknown.contains(name) || !self.acked.contains_key(name) {
            return;
        }
        let (_, store) = self.life.as_ref().expect("alive");
        let entries = (0..count).map(|_| {
            self.n += 1;
            entry("A", self.n, padding)
        });
        let entries: Vec<_> = entries.collect();
        let bodies: Vec<Vec<u8>> = entries.iter().map(|entry| entry.body.to_vec()).collect();
        let permit = store.reserve(count * 1000).unwrap();
        let name_of = slug(name);
        let appended = store.append_batch(&name_of, entries, permit);
        match self.answer(appended) {
            Ok(appended) => {
                let acked = self.acked.get_mut(name).expect("made");
                acked.extend(appended.ids.into_iter().zip(bodies));
            }
            Err(error) => {
                self.full += usize::from(error == AppendError::StorageFull);
                // Of the others it is known that nothing was stored.
                if error == AppendError::Failed {
                    self.unsure.push((name, bodies));
                } else {
                    let refused = [
                        AppendError::StorageFull,
                        AppendError::StorageFailed,
                        AppendError::UnknownExperiment,
                        AppendError::Overloaded,
                    ];
                    assert!(refused.contains(&error), "{error:?}");
                }
            }
        }
    }

    /// Drops what is due. It may fail, or find that a segment isn't sealed yet.
    fn retain(&mut self) {
        let (_, store) = self.life.as_ref().expect("alive");
        let dropped = self.answer(store.retain(0));
        self.dropped += dropped.segments;
    }

    fn stop(&mut self) {
        if let Some((_, store)) = &self.life {
            self.answer(store.shutdown());
        }
        self.next_life();
    }

    /// Everything that a store does, in three lives.
    fn live(&mut self) {
        if !self.start_again() {
            return;
        }
        if let Ok((keys, false)) = Keyring::open(&self.machine.host(), STORE.as_ref()) {
            let _may_fail = keys.create_first(None, |_| Ok(()));
        }
        for name in EXPERIMENTS {
            self.make(name);
        }
        self.make(RETAINED);
        for _ in 0..20 {
            self.put(RETAINED, 1, 900);
        }
        for n in 0..14 {
            self.put("one", 1, 300);
            self.put("two", 1 + n % 3, 100);
        }
        self.put("one", 10, 700);
        self.put("one", 2, 300);
        self.delete("two");
        self.unknown.remove("two");
        self.make("two");
        self.put("two", 2, 300);
        self.stop();
        if !self.start_again() {
            return;
        }
        for _ in 0..5 {
            self.put("one", 1, 500);
            self.put("two", 1, 200);
        }
        self.retain();
        self.put("two", 9, 700);
        self.put("two", 1, 0);
        self.put(RETAINED, 6, 700);
        self.machine.kill();
        self.next_life();
        if !self.start_again() {
            return;
        }
        for _ in 0..12 {
            self.put("one", 2, 400);
            self.put("two", 1, 100);
        }
    }

    /// The disk is well again, or a new one from what is on it: the store starts and has all.
    fn end(&mut self, end: End) {
        self.machine.heal();
        match end {
            End::PowerCut(crash) => {
                self.machine.crash(crash);
                self.next_life();
            }
            End::Healed => {
                self.stop();
            }
        }
        self.check(false);
        self.machine.record();
        assert!(self.start(), "{:?}", self.refusals);
        for name in EXPERIMENTS {
            self.put(name, 1, 20);
        }
        self.stop();
        self.check(true);
    }

    /// A full disk passes by itself, and so do too few descriptors.
    fn wait_until_it_passes(&mut self, meanwhile: StoreHealth) {
        self.machine.heal();
        let Some((runtime, store)) = &self.life else {
            return;
        };
        let until = Instant::now() + PATIENCE;
        loop {
            let health = store.health();
            if health == StoreHealth::Ready {
                break;
            }
            assert_eq!(health, meanwhile);
            assert!(Instant::now() < until, "it stays so");
            runtime.block_on(tokio::task::yield_now());
        }
        let owed = self.acked["one"].len();
        self.put("one", 1, 10);
        assert_eq!(self.acked["one"].len(), owed + 1);
    }

    /// Holds what is there against what is owed. Until a start has settled it, what was not
    /// acknowledged may be in the page cache only.
    fn check(&mut self, is_settled: bool) {
        let report = verify(self.machine.host().disk, STORE.as_ref());
        let Ok(report) = report else {
            assert!(self.acked.is_empty(), "{report:?}");
            return;
        };
        assert_eq!(report.findings, []);
        let path = std::path::Path::new(STORE).join("experiments");
        for (name, acked) in &mut self.acked {
            if self.unknown.contains(name) {
                continue;
            }
            let (found, outcome) = replay_of(&self.machine, &path.join(name));
            assert_eq!(outcome.damages, []);
            if *name == RETAINED {
                let first = found.first().map(|(id, _)| *id);
                assert!(
                    acked.is_empty() || first.is_some(),
                    "the last segment stays"
                );
                // What is dropped is in front of all others, and stays so.
                acked.retain(|(id, _)| Some(*id) >= first);
            }
            assert!(
                found.windows(2).all(|pair| pair[0].0 < pair[1].0),
                "{name}: ids rise"
            );
            let mut owed = acked.iter().peekable();
            let surplus = found
                .iter()
                .filter(|entry| owed.next_if_eq(entry).is_none());
            let surplus: Vec<&Vec<u8>> = surplus.map(|(_, body)| body).collect();
            assert_eq!(owed.next(), None, "{name}: acknowledged and not there");
            let mut there = Vec::new();
            for (_, group) in self.unsure.iter().filter(|(of, _)| of == name) {
                let count = group.iter().filter(|body| surplus.contains(body)).count();
                assert!(
                    count == 0 || count == group.len(),
                    "{name}: a group in part"
                );
                there.extend(group.iter().take(count));
            }
            assert_eq!(surplus, there, "{name}: what nobody sent, or twice");
            if is_settled {
                *acked = found;
            }
        }
    }
}

/// Where in the run's calls the cell's first one is: in which life, and there.
fn hit(calls: &[Vec<Call>], cell: &Cell) -> Option<(usize, usize)> {
    let all = calls.iter().enumerate();
    let all =
        all.flat_map(|(life, calls)| calls.iter().enumerate().map(move |(at, c)| (life, at, c)));
    let mut matching =
        all.filter(|(_, _, (op, path))| *op == cell.op && path.contains(cell.family));
    let (life, at, _) = matching.nth(cell.after)?;
    Some((life, at))
}

/// Runs the history with one cell's fault; says whether it was met.
fn run(cell: &Cell, end: End, seed: u64) -> bool {
    let mut run = Run::new(seed);
    let failure = FAILURES[cell.failure];
    let is_burst = cell.is_sticky && failure == Failure::Interrupted;
    for _ in 0..if is_burst { INTERRUPTIONS } else { 1 } {
        run.machine.fail(Fault {
            op: cell.op,
            path: cell.family,
            after: cell.after as u64,
            failure,
            is_sticky: cell.is_sticky && !is_burst,
        });
    }
    run.live();
    run.calls.push(run.machine.recorded());
    let hit = hit(&run.calls, cell);
    if let Some((life, at)) = hit {
        let (op, path) = &run.calls[life][at];
        let is_sync = matches!(op, Op::Sync | Op::SyncFilesystem);
        let is_log = [".journal", ".segment"].contains(&cell.family) || *op == Op::SyncFilesystem;
        if is_sync && is_log {
            let mut later = run.calls[life][at + 1..].iter();
            let again = later.find(|(again, on)| again == op && on == path);
            assert_eq!(again, None, "a failed sync was tried again");
        }
    }
    // What kept a store from starting is named.
    for said in &run.refusals {
        let mut calls = run.calls.iter().flatten();
        let is_named = calls.any(|(op, path)| {
            let name = path.rsplit('/').next().unwrap().trim_end_matches(".tmp");
            *op == cell.op && path.contains(cell.family) && said.contains(name)
        });
        assert!(is_named, "which file? {said}");
    }
    let is_segment = |ops: &[Op]| cell.family == ".segment" && ops.contains(&cell.op);
    let meanwhile = match failure {
        Failure::Full if is_segment(&[Op::Write, Op::Create]) => Some(StoreHealth::StorageFull),
        Failure::TooManyFiles if is_segment(&[Op::Open, Op::Create]) => {
            Some(StoreHealth::OutOfDescriptors)
        }
        _ => None,
    };
    if let (Some(meanwhile), End::Healed) = (meanwhile, end) {
        run.wait_until_it_passes(meanwhile);
    }
    run.end(end);
    hit.is_some()
}

/// For each kind of call on each kind of file, some of those that the history makes.
fn cells() -> Vec<Cell> {
    let mut clean = Run::new(1);
    clean.live();
    clean.calls.push(clean.machine.recorded());
    assert_eq!(clean.refusals, Vec::<String>::new());
    assert_eq!(clean.unsure, []);
    assert_eq!(clean.unknown, BTreeSet::new());
    assert!(clean.dropped >= 2, "{}", clean.dropped);
    let calls: Vec<Call> = clean.calls.iter().flatten().cloned().collect();
    clean.end(End::Healed);
    let kinds: BTreeSet<(Op, &str)> = calls
        .iter()
        .map(|(op, path)| (*op, family_of(path)))
        .collect();
    let mut cells = Vec::new();
    for (op, family) in kinds {
        let matching = calls
            .iter()
            .filter(|(o, path)| *o == op && path.contains(family));
        let own: Vec<usize> = matching
            .enumerate()
            .filter(|(_, (_, path))| family_of(path) == family)
            .map(|(after, _)| after)
            .collect();
        // The last ones may not come again: threads batch what they do.
        let picked: BTreeSet<usize> = (0..4).map(|n| own[(own.len() - 1) * n / 4]).collect();
        for after in picked {
            for (failure, kind) in FAILURES.into_iter().enumerate() {
                if kind == Failure::Short && op != Op::Write {
                    continue;
                }
                for is_sticky in [false, true] {
                    cells.push(Cell {
                        op,
                        family,
                        after,
                        failure,
                        is_sticky,
                    });
                }
            }
        }
    }
    cells
}

#[test]
fn each_call_that_fails_is_survived_and_nothing_acknowledged_is_lost() {
    let cells = cells();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    let work = || {
        let (mut hits, mut wrong) = (BTreeSet::new(), Vec::new());
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(cell) = cells.get(n) else {
                return (hits, wrong);
            };
            for end in ENDS {
                match std::panic::catch_unwind(|| run(cell, end, n as u64)) {
                    Ok(true) => drop(hits.insert(*cell)),
                    Ok(false) => {}
                    Err(_) => wrong.push(format!("{n}: {cell:?}, {end:?}")),
                }
            }
        }
    };
    let (mut hits, mut wrong) = (BTreeSet::new(), Vec::new());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let done = worker.join().unwrap();
            hits.extend(done.0);
            wrong.extend(done.1);
        }
    });
    assert!(wrong.is_empty(), "{} cells: {wrong:#?}", wrong.len());
    let (met, all) = (hits.len(), cells.len());
    eprintln!("failing calls: {met} cells of {all} met their fault, each with 3 ends");
    assert!(met >= 200, "{met} of {all}");
}
