//! Rule 6 and a failed sync, through the store with its threads on the simulated disk.

use std::sync::Arc;
use std::time::Duration;

use trialog::experiment::{AppendError, Store, StoreHealth, StoreOptions};
use trialog::fs::sim::{Failure, Fault, Op, SimMachine};
use trialog::model::{Definition, Durability, LogId};

use crate::rig::{STORE, entry, slug};
use crate::scene::{JOURNAL, SEGMENT, replay_of};

/// Far more than anything here takes: what isn't there by then never comes.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(machine: &SimMachine) -> Store {
    let options = StoreOptions {
        dir: STORE.into(),
        segment_bytes: 4096,
        journal_bytes: 1 << 20,
        free_bytes_min: 0,
        ..StoreOptions::default()
    };
    Store::open(options, machine.host()).unwrap()
}

async fn with_experiment(machine: &SimMachine) -> Arc<Store> {
    let store = open(machine);
    let definition = Definition {
        open_variants: true,
        ..Definition::default()
    };
    store.define(&slug("one"), definition).await.unwrap();
    Arc::new(store)
}

async fn append(store: &Store, n: u64) -> Result<LogId, AppendError> {
    let (one, permit) = (slug("one"), store.reserve(1000).unwrap());
    let appended = store.append(&one, entry("A", n, 300), permit);
    let appended = tokio::time::timeout(PATIENCE, appended).await;
    appended.expect("an append waits for something that never comes")
}

fn fail(machine: &SimMachine, op: Op, path: &'static str, failure: Failure) {
    let is_sticky = failure == Failure::Interrupted;
    machine.fail(Fault {
        op,
        path,
        after: 0,
        failure,
        is_sticky,
    });
}

/// Lets all calls go well at the end of a test, also of one that failed: its threads can end then.
struct Healed<'a>(&'a SimMachine);

impl Drop for Healed<'_> {
    fn drop(&mut self) {
        self.0.heal();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_6_rolling_and_sealing_are_not_on_the_path_of_an_ack() {
    let machine = SimMachine::new(1, 512);
    let store = with_experiment(&machine).await;
    append(&store, 0).await.unwrap();
    let healed = Healed(&machine);
    // No write to a segment ends from here on: each is interrupted and tried again.
    fail(&machine, Op::Write, SEGMENT, Failure::Interrupted);
    let mut ids = Vec::new();
    for n in 1..60 {
        ids.push(append(&store, n).await.unwrap());
    }
    let description = store.describe(&slug("one")).await.unwrap();
    assert!(description.segment_count > 4, "{description:?}");
    for id in &ids {
        assert!(store.get(&slug("one"), *id).await.unwrap().is_some());
    }
    drop(healed);
    store.shutdown().await;
    let (entries, _) = replay_of(&machine, STORE.as_ref());
    assert_eq!(entries.len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_nothing_is_synced_again_or_acknowledged_until_a_restart() {
    let machine = SimMachine::new(1, 512);
    let store = with_experiment(&machine).await;
    let mut acknowledged = vec![append(&store, 1).await.unwrap()];
    fail(&machine, Op::Sync, JOURNAL, Failure::Io);
    // The one whose sync it was may be there or not; those after it were never tried.
    assert_eq!(append(&store, 2).await, Err(AppendError::Failed));
    let syncs = machine.count(Op::Sync, JOURNAL);
    let writes = machine.count(Op::Write, JOURNAL);
    for n in 3..8 {
        assert_eq!(append(&store, n).await, Err(AppendError::StorageFailed));
    }
    assert_eq!(store.health(), StoreHealth::StorageFailed);
    // What was acknowledged can still be read.
    let found = store.get(&slug("one"), acknowledged[0]).await.unwrap();
    assert!(found.is_some());
    store.shutdown().await;
    drop(store);
    assert_eq!(machine.count(Op::Sync, JOURNAL), syncs, "no second sync");
    assert_eq!(machine.count(Op::Write, JOURNAL), writes);
    assert_eq!(machine.count(Op::SyncFilesystem, "/"), 0);

    let store = open(&machine);
    acknowledged.push(append(&store, 9).await.unwrap());
    store.shutdown().await;
    let (entries, _) = replay_of(&machine, STORE.as_ref());
    let ids: Vec<LogId> = entries.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_around_the_journal_stops_the_acknowledgements_too() {
    let machine = SimMachine::new(1, 512);
    let store = with_experiment(&machine).await;
    let first = append(&store, 1).await.unwrap();
    fail(&machine, Op::Sync, SEGMENT, Failure::Io);
    let large = (0..400).map(|n| entry("B", n, 1000)).collect();
    let permit = store.reserve(500_000).unwrap();
    let appended = store.append_batch(&slug("one"), large, permit).await;
    assert_eq!(appended, Err(AppendError::Failed));
    let syncs = machine.count(Op::Sync, SEGMENT);
    assert_eq!(append(&store, 2).await, Err(AppendError::StorageFailed));
    store.shutdown().await;
    drop(store);
    assert_eq!(machine.count(Op::Sync, SEGMENT), syncs);
    let store = open(&machine);
    let second = append(&store, 3).await.unwrap();
    store.shutdown().await;
    let (entries, outcome) = replay_of(&machine, STORE.as_ref());
    let ids: Vec<LogId> = entries.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [first, second]);
    assert_eq!(outcome.damages, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_relaxed_durability_a_failed_sync_in_the_background_stops_it_too() {
    let machine = SimMachine::new(1, 512);
    with_experiment(&machine).await.shutdown().await;
    machine.kill();
    let options = StoreOptions {
        dir: STORE.into(),
        durability: Durability::Relaxed,
        free_bytes_min: 0,
        journal_bytes: 1 << 20,
        ..StoreOptions::default()
    };
    let store = Store::open(options, machine.host()).unwrap();
    fail(&machine, Op::Sync, JOURNAL, Failure::Io);
    append(&store, 1).await.unwrap();
    let refused = async {
        while append(&store, 2).await != Err(AppendError::StorageFailed) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert_eq!(store.health(), StoreHealth::StorageFailed);
}
