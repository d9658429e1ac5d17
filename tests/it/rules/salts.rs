//! Rules 3 and 4: stale and forged bytes never pass, nor those of an earlier life.

use std::path::Path;

use trialog::experiment::folder::read_store_id;
use trialog::fs::sim::{Crash, Op};
use trialog::journal::format::BATCHES_AT;
use trialog::journal::redo::Plan;
use trialog::journal::scan::{Purpose, read_laps};
use trialog::log::frame::{self, FrameKind, Seed};
use trialog::log::record::{self, EntryRecord};
use trialog::log::segment::SegmentHeader;
use trialog::model::{LogId, NewEntry};

use crate::rig::{Rig, STORE, entry, slug};
use crate::scene::{SEGMENT, find, first_segment, journal_file, spoil};

/// A frame as somebody would forge it who has seen another segment of this log.
fn forged(salt: u64, ordinal: u32) -> Vec<u8> {
    let body = br#"{"variantKey":"A","input":{"forged":true}}"#;
    let entry = EntryRecord {
        received_at_ms: 1_764_000_000_000,
        variant: 0,
        idempotency: None,
        body,
    };
    let mut out = Vec::new();
    let id = LogId::from_u128(u128::MAX >> 1);
    let seed = Seed::new(salt);
    frame::encode(&mut out, seed, FrameKind::Entry, ordinal, id, |out| {
        record::encode(&entry, out);
    });
    out
}

fn salt_of(bytes: &[u8]) -> u64 {
    SegmentHeader::decode(bytes).unwrap().header.salt
}

#[test]
fn rule_3_a_frame_hidden_in_a_payload_never_passes() {
    let mut rig = Rig::with("one");
    rig.segment_bytes = 16 << 10;
    while rig.segments("one").len() < 2 {
        rig.put("one", 1, 700);
        rig.background();
    }
    let first_salt = salt_of(&rig.machine.read(&first_segment("one")).unwrap());
    // At each alignment, with the ordinals that could be due.
    let mut body = br#"{"variantKey":"A","input":{"p":""#.to_vec();
    for _ in 0..8 {
        for ordinal in 1..6 {
            body.extend_from_slice(&forged(first_salt, ordinal));
        }
        body.push(b' ');
    }
    let carrier = NewEntry {
        variant_key: "A".into(),
        body: body.into(),
        idempotency: None,
    };
    assert_eq!(rig.append(&[("one", vec![carrier])]), Ok(()));
    rig.put("one", 2, 10);
    rig.stop();

    // The carrier's own header is damaged: whoever looks for the next frame walks over its payload.
    let segment = rig.segments("one").pop().unwrap();
    let bytes = rig.machine.read(&segment).unwrap();
    let payload =
        find(&bytes, b"\"input\":{\"p\":\"tl").expect("the carrier is in the last segment");
    let salt = salt_of(&bytes);
    assert_ne!(salt, first_salt, "each segment has a salt of its own");
    let header = (0..payload)
        .step_by(8)
        .rfind(|at| frame::FrameHeader::decode(&bytes[*at..], Seed::new(salt)).is_some())
        .expect("the carrier has a frame");
    spoil(&rig.machine, &segment, |bytes| bytes[header + 4] ^= 1);
    let mut expected = rig.models[&slug("one")].acked.clone();
    expected.remove(expected.len() - 2);
    let (entries, outcome) = rig.replay_of(Path::new(STORE));
    assert_eq!(entries, expected);
    assert_eq!(outcome.damages.len(), 1, "{:?}", outcome.damages);

    // With the salt itself, which no client knows, such a frame would pass: the test can fail.
    let known = forged(salt, 1);
    assert!(frame::Frame::decode(&known, Seed::new(salt)).is_ok());
    assert!(frame::Frame::decode(&known, Seed::new(first_salt)).is_err());
}

/// How many groups the journal holds, as a reader sees it now.
fn journaled(rig: &Rig) -> usize {
    let (disk, store) = (rig.machine.host().disk, Path::new(STORE));
    let store_id = read_store_id(&*disk, store).unwrap().unwrap();
    let journal = store.join("journal");
    let (laps, damages) = read_laps(&*disk, &journal, store_id, Purpose::Look).unwrap();
    let plan = Plan::read(&laps, &damages);
    assert_eq!(plan.damages, []);
    let writes = plan.segments.iter().map(|(_, plan)| plan.writes.len());
    writes.sum()
}

#[test]
fn rule_3_batches_of_an_earlier_lap_never_pass() {
    let mut rig = Rig::with("one");
    for n in 0..3 {
        rig.put("one", n, 100);
    }
    assert_eq!(journaled(&rig), 3, "they would be seen");
    rig.restart();
    assert_eq!(journaled(&rig), 0, "after a start");
    rig.put("one", 3, 100);
    rig.kill();
    rig.start().unwrap();
    assert_eq!(journaled(&rig), 0, "after a recovery");
}

fn lap_headers(rig: &Rig) -> [Vec<u8>; 2] {
    [1, 2].map(|number| rig.machine.read(&journal_file(number)).unwrap()[..512].to_vec())
}

#[test]
fn rule_3_batches_of_a_lap_that_is_used_again_never_pass() {
    let mut rig = Rig::with("one");
    rig.segment_bytes = 1 << 20;
    let mut rolls = 0;
    let mut in_lap = 0;
    for n in 0..200 {
        let before = lap_headers(&rig);
        rig.put("one", n, 300);
        in_lap += 1;
        // Makes a lap that is full ready to be used again: a header over all its old batches.
        rig.background();
        let after = lap_headers(&rig);
        if after != before {
            rolls += 1;
            in_lap = 1;
            // Should the first batch of the lap in use be torn, only the salt tells the old ones.
            let in_use = if after[0] != before[0] { 2 } else { 1 };
            let torn = rig.fork();
            spoil(&torn.machine, &journal_file(in_use), |bytes| {
                bytes[BATCHES_AT as usize..].fill(0);
            });
            assert_eq!(journaled(&torn), 0, "put {n}, roll {rolls}");
        }
        assert_eq!(journaled(&rig), in_lap, "put {n}, roll {rolls}");
    }
    assert!(rolls > 3, "{rolls}");
}

#[test]
fn rule_3_after_a_cut_the_log_never_goes_on_in_place() {
    for seed in 0..40 {
        let mut rig = Rig::with("one");
        rig.segment_bytes = 1 << 20;
        rig.put("one", 1, 100);
        // Dies with its first mark in the journal, its bytes in the segment.
        rig.machine.stop_at(5 + seed % 2);
        let dead = (10..14).map(|n| entry("B", n, 700)).collect();
        let _crashing = rig.append_around("one", dead);
        rig.crash(Crash::KeepAll);
        rig.start().unwrap();
        rig.check();
        let absent = rig.replayed(&slug("one")).len();
        // Shorter than the dead ones were: in place, their ends would come back.
        for n in 20..20 + seed % 5 {
            rig.put("one", n, 3 * seed as usize);
        }
        rig.background();
        rig.crash([Crash::LoseAll, Crash::KeepAll][seed as usize % 2]);
        rig.start().unwrap();
        rig.check();
        assert_eq!(
            rig.replayed(&slug("one")).len(),
            absent + seed as usize % 5,
            "what was absent never comes back"
        );
    }
}

#[test]
fn rule_4_an_experiment_made_again_before_a_crash_gets_no_old_bytes() {
    for is_written_out in [false, true] {
        for is_used_again in [false, true] {
            for crash in [Crash::LoseAll, Crash::KeepAll] {
                let mut rig = Rig::with("one");
                for n in 0..3 {
                    rig.put("one", n, 300);
                }
                if is_written_out {
                    rig.background();
                }
                rig.delete("one");
                rig.create("one");
                // What the old life still had to write has nowhere to go.
                rig.background();
                assert_eq!(rig.segments("one").len(), 0);
                if is_used_again {
                    rig.put("one", 10, 100);
                }
                rig.crash(crash);
                rig.check();
                rig.start().unwrap();
                rig.check();
                assert_eq!(rig.segments("one").len(), usize::from(is_used_again));
                rig.put("one", 11, 0);
                rig.restart();
                rig.check();
            }
        }
    }
}

#[test]
fn rule_4_a_deleted_experiment_stays_deleted() {
    let mut rig = Rig::with("one");
    rig.put("one", 1, 100);
    rig.delete("one");
    rig.crash(Crash::LoseAll);
    let writes = rig.machine.count(Op::Write, SEGMENT);
    rig.start().unwrap();
    assert_eq!(rig.machine.count(Op::Write, SEGMENT), writes);
    let is_there = |path: &std::path::PathBuf| path.to_string_lossy().contains("/one/");
    assert!(!rig.machine.files().iter().any(is_there));
}

#[test]
fn rule_4_a_closed_segment_of_an_earlier_life_is_not_looked_for_in_the_next_one() {
    let mut rig = Rig::with("one");
    rig.put("one", 1, 100);
    // These don't fit: the first segment is closed, and waits to be sealed.
    rig.put_around("one", 10, 6);
    rig.delete("one");
    rig.create("one");
    rig.put_around("one", 20, 3);
    // Under the path of the closed segment there is another one now.
    assert_eq!(rig.segments("one"), [first_segment("one")]);
    rig.machine.record();
    rig.seal();
    let recorded = rig.machine.recorded();
    let of_segments = |(_, path): &(Op, String)| path.ends_with(SEGMENT);
    assert!(!recorded.iter().any(of_segments), "{recorded:?}");
}

#[test]
fn rule_4_a_checkpoint_passes_over_what_was_deleted() {
    // One segment is synced by itself, many by one sync of the file system.
    for count in [1, 20] {
        let mut rig = Rig::with("kept");
        for n in 0..count {
            let name = format!("gone-{n}");
            rig.create(&name);
            rig.put(&name, 1, 100);
        }
        rig.background();
        for n in 0..count {
            rig.delete(&format!("gone-{n}"));
        }
        rig.machine.record();
        for n in 0..100 {
            rig.put("kept", n, 500);
        }
        rig.restart();
        rig.check();
        let of_gone = |(_, path): &(Op, String)| path.contains("gone");
        let recorded = rig.machine.recorded();
        assert!(!recorded.iter().any(of_gone), "{recorded:?}");
    }
}
