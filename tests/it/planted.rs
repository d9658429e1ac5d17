//! Bugs that are planted on purpose: each is caught by few seeds of the simulation of crashes, or
//! where a crash can't show it, of the one of damage.

use crate::crash::campaign::run_all;
use crate::lies::Lie;
use crate::rot;

/// Each bug must be caught by this many seeds.
const SEEDS_MAX: u64 = 1000;

const SHOWN_BY_CRASHES: [Lie; 15] = [
    Lie::AckBeforeSync,
    Lie::SyncEverySecondBatch,
    Lie::NoFolderSync,
    Lie::NoSegmentSync,
    Lie::SyncRetried,
    Lie::NoJournalSalt,
    Lie::ReadBeyondDurable,
    Lie::WriteInPlaceAfterCut,
    Lie::RecoverWithoutSync,
    Lie::RecoverWithoutJournalSync,
    Lie::Append,
    Lie::IdsNotSeeded,
    Lie::ReadErrorIsEnd,
    Lie::KeysForgotten,
    Lie::UnlinkedBeforeMark,
];

const SHOWN_BY_DAMAGE: [Lie; 2] = [Lie::NoSegmentSalt, Lie::FreshChecksum];

#[test]
fn every_bug_between_store_and_machine_is_caught() {
    let crashes = SHOWN_BY_CRASHES.map(|lie| {
        let failed = run_all(0, SEEDS_MAX, Some(lie)).err();
        (
            format!("{lie:?}"),
            failed.map(|failed| (failed.seed, failed.why)),
        )
    });
    let damage = SHOWN_BY_DAMAGE.map(|lie| (format!("{lie:?}"), by_damage(Some(lie))));
    all_caught(crashes.into_iter().chain(damage));
}

/// Bugs that are planted in the code of frames and footers itself.
#[cfg(feature = "planted")]
#[test]
fn every_bug_in_frames_and_footers_is_caught() {
    use trialog::log::planted::{Bug, plant};

    let bugs = [
        Bug::CrcWithoutLength,
        Bug::CrcWithoutOrdinal,
        Bug::LastOfTwoWins,
        Bug::IndexTrusted,
    ];
    let caught = bugs.map(|bug| {
        plant(Some(bug));
        let caught = by_damage(None);
        plant(None);
        (format!("{bug:?}"), caught)
    });
    all_caught(caught.into_iter());
}

fn by_damage(lie: Option<Lie>) -> Option<(u64, String)> {
    (0..SEEDS_MAX).find_map(|seed| Some((seed, rot::outcome(seed, lie).err()?)))
}

/// Says for each bug by how many seeds it was caught; all must be.
fn all_caught(bugs: impl Iterator<Item = (String, Option<(u64, String)>)>) {
    let mut missed = Vec::new();
    for (bug, caught) in bugs {
        match caught {
            Some((seed, why)) => eprintln!("{bug}: caught by {} seeds: {why}", seed + 1),
            None => missed.push(bug),
        }
    }
    assert!(
        missed.is_empty(),
        "not caught by {SEEDS_MAX} seeds: {missed:?}"
    );
}
