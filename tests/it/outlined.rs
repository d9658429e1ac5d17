//! Segments whose bytes are in an archive alone: crashes and failures on the way there, and starts behind them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use trialog::experiment::reading::{Met, Order, Selection, Sink};
use trialog::experiment::segments::SegmentState;
use trialog::experiment::{ReadError, Store, StoreOptions};
use trialog::fs::sim::{Crash, Failure, Fault, Op, SimMachine};
use trialog::fs::{Access, Disk};
use trialog::log::outline::{Outline, outline_path};
use trialog::model::{Definition, LogId, Variant};
use trialog::offline::verify::verify;

use crate::rig::{STORE, entry, slug};

const CRASHES: [Crash; 4] = [
    Crash::LoseAll,
    Crash::KeepAll,
    Crash::Random,
    Crash::RandomTorn,
];
/// Of five to a segment.
const ENTRIES: usize = 30;

fn open(machine: &SimMachine) -> Store {
    let options = StoreOptions {
        dir: STORE.into(),
        segment_bytes: 4096,
        journal_bytes: 1 << 20,
        free_bytes_min: 0,
        idle_timeout: Duration::from_secs(60),
        ..StoreOptions::default()
    };
    Store::open(options, machine.host()).unwrap()
}

/// A store whose segments are sealed but for the last, and of which the journal holds all.
async fn filled(machine: &SimMachine) -> (Store, Vec<LogId>) {
    let store = open(machine);
    let variant = Variant {
        key: "A".into(),
        weight: None,
        control: false,
    };
    let definition = Definition {
        variants: vec![variant],
        ..Definition::default()
    };
    store.define(&slug("one"), definition).await.unwrap();
    let mut ids = Vec::new();
    for n in 0..ENTRIES {
        let permit = store.reserve(1000).unwrap();
        let new = entry("A", n as u64, 700);
        ids.push(store.append(&slug("one"), new, permit).await.unwrap());
    }
    loop {
        let segments = store.segments(&slug("one"), None, 1000).await.unwrap();
        if segments
            .iter()
            .all(|one| one.state != SegmentState::Sealing)
        {
            return (store, ids);
        }
        tokio::task::yield_now().await;
    }
}

fn dir() -> PathBuf {
    PathBuf::from(STORE).join("experiments/one")
}

/// The paths of the sealed segments, in order.
async fn sealed(store: &Store) -> Vec<PathBuf> {
    let segments = store.segments(&slug("one"), None, 1000).await.unwrap();
    let sealed = segments
        .iter()
        .filter(|one| one.state == SegmentState::Sealed);
    sealed.map(|one| dir().join(&one.name)).collect()
}

fn outline_of(disk: &dyn Disk, path: &Path) -> Outline {
    let file = disk.open(path, Access::Read).unwrap();
    Outline::of(&*file).unwrap().unwrap()
}

fn bytes_of(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    let file = disk.open(path, Access::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    trialog::fs::read_exact_at(&*file, &mut bytes, 0).unwrap();
    bytes
}

struct All(Vec<LogId>);

impl Sink for All {
    fn take(&mut self, met: Met<'_>) -> ControlFlow<()> {
        match met {
            Met::Entry(entry) => self.0.push(entry.id),
            Met::Lost(lost) => panic!("{lost:?}"),
        }
        ControlFlow::Continue(())
    }
    fn is_full(&self) -> bool {
        false
    }
}

async fn read(store: &Store) -> Result<Vec<LogId>, ReadError> {
    let all = Selection::default();
    let mut reader = Some(store.read(&slug("one"), all, Order::OldestFirst).await?);
    let mut taken = All(Vec::new());
    while let Some(next) = reader {
        let step = next.step(taken).await?;
        (reader, taken) = (step.reader, step.sink);
    }
    Ok(taken.0)
}

#[tokio::test]
async fn where_a_step_fails_or_the_power_goes_the_segment_is_there_or_its_outline() {
    let steps = [
        (Op::Create, ".tmp"),
        (Op::Write, ".tmp"),
        (Op::Sync, ".tmp"),
        (Op::Rename, ".tmp"),
        (Op::SyncDir, "experiments/one"),
        (Op::Remove, ".segment"),
    ];
    for (number, (op, path)) in steps.into_iter().enumerate() {
        for (seed, crash) in CRASHES.into_iter().enumerate() {
            let machine = SimMachine::new(number as u64 * 16 + seed as u64, 512);
            let (store, ids) = filled(&machine).await;
            let paths = sealed(&store).await;
            let disk = machine.host().disk;
            let kept = bytes_of(&*disk, &paths[1]);
            let outline = outline_of(&*disk, &paths[1]);
            machine.fail(Fault {
                op,
                path,
                after: 0,
                failure: Failure::Io,
                is_sticky: true,
            });
            let done = outline.take_place(&*disk, &paths[1]);
            assert!(done.is_err(), "{op:?}");
            machine.crash(crash);
            machine.heal();
            drop(store);
            let store = open(&machine);
            let disk = machine.host().disk;
            let described = store.describe(&slug("one")).await.unwrap();
            assert_eq!(described.count, ENTRIES as u64, "{op:?} {crash:?}");
            // Before the file is unlinked it is there.
            assert_eq!(bytes_of(&*disk, &paths[1]), kept, "{op:?} {crash:?}");
            assert_eq!(read(&store).await.unwrap(), ids, "{op:?} {crash:?}");
            store.shutdown().await;
            let report = verify(disk, STORE.as_ref()).unwrap();
            assert_eq!(report.findings, [], "{op:?} {crash:?}");
        }
    }
}

#[tokio::test]
async fn a_start_does_not_bring_back_what_is_in_the_archive_and_knows_all_of_it() {
    for (seed, crash) in CRASHES.into_iter().enumerate() {
        let machine = SimMachine::new(seed as u64, 512);
        let (store, ids) = filled(&machine).await;
        let paths = sealed(&store).await;
        let disk = machine.host().disk;
        let mut archive = Vec::new();
        for path in &paths[..3] {
            archive.push((path.clone(), bytes_of(&*disk, path)));
            outline_of(&*disk, path).take_place(&*disk, path).unwrap();
        }
        let before = store.overview(&slug("one")).await.unwrap().figures.summary;
        // The journal holds all of these segments still.
        machine.crash(crash);
        drop(store);
        let store = open(&machine);
        let disk = machine.host().disk;
        let described = store.describe(&slug("one")).await.unwrap();
        assert_eq!(described.count, ENTRIES as u64, "{crash:?}");
        let overview = store.overview(&slug("one")).await.unwrap();
        assert_eq!(overview.figures.summary, before);
        let mut gone = 0;
        for (path, _) in &archive {
            gone += usize::from(disk.open(path, Access::Read).is_err());
        }
        if crash == Crash::KeepAll {
            assert_eq!(gone, 3, "none is brought back");
            let found = store.get(&slug("one"), ids[0]).await;
            assert!(
                matches!(found, Err(ReadError::ArchiveUnavailable(_))),
                "{found:?}"
            );
            assert!(matches!(
                read(&store).await,
                Err(ReadError::ArchiveUnavailable(_))
            ));
            assert!(store.get(&slug("one"), ids[20]).await.unwrap().is_some());
        }
        store.shutdown().await;
        let report = verify(disk.clone(), STORE.as_ref()).unwrap();
        assert_eq!(report.findings, [], "{crash:?}");
        assert_eq!(report.archived_segments, gone as u64);
        assert_eq!(report.entry_count + report.archived_entries, ENTRIES as u64);
        drop(store);
        // What is put back is what is read.
        for (path, bytes) in &archive {
            if disk.open(path, Access::Read).is_err() {
                let file = disk.create(path).unwrap();
                trialog::fs::write_all_at(&*file, bytes, 0).unwrap();
            }
        }
        let store = open(&machine);
        assert_eq!(read(&store).await.unwrap(), ids);
    }
}

#[tokio::test]
async fn a_damaged_outline_costs_its_own_segment_and_one_at_the_end_repeats_nothing() {
    let machine = SimMachine::new(1, 512);
    let (store, ids) = filled(&machine).await;
    let paths = sealed(&store).await;
    store.shutdown().await;
    drop(store);
    let disk = machine.host().disk;
    for path in &paths {
        outline_of(&*disk, path).take_place(&*disk, path).unwrap();
    }
    // The segment that was written to is lost, and the last one that is left is an outline.
    let listed = disk.list(&dir()).unwrap();
    let active = listed.iter().find(|one| one.name.ends_with(".segment"));
    let active = dir().join(&active.unwrap().name);
    disk.remove_file(&active).unwrap();
    let damaged = outline_path(&paths[0]);
    let file = disk.open(&damaged, Access::ReadWrite).unwrap();
    file.write_at(b"damage", 0).unwrap();

    let store = open(&machine);
    let new = entry("A", 99, 700);
    let permit = store.reserve(1000).unwrap();
    let id = store.append(&slug("one"), new, permit).await.unwrap();
    assert!(id > *ids.last().unwrap());
    assert!(store.get(&slug("one"), id).await.unwrap().is_some());
    let found = store.get(&slug("one"), ids[7]).await;
    assert!(
        matches!(found, Err(ReadError::ArchiveUnavailable(_))),
        "{found:?}"
    );
    let segments = store.segments(&slug("one"), None, 1000).await.unwrap();
    let numbers: Vec<u64> = segments.iter().map(|one| one.number).collect();
    // The first one can't be read, and the lost one's number is left out.
    let sealed_count = paths.len() as u64;
    let expected: Vec<u64> = (1..sealed_count).chain([sealed_count + 1]).collect();
    assert_eq!(numbers, expected);
}
