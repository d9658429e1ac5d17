//! Rules 7, 8 and 11: when journal space is used again, what is copied before a sector is written
//! once more, and how small a journal begins.

use trialog::fs::sim::{Crash, Failure, Fault, Op};
use trialog::journal::format::{BATCHES_AT, HEADER_COPY_AT, LAP_HEADER_LEN};
use trialog::model::Slug;

use crate::rig::{Rig, SECTOR, entry, slug};
use crate::scene::{JOURNAL, SEGMENT, first_segment, garbage, journal_file, spoil};

/// Names of this many experiments.
fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("e{n:02}")).collect()
}

fn with_all(names: &[String]) -> Rig {
    let mut rig = Rig::with(&names[0]);
    for name in &names[1..] {
        rig.create(name);
    }
    rig
}

fn put_all(rig: &mut Rig, names: &[String], n: u64) -> bool {
    let groups: Vec<_> = names
        .iter()
        .map(|name| (&**name, vec![entry("A", n, 200)]))
        .collect();
    rig.append(&groups).is_ok()
}

#[test]
fn rule_7_journal_space_is_used_again_only_after_its_segments_are_synced() {
    // One segment is synced by itself, many by one sync of the file system.
    for (count, rounds) in [(1, 150), (20, 20)] {
        let names = names(count);
        let mut rig = with_all(&names);
        let before = rig.machine.count(Op::Sync, JOURNAL);
        for n in 0..rounds {
            assert!(put_all(&mut rig, &names, n));
            let mut after = rig.fork();
            after.crash(Crash::LoseAll);
            after.check();
            after.start().unwrap();
            after.check();
        }
        let syncs = rig.machine.count(Op::Sync, JOURNAL) - before;
        assert!(syncs > rounds + 4, "several laps: {syncs} syncs");
        assert_eq!(rig.machine.count(Op::Sync, SEGMENT) > 0, count == 1);
        assert_eq!(rig.machine.count(Op::SyncFilesystem, "/") > 0, count > 1);
    }
}

/// Its segment's file is new and open when it goes, so its folder was still to be synced.
#[test]
fn rule_7_when_segments_cant_be_synced_their_journal_space_is_kept() {
    for (count, op, path) in [
        (1, Op::Sync, SEGMENT),
        (1, Op::SyncDir, "/e00"),
        (20, Op::SyncFilesystem, "/store"),
    ] {
        let names = names(count);
        let mut rig = with_all(&names);
        let mut n = 0;
        rig.machine.fail(Fault {
            op,
            path,
            after: 0,
            failure: Failure::Io,
            is_sticky: false,
        });
        while put_all(&mut rig, &names, n) {
            n += 1;
            assert!(n < 1000, "{op:?} never failed");
        }
        let refused = rig.machine.count(op, path);
        assert!(!put_all(&mut rig, &names, 2000));
        rig.background();
        rig.stop();
        assert_eq!(
            rig.machine.count(op, path),
            refused,
            "{op:?} is not tried again"
        );
        // Its entries come from the journal: after a power cut, and after a start on what the page
        // cache shows that the disk never got, when the power goes then.
        let mut restarted = rig.fork();
        restarted.start().unwrap();
        restarted.check();
        for mut rig in [rig, restarted] {
            rig.crash(Crash::LoseAll);
            rig.check();
            rig.start().unwrap();
            rig.check();
        }
    }
}

#[test]
fn rule_7_a_lap_whose_header_is_torn_while_it_is_renewed_is_no_damage() {
    let mut rig = Rig::with("one");
    for n in 0..6 {
        rig.put("one", n, 300);
    }
    rig.stop();
    for copy in [0, HEADER_COPY_AT as usize] {
        for torn_from in (0..LAP_HEADER_LEN).step_by(3) {
            let mut rig = rig.fork();
            spoil(&rig.machine, &journal_file(1), |bytes| {
                let torn = copy + torn_from..copy + SECTOR;
                bytes[torn.clone()].copy_from_slice(&garbage(torn.len(), torn_from as u64));
            });
            rig.check();
            rig.start().unwrap();
            rig.check();
            let files = rig.machine.files();
            let set_aside = files.iter().find(|path| !is_known(path));
            assert_eq!(set_aside, None);
        }
    }
}

fn is_known(path: &std::path::Path) -> bool {
    !path.to_string_lossy().contains("damaged")
}

/// Appends to a segment whose last sector was synced and left the journal long ago, has it
/// written, and tears that sector as the power goes.
fn with_torn_sector(prepare: impl Fn(&mut Rig), append: impl Fn(&mut Rig)) {
    let mut rig = Rig::with("one");
    rig.segment_bytes = 1 << 20;
    prepare(&mut rig);
    rig.restart();
    let acknowledged = rig.machine.read(&first_segment("one")).unwrap();
    append(&mut rig);
    rig.background();
    rig.crash(Crash::KeepAll);
    let shared = acknowledged.len() / SECTOR * SECTOR;
    assert!(shared < acknowledged.len(), "the last sector is shared");
    let now = rig.machine.read(&first_segment("one")).unwrap();
    assert!(now.len() > acknowledged.len(), "and was written again");
    let end = (shared + SECTOR).min(now.len());
    spoil(&rig.machine, &first_segment("one"), |bytes| {
        bytes[shared..end].copy_from_slice(&garbage(end - shared, 3));
    });
    rig.check();
    rig.start().unwrap();
    rig.check();
    rig.put("one", 99, 10);
    rig.restart();
    rig.check();
}

#[test]
fn rule_8_a_torn_sector_with_acknowledged_bytes_is_whole_again_after_redo() {
    with_torn_sector(|rig| rig.put("one", 1, 100), |rig| rig.put("one", 2, 20));
    with_torn_sector(
        |rig| rig.put("one", 1, 100),
        |rig| rig.put_around("one", 10, 4),
    );
    with_torn_sector(
        |rig| rig.put_around("one", 10, 4),
        |rig| rig.put("one", 2, 700),
    );
}

#[test]
fn rule_8_the_sector_in_which_a_large_group_ends_is_copied_by_the_next_group() {
    let mut rig = Rig::with("one");
    rig.segment_bytes = 1 << 20;
    rig.put("one", 1, 100);
    rig.put_around("one", 10, 4);
    let acknowledged = rig.machine.read(&first_segment("one")).unwrap().len();
    // The lap is the same: it spoke of this segment before, and yet not of this sector.
    rig.put("one", 2, 20);
    rig.background();
    rig.crash(Crash::KeepAll);
    let shared = acknowledged / SECTOR * SECTOR;
    assert!(shared < acknowledged);
    spoil(&rig.machine, &first_segment("one"), |bytes| {
        let torn = &mut bytes[shared..];
        torn.copy_from_slice(&garbage(torn.len(), 4));
    });
    rig.check();
    rig.start().unwrap();
    rig.check();
}

#[test]
fn rule_8_a_torn_write_of_a_batch_harms_none_before_it() {
    for seed in 0..200 {
        let mut rig = Rig::new(seed);
        rig.start().unwrap();
        rig.create("one");
        for n in 0..3 {
            rig.put("one", n, 77 * n as usize);
        }
        // Written, and the power goes before its sync.
        rig.machine.stop_at(1);
        let torn = rig.append(&[("one", vec![entry("A", 4, 600)])]);
        assert!(torn.is_err());
        rig.crash(Crash::RandomTorn);
        rig.check();
        rig.start().unwrap();
        rig.check();
    }
}

#[test]
fn rule_8_batches_and_laps_begin_at_sectors_of_their_own() {
    let mut rig = Rig::with("one");
    let mut position = BATCHES_AT as usize;
    for n in 0..10 {
        rig.put("one", n, 31 * n as usize);
        let bytes = rig.machine.read(&journal_file(1)).unwrap();
        assert_eq!(bytes[position..position + 4], *b"TLJB", "batch {n}");
        position = rig.journal_end();
    }
}

#[test]
fn rule_11_a_journal_begins_small_and_grows_in_the_background() {
    let mut rig = Rig::new(1);
    rig.journal_bytes = 128 << 20;
    rig.start().unwrap();
    let len = |rig: &Rig, number| rig.machine.read(&journal_file(number)).unwrap().len() as u64;
    let first = len(&rig, 1) + len(&rig, 2);
    assert!(
        first <= 16 << 20,
        "{first} bytes are zeroed at the first start"
    );
    rig.create("one");
    let mut n = 0;
    while len(&rig, 1) == first / 2 {
        let entries = (0..100).map(|i| entry("A", n + i, 10_000)).collect();
        assert_eq!(rig.append(&[("one", entries)]), Ok(()));
        rig.background();
        n += 100;
        assert!(n < 5000, "it never grew");
    }
    assert_eq!(len(&rig, 1), first, "twice its size");
    let known: Vec<&Slug> = rig.models.keys().collect();
    assert_eq!(known, [&slug("one")]);
}
