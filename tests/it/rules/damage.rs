//! Rule 10: damage to one experiment is its own, and keeps its bytes.

use std::path::{Path, PathBuf};

use trialog::fs::sim::Crash;
use trialog::model::LogId;

use crate::rig::{Rig, STORE, slug};
use crate::scene::{first_segment, garbage, spoil};

fn definition() -> PathBuf {
    PathBuf::from("/store/experiments/one/experiment.json")
}

/// Two experiments, with entries in segments and some in the journal only.
fn two_experiments() -> Rig {
    let mut rig = Rig::with("one");
    rig.create("two");
    for n in 0..6 {
        rig.put("one", n, 500);
        rig.put("two", n, 500);
    }
    rig.restart();
    for n in 10..14 {
        rig.put("one", n, 300);
        rig.put("two", n, 300);
    }
    rig.crash(Crash::LoseAll);
    rig
}

/// Starts, and shows that the other experiment works as if nothing had happened.
fn start_with_two_whole(rig: &mut Rig) {
    rig.start().unwrap();
    let (found, _) = rig.replay_of(Path::new(STORE).join("experiments/two").as_path());
    assert_eq!(found, rig.models[&slug("two")].acked);
    rig.put("two", 20, 100);
    let (found, _) = rig.replay_of(Path::new(STORE).join("experiments/two").as_path());
    assert_eq!(found, rig.models[&slug("two")].acked);
}

fn ids(entries: &[(LogId, Vec<u8>)]) -> Vec<LogId> {
    entries.iter().map(|(id, _)| *id).collect()
}

#[test]
fn rule_10_a_damaged_definition_costs_no_entry_and_no_other_experiment() {
    for damage in [b"".to_vec(), b"{".to_vec(), garbage(300, 1)] {
        let mut rig = two_experiments();
        let whole = rig.machine.read(&definition()).unwrap();
        rig.machine.overwrite(&definition(), &damage).unwrap();
        let acked = rig.models[&slug("one")].acked.clone();
        let replayed = |rig: &Rig| rig.replay_of(Path::new("/store/experiments/one")).0;
        assert_eq!(ids(&replayed(&rig)), ids(&acked), "from the journal too");
        start_with_two_whole(&mut rig);
        assert_eq!(rig.machine.read(&definition()).unwrap(), damage, "kept");
        assert!(
            rig.append(&[("one", vec![])]).is_err(),
            "not used as if it were whole"
        );
        let report = rig.verified();
        assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
        assert!(
            report.findings[0]
                .path
                .starts_with("/store/experiments/one")
        );
        assert_eq!(ids(&replayed(&rig)), ids(&acked), "redo brought them all");
        // Put back from a backup, everything acknowledged is there.
        rig.machine.overwrite(&definition(), &whole).unwrap();
        rig.put("one", 30, 100);
        rig.restart();
        rig.check();
    }
}

#[test]
fn rule_10_a_journal_whose_experiment_cant_be_told_is_set_aside() {
    let mut rig = Rig::with("one");
    rig.put("one", 1, 100);
    rig.crash(Crash::LoseAll);
    rig.machine.overwrite(&definition(), b"").unwrap();
    let journal = rig.machine.read(&crate::scene::journal_file(1)).unwrap();
    rig.start().unwrap();
    let set_aside = |path: &PathBuf| path.to_string_lossy().contains(".damaged-");
    let kept: Vec<_> = rig.machine.files().into_iter().filter(set_aside).collect();
    assert!(
        kept.iter()
            .any(|path| rig.machine.read(path).unwrap() == journal)
    );
}

#[test]
fn rule_10_a_segment_whose_beginning_is_damaged_costs_no_other_one() {
    let mut rig = two_experiments();
    let mut expected = rig.models[&slug("one")].acked.clone();
    let before = rig.segments("one").len();
    assert!(before >= 2, "a damaged segment and others");
    let bytes = rig.machine.read(&first_segment("one")).unwrap();
    let (in_first, _) = rig.replay_of(&first_segment("one"));
    spoil(&rig.machine, &first_segment("one"), |bytes| {
        bytes[..512].copy_from_slice(&garbage(512, 2));
    });
    expected.retain(|(id, _)| !ids(&in_first).contains(id));
    start_with_two_whole(&mut rig);
    rig.put("one", 40, 100);
    expected.push(rig.models[&slug("one")].acked.last().unwrap().clone());
    rig.restart();
    let (found, outcome) = rig.replay_of(Path::new("/store/experiments/one"));
    assert_eq!(ids(&found), ids(&expected));
    assert_eq!(outcome.unreadable.len(), 1);
    let now = rig.machine.read(&first_segment("one")).unwrap();
    assert_eq!(now[512..], bytes[512..], "its bytes are kept");
}

#[test]
fn rule_10_when_the_last_segment_is_unreadable_the_log_goes_on_behind_it() {
    let mut rig = two_experiments();
    rig.start().unwrap();
    rig.stop();
    let last = rig.segments("one").pop().unwrap();
    let lost = ids(&rig.replay_of(&last).0);
    assert!(!lost.is_empty());
    spoil(&rig.machine, &last, |bytes| {
        bytes[..512].copy_from_slice(&garbage(512, 3));
    });
    let bytes = rig.machine.read(&last).unwrap();
    start_with_two_whole(&mut rig);
    rig.put("one", 40, 100);
    let new = rig.models[&slug("one")].acked.last().unwrap().0;
    assert!(lost.iter().all(|id| *id < new), "no id is given again");
    rig.restart();
    assert_eq!(rig.machine.read(&last).unwrap(), bytes, "kept as it is");
    let (found, _) = rig.replay_of(Path::new("/store/experiments/one"));
    assert!(ids(&found).contains(&new));
}

#[test]
fn ids_rise_behind_a_damaged_last_entry_when_the_clock_stands_still() {
    for damaged_byte in [20, 100] {
        let mut rig = Rig::with("one");
        for n in 0..3 {
            rig.put("one", n, 100);
        }
        rig.stop();
        let lost = rig.models[&slug("one")].acked[2].0;
        let len = rig.machine.read(&first_segment("one")).unwrap().len();
        let frame = len - rig.last_frame_len("one");
        spoil(&rig.machine, &first_segment("one"), |bytes| {
            bytes[frame + damaged_byte] ^= 1;
        });
        rig.start().unwrap();
        rig.put("one", 3, 100);
        let new = rig.models[&slug("one")].acked[3].0;
        assert!(new > lost, "byte {damaged_byte}: {new} after {lost}");
    }
}
