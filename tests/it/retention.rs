//! Retention through the whole store: by age and by bytes, of experiments in use and of idle ones, beside
//! readers, and over restarts.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use trialog::experiment::reading::{Met, Order, Selection, Sink};
use trialog::experiment::{Store, StoreError, StoreOptions};
use trialog::fs::sim::{Failure, Fault, Op, SimMachine};
use trialog::log::dropped::DROPPED_FILE;
use trialog::model::{Definition, LogId, NewEntry, Retention, Variant};
use trialog::offline::verify::verify;

use crate::rig::{STORE, entry, keyed, slug};
use crate::scene::replay_of;

const DAY_MS: u64 = 86_400_000;
const BEGIN_MS: u64 = 1_764_000_000_000;

struct Scene {
    machine: SimMachine,
    now_ms: u64,
}

impl Scene {
    fn new() -> Self {
        let machine = SimMachine::new(1, 512);
        machine.set_now_ms(BEGIN_MS);
        let now_ms = BEGIN_MS;
        Self { machine, now_ms }
    }

    fn open(&self) -> Store {
        let options = StoreOptions {
            dir: STORE.into(),
            segment_bytes: 4096,
            journal_bytes: 1 << 20,
            free_bytes_min: 0,
            idle_timeout: Duration::from_millis(1),
            ..StoreOptions::default()
        };
        Store::open(options, self.machine.host()).unwrap()
    }

    fn dir(&self) -> PathBuf {
        PathBuf::from(STORE).join("experiments/one")
    }

    /// The names of the segments' files.
    fn files(&self) -> Vec<String> {
        let listed = self.machine.host().disk.list(&self.dir()).unwrap();
        let names = listed.into_iter().map(|entry| entry.name);
        let mut names: Vec<_> = names.filter(|name| name.ends_with(".segment")).collect();
        names.sort();
        names
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.machine.set_now_ms(self.now_ms);
    }

    fn verify(&self) {
        let report = verify(self.machine.host().disk, STORE.as_ref()).unwrap();
        assert_eq!(report.findings, []);
    }
}

fn definition(variants: &[&str], max_age: Option<&str>, max_bytes: Option<u64>) -> Definition {
    let variant = |key: &&str| Variant {
        key: (*key).into(),
        weight: None,
        control: false,
    };
    Definition {
        variants: variants.iter().map(variant).collect(),
        retention: Some(Retention {
            max_age: max_age.map(str::to_owned),
            max_bytes,
        }),
        ..Definition::default()
    }
}

async fn put(store: &Store, entry: NewEntry) -> LogId {
    let permit = store.reserve(1000).unwrap();
    let appended = store.append_batch(&slug("one"), vec![entry], permit).await;
    appended.unwrap().ids[0]
}

/// So many entries, of which five fill a segment; and all but the last segment sealed.
async fn fill(store: &Store, variant: &str, count: u64) -> Vec<LogId> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(put(store, entry(variant, n, 700)).await);
    }
    wait_until_sealed(store).await;
    ids
}

/// Only what is sealed, and written, can be dropped.
async fn wait_until_sealed(store: &Store) {
    use trialog::experiment::segments::SegmentState::Sealing;
    loop {
        let segments = store.segments(&slug("one"), None, 1000).await.unwrap();
        if segments.iter().all(|segment| segment.state != Sealing) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

struct All(Vec<LogId>, usize);

impl Sink for All {
    fn take(&mut self, met: Met<'_>) -> ControlFlow<()> {
        match met {
            Met::Entry(entry) => self.0.push(entry.id),
            Met::Lost(_) => self.1 += 1,
        }
        ControlFlow::Continue(())
    }
    fn is_full(&self) -> bool {
        false
    }
}

/// All that a reader is given, and how much it is told is lost.
async fn read(store: &Store, order: Order) -> (Vec<LogId>, usize) {
    let reader = store.read(&slug("one"), Selection::default(), order).await;
    let (mut reader, mut all) = (Some(reader.unwrap()), All(Vec::new(), 0));
    while let Some(next) = reader {
        let step = next.step(all).await.unwrap();
        (reader, all) = (step.reader, step.sink);
    }
    (all.0, all.1)
}

#[tokio::test]
async fn whole_segments_are_dropped_by_age_and_the_last_one_never_is() {
    let mut scene = Scene::new();
    let store = scene.open();
    let one = slug("one");
    let defined = store
        .define(&one, definition(&["A", "B"], Some("2d"), None))
        .await;
    assert_eq!(defined.unwrap().description.dropped.segments, 0);
    let old = fill(&store, "A", 12).await;
    scene.pass(DAY_MS);
    let young = fill(&store, "B", 8).await;
    assert_eq!(store.retain(scene.now_ms).await.segments, 0);
    scene.pass(DAY_MS + 1);
    let before = scene.files();
    let dropped = store.retain(scene.now_ms).await;
    assert!(dropped.segments >= 2 && dropped.entries >= 8, "{dropped:?}");
    // One segment has old entries and young ones: it is as young as the last of them.
    let described = store.describe(&one).await.unwrap();
    assert_eq!(described.dropped, dropped);
    assert_eq!(described.count, 20 - dropped.entries);
    assert_eq!(scene.files(), before[dropped.segments as usize..]);
    let (ids, lost) = read(&store, Order::OldestFirst).await;
    let all: Vec<_> = old.iter().chain(&young).copied().collect();
    assert_eq!(
        (ids.as_slice(), lost),
        (&all[dropped.entries as usize..], 0)
    );
    assert_eq!(store.get(&one, old[0]).await.unwrap(), None);
    assert!(store.get(&one, young[7]).await.unwrap().is_some());
    scene.verify();
    // In time all goes but the last segment; ids and numbers go on behind it.
    scene.pass(100 * DAY_MS);
    store.retain(scene.now_ms).await;
    assert_eq!(scene.files().len(), 1);
    assert!(put(&store, entry("A", 1, 10)).await > young[7]);
    store.shutdown().await;
    drop(store);
    scene.verify();
    let (found, outcome) = replay_of(&scene.machine, &scene.dir());
    assert_eq!(outcome.damages, []);
    let store = scene.open();
    let (mut ids, lost) = read(&store, Order::NewestFirst).await;
    ids.reverse();
    assert_eq!(ids, found.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    assert_eq!(lost, 0);
    let again = store.describe(&one).await.unwrap();
    assert_eq!(again.count + again.dropped.entries, 21);
}

#[tokio::test]
async fn by_bytes_the_oldest_go_until_there_is_room_and_the_figures_are_of_what_is_left() {
    let scene = Scene::new();
    let store = scene.open();
    let one = slug("one");
    let max = 10_000;
    let defined = store
        .define(&one, definition(&["A", "B"], None, Some(max)))
        .await;
    defined.unwrap();
    fill(&store, "A", 10).await;
    fill(&store, "B", 10).await;
    let overview = store.overview(&one).await.unwrap();
    let before = overview.figures.summary.variants().len();
    assert_eq!(before, 2);
    let removal = store
        .define(&one, definition(&["B"], None, Some(max)))
        .await;
    assert!(
        matches!(removal, Err(StoreError::VariantInUse(_))),
        "{removal:?}"
    );
    let dropped = store.retain(scene.now_ms).await;
    let described = store.describe(&one).await.unwrap();
    assert!(described.bytes_on_disk <= max, "{described:?}");
    // The last one that was dropped was too much.
    let a_segment = dropped.bytes / dropped.segments;
    assert!(
        described.bytes_on_disk + a_segment + 1000 > max,
        "{described:?}"
    );
    let overview = store.overview(&one).await.unwrap();
    let summary = &overview.figures.summary;
    let counted: u64 = summary.variants().iter().map(|v| v.entry_count).sum();
    assert_eq!(
        (counted, overview.figures.damage_count),
        (described.count, 0)
    );
    assert_eq!(counted + dropped.entries, 20);
    // What only dropped segments had is met no more.
    let removal = store
        .define(&one, definition(&["B"], None, Some(max)))
        .await;
    assert!(removal.is_ok(), "{removal:?}");
    assert_eq!(store.retain(scene.now_ms).await.segments, 0);
}

#[tokio::test]
async fn an_experiment_that_nobody_uses_is_woken_only_when_something_is_due() {
    let mut scene = Scene::new();
    let store = scene.open();
    store
        .define(&slug("one"), definition(&["A"], Some("1d"), None))
        .await
        .unwrap();
    fill(&store, "A", 12).await;
    store.shutdown().await;
    drop(store);
    let store = scene.open();
    scene.machine.record();
    assert_eq!(store.retain(scene.now_ms).await.segments, 0);
    let calls = scene.machine.recorded();
    assert!(
        !calls.is_empty() && calls.iter().all(|(op, _)| *op != Op::Map),
        "{calls:?}"
    );
    scene.pass(DAY_MS + 1);
    assert!(store.retain(scene.now_ms).await.segments >= 2);
    assert_eq!(scene.files().len(), 1);
    scene.verify();
}

#[tokio::test]
async fn a_reader_in_the_middle_goes_on_and_loses_nothing_but_what_is_dropped() {
    let mut scene = Scene::new();
    let store = scene.open();
    store
        .define(&slug("one"), definition(&["A"], Some("1d"), None))
        .await
        .unwrap();
    let ids = fill(&store, "A", 30).await;
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let reader = store.read(&slug("one"), Selection::default(), order).await;
        readers_end_cleanly(&store, &mut scene, reader.unwrap(), &ids).await;
        // The second time there is one segment left.
    }
}

async fn readers_end_cleanly(
    store: &Store,
    scene: &mut Scene,
    reader: trialog::experiment::reading::Reader,
    ids: &[LogId],
) {
    struct One(Vec<LogId>, usize, usize);
    impl Sink for One {
        fn take(&mut self, met: Met<'_>) -> ControlFlow<()> {
            match met {
                Met::Entry(entry) => self.0.push(entry.id),
                Met::Lost(_) => self.1 += 1,
            }
            ControlFlow::Continue(())
        }
        fn is_full(&self) -> bool {
            self.0.len() >= self.2
        }
    }
    let step = reader.step(One(Vec::new(), 0, 1)).await.unwrap();
    let mut sink = step.sink;
    let begun = sink.0.clone();
    scene.pass(2 * DAY_MS);
    store.retain(scene.now_ms).await;
    assert_eq!(scene.files().len(), 1);
    sink.2 = usize::MAX;
    let mut reader = step.reader;
    while let Some(next) = reader {
        let step = next.step(sink).await.unwrap();
        (reader, sink) = (step.reader, step.sink);
    }
    assert_eq!(sink.1, 0, "nothing is called lost");
    assert!(!begun.is_empty() && sink.0.starts_with(&begun));
    let given: HashSet<_> = sink.0.iter().collect();
    let last = ids.last().unwrap();
    assert!(given.len() == sink.0.len() && given.contains(last));
    assert!(given.iter().all(|id| ids.contains(id)));
}

#[tokio::test]
async fn an_idempotency_key_goes_with_its_entry() {
    let mut scene = Scene::new();
    let store = scene.open();
    store
        .define(&slug("one"), definition(&["A"], Some("1h"), None))
        .await
        .unwrap();
    let first = put(&store, keyed(entry("A", 0, 700), "key")).await;
    assert_eq!(put(&store, keyed(entry("A", 0, 700), "key")).await, first);
    fill(&store, "A", 12).await;
    scene.pass(3_600_001);
    assert!(store.retain(scene.now_ms).await.segments > 0);
    let again = put(&store, keyed(entry("A", 0, 700), "key")).await;
    assert!(again > first, "there is no first one to repeat");
    assert_eq!(put(&store, keyed(entry("A", 0, 700), "key")).await, again);
}

#[tokio::test]
async fn what_can_not_be_unlinked_is_gone_all_the_same_and_is_tried_again() {
    let mut scene = Scene::new();
    let store = scene.open();
    store
        .define(&slug("one"), definition(&["A"], Some("1d"), None))
        .await
        .unwrap();
    let ids = fill(&store, "A", 12).await;
    scene.pass(DAY_MS + 1);
    scene.machine.fail(Fault {
        op: Op::Remove,
        path: ".segment",
        after: 0,
        failure: Failure::Io,
        is_sticky: true,
    });
    let files = scene.files();
    let dropped = store.retain(scene.now_ms).await;
    assert!(dropped.segments >= 2);
    assert_eq!(scene.files(), files, "they are still there");
    let (left, lost) = read(&store, Order::OldestFirst).await;
    assert_eq!(
        (left.as_slice(), lost),
        (&ids[dropped.entries as usize..], 0)
    );
    scene.verify();
    let (found, _) = replay_of(&scene.machine, &scene.dir());
    assert_eq!(found.len(), left.len());
    assert_eq!(store.retain(scene.now_ms).await.segments, 0);
    assert_eq!(scene.files(), files);
    scene.machine.heal();
    assert_eq!(store.retain(scene.now_ms).await.segments, 0);
    assert_eq!(scene.files().len(), 1);
    let described = store.describe(&slug("one")).await.unwrap();
    assert_eq!(described.dropped, dropped, "nothing is counted twice");
}

#[tokio::test]
async fn a_damaged_mark_is_found_and_costs_no_entry() {
    let mut scene = Scene::new();
    let store = scene.open();
    store
        .define(&slug("one"), definition(&["A"], Some("1d"), None))
        .await
        .unwrap();
    let ids = fill(&store, "A", 12).await;
    scene.pass(DAY_MS + 1);
    let dropped = store.retain(scene.now_ms).await;
    store.shutdown().await;
    drop(store);
    let path = scene.dir().join(DROPPED_FILE);
    let disk = scene.machine.host().disk;
    let mut bytes = trialog::fs::read_small(&*disk, &path, 1 << 16).unwrap();
    bytes[60] ^= 1;
    scene.machine.overwrite(&path, &bytes).unwrap();
    let report = verify(disk, STORE.as_ref()).unwrap();
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|finding| &finding.path)
        .collect();
    assert_eq!(findings, [&path]);
    let store = scene.open();
    let (left, lost) = read(&store, Order::OldestFirst).await;
    assert_eq!(
        (left.as_slice(), lost),
        (&ids[dropped.entries as usize..], 0)
    );
}

#[tokio::test]
async fn behind_what_was_dropped_nothing_is_given_again_though_the_last_segment_is_lost() {
    let mut scene = Scene::new();
    let store = scene.open();
    let one = slug("one");
    let definition = definition(&["A"], Some("1d"), None);
    store.define(&one, definition).await.unwrap();
    let ids = fill(&store, "A", 12).await;
    scene.pass(DAY_MS + 1);
    let dropped = store.retain(scene.now_ms).await;
    store.shutdown().await;
    drop(store);
    let [last] = &scene.files()[..] else {
        panic!("one is left")
    };
    let disk = scene.machine.host().disk;
    disk.remove_file(&scene.dir().join(last)).unwrap();
    let store = scene.open();
    let id = put(&store, entry("A", 50, 10)).await;
    assert!(id > ids[dropped.entries as usize - 1]);
    assert!(store.get(&one, id).await.unwrap().is_some());
    store.shutdown().await;
    drop(store);
    let (found, _) = replay_of(&scene.machine, &scene.dir());
    assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id]);
}
