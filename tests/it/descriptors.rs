//! No descriptor is left to open a segment with: nothing was done, so nothing is in doubt. What is
//! acknowledged waits in the journal; before that is full, entries are refused. It passes by itself.

use std::sync::Arc;
use std::time::Instant;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use trialog::experiment::{AppendError, Store, StoreHealth, StoreOptions};
use trialog::fs::sim::{Failure, Fault, Op, SimMachine};
use trialog::model::{Definition, LogId, NewEntry};

use crate::ledger::{Ledger, Outcome};
use crate::load::{assert_some_are_read, assert_whole, body, post};
use crate::rig::{STORE, entry, slug};
use crate::scene::{SEGMENT, replay_of};
use crate::server::{PATIENCE, Server};

async fn open(machine: &SimMachine, segment_bytes: u64) -> Arc<Store> {
    let options = StoreOptions {
        dir: STORE.into(),
        segment_bytes,
        journal_bytes: 128 << 10,
        large_group_bytes: 20_000,
        free_bytes_min: 0,
        ..StoreOptions::default()
    };
    let store = Store::open(options, machine.host()).unwrap();
    let definition = Definition {
        open_variants: true,
        ..Definition::default()
    };
    store.define(&slug("one"), definition).await.unwrap();
    Arc::new(store)
}

async fn append(store: &Store, entries: Vec<NewEntry>) -> Result<Vec<LogId>, AppendError> {
    let permit = store.reserve(1000).unwrap();
    let appended = store.append_batch(&slug("one"), entries, permit).await;
    Ok(appended?.ids)
}

/// Nothing is in doubt: the store is ready, and its files hold these entries and no others.
async fn assert_holds_just(machine: &SimMachine, store: &Store, ids: &[LogId]) {
    assert_eq!(store.health(), StoreHealth::Ready);
    store.shutdown().await;
    let (found, outcome) = replay_of(machine, STORE.as_ref());
    assert_eq!(outcome.damages, []);
    let found: Vec<LogId> = found.into_iter().map(|(id, _)| id).collect();
    assert_eq!(found, ids);
}

fn no_descriptors(machine: &SimMachine) {
    for (op, path) in [
        (Op::Open, SEGMENT),
        (Op::Create, SEGMENT),
        (Op::SyncDir, "/experiments/one"),
    ] {
        machine.fail(Fault {
            op,
            path,
            after: 0,
            failure: Failure::TooManyFiles,
            is_sticky: true,
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_entries_are_refused_in_time_and_taken_again_by_itself() {
    let machine = SimMachine::new(1, 512);
    let store = open(&machine, 16 << 10).await;
    let mut ids = append(&store, vec![entry("A", 0, 300)]).await.unwrap();
    for round in 1..4 {
        no_descriptors(&machine);
        // The journal has room for some, then they are refused.
        let until = Instant::now() + PATIENCE;
        let mut n = 0;
        while store.health() == StoreHealth::Ready {
            assert!(Instant::now() < until, "nobody notices");
            n += 1;
            let appended = append(&store, vec![entry("A", round * 10_000 + n, 300)]);
            match appended.await {
                Ok(appended) => ids.extend(appended),
                Err(error) => assert_eq!(error, AppendError::Overloaded),
            }
        }
        assert_eq!(store.health(), StoreHealth::OutOfDescriptors);
        machine.heal();
        while store.health() != StoreHealth::Ready {
            assert!(Instant::now() < until, "it does not pass");
            tokio::task::yield_now().await;
        }
        let more = append(&store, vec![entry("A", round * 10_000, 300)]);
        ids.extend(more.await.unwrap());
    }
    store.shutdown().await;
    let (found, outcome) = replay_of(&machine, STORE.as_ref());
    assert_eq!(outcome.damages, []);
    let found: Vec<LogId> = found.into_iter().map(|(id, _)| id).collect();
    let mut rest = found.iter();
    assert!(
        ids.iter().all(|id| rest.any(|there| there == id)),
        "all in order"
    );
}

/// A large group goes around the journal: it needs its segment's file at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_group_without_a_descriptor_is_refused_and_costs_nothing() {
    let machine = SimMachine::new(1, 512);
    let store = open(&machine, 16 << 10).await;
    let large = |n: u64| {
        (0..60)
            .map(|i| entry("A", n * 100 + i, 500))
            .collect::<Vec<_>>()
    };
    let mut ids = append(&store, large(1)).await.unwrap();
    for round in 2..6 {
        no_descriptors(&machine);
        assert_eq!(
            append(&store, large(90)).await,
            Err(AppendError::Overloaded)
        );
        machine.heal();
        ids.extend(append(&store, vec![entry("A", round, 100)]).await.unwrap());
        ids.extend(append(&store, large(round)).await.unwrap());
    }
    assert_holds_just(&machine, &store, &ids).await;
}

/// What the group gives up its segment for is in that segment's file, and can't be read again then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_before_a_refused_large_group_is_still_read() {
    let machine = SimMachine::new(1, 512);
    let store = open(&machine, 1 << 20).await;
    let large = || (0..60).map(|i| entry("A", i, 500)).collect::<Vec<_>>();
    let mut ids = append(&store, large()).await.unwrap();
    for _ in 0..3 {
        no_descriptors(&machine);
        for _ in 0..2 {
            assert_eq!(append(&store, large()).await, Err(AppendError::Overloaded));
        }
        machine.heal();
        for id in &ids {
            let read = store.get(&slug("one"), *id).await;
            assert!(read.unwrap().is_some(), "{id} is gone");
        }
        ids.extend(append(&store, large()).await.unwrap());
    }
    assert_holds_just(&machine, &store, &ids).await;
}

/// Between the rename and its sync a descriptor may be missing that was there before: the sync doesn't
/// need one, since its failure would stop the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn making_and_deleting_an_experiment_opens_nothing_between_rename_and_sync() {
    let machine = SimMachine::new(1, 512);
    let store = open(&machine, 16 << 10).await;
    let renames = |is_of_folder: fn(&str) -> bool| {
        let calls = machine.recorded();
        let renamed = calls
            .iter()
            .position(|(op, path)| *op == Op::Rename && is_of_folder(path));
        let (before, after) = calls.split_at(renamed.expect("it is renamed"));
        let all = format!("{STORE}/experiments");
        assert!(before.contains(&(Op::Open, all.clone())), "{calls:?}");
        assert_eq!(after[1], (Op::SyncDir, all), "{calls:?}");
    };
    machine.record();
    let definition = Definition {
        open_variants: true,
        ..Definition::default()
    };
    store.define(&slug("two"), definition).await.unwrap();
    renames(|path| {
        path.contains("/.new-two-") && !path.contains(".json") && !path.ends_with(".tmp")
    });
    machine.record();
    store.delete(&slug("two")).await.unwrap();
    renames(|path| path.contains("/experiments/") && !path.contains(".json"));
    assert_holds_just(&machine, &store, &[]).await;
}

/// Lets a server that runs open nothing more, or again as much as it may.
fn let_open(server: &Server, may: bool) {
    let pid = Pid::from_raw(server.pid() as i32).expect("not zero");
    let maximum = getrlimit(Resource::Nofile).maximum;
    // New ones get the lowest free number, which has to be below that.
    let current = if may { maximum } else { Some(3) };
    prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum }).expect("it is our child");
}

#[test]
fn a_server_whose_descriptors_run_out_goes_on_when_there_are_some_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut ledger = Ledger::default();
    let mut random = fastrand::Rng::with_seed(1);
    let server = Server::start(&store, &["--journal-bytes", "1048576"]);
    let mut client = server.connect();
    let mut send = |random: &mut fastrand::Rng, ledger: &mut Ledger| {
        let bodies = vec![body(random, 6000)];
        let answer = post(&mut client, &server.key, &slug("demo"), &bodies);
        ledger.note(&slug("demo"), bodies, answer)
    };
    assert_eq!(send(&mut random, &mut ledger), Outcome::Acknowledged);
    for round in 0..3 {
        let_open(&server, false);
        let refused = (0..3000).find(|_| send(&mut random, &mut ledger) == Outcome::Overloaded);
        assert!(refused.is_some(), "round {round}: nothing was refused");
        let_open(&server, true);
        let until = Instant::now() + PATIENCE;
        while send(&mut random, &mut ledger) == Outcome::Overloaded {
            assert!(Instant::now() < until, "round {round}: it does not pass");
        }
        assert_some_are_read(&server, &ledger, &mut random);
    }
    assert_eq!(server.ask("GET", "/ready", "").status, 200);
    let said = server.said();
    assert!(said.contains("no descriptor is left"), "{said}");
    assert!(said.contains("there are descriptors again"), "{said}");
    server.kill();
    assert_whole(&store, &mut ledger, "EMFILE");
}
