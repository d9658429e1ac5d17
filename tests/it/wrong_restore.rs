//! Files of different times, of other experiments and of other stores put together: found and
//! named, nothing newer written over, nothing lost without a word, nothing doubled.

use std::path::{Path, PathBuf};

use trialog::fs::sim::Crash;

use crate::rig::{Rig, STORE, slug};
use crate::scene::{Entries, place};

type Files = Vec<(PathBuf, Vec<u8>)>;

fn below(dir: &str) -> PathBuf {
    Path::new(STORE).join(dir)
}

/// The files below a folder of the store.
fn saved(rig: &Rig, dir: &str) -> Files {
    let files = rig.machine.files().into_iter();
    let files = files.filter(|path| path.starts_with(below(dir)));
    files
        .map(|path| (path.clone(), rig.machine.read(&path).unwrap()))
        .collect()
}

/// Puts a folder of the store back as it was saved.
fn restore(rig: &Rig, dir: &str, files: &Files) {
    for (path, _) in saved(rig, dir) {
        rig.machine.host().disk.remove_file(&path).unwrap();
    }
    for (path, bytes) in files {
        place(&rig.machine, path, bytes);
    }
}

fn acked(rig: &Rig, name: &str) -> Entries {
    rig.models[&slug(name)].acked.clone()
}

fn entries(rig: &Rig, name: &str) -> Entries {
    rig.replay_of(&below("experiments").join(name)).0
}

/// Whether `some` are of `whole`, in its order, each once.
fn are_of(some: &Entries, whole: &Entries) -> bool {
    let mut rest = whole.iter();
    some.iter().all(|entry| rest.any(|known| known == entry))
}

/// What verify says, in one text.
fn told(rig: &Rig) -> String {
    let findings = rig.verified().findings.into_iter();
    let told: Vec<String> = findings
        .map(|found| format!("{}: {}", found.path.display(), found.what))
        .collect();
    told.join("\n")
}

/// An experiment with some entries; the clock has moved on since.
fn begun(seed: u64) -> Rig {
    let mut rig = Rig::new(seed);
    rig.segment_bytes = 2048;
    rig.journal_bytes = 16 << 10;
    rig.start().unwrap();
    rig.create("one");
    rig.create("two");
    for n in 0..4 {
        rig.put("one", n, 300);
        rig.put("two", n, 300);
    }
    rig
}

/// Time passes; entries come, the journal takes turns, segments roll.
fn go_on(rig: &mut Rig, from: u64) {
    rig.machine.set_now_ms(1_764_000_000_000 + from * 1000);
    for n in from..from + 12 {
        rig.put("one", n, 400);
        rig.put("two", n, 100);
        rig.background();
    }
    rig.seal();
}

/// The store takes entries, before and after a restart, behind all that it ever gave.
fn works(rig: &mut Rig, was: &Entries) {
    rig.machine.set_now_ms(1_765_000_000_000);
    for n in [900, 901] {
        rig.put("one", n, 50);
        let new = acked(rig, "one").pop().unwrap();
        assert!(was.iter().all(|(id, _)| *id < new.0), "ids rise");
        rig.restart();
        assert_eq!(entries(rig, "one").last(), Some(&new));
    }
}

#[test]
fn a_journal_of_another_store_is_refused_and_nothing_is_changed() {
    let mut other = begun(7);
    other.crash(Crash::KeepAll);
    for which in [
        "journal",
        "journal/00000001.journal",
        "journal/00000002.journal",
    ] {
        let mut rig = begun(1);
        rig.crash(Crash::KeepAll);
        restore(&rig, which, &saved(&other, which));
        let before = saved(&rig, "");
        let refused = rig.start().unwrap_err();
        let sentence =
            "belongs to another store: put back the journal that belongs to these experiments";
        assert!(refused.contains(sentence), "{refused}");
        let changed: Vec<_> = saved(&rig, "")
            .into_iter()
            .filter(|file| !before.contains(file))
            .collect();
        assert!(
            changed.iter().all(|(path, _)| path.ends_with("LOCK")),
            "{changed:?}"
        );
        assert!(changed.is_empty() || changed.len() == 1);
    }
}

#[test]
fn experiments_of_another_store_are_found_and_left_as_they_are() {
    let mut other = begun(7);
    other.stop();
    let mut rig = begun(1);
    rig.stop();
    restore(&rig, "experiments/one", &saved(&other, "experiments/one"));
    assert!(
        told(&rig).contains("one/00000000000000000000.segment: the segment is of another store")
    );
    assert!(!told(&rig).contains("experiments/two"));
    let foreign = saved(&rig, "experiments/one");
    rig.start().unwrap();
    let was = acked(&other, "one");
    works(&mut rig, &was);
    let now = saved(&rig, "experiments/one");
    assert!(
        foreign.iter().all(|file| now.contains(file)),
        "left as they are"
    );
    let given = entries(&rig, "one");
    assert_eq!(given.len(), 2, "only its own are given back");
    assert_eq!(entries(&rig, "two"), acked(&rig, "two"));
}

#[test]
fn older_segments_under_a_newer_journal_are_found_and_the_journals_entries_kept() {
    for is_restarted in [false, true] {
        let mut rig = begun(1);
        rig.stop();
        let backup = saved(&rig, "experiments");
        let in_backup = entries(&rig, "one");
        rig.start().unwrap();
        go_on(&mut rig, 10);
        if is_restarted {
            rig.restart();
        }
        rig.put("one", 60, 200);
        rig.put("one", 61, 200);
        rig.crash(Crash::LoseAll);
        let whole = acked(&rig, "one");
        restore(&rig, "experiments", &backup);
        let said = told(&rig);
        assert!(said.contains("experiments/one"), "{said}");
        rig.start().unwrap();
        let found = entries(&rig, "one");
        assert!(are_of(&found, &whole), "nothing wrong, nothing twice");
        assert!(are_of(&in_backup, &found), "what the backup has is there");
        let said = told(&rig);
        assert!(said.contains("experiments/one"), "still told: {said}");
        works(&mut rig, &whole);
    }
}

#[test]
fn an_older_journal_under_newer_segments_changes_nothing() {
    let mut rig = begun(1);
    let earlier = rig.fork();
    let backup = saved(&earlier, "journal");
    go_on(&mut rig, 10);
    rig.stop();
    restore(&rig, "journal", &backup);
    let (one, two) = (acked(&rig, "one"), acked(&rig, "two"));
    let before = saved(&rig, "experiments");
    rig.check();
    rig.start().unwrap();
    assert!(saved(&rig, "experiments") == before, "no byte is another");
    assert_eq!(
        (entries(&rig, "one"), entries(&rig, "two")),
        (one.clone(), two)
    );
    works(&mut rig, &one);
    assert_eq!(told(&rig), "");
}

#[test]
fn an_older_journal_in_which_a_large_group_had_not_ended_cuts_nothing_that_went_on() {
    let mut rig = begun(1);
    rig.segment_bytes = 1 << 20;
    rig.put("one", 5, 100);
    // The journal as it was when the group's bytes were being written.
    let mut earlier = rig.fork();
    rig.crash(Crash::KeepAll);
    rig.start().unwrap();
    earlier.start().unwrap();
    for machine in [&earlier.machine, &rig.machine] {
        machine.set_now_ms(1_764_000_100_000);
    }
    earlier.segment_bytes = 1 << 20;
    earlier.machine.stop_at(3);
    let group = (20..24).map(|n| crate::rig::entry("B", n, 700)).collect();
    assert!(earlier.append_around("one", group).is_err());
    earlier.crash(Crash::KeepAll);
    let backup = saved(&earlier, "journal");
    rig.put_around("one", 20, 4);
    go_on(&mut rig, 200);
    rig.stop();
    let whole = acked(&rig, "one");
    restore(&rig, "journal", &backup);
    assert_eq!(entries(&rig, "one"), whole, "an offline reader gives all");
    let said = told(&rig);
    assert!(
        said.contains("the journal is older than this segment"),
        "{said}"
    );
    rig.start().unwrap();
    assert_eq!(entries(&rig, "one"), whole);
    let kept = rig.machine.files();
    let is_kept = |path: &&PathBuf| path.to_string_lossy().contains(".journal.damaged-");
    assert_eq!(
        kept.iter().filter(is_kept).count(),
        2,
        "the journal's bytes too"
    );
    works(&mut rig, &whole);
}

#[test]
fn one_journal_file_of_another_time_loses_nothing_without_a_word() {
    let mut rig = begun(1);
    let backup = saved(&rig, "journal");
    for (at, (path, bytes)) in backup.iter().enumerate() {
        let mut later = begun(1);
        go_on(&mut later, 10);
        // Both laps have batches that no segment has.
        while later.machine.read(&backup[1].0).unwrap() == backup[1].1 {
            later.put("one", 700, 300);
        }
        later.crash(Crash::LoseAll);
        later.machine.overwrite(path, bytes).unwrap();
        let whole = acked(&later, "one");
        let before = entries(&later, "one");
        let said = told(&later);
        assert!(are_of(&before, &whole), "{at}: nothing wrong");
        assert!(
            before == whole || !said.is_empty(),
            "{at}: lost without a word"
        );
        later.start().unwrap();
        assert_eq!(entries(&later, "one"), before, "{at}");
        works(&mut later, &whole);
    }
    rig.stop();
}

#[test]
fn a_whole_store_of_an_hour_ago_is_that_store() {
    let mut rig = begun(1);
    rig.stop();
    let backup = saved(&rig, "");
    let was = acked(&rig, "one");
    rig.start().unwrap();
    go_on(&mut rig, 10);
    rig.crash(Crash::KeepAll);
    let whole = acked(&rig, "one");
    restore(&rig, "", &backup);
    rig.start().unwrap();
    assert_eq!(entries(&rig, "one"), was);
    assert_eq!(told(&rig), "");
    works(&mut rig, &whole);
}

#[test]
fn a_journal_of_an_earlier_life_writes_nothing_into_a_later_one() {
    let mut rig = begun(1);
    let backup = saved(&rig, "journal");
    rig.delete("one");
    rig.create("one");
    go_on(&mut rig, 10);
    rig.stop();
    let whole = acked(&rig, "one");
    restore(&rig, "journal", &backup);
    rig.check();
    rig.start().unwrap();
    assert_eq!(entries(&rig, "one"), whole);
    works(&mut rig, &whole);
    assert_eq!(told(&rig), "");
}
