//! Rule 9, and that recovery can be cut off anywhere and done again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use trialog::fs::sim::{Crash, Failure, Fault, Op};

use crate::rig::{Rig, entry, slug};
use crate::scene::{JOURNAL, SEGMENT};

/// A store whose process was killed when its last batch, of some sectors, was written and not
/// synced: it can be read, and a power cut may still take it.
fn with_batch_in_the_page_cache() -> Rig {
    let mut rig = Rig::with("one");
    rig.segment_bytes = 1 << 20;
    rig.put("one", 1, 100);
    rig.machine.stop_at(1);
    let entries = (2..8).map(|n| entry("A", n, 700)).collect();
    assert!(rig.append(&[("one", entries)]).is_err());
    rig.kill();
    rig
}

#[test]
fn rule_9_recovery_syncs_the_journal_before_it_reads_it() {
    let killed = with_batch_in_the_page_cache();
    killed.machine.record();
    let mut rig = killed.fork();
    rig.machine.record();
    rig.start().unwrap();
    let recorded = rig.machine.recorded();
    let first = |op, end: &str| {
        let mut calls = recorded.iter();
        calls.position(|(called, path)| *called == op && path.ends_with(end))
    };
    assert!(first(Op::Sync, "1.journal").unwrap() < first(Op::Map, "1.journal").unwrap());
    // What it brought up to date is on the disk before the journal is used again.
    let renewed = first(Op::Write, JOURNAL).expect("laps begin anew");
    assert!(first(Op::Sync, SEGMENT).expect("redo syncs") < renewed);
    assert_eq!(rig.replayed(&slug("one")).len(), 7);

    // A power cut at any call of recovery, with any one sector of what was not synced.
    let calls = rig.machine.change_count();
    for stopped_at in 0..calls {
        let mut rig = killed.fork();
        rig.machine.stop_at(stopped_at);
        let is_up = rig.start().is_ok();
        let unsynced = rig.machine.unsynced_count();
        for kept in 0..=unsynced {
            let mut rig = rig.fork();
            rig.crash(Crash::Subset(1 << kept | 1 << unsynced.saturating_sub(1)));
            rig.check();
            rig.start().unwrap();
            rig.check();
        }
        if is_up {
            break;
        }
    }
}

#[test]
fn rule_9_recovery_reads_the_disk_and_not_a_cache_that_a_failed_sync_left() {
    let mut rig = Rig::with("one");
    rig.put("one", 1, 100);
    rig.machine.fail(Fault {
        op: Op::Sync,
        path: JOURNAL,
        after: 0,
        failure: Failure::Io,
        is_sticky: false,
    });
    assert!(rig.append(&[("one", vec![entry("A", 2, 900)])]).is_err());
    rig.kill();
    assert_eq!(rig.replayed(&slug("one")).len(), 2, "the cache shows it");
    rig.start().unwrap();
    assert_eq!(rig.replayed(&slug("one")).len(), 1, "the disk never got it");
    rig.check();
    rig.crash(Crash::LoseAll);
    rig.check();
}

#[test]
fn rule_9_a_read_error_is_a_fault_and_not_the_end_of_the_log() {
    let mut whole = Rig::with("one");
    whole.put("one", 1, 100);
    whole.put_around("one", 10, 3);
    whole.restart();
    for n in 20..24 {
        whole.put("one", n, 300);
    }
    whole.crash(Crash::LoseAll);
    let mut faults = 0;
    for path in [
        JOURNAL,
        SEGMENT,
        "experiment.json",
        "experiments",
        "journal",
    ] {
        for op in [Op::Open, Op::Read, Op::Map, Op::List, Op::Sync] {
            for after in 0..4 {
                let mut rig = whole.fork();
                rig.machine.fail(Fault {
                    op,
                    path,
                    after,
                    failure: Failure::Io,
                    is_sticky: false,
                });
                let is_up = rig.start().is_ok();
                faults += usize::from(!is_up);
                rig.machine.heal();
                if is_up {
                    // It met no error, or none that it needed to care for.
                    rig.put("one", 99, 0);
                    rig.check();
                }
                rig.crash(Crash::LoseAll);
                rig.check();
                rig.start().unwrap();
                rig.check();
            }
        }
    }
    assert!(faults > 10, "{faults}");
}

/// What is in all files of experiments.
fn contents(rig: &Rig) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = rig.machine.files().into_iter();
    files
        .filter(|path| path.starts_with("/store/experiments"))
        .map(|path| (path.clone(), rig.machine.read(&path).unwrap()))
        .collect()
}

/// Stores that all kinds of ends left behind.
fn ended() -> Vec<Rig> {
    let mut ends = Vec::new();
    for seed in 0..24 {
        let mut rig = Rig::new(seed);
        rig.start().unwrap();
        rig.create("one");
        rig.create("two");
        for n in 0..8 {
            rig.put("one", n, 90 * n as usize);
            rig.put("two", n, 300);
            if n % 3 == seed % 3 {
                rig.background();
            }
        }
        rig.machine.stop_at(seed % 8);
        let entries = (10..14).map(|n| entry("B", n, 700)).collect();
        let _crashing = rig.append_around("one", entries);
        rig.crash([Crash::Random, Crash::KeepAll, Crash::LoseAll][seed as usize % 3]);
        rig.check();
        ends.push(rig);
    }
    ends
}

#[test]
fn recovering_twice_is_recovering_once() {
    for ended in ended() {
        let mut once = ended.fork();
        once.start().unwrap();
        let recovered = contents(&once);
        once.crash(Crash::LoseAll);
        assert_eq!(contents(&once), recovered, "it was all durable");
        once.start().unwrap();
        assert_eq!(contents(&once), recovered, "nothing was left to do");
        once.check();
        // Cut off at each call, by a kill and by a power cut, then done again.
        for stopped_at in 0.. {
            let mut rig = ended.fork();
            rig.machine.stop_at(stopped_at);
            let is_up = rig.start().is_ok();
            for crash in [Crash::KeepAll, Crash::LoseAll, Crash::Random] {
                let mut rig = rig.fork();
                rig.crash(crash);
                rig.check();
                rig.start().unwrap();
                rig.check();
                for name in ["one", "two"] {
                    let name = slug(name);
                    assert_eq!(rig.replayed(&name), once.replayed(&name));
                }
            }
            if is_up {
                break;
            }
        }
    }
}

#[test]
fn rule_10_recovery_deletes_and_shortens_nothing() {
    let mut cuts = 0;
    for mut rig in ended() {
        let before = contents(&rig);
        rig.start().unwrap();
        let after = contents(&rig);
        for (path, bytes) in &before {
            let now = after.get(path).expect("the file is still there");
            assert!(now.len() >= bytes.len(), "{}", path.display());
        }
        // A dead group's bytes stay where they are, behind the end that the next segment names.
        for (at, path) in rig.segments("one").iter().enumerate() {
            let is_cut = before.contains_key(path) && at + 1 < rig.segments("one").len();
            let old = before.get(path).map(|bytes| &bytes[..]).unwrap_or_default();
            if is_cut && after[path].starts_with(old) && old.len() > 512 {
                cuts += 1;
            }
        }
    }
    assert!(cuts > 0);
}

#[test]
fn ids_rise_over_restarts_cuts_and_clocks_set_back() {
    for end in 0..4 {
        let mut rig = Rig::with("one");
        for step in 0..12u64 {
            // Back, further back, and sometimes forth.
            let now = 1_764_000_000_000 - 86_400_000 * step + 172_800_000 * (step % 5 / 4);
            rig.machine.set_now_ms(now);
            rig.put("one", step, 500);
            if step % 4 == end {
                rig.machine.stop_at(end + 2);
                let dead = (100..104).map(|n| entry("B", n, 700)).collect();
                let _crashing = rig.append_around("one", dead);
            }
            match end {
                0 => rig.kill(),
                1 => rig.crash(Crash::LoseAll),
                2 => rig.crash(Crash::KeepAll),
                _ => rig.crash(Crash::Random),
            }
            // In the order of the log ids rise: one that fell would be found here.
            rig.check();
            rig.start().unwrap();
            rig.check();
        }
    }
}

#[test]
fn an_experiment_that_a_restart_found_deleted_stays_deleted() {
    let mut rig = Rig::with("one");
    rig.put("one", 1, 100);
    // Killed between the rename of its folder and the sync that makes it durable.
    rig.machine.stop_at(1);
    rig.delete("one");
    rig.kill();
    rig.start().unwrap();
    rig.check();
    assert!(rig.models.is_empty(), "the next start finds it gone");
    rig.crash(Crash::LoseAll);
    rig.check();
}

#[test]
fn a_large_group_that_ends_in_the_other_lap_outlives_crashes_of_checkpoint_and_recovery() {
    let mut ends_in_first_file = 0;
    let tries = (0..4).flat_map(|seed| (0..10).map(move |puts| (seed, puts)));
    let tries = tries.flat_map(|(seed, puts)| (0..9).map(move |changes| (seed, puts, changes)));
    for (seed, puts, changes) in tries {
        let mut rig = Rig::new(seed);
        rig.segment_bytes = 1 << 20;
        rig.journal_bytes = 12 << 10;
        rig.start().unwrap();
        rig.create("one");
        for n in 0..puts {
            rig.put("one", n, 600);
        }
        rig.machine.record();
        rig.put_around("one", 100, 2);
        let written = rig.machine.recorded().into_iter().rev();
        let batches = written.filter(|(op, path)| *op == Op::Write && path.ends_with(JOURNAL));
        let mut files = batches.map(|(_, path)| path);
        let (end, begin) = (files.next().unwrap(), files.next().unwrap());
        if end == begin {
            continue;
        }
        ends_in_first_file += u64::from(end < begin);
        // The lap where it began is begun anew; the power goes at a change during that.
        rig.machine.stop_at(changes);
        rig.background();
        rig.crash(Crash::KeepAll);
        for stopped_at in 0.. {
            let mut rig = rig.fork();
            rig.machine.stop_at(stopped_at);
            let is_up = rig.start().is_ok();
            rig.crash(Crash::RandomTorn);
            rig.check();
            if is_up {
                break;
            }
        }
    }
    assert!(ends_in_first_file > 0);
}

#[test]
fn a_deletion_that_fails_costs_no_entry() {
    for (op, is_gone) in [(Op::Rename, false), (Op::SyncDir, true)] {
        let mut rig = Rig::with("one");
        rig.put("one", 1, 100);
        rig.machine.fail(Fault {
            op,
            path: "experiments",
            after: 0,
            failure: Failure::Io,
            is_sticky: false,
        });
        rig.delete("one");
        // The entry is in the journal only, which a clean stop would let go of.
        rig.stop();
        assert_eq!(rig.segments("one").is_empty(), is_gone);
        rig.crash(Crash::LoseAll);
        rig.check();
        assert_eq!(
            rig.models[&slug("one")].acked.len(),
            1,
            "after a failing {op:?}"
        );
        rig.start().unwrap();
        rig.check();
    }
}

#[test]
fn bytes_set_aside_that_a_failed_sync_left_in_the_cache_are_sealed_as_the_disk_has_them() {
    let mut rig = Rig::with_an_unsynced_large_group();
    rig.kill();
    rig.start().unwrap();
    rig.put("one", 2, 100);
    rig.seal();
    rig.stop();
    rig.crash(Crash::LoseAll);
    rig.check();
}

/// A large group was in its file, whose folder could not be opened to be synced: given up, its bytes
/// are set aside. A power cut takes the file, and the journal brings back what it has of it.
#[test]
fn bytes_set_aside_in_a_file_that_may_go_are_not_summed() {
    let mut rig = Rig::with("one");
    rig.put("one", 1, 100);
    rig.machine.fail(Fault {
        op: Op::SyncDir,
        path: "/experiments/one",
        after: 0,
        failure: Failure::TooManyFiles,
        is_sticky: true,
    });
    let dead = (100..104).map(|n| entry("B", n, 700)).collect();
    assert!(rig.append_around("one", dead).is_err());
    rig.seal();
    rig.crash(Crash::LoseAll);
    rig.check();
    rig.machine.heal();
    rig.start().unwrap();
    rig.put("one", 2, 100);
    rig.seal();
    rig.restart();
    rig.check();
}

#[test]
fn after_a_failed_sync_nothing_is_sealed() {
    let mut rig = Rig::with("one");
    rig.put("one", 1, 100);
    rig.background();
    // A large group finds the disk full: its segment is closed, with bytes set aside.
    rig.machine.set_free_bytes(Some(1000));
    let dead = (100..104).map(|n| entry("B", n, 700)).collect();
    assert!(rig.append_around("one", dead).is_err());
    rig.machine.set_free_bytes(None);
    rig.machine.fail(Fault {
        op: Op::Sync,
        path: "/00000000000000000000.segment",
        after: 0,
        failure: Failure::Io,
        is_sticky: false,
    });
    let mut n = 2;
    while rig.append(&[("one", vec![entry("A", n, 500)])]).is_ok() {
        n += 1;
    }
    assert_eq!(rig.machine.fault_count(), 1, "the checkpoint's sync");
    // A second sync would say that all is well, and then the disk be asked what it never got.
    rig.machine.record();
    rig.seal();
    let recorded = rig.machine.recorded();
    rig.read("one", 0);
    assert_eq!(rig.wrong, None);
    assert!(recorded.is_empty(), "{recorded:?}");
    rig.kill();
    rig.check();
    rig.start().unwrap();
    rig.check();
}
