//! A small segment cut at each length, with nothing, zeros, garbage or an earlier life's bytes
//! behind: reopened with its journal nothing is missing; alone, what is missing is told.

use std::path::{Path, PathBuf};

use trialog::fs::Mapping;
use trialog::fs::sim::Crash;
use trialog::log::frame::FRAME_ALIGN;
use trialog::log::reader::{EndHint, Segment};
use trialog::log::scan::Found;
use trialog::offline::verify::verify;

use crate::rig::{Rig, SECTOR, STORE, slug};
use crate::scene::{first_segment, garbage, place, replay_of};

/// What stands behind the cut.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Tail {
    Cut,
    Zeros,
    Garbage,
    Stale,
}

const TAILS: [Tail; 4] = [Tail::Cut, Tail::Zeros, Tail::Garbage, Tail::Stale];

/// Three entries, all in the journal, and written into the segment without a sync.
fn written() -> Rig {
    let mut rig = Rig::with("one");
    for n in 0..3 {
        rig.put("one", n, 100);
    }
    rig.background();
    rig.crash(Crash::KeepAll);
    rig
}

/// The bytes that the same file had in an earlier life, with whole frames of its own.
fn earlier_life() -> Vec<u8> {
    let mut rig = Rig::new(77);
    rig.start().unwrap();
    rig.create("one");
    for n in 0..3 {
        rig.put("one", n, 100);
    }
    rig.stop();
    rig.machine.read(&first_segment("one")).unwrap()
}

fn with_tail(whole: &[u8], cut: usize, tail: Tail, stale: &[u8]) -> Vec<u8> {
    let mut bytes = whole[..cut].to_vec();
    match tail {
        Tail::Cut => {}
        Tail::Zeros => bytes.resize(whole.len(), 0),
        Tail::Garbage => bytes.extend(garbage(whole.len() - cut, cut as u64)),
        Tail::Stale => bytes.extend_from_slice(&stale[cut..]),
    }
    bytes
}

#[test]
fn a_segment_cut_at_any_length_is_whole_again_with_its_journal() {
    let killed = written();
    let segment = first_segment("one");
    let whole = killed.machine.read(&segment).unwrap();
    let stale = earlier_life();
    assert_eq!(stale.len(), whole.len());
    for cut in 0..=whole.len() {
        for tail in TAILS {
            let mut rig = killed.fork();
            let bytes = with_tail(&whole, cut, tail, &stale);
            // A header that is another segment's is no torn write, and is not written over.
            if tail == Tail::Stale && cut < SECTOR {
                continue;
            }
            rig.machine.overwrite(&segment, &bytes).unwrap();
            rig.check();
            rig.start().unwrap();
            rig.check();
            rig.put("one", 10, 50);
            rig.restart();
            rig.check();
        }
    }
}

#[test]
fn another_segments_file_in_the_place_of_one_is_left_as_it_is() {
    let mut rig = written();
    let stale = earlier_life();
    rig.machine
        .overwrite(&first_segment("one"), &stale)
        .unwrap();
    rig.start().unwrap();
    assert_eq!(rig.machine.read(&first_segment("one")).unwrap(), stale);
    let is_kept = |path: &PathBuf| path.to_string_lossy().contains(".damaged-");
    assert!(
        rig.machine.files().iter().any(is_kept),
        "and so is the journal"
    );
}

/// Where each frame ends, and the header.
fn frame_ends(bytes: &[u8]) -> Vec<usize> {
    let bytes = Mapping::Owned(bytes.to_vec());
    let segment = Segment::from_bytes(first_segment("one"), bytes, EndHint::FileEnd).unwrap();
    let frames = segment.scan().map(|found| match found {
        Found::Record {
            position, frame, ..
        } => position as usize + frame.frame_len(),
        other => panic!("{other:?}"),
    });
    std::iter::once(SECTOR).chain(frames).collect()
}

#[test]
fn a_cut_segment_alone_gives_back_what_is_whole_and_tells_what_is_not() {
    let rig = written();
    let whole = rig.machine.read(&first_segment("one")).unwrap();
    let entries = rig.models[&slug("one")].acked.clone();
    let stale = earlier_life();
    let alone = Path::new("/laptop/00000000000000000000.segment");
    place(&rig.machine, alone, &whole);
    let (all, _) = replay_of(&rig.machine, alone);
    assert_eq!(all, entries);
    let frame_ends = frame_ends(&whole);
    for cut in 0..=whole.len() {
        for tail in TAILS {
            let bytes = with_tail(&whole, cut, tail, &stale);
            rig.machine.overwrite(alone, &bytes).unwrap();
            let what = format!("{cut} {tail:?}");
            if cut < SECTOR / 2 {
                // Not even one copy of the header: who it was can't be known.
                let report = verify(rig.machine.host().disk, alone).unwrap();
                let (found, outcome) = replay_of(&rig.machine, alone);
                let is_other = tail == Tail::Stale && (cut == 0 || !found.is_empty());
                assert!(is_other || !report.findings.is_empty(), "{what}");
                assert!(is_other || outcome.unreadable.len() == 1, "{what}");
                continue;
            }
            let report = verify(rig.machine.host().disk, alone).unwrap();
            let (found, _) = replay_of(&rig.machine, alone);
            assert_eq!(found, entries[..found.len()], "{what}");
            let is_told = report.torn_bytes > 0 || !report.findings.is_empty();
            // Cut exactly behind a frame it looks whole: nothing but the next segment would tell.
            let looks_whole = tail == Tail::Cut && frame_ends.contains(&cut);
            assert!(
                is_told || looks_whole || found.len() == entries.len(),
                "{what}"
            );
            // With no good frame behind, a tail is torn and not called damage. (But for the bytes
            // that fill up a whole frame, where a damaged one costs nothing.)
            let in_header = cut < SECTOR;
            let in_padding = tail == Tail::Garbage && cut % FRAME_ALIGN != 0;
            let is_alarmed = !report.findings.is_empty();
            assert!(in_header || in_padding || !is_alarmed, "{what}: {report:?}");
        }
    }
}

#[test]
fn a_segment_that_lost_its_end_after_the_journal_moved_on_is_damaged_where_anything_tells() {
    let mut rig = Rig::with("one");
    rig.segment_bytes = 1024;
    for n in 0..4 {
        rig.put("one", n, 200);
    }
    rig.restart();
    assert!(
        rig.segments("one").len() >= 2,
        "the next one says where it ends"
    );
    let whole = rig.machine.read(&first_segment("one")).unwrap();
    let acked = rig.models[&slug("one")].acked.clone();
    rig.stop();
    for cut in SECTOR..whole.len() {
        let mut rig = rig.fork();
        let cut_off = whole[..cut].to_vec();
        rig.machine
            .overwrite(&first_segment("one"), &cut_off)
            .unwrap();
        let report = rig.verified();
        assert!(!report.findings.is_empty(), "cut at {cut}");
        assert!(
            report
                .findings
                .iter()
                .all(|f| f.path == first_segment("one"))
        );
        rig.start().unwrap();
        rig.put("one", 50, 10);
        rig.restart();
        let (found, _) = rig.replay_of(Path::new(STORE));
        let last = acked.last().unwrap();
        assert!(found.contains(last), "what is in the next segment stays");
        assert!(!rig.verified().findings.is_empty(), "cut at {cut}");
    }
}
