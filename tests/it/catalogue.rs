//! Making and deleting experiments through the library: with callers that go away half-way, and with
//! calls of the disk that fail.

use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::pin;
use std::task::Poll;

use trialog::experiment::{AppendError, ReadError, Store, StoreError, StoreHealth, StoreOptions};
use trialog::fs::sim::{Failure, Fault, Op, SimMachine};
use trialog::model::{Definition, LogId};

use crate::rig::{STORE, entry, replayed, slug};

/// More polls than anything here needs.
const POLLS_MAX: usize = 100;

fn open(machine: &SimMachine) -> Store {
    open_with(machine, 4096)
}

fn open_with(machine: &SimMachine, segment_bytes: u64) -> Store {
    let options = StoreOptions {
        dir: STORE.into(),
        journal_bytes: 1 << 20,
        segment_bytes,
        free_bytes_min: 0,
        ..StoreOptions::default()
    };
    Store::open(options, machine.host()).unwrap()
}

async fn define(store: &Store, name: &str) -> bool {
    let definition = Definition {
        open_variants: true,
        ..Definition::default()
    };
    let defined = store.define(&slug(name), definition).await;
    defined.unwrap().created
}

async fn append(store: &Store, name: &str, n: u64) -> Result<LogId, AppendError> {
    let permit = store.reserve(1000).unwrap();
    let name = slug(name);
    store.append(&name, entry("A", n, 600), permit).await
}

fn fail(machine: &SimMachine, op: Op, path: &'static str, failure: Failure) {
    machine.fail(Fault {
        op,
        path,
        after: 0,
        failure,
        is_sticky: false,
    });
}

/// Polls `future` so many times at most, then drops it: at once, or when it is woken once more.
/// Says whether it came to its end.
async fn dropped_after(polls: usize, at_once: bool, future: impl Future) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if left == 0 && at_once => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// What the store knows is what the disk has, and it can be used, now and after a restart.
async fn assert_sound(machine: &SimMachine, store: Store, case: &str) {
    // Behind whatever is still on its way.
    define(&store, "other").await;
    let there = |machine: &SimMachine| {
        let files = machine.files();
        let is_there = |file: &std::path::PathBuf| file.starts_with("/store/experiments/one");
        files.iter().any(is_there)
    };
    assert_eq!(store.contains(&slug("one")), there(machine), "{case}");
    define(&store, "one").await;
    let id = append(&store, "one", 7).await.expect(case);
    store.shutdown().await;
    drop(store);
    let store = open(machine);
    assert_eq!(store.slugs(None, 9), [slug("one"), slug("other")], "{case}");
    let found = store.get(&slug("one"), id).await.unwrap();
    assert!(found.is_some(), "{case}");
    store.shutdown().await;
    let files = machine.files();
    let is_left_over = |file: &&std::path::PathBuf| file.to_string_lossy().contains("/.");
    assert_eq!(files.iter().find(is_left_over), None, "{case}");
}

/// Drops what `ask` makes of a new store at its first poll, its second, and so on to its end.
async fn dropped_at_each_poll(ask: impl AsyncFn(&Store, usize, bool) -> bool) {
    let mut dropped = 0;
    for (round, at_once) in [true, false, true, false].into_iter().enumerate() {
        for polls in 0..POLLS_MAX {
            let machine = SimMachine::new(polls as u64, 512);
            let store = open(&machine);
            let has_ended = ask(&store, polls, at_once).await;
            let case = format!("round {round}: {polls} polls, at once: {at_once}");
            assert_sound(&machine, store, &case).await;
            if has_ended {
                break;
            }
            dropped += usize::from(polls > 0);
            assert!(polls < POLLS_MAX - 1, "it comes to its end");
        }
    }
    assert!(dropped > 0, "some were dropped on the way");
}

/// On one thread, so that what is spawned goes on only while somebody else waits.
#[tokio::test]
async fn a_definition_that_is_dropped_at_any_poll_is_done_or_was_not_begun() {
    dropped_at_each_poll(async |store: &Store, polls, at_once| {
        dropped_after(polls, at_once, define(store, "one")).await
    })
    .await;
}

#[tokio::test]
async fn a_deletion_that_is_dropped_at_any_poll_is_done_or_was_not_begun() {
    dropped_at_each_poll(async |store: &Store, polls, at_once| {
        define(store, "one").await;
        for n in 0..9 {
            append(store, "one", n).await.unwrap();
        }
        let one = slug("one");
        dropped_after(polls, at_once, store.delete(&one)).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_fails_leaves_the_experiment_as_it_was() {
    for (op, path, failure) in [
        (Op::Rename, "/experiments/one", Failure::Io),
        (Op::Rename, "/experiments/one", Failure::Full),
        (Op::Open, "/experiments", Failure::TooManyFiles),
    ] {
        let machine = SimMachine::new(1, 512);
        // In one segment: sealing opens files, too, and the failure is meant for the deletion.
        let store = open_with(&machine, 1 << 20);
        define(&store, "one").await;
        let mut ids = Vec::new();
        for n in 0..30 {
            ids.push(append(&store, "one", n).await.unwrap());
        }
        // So that the deletion's own opening of a folder is the first one.
        store.describe(&slug("one")).await.unwrap();
        fail(&machine, op, path, failure);
        let refused = store.delete(&slug("one")).await.unwrap_err();
        match failure {
            Failure::Full => assert!(matches!(refused, StoreError::StorageFull), "{refused}"),
            Failure::Io => assert!(matches!(refused, StoreError::Io(_)), "{refused}"),
            _ => assert!(
                matches!(refused, StoreError::Read(ReadError::Overloaded)),
                "{refused}"
            ),
        }
        assert_eq!(store.health(), StoreHealth::Ready);
        for n in 30..60 {
            ids.push(append(&store, "one", n).await.unwrap());
        }
        for id in &ids {
            assert!(store.get(&slug("one"), *id).await.unwrap().is_some());
        }
        assert_eq!(store.describe(&slug("one")).await.unwrap().count, 60);
        machine.kill();
        drop(store);
        let store = open_with(&machine, 1 << 20);
        assert_eq!(store.slugs(None, 9), [slug("one")]);
        store.shutdown().await;
        let found = replayed(machine.host().disk, Path::new(STORE), &slug("one"));
        let found: Vec<LogId> = found.into_iter().map(|(id, _)| id).collect();
        assert_eq!(found, ids, "{op:?} {failure:?}");
        store.delete(&slug("one")).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_deletion_can_not_unlink_the_next_start_does() {
    let machine = SimMachine::new(1, 512);
    let store = open(&machine);
    define(&store, "one").await;
    append(&store, "one", 1).await.unwrap();
    fail(&machine, Op::Remove, "/.deleted-one", Failure::Io);
    store.delete(&slug("one")).await.unwrap();
    assert!(!store.contains(&slug("one")));
    assert_eq!(store.health(), StoreHealth::Ready);
    let is_left_over = |file: &std::path::PathBuf| file.to_string_lossy().contains("/.deleted-one");
    assert!(machine.files().iter().any(is_left_over));
    assert!(define(&store, "one").await);
    append(&store, "one", 2).await.unwrap();
    store.shutdown().await;
    drop(store);
    let store = open(&machine);
    assert!(!machine.files().iter().any(is_left_over));
    assert_eq!(store.describe(&slug("one")).await.unwrap().count, 1);
    store.shutdown().await;
}
