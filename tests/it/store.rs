//! The store as a library: append, read, restart.

use std::sync::Arc;

use trialog::experiment::{AppendError, Store, StoreHealth, StoreOptions};
use trialog::fs::real;
use trialog::fs::sim::{Failure, Fault, Op, SimMachine};
use trialog::journal::format::BATCHES_AT;
use trialog::model::{Definition, NewEntry, Slug, Variant};

use crate::rig::STORE;
use crate::scene::{SEGMENT, replay_of};
use crate::server::PATIENCE;

fn options(dir: &std::path::Path) -> StoreOptions {
    StoreOptions {
        dir: dir.join("store"),
        journal_bytes: 1 << 20,
        segment_bytes: 64 << 10,
        free_bytes_min: 0,
        ..StoreOptions::default()
    }
}

fn definition() -> Definition {
    let variant = |key: &str| Variant {
        key: key.into(),
        weight: None,
        control: false,
    };
    Definition {
        variants: vec![variant("A"), variant("B")],
        ..Definition::default()
    }
}

/// Its own laps are so small that the end of a large group has no room in them: it waits for the other
/// one, which is stuck.
#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_does_not_wait_for_a_journal_that_is_stuck() {
    let machine = SimMachine::new(1, 512);
    let options = StoreOptions {
        dir: STORE.into(),
        journal_bytes: BATCHES_AT,
        large_group_bytes: 1000,
        free_bytes_min: 0,
        ..StoreOptions::default()
    };
    let store = Arc::new(Store::open(options, machine.host()).unwrap());
    let slug = Slug::parse("demo").unwrap();
    store.define(&slug, definition()).await.unwrap();
    machine.fail(Fault {
        op: Op::Write,
        path: SEGMENT,
        after: 0,
        failure: Failure::Full,
        is_sticky: true,
    });
    let large: Vec<_> = (0..100).map(|n| entry("A", n)).collect();
    let (asking, permit) = (store.clone(), store.reserve(100).unwrap());
    let demo = slug.clone();
    let waiting = tokio::spawn(async move { asking.append_batch(&demo, large, permit).await });
    while store.health() != StoreHealth::StorageFull {
        tokio::task::yield_now().await;
    }
    let stopped = tokio::time::timeout(PATIENCE, store.shutdown()).await;
    stopped.expect("it waits for something that never comes");
    let answer = waiting.await.unwrap();
    let told = [AppendError::StorageFull, AppendError::ShuttingDown];
    assert!(
        answer.as_ref().is_err_and(|error| told.contains(error)),
        "{answer:?}"
    );
    drop(store);
    machine.heal();
    let (found, outcome) = replay_of(&machine, STORE.as_ref());
    assert_eq!(outcome.damages, []);
    assert_eq!(found, []);
}

fn entry(key: &str, n: usize) -> NewEntry {
    let body = format!(r#"{{"variantKey":"{key}","input":{{"n":{n}}}}}"#);
    NewEntry {
        variant_key: key.into(),
        body: body.into_bytes().into(),
        idempotency: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let slug = Slug::parse("demo").unwrap();
    let mut ids = Vec::new();
    for round in 0..3 {
        let store = Arc::new(Store::open(options(dir.path()), real::host()).unwrap());
        if round == 0 {
            assert!(store.define(&slug, definition()).await.unwrap().created);
        }
        let mut tasks = Vec::new();
        for n in 0..2000 {
            let (store, slug) = (store.clone(), slug.clone());
            tasks.push(tokio::spawn(async move {
                let permit = store.reserve(100).unwrap();
                (n, store.append(&slug, entry("A", n), permit).await.unwrap())
            }));
        }
        for task in tasks {
            ids.push(task.await.unwrap());
        }
        let big: Vec<_> = (0..4000).map(|n| entry("B", n)).collect();
        let permit = store.reserve(100).unwrap();
        let batch = store.append_batch(&slug, big, permit).await.unwrap();
        assert!(batch.ids.windows(2).all(|pair| pair[0] < pair[1]));
        ids.extend(batch.ids.into_iter().enumerate());
        for (n, id) in &ids {
            let found = store
                .get(&slug, *id)
                .await
                .unwrap()
                .unwrap_or_else(|| panic!("round {round} n {n} {id}, of {}", ids.len()));
            assert!(String::from_utf8_lossy(&found.body).contains(&format!("{{\"n\":{n}}}")));
        }
        let described = store.describe(&slug).await.unwrap();
        assert_eq!(described.count, ids.len() as u64);
        if round != 1 {
            store.shutdown().await;
        }
    }
}
