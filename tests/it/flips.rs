//! A flipped bit at each byte of a store's files: found, named, and paid for with one entry at
//! most.

use std::ops::Range;
use std::path::{Path, PathBuf};

use trialog::experiment::definition::DefinitionFile;
use trialog::experiment::folder::read_store_id;
use trialog::fs::sim::Crash;
use trialog::journal::format::{BATCHES_AT, HEADER_COPY_AT, LAP_HEADER_LEN};
use trialog::offline::verify::{Finding, verify};

use crate::rig::{Rig, SECTOR, STORE, slug};
use crate::scene::{Entries, journal_file, replay_of, spoil};

/// A store that was closed, with a sealed segment and an active one.
fn sealed_and_active() -> Rig {
    let mut rig = Rig::with("one");
    rig.segment_bytes = 2048;
    for n in 0..5 {
        rig.put("one", n, 333 * (n as usize % 2) + 100);
    }
    rig.seal();
    rig.stop();
    assert_eq!(rig.segments("one").len(), 2, "one sealed, one active");
    rig
}

/// Flips each bit of `range` in turn and hands over what a check then says.
fn flip_each(rig: &Rig, path: &Path, range: Range<usize>, mut look: impl FnMut(usize, &Rig)) {
    for bit in range.start * 8..range.end * 8 {
        let flip = |bytes: &mut Vec<u8>| bytes[bit / 8] ^= 1 << (bit % 8);
        spoil(&rig.machine, path, flip);
        look(bit / 8, rig);
        spoil(&rig.machine, path, flip);
    }
}

fn finding_at<'a>(findings: &'a [Finding], path: &Path, at: usize) -> Option<&'a Finding> {
    findings.iter().find(|finding| {
        let range = finding.range.clone().unwrap_or(0..0);
        finding.path == path && range.contains(&(at as u64))
    })
}

/// Whether `entries` are all of `whole`, but for one at most.
fn cost_at_most_one(entries: &Entries, whole: &Entries) -> bool {
    let mut rest = whole.iter();
    let all_known = entries.iter().all(|entry| rest.any(|known| known == entry));
    all_known && entries.len() + 1 >= whole.len()
}

/// Every bit of the file at `path` in a store that was closed.
fn sweep_segment(rig: &Rig, path: &Path) {
    let whole = rig.models[&slug("one")].acked.clone();
    let len = rig.machine.read(path).unwrap().len();
    let mut lost = 0;
    flip_each(rig, path, 0..len, |at, rig| {
        let report = rig.verified();
        let found = finding_at(&report.findings, path, at);
        assert!(found.is_some(), "byte {at}: {:?}", report.findings);
        let (entries, _) = rig.replay_of(Path::new(STORE));
        assert!(cost_at_most_one(&entries, &whole), "byte {at}");
        assert_eq!(report.entry_count, entries.len() as u64);
        lost += whole.len() - entries.len();
    });
    assert!(lost > 0, "some flips hit entries");
    assert_eq!(rig.verified().findings, [], "all is as it was");
}

#[test]
fn every_flipped_bit_of_a_sealed_segment_is_found_and_costs_one_entry_at_most() {
    let rig = sealed_and_active();
    let sealed = &rig.segments("one")[0];
    sweep_segment(&rig, sealed);
}

#[test]
fn every_flipped_bit_of_an_active_segment_is_found_and_costs_one_entry_at_most() {
    let rig = sealed_and_active();
    let active = &rig.segments("one")[1];
    sweep_segment(&rig, active);
}

#[test]
fn every_flipped_bit_of_a_sealed_last_segment_is_found_too() {
    // Nothing behind it says where it ends, but its own footer.
    let mut rig = sealed_and_active();
    let last = rig.segments("one").pop().unwrap();
    rig.machine.host().disk.remove_file(&last).unwrap();
    let sealed = rig.segments("one").pop().unwrap();
    let (kept, _) = rig.replay_of(&sealed);
    rig.models.get_mut(&slug("one")).unwrap().acked = kept;
    sweep_segment(&rig, &sealed);
}

#[test]
fn a_store_starts_and_goes_on_with_any_byte_of_a_segment_flipped() {
    let whole = sealed_and_active();
    for path in whole.segments("one") {
        let len = whole.machine.read(&path).unwrap().len();
        for at in 0..len {
            let mut rig = whole.fork();
            spoil(&rig.machine, &path, |bytes| bytes[at] ^= 1 << (at % 8));
            let damaged = rig.machine.read(&path).unwrap();
            rig.start().unwrap();
            rig.put("one", 99, 100);
            rig.seal();
            rig.background();
            rig.restart();
            let acked = rig.models[&slug("one")].acked.clone();
            let (entries, _) = rig.replay_of(Path::new(STORE));
            assert!(cost_at_most_one(&entries, &acked), "byte {at}");
            assert_eq!(entries.last(), acked.last(), "byte {at}");
            let now = rig.machine.read(&path).unwrap();
            assert_eq!(now[..len], damaged, "byte {at}: the evidence is kept");
            // A damaged footer was derived from whole frames, and a new one stands behind it.
            let has_new_footer = path == whole.segments("one")[0] && now.len() > len;
            let findings = rig.verified().findings;
            let is_found = finding_at(&findings, &path, at).is_some();
            assert!(is_found || has_new_footer, "byte {at}: {findings:?}");
        }
    }
}

#[test]
fn every_flipped_bit_of_a_copied_segment_is_found_or_torn() {
    let rig = sealed_and_active();
    for (path, is_sealed) in rig.segments("one").iter().zip([true, false]) {
        let copy = PathBuf::from("/laptop").join(path.file_name().unwrap());
        let bytes = rig.machine.read(path).unwrap();
        crate::scene::place(&rig.machine, &copy, &bytes);
        let (whole, _) = rig.replay_of(&copy);
        flip_each(&rig, &copy, 0..bytes.len(), |at, rig| {
            let report = verify(rig.machine.host().disk, &copy).unwrap();
            let is_found = finding_at(&report.findings, &copy, at).is_some();
            // The last frame of one that was still written: damaged or torn, nothing tells.
            let is_torn = report.torn_bytes > 0 && !is_sealed;
            assert!(is_found || is_torn, "byte {at}: {report:?}");
            let (entries, _) = replay_of(&rig.machine, &copy);
            assert!(cost_at_most_one(&entries, &whole), "byte {at}");
        });
    }
}

/// Where the batches of a journal file are, without the last one: a wrong bit in that may be what a
/// write that was cut short has left.
fn synced_batches_in(journal: &[u8]) -> Vec<Range<usize>> {
    let sectors = (BATCHES_AT as usize..journal.len()).step_by(SECTOR);
    let begins = sectors.filter(|begin| journal[*begin..].starts_with(b"TLJB"));
    let batch = |begin: usize| {
        let len = journal[begin + 24..].first_chunk().unwrap();
        begin..begin + 40 + u64::from_le_bytes(*len) as usize
    };
    let mut batches: Vec<_> = begins.map(batch).collect();
    batches.pop();
    batches
}

/// A store whose power went when all was in the journal and nothing in segments.
fn in_the_journal() -> Rig {
    let mut rig = Rig::with("one");
    for n in 0..4 {
        rig.put("one", n, 100);
    }
    rig
}

#[test]
fn every_flipped_bit_of_the_journal_costs_nothing_and_is_found_in_what_was_synced() {
    let mut rig = in_the_journal();
    let end = rig.journal_end();
    rig.crash(Crash::LoseAll);
    let acked = rig.models[&slug("one")].acked.clone();
    let path = journal_file(1);
    let batches = synced_batches_in(&rig.machine.read(&path).unwrap());
    assert_eq!(batches.len(), 3);
    flip_each(&rig, &path, 0..end, |at, rig| {
        let report = rig.verified();
        let (entries, _) = rig.replay_of(Path::new(STORE));
        assert_eq!(entries, acked, "byte {at}");
        // One copy of the lap's header is enough, and nobody reads what is behind it or a batch.
        let findings = report.findings.iter();
        let told: Vec<_> = findings.map(|f| (&f.path, f.range.clone())).collect();
        match batches.iter().any(|batch| batch.contains(&at)) {
            true => assert_eq!(told, [(&path, Some(at as u64..at as u64 + 1))]),
            false => assert_eq!(told, [], "byte {at}"),
        }
    });
}

#[test]
fn a_store_starts_with_any_byte_of_its_journal_flipped_and_keeps_it() {
    let mut whole = in_the_journal();
    let end = whole.journal_end();
    whole.crash(Crash::LoseAll);
    let path = journal_file(1);
    let batches = synced_batches_in(&whole.machine.read(&path).unwrap());
    let used = BATCHES_AT as usize..end;
    for at in (0..LAP_HEADER_LEN)
        .chain(HEADER_COPY_AT as usize..HEADER_COPY_AT as usize + 44)
        .chain(used)
    {
        let mut rig = whole.fork();
        spoil(&rig.machine, &path, |bytes| bytes[at] ^= 1 << (at % 8));
        let damaged = rig.machine.read(&path).unwrap();
        let (entries, _) = rig.replay_of(Path::new(STORE));
        assert_eq!(entries, rig.models[&slug("one")].acked, "byte {at}");
        rig.start().unwrap();
        rig.check();
        if batches.iter().any(|batch| batch.contains(&at)) {
            let aside = path.with_extension("journal.damaged-2");
            assert_eq!(rig.machine.read(&aside).unwrap(), damaged, "byte {at}");
        }
        rig.put("one", 99, 100);
        rig.restart();
        rig.check();
    }
}

#[test]
fn every_flipped_bit_of_a_definition_or_the_format_is_found_or_changes_nothing() {
    let rig = sealed_and_active();
    let read = |rig: &Rig| {
        let (disk, store) = (rig.machine.host().disk, Path::new(STORE));
        let definition = DefinitionFile::read(&*disk, &store.join("experiments/one"));
        let format = read_store_id(&*disk, store);
        Some((format!("{:?}", definition.ok()?), format.ok()??))
    };
    let whole = read(&rig);
    let mut found = 0;
    for file in ["experiments/one/experiment.json", "FORMAT"] {
        let path = Path::new(STORE).join(file);
        let len = rig.machine.read(&path).unwrap().len();
        flip_each(&rig, &path, 0..len, |at, rig| {
            let checked = verify(rig.machine.host().disk, Path::new(STORE));
            let is_found = !checked.is_ok_and(|report| report.findings.is_empty());
            assert!(is_found || read(rig) == whole, "{file} byte {at}");
            found += usize::from(is_found);
        });
        assert!(found > len * 7, "{found} of {}", len * 8);
        found = 0;
    }
}
