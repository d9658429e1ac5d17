//! What remembering idempotency keys costs, and from where they come back.

use std::time::Duration;

use trialog::experiment::repeats::Window;
use trialog::experiment::{AppendError, Appended, Store, StoreOptions};
use trialog::fs::sim::{Failure, Fault, Op, SimMachine};
use trialog::log::footer::{Footer, TRAILER_LEN};
use trialog::log::segment::SegmentHeader;
use trialog::model::{Definition, LogId, NewEntry};

use crate::rig::{STORE, entry, keyed, keyed_batch, slug};
use crate::scene::SEGMENT;

const DAY_MS: u64 = 24 * 3600 * 1000;
const BEGIN_MS: u64 = 1_764_000_000_000;

fn options() -> StoreOptions {
    StoreOptions {
        dir: STORE.into(),
        segment_bytes: 4096,
        journal_bytes: 1 << 20,
        large_group_bytes: 16 << 10,
        free_bytes_min: 0,
        ..StoreOptions::default()
    }
}

async fn open(machine: &SimMachine, options: StoreOptions) -> Store {
    let store = Store::open(options, machine.host()).unwrap();
    let definition = Definition {
        open_variants: true,
        ..Definition::default()
    };
    store.define(&slug("one"), definition).await.unwrap();
    store
}

async fn append(store: &Store, entries: Vec<NewEntry>) -> Result<Appended, AppendError> {
    let permit = store.reserve(1000).unwrap();
    store.append_batch(&slug("one"), entries, permit).await
}

/// Appends the entry of this number under this key; its id, and whether it was there before.
async fn one(store: &Store, key: &str, n: u64) -> Result<(LogId, bool), AppendError> {
    let appended = append(store, vec![keyed(entry("A", n, 300), key)]).await?;
    Ok((appended.ids[0], appended.repeated == 1))
}

fn key(n: u64) -> String {
    format!("key-{n}")
}

async fn fill(store: &Store, count: u64) -> Vec<LogId> {
    let mut ids = Vec::new();
    for n in 0..count {
        let (id, is_repeat) = one(store, &key(n), n).await.unwrap();
        assert!(!is_repeat);
        ids.push(id);
    }
    ids
}

async fn must_know(store: &Store, ids: &[LogId]) {
    for (n, id) in (0..).zip(ids) {
        assert_eq!(one(store, &key(n), n).await, Ok((*id, true)), "{n}");
        let other = one(store, &key(n), n + 1).await;
        assert_eq!(other, Err(AppendError::KeyConflict { position: 0 }));
    }
}

/// What of the sealed segments was done: all bytes between header and footer are other ones now, or
/// a bit of the footer is.
fn spoil(machine: &SimMachine, part: &str) -> usize {
    let mut count = 0;
    for path in machine.files() {
        if !path.to_string_lossy().ends_with(SEGMENT) {
            continue;
        }
        let mut bytes = machine.read(&path).unwrap();
        let salt = SegmentHeader::decode(&bytes).unwrap().header.salt;
        let Some(footer) = Footer::read(&bytes, salt) else {
            continue;
        };
        let (from, to) = (512, footer.frames_end as usize);
        match part {
            "frames" => bytes[from..to].fill(b'x'),
            _ => {
                let len = bytes.len();
                bytes[len - TRAILER_LEN - 8] ^= 1;
            }
        }
        machine.overwrite(&path, &bytes).unwrap();
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_costs_no_read() {
    let machine = SimMachine::new(1, 512);
    let store = open(&machine, options()).await;
    let ids = fill(&store, 40).await;
    store.shutdown().await;
    drop(store);
    // One large segment from here on, so that nothing is read for a footer.
    let large = StoreOptions {
        segment_bytes: 1 << 20,
        ..options()
    };
    let store = open(&machine, large).await;
    must_know(&store, &ids[..1]).await;
    let reads = || machine.count(Op::Read, SEGMENT) + machine.count(Op::Map, SEGMENT);
    let before = reads();
    for n in 100..200 {
        assert!(!one(&store, &key(n), n).await.unwrap().1);
    }
    // A repeated one costs none either.
    must_know(&store, &ids).await;
    assert_eq!(reads(), before);
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_keys_in_footers_and_reads_no_sealed_body() {
    let machine = SimMachine::new(1, 512);
    let store = open(&machine, options()).await;
    let ids = fill(&store, 60).await;
    store.shutdown().await;
    drop(store);
    assert!(spoil(&machine, "frames") > 4);
    let store = open(&machine, options()).await;
    must_know(&store, &ids).await;
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_damaged_footer_come_from_the_frames() {
    let machine = SimMachine::new(1, 512);
    let store = open(&machine, options()).await;
    let mut ids = fill(&store, 30).await;
    // A large group goes around the journal; its key is that of a batch.
    let batch = || -> Vec<NewEntry> {
        let entries = (100..140).map(|n| entry("B", n, 600));
        keyed_batch(entries.collect(), "large")
    };
    let large = append(&store, batch()).await.unwrap();
    assert_eq!((large.ids.len(), large.repeated), (40, 0));
    let (id, _) = one(&store, &key(30), 30).await.unwrap();
    ids.push(id);
    store.shutdown().await;
    drop(store);
    assert!(spoil(&machine, "footer") > 3);
    let store = open(&machine, options()).await;
    must_know(&store, &ids).await;
    let again = append(&store, batch()).await.unwrap();
    assert_eq!((again.ids, again.repeated), (large.ids, 40));
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_given_up_leaves_no_key() {
    let machine = SimMachine::new(1, 512);
    let store = open(&machine, options()).await;
    let before = one(&store, "before", 0).await.unwrap();
    let batch = || keyed_batch((0..40).map(|n| entry("B", n, 600)).collect(), "large");
    machine.fail(Fault {
        op: Op::Write,
        path: SEGMENT,
        after: 0,
        failure: Failure::Full,
        is_sticky: true,
    });
    assert_eq!(append(&store, batch()).await, Err(AppendError::StorageFull));
    machine.heal();
    // Once somebody has seen that there is room again, it is a first one.
    let taken = loop {
        match append(&store, batch()).await {
            Err(AppendError::StorageFull) => tokio::task::yield_now().await,
            taken => break taken.unwrap(),
        }
    };
    assert_eq!((taken.ids.len(), taken.repeated), (40, 0));
    for id in &taken.ids {
        assert!(store.get(&slug("one"), *id).await.unwrap().is_some());
    }
    assert_eq!(append(&store, batch()).await.unwrap().ids, taken.ids);
    assert_eq!(one(&store, "before", 0).await, Ok((before.0, true)));
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_remembered_for_as_long_as_is_said() {
    let machine = SimMachine::new(1, 512);
    machine.set_now_ms(BEGIN_MS);
    let mut store = open(&machine, options()).await;
    let (first, _) = one(&store, "a", 1).await.unwrap();
    for is_after_restart in [false, true] {
        machine.set_now_ms(BEGIN_MS + DAY_MS);
        assert_eq!(one(&store, "a", 1).await, Ok((first, true)));
        if is_after_restart {
            break;
        }
        store.shutdown().await;
        drop(store);
        store = open(&machine, options()).await;
    }
    machine.set_now_ms(BEGIN_MS + DAY_MS + 1);
    let (second, is_repeat) = one(&store, "a", 2).await.unwrap();
    assert!(!is_repeat && second > first);
    assert_eq!(one(&store, "a", 2).await, Ok((second, true)));
    // Back in time nothing is forgotten sooner.
    machine.set_now_ms(BEGIN_MS);
    assert_eq!(one(&store, "a", 2).await, Ok((second, true)));
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_forgotten_in_part_is_new() {
    let machine = SimMachine::new(1, 512);
    let few = StoreOptions {
        window: Window {
            age: Duration::from_secs(1 << 30),
            entries_max: 4,
        },
        ..options()
    };
    let store = open(&machine, few).await;
    let batch = || keyed_batch((0..3).map(|n| entry("A", n, 0)).collect(), "b");
    let first = append(&store, batch()).await.unwrap();
    one(&store, "k", 7).await.unwrap();
    assert_eq!(append(&store, batch()).await.unwrap().repeated, 3);
    one(&store, "l", 8).await.unwrap();
    // Its first entry has gone from memory.
    let second = append(&store, batch()).await.unwrap();
    assert_eq!(second.repeated, 0);
    assert!(second.ids[0] > first.ids[2]);
    // What remains of the first time takes nothing of the second with it.
    one(&store, "m", 9).await.unwrap();
    let again = append(&store, batch()).await.unwrap();
    assert_eq!((again.repeated, again.ids), (3, second.ids));
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_for_keys_is_bounded_over_all_experiments() {
    let machine = SimMachine::new(1, 512);
    // For ten keys more than the 256 that each experiment may have in any case.
    let little = StoreOptions {
        repeats_bytes: 10 * 176,
        segment_bytes: 1 << 20,
        ..options()
    };
    let store = open(&machine, little).await;
    let two = slug("two");
    let definition = Definition {
        open_variants: true,
        ..Definition::default()
    };
    store.define(&two, definition).await.unwrap();
    let batch = |from: u64| -> Vec<NewEntry> {
        let entries = (from..from + 300).map(|n| keyed(entry("A", n, 0), &key(n)));
        entries.collect()
    };
    let send = |name: &'static str, from: u64| {
        let (slug, store) = (slug(name), &store);
        async move {
            let permit = store.reserve(1000).unwrap();
            let appended = store.append_batch(&slug, batch(from), permit).await;
            appended.unwrap().repeated
        }
    };
    assert_eq!(send("one", 0).await, 0);
    assert_eq!(send("one", 0).await, 266);
    assert_eq!(send("two", 0).await, 0);
    assert_eq!(send("two", 0).await, 256);
    // Once the first one has gone, its room is free.
    store.delete(&slug("one")).await.unwrap();
    assert_eq!(send("two", 1000).await, 0);
    assert_eq!(send("two", 1000).await, 266);
    store.shutdown().await;
}

/// Fails unless new entries are refused for want of room, and what is stored is told still.
async fn must_know_while_full(store: &Store, ids: &[LogId]) {
    for n in 1000.. {
        match one(store, &key(n), n).await {
            Ok((_, is_repeat)) => assert!(!is_repeat),
            Err(error) => {
                assert_eq!(error, AppendError::StorageFull);
                break;
            }
        }
    }
    must_know(store, ids).await;
    assert_eq!(one(store, "new", 1).await, Err(AppendError::StorageFull));
    // Of a batch all must be there: else some of it would have to be stored.
    let batch = |from: u64| (from..from + 2).map(|n| keyed(entry("A", n, 300), &key(n)));
    let last = ids.len() as u64 - 1;
    let known = append(store, batch(last - 1).collect()).await.unwrap();
    assert_eq!((known.repeated, &known.ids[..]), (2, &ids[ids.len() - 2..]));
    let half_known = append(store, batch(last).collect()).await;
    assert_eq!(half_known, Err(AppendError::StorageFull));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_known_while_there_is_too_little_room() {
    let machine = SimMachine::new(1, 512);
    let with_reserve = StoreOptions {
        free_bytes_min: 1 << 20,
        ..options()
    };
    let store = open(&machine, with_reserve).await;
    let ids = fill(&store, 20).await;
    machine.set_free_bytes(Some(1 << 19));
    must_know_while_full(&store, &ids).await;
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_known_while_the_disk_is_full() {
    let machine = SimMachine::new(1, 512);
    let small = StoreOptions {
        journal_bytes: 64 << 10,
        ..options()
    };
    let store = open(&machine, small).await;
    let ids = fill(&store, 20).await;
    let full = |path, op| Fault {
        op,
        path,
        after: 0,
        failure: Failure::Full,
        is_sticky: true,
    };
    machine.fail(full(SEGMENT, Op::Write));
    must_know_while_full(&store, &ids).await;
    machine.heal();
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_a_repeat_is_refused_like_all() {
    let machine = SimMachine::new(1, 512);
    let store = open(&machine, options()).await;
    fill(&store, 3).await;
    machine.fail(Fault {
        op: Op::Sync,
        path: crate::scene::JOURNAL,
        after: 0,
        failure: Failure::Io,
        is_sticky: true,
    });
    assert!(one(&store, "new", 7).await.is_err());
    assert_eq!(
        one(&store, &key(0), 0).await,
        Err(AppendError::StorageFailed)
    );
    store.shutdown().await;
}
