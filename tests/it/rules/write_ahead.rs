//! Rules 1, 5 and 6: the journal first; new segments and sealed ones wait for no sync of their own.

use std::path::Path;

use trialog::fs::sim::{Crash, Failure, Fault, Op};

use crate::rig::{Rig, SECTOR, entry, slug};
use crate::scene::{JOURNAL, SEGMENT, first_segment, place, spoil};

#[test]
fn rule_1_a_segment_gets_no_byte_that_is_not_durable_in_the_journal() {
    let mut rig = Rig::with("one");
    rig.put("one", 1, 100);
    rig.background();
    let before = rig.machine.read(&first_segment("one")).unwrap();
    rig.machine.record();
    rig.put("one", 2, 100);
    rig.background();
    let recorded = rig.machine.recorded();
    let first = |op, end: &str| {
        let mut calls = recorded.iter();
        calls.position(|(called, path)| *called == op && path.ends_with(end))
    };
    let synced = first(Op::Sync, JOURNAL).expect("the journal is synced");
    assert!(first(Op::Write, JOURNAL).unwrap() < synced);
    assert!(synced < first(Op::Write, SEGMENT).expect("the segment is written"));

    // What the journal could not make durable never gets there.
    rig.machine.fail(fault(Op::Sync, JOURNAL));
    let written = rig.machine.read(&first_segment("one")).unwrap();
    assert!(written.len() > before.len());
    assert!(
        rig.append(&[("one", vec![entry("A", 3, 100)])]).is_err(),
        "not acknowledged"
    );
    rig.background();
    rig.stop();
    assert_eq!(rig.machine.read(&first_segment("one")).unwrap(), written);
}

#[test]
fn rule_1_pages_that_came_back_in_any_order_are_made_whole_by_redo() {
    let written = |rig: &mut Rig| {
        rig.segment_bytes = 1 << 20;
        for n in 0..12 {
            rig.put("one", n, 300);
        }
        rig.background();
    };
    let mut rig = Rig::with("one");
    written(&mut rig);
    let unsynced = rig.machine.unsynced_count() as u64;
    assert!((8..64).contains(&unsynced), "{unsynced}");
    let whole = rig.machine.read(&first_segment("one")).unwrap();
    let mut holes = 0;
    for kept in 0..unsynced {
        // One sector of all, and the name of the file: the last of what was not synced.
        let mut rig = Rig::with("one");
        written(&mut rig);
        rig.crash(Crash::Subset(1 << kept | 1 << (unsynced - 1)));
        let left = rig.machine.read(&first_segment("one")).unwrap();
        let has_later_frames = left.len() > SECTOR && left.iter().any(|byte| *byte != 0);
        holes += usize::from(has_later_frames && left[..SECTOR].iter().all(|byte| *byte == 0));
        rig.check();
        rig.start().unwrap();
        assert_eq!(rig.machine.read(&first_segment("one")).unwrap(), whole);
        rig.check();
        rig.put("one", 99, 0);
        rig.restart();
        rig.check();
    }
    assert!(holes > 4, "later frames on disk, earlier ones zeros");
}

#[test]
fn rule_1_a_large_group_with_its_first_mark_alone_is_cut() {
    let mut cuts = 0;
    for stopped_at in 0..30 {
        let mut rig = Rig::with("one");
        rig.segment_bytes = 1 << 20;
        rig.put("one", 1, 200);
        rig.machine.stop_at(stopped_at);
        let entries = (10..16).map(|n| entry("B", n, 700)).collect();
        let is_acknowledged = rig.append_around("one", entries).is_ok();
        rig.crash(Crash::KeepAll);
        let left = rig.machine.read(&first_segment("one"));
        rig.check();
        rig.start().unwrap();
        rig.check();
        rig.put("one", 2, 100);
        rig.restart();
        rig.check();
        let bytes = rig.machine.read(&first_segment("one")).unwrap();
        if rig.segments("one").len() == 2 {
            // The log goes on in a new segment; the old one keeps every byte of the dead group.
            cuts += 1;
            let left = left.unwrap();
            assert_eq!(bytes[..left.len()], left);
            assert!(!is_acknowledged);
            assert_eq!(rig.replayed(&slug("one")).len(), 2);
        }
    }
    assert!(cuts >= 1, "no crash came between the marks");
}

#[test]
fn rule_1_with_its_journal_bad_bytes_at_the_end_are_damage_and_without_it_a_guess() {
    let mut rig = Rig::with("one");
    for n in 0..5 {
        rig.put("one", n, 100);
    }
    rig.stop();
    let segment = first_segment("one");
    let whole = rig.machine.read(&segment).unwrap();
    let alone = Path::new("/laptop/00000000000000000000.segment");
    place(&rig.machine, alone, &whole);
    let middle = whole.len() / 2 + 100;
    // In the payload of the last frame, and in its header.
    let last = whole.len() - 60;
    let header = whole.len() - rig.last_frame_len("one") + 5;
    for at in [last, header] {
        spoil(&rig.machine, &segment, |bytes| bytes[at] ^= 1);
        let report = rig.verified();
        assert_eq!(report.findings.len(), 1, "{at}: {:?}", report.findings);
        assert_eq!((report.entry_count, report.torn_bytes), (4, 0));
        spoil(&rig.machine, &segment, |bytes| bytes[at] ^= 1);
    }

    let verify_alone = || trialog::offline::verify::verify(rig.machine.host().disk, alone).unwrap();
    spoil(&rig.machine, alone, |bytes| bytes[last] ^= 1);
    let report = verify_alone();
    assert_eq!(
        report.findings,
        [],
        "nothing good follows: torn, as far as can be told"
    );
    assert!(report.torn_bytes > 0 && report.entry_count == 4);

    spoil(&rig.machine, alone, |bytes| {
        bytes[last] ^= 1;
        bytes[middle] ^= 1;
    });
    let report = verify_alone();
    assert_eq!(report.findings.len(), 1, "a good frame follows: damage");
    assert_eq!((report.entry_count, report.torn_bytes), (4, 0));
}

#[test]
fn rule_5_a_new_segment_without_a_sync_of_its_own_is_made_by_redo() {
    let mut rig = Rig::with("one");
    let folder = "/store/experiments/one";
    let synced_before = rig.machine.count(Op::SyncDir, folder);
    rig.put("one", 1, 100);
    assert_eq!(rig.machine.count(Op::Sync, SEGMENT), 0);
    assert_eq!(rig.machine.count(Op::SyncDir, folder), synced_before);
    rig.crash(Crash::LoseAll);
    assert!(rig.machine.read(&first_segment("one")).is_err(), "no file");
    rig.check();
    rig.start().unwrap();
    assert!(rig.machine.read(&first_segment("one")).is_ok());
    // Made by redo, and durable before the journal that it was made from is used again.
    rig.crash(Crash::LoseAll);
    rig.check();
}

#[test]
fn rule_5_a_crash_right_after_a_roll_or_at_any_call_of_it_loses_nothing() {
    for crash in [
        Crash::LoseAll,
        Crash::KeepAll,
        Crash::Subset(0b101_0110),
        Crash::Random,
    ] {
        for stopped_at in 0..12 {
            let mut rig = Rig::with("one");
            while rig.segments("one").len() < 2 {
                rig.put("one", rig.models[&slug("one")].acked.len() as u64, 600);
                rig.background();
            }
            // One more roll: the closed segment, its footer and the new one, all on their way.
            for n in 100..106 {
                rig.put("one", n, 600);
            }
            rig.machine.stop_at(stopped_at);
            let _crashing = rig.append(&[("one", vec![entry("A", 200, 600)])]);
            rig.seal();
            rig.background();
            rig.crash(crash);
            rig.check();
            rig.start().unwrap();
            rig.check();
            rig.put("one", 201, 600);
            rig.restart();
            rig.check();
        }
    }
}

fn fault(op: Op, path: &'static str) -> Fault {
    Fault {
        op,
        path,
        after: 0,
        failure: Failure::Io,
        is_sticky: false,
    }
}
