//! The real store with its runtime: actors that leave while requests come, and experiments that
//! are deleted and made again while others append to them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use trialog::experiment::{AppendError, Store, StoreOptions};
use trialog::fs::sim::{Op, SimMachine};
use trialog::fs::{Host, real};
use trialog::model::{Definition, LogId, NewEntry, Slug};

use crate::rig::{entry, replayed, slug};

const IDLE: Duration = Duration::from_millis(2);
/// Far more than anything here takes: what isn't there by then never comes.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(dir: &Path, host: &Host) -> Arc<Store> {
    let options = StoreOptions {
        dir: dir.to_path_buf(),
        segment_bytes: 16 << 10,
        journal_bytes: 1 << 20,
        large_group_bytes: 64 << 10,
        idle_timeout: IDLE,
        free_bytes_min: 0,
        ..StoreOptions::default()
    };
    Arc::new(Store::open(options, host.clone()).unwrap())
}

async fn define(store: &Store, name: &Slug) {
    let definition = Definition {
        open_variants: true,
        ..Definition::default()
    };
    assert!(store.define(name, definition).await.unwrap().created);
}

async fn append(
    store: &Store,
    name: &Slug,
    entries: Vec<NewEntry>,
) -> Result<Vec<LogId>, AppendError> {
    let permit = store.reserve(1000).unwrap();
    let appended = store.append_batch(name, entries, permit);
    let appended = tokio::time::timeout(PATIENCE, appended).await;
    Ok(appended.expect("every request is answered")?.ids)
}

const EXPERIMENTS: u64 = 24;
const TASKS: u64 = 2 * EXPERIMENTS;
const REQUESTS: u64 = 100;

/// Many tasks append with pauses about as long as an actor stays: timers end at whole
/// milliseconds, so that requests come just when their actor is about to leave.
async fn requests_race_with_leaving(dir: &Path, host: &Host) {
    let names: Vec<Slug> = (0..EXPERIMENTS).map(|n| slug(&format!("e{n}"))).collect();
    let store = open(dir, host);
    for name in &names {
        define(&store, name).await;
    }
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let name = names[(task % EXPERIMENTS) as usize].clone();
        tasks.spawn(one_who_pauses(store.clone(), name, task));
    }
    let mut acknowledged: BTreeMap<Slug, BTreeMap<LogId, Vec<u8>>> = BTreeMap::new();
    while let Some(joined) = tasks.join_next().await {
        let (name, sent) = joined.unwrap();
        acknowledged.entry(name).or_default().extend(sent);
    }
    store.shutdown().await;
    drop(store);
    for (name, sent) in acknowledged {
        let requests = (TASKS / EXPERIMENTS * REQUESTS) as usize;
        assert_eq!(sent.len(), requests, "{name}: an id for each request");
        let expected: Vec<_> = sent.into_iter().collect();
        assert!(
            replayed(host.disk.clone(), dir, &name) == expected,
            "{name}"
        );
    }
}

async fn one_who_pauses(store: Arc<Store>, name: Slug, task: u64) -> (Slug, Vec<(LogId, Vec<u8>)>) {
    let mut random = fastrand::Rng::with_seed(task);
    let mut sent = Vec::new();
    for n in 0..REQUESTS {
        let entry = entry("A", task * 1000 + n, random.usize(..300));
        let body = entry.body.to_vec();
        let ids = append(&store, &name, vec![entry]).await.unwrap();
        // Found by the next request, whether the actor is still the same or not.
        let found = store.get(&name, ids[0]).await.unwrap().unwrap();
        assert!(found.body == body);
        sent.push((ids[0], body));
        tokio::time::sleep(IDLE * random.u32(..8) / 2).await;
    }
    (name, sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_is_lost_to_an_actor_that_leaves_on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    requests_race_with_leaving(&dir.path().join("store"), &real::host()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_is_lost_to_an_actor_that_leaves_and_actors_do_leave() {
    let machine = SimMachine::new(1, 512);
    requests_race_with_leaving(Path::new("/store"), &machine.host()).await;
    // Whoever starts looks for the segments that are there.
    let starts = machine.count(Op::List, "/experiments/e0");
    assert!(starts > 10, "the actor came back {starts} times");
}

/// What appenders and the one who deletes tell each other.
#[derive(Default)]
struct Race {
    /// How often the experiment was made.
    generation: AtomicU64,
    acknowledged: AtomicU64,
    is_over: AtomicBool,
}

/// One who appends until it is over. Gives back what was acknowledged of requests that began in
/// each generation.
async fn appender(store: Arc<Store>, race: Arc<Race>, task: u64) -> Vec<(u64, LogId, Vec<u8>)> {
    let name = slug("one");
    let mut acknowledged = Vec::new();
    for n in 0.. {
        if race.is_over.load(Ordering::Acquire) {
            break;
        }
        let generation = race.generation.load(Ordering::Acquire);
        // Sometimes so many that they go around the journal.
        let count = if n % 16 == 15 { 80 } else { 1 + n % 3 };
        let entries: Vec<NewEntry> = (0..count)
            .map(|i| entry("A", task * 1_000_000 + n * 100 + i, 900))
            .collect();
        match append(&store, &name, entries.clone()).await {
            Ok(ids) => {
                assert_eq!(ids.len(), entries.len());
                race.acknowledged.fetch_add(1, Ordering::AcqRel);
                let bodies = entries.iter().map(|entry| entry.body.to_vec());
                let with_ids = ids.into_iter().zip(bodies);
                acknowledged.extend(with_ids.map(|(id, body)| (generation, id, body)));
            }
            Err(AppendError::UnknownExperiment) => tokio::task::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    }
    acknowledged
}

/// Deletes and makes the experiment again each time that some more was acknowledged.
async fn remake_often(store: &Store, race: &Race, times: u64) {
    let name = slug("one");
    let mut random = fastrand::Rng::with_seed(5);
    for time in 1..=times {
        let enough = race.acknowledged.load(Ordering::Acquire) + random.u64(1..30);
        while race.acknowledged.load(Ordering::Acquire) < enough {
            tokio::task::yield_now().await;
        }
        if time == times {
            break;
        }
        store.delete(&name).await.unwrap();
        define(store, &name).await;
        race.generation.fetch_add(1, Ordering::AcqRel);
    }
    race.is_over.store(true, Ordering::Release);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_experiment_made_again_under_load_keeps_what_it_acknowledged_since() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("store");
    let host = real::host();
    let store = open(&dir, &host);
    let race = Arc::new(Race::default());
    define(&store, &slug("one")).await;
    let mut appenders = JoinSet::new();
    for task in 0..12 {
        appenders.spawn(appender(store.clone(), race.clone(), task));
    }
    let remade = remake_often(&store, &race, 30);
    tokio::time::timeout(PATIENCE, remade)
        .await
        .expect("it goes on");
    let last = race.generation.load(Ordering::Acquire);
    let mut acknowledged = Vec::new();
    while let Some(joined) = appenders.join_next().await {
        acknowledged.extend(joined.unwrap());
    }
    let described = store.describe(&slug("one")).await.unwrap();
    store.shutdown().await;
    drop(store);

    let found = replayed(host.disk.clone(), &dir, &slug("one"));
    assert_eq!(described.count, found.len() as u64);
    assert!(
        found.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "ids rise"
    );
    let there: BTreeSet<_> = found.into_iter().collect();
    let mut survivors = 0;
    let mut known = BTreeSet::new();
    for (generation, id, body) in acknowledged {
        let entry = (id, body);
        // Begun in the last life, it was acknowledged in that life.
        assert!(generation < last || there.contains(&entry), "{id} is lost");
        survivors += u64::from(generation == last);
        known.insert(entry);
    }
    assert!(survivors > 0, "some began in the last life");
    assert!(
        there.is_subset(&known),
        "every entry there was acknowledged"
    );
}
