//! Bugs that are planted on purpose: each is caught by few runs of the simulation.

use crate::crash::campaign::run_all;
use crate::lies::Lie;

/// Each bug must be caught by this many runs.
const SEEDS_MAX: u64 = 1000;

const ALL: [Lie; 14] = [
    Lie::AckBeforeSync,
    Lie::SyncEverySecondBatch,
    Lie::NoFolderSync,
    Lie::NoSegmentSync,
    Lie::SyncRetried,
    Lie::NoJournalSalt,
    Lie::NoSegmentSalt,
    Lie::ReadBeyondDurable,
    Lie::WriteInPlaceAfterCut,
    Lie::RecoverWithoutSync,
    Lie::RecoverWithoutJournalSync,
    Lie::Append,
    Lie::IdsNotSeeded,
    Lie::ReadErrorIsEnd,
];

#[test]
fn every_planted_bug_is_caught() {
    let mut missed = Vec::new();
    for lie in ALL {
        match run_all(0, SEEDS_MAX, Some(lie)) {
            Err(failed) => {
                let seeds = failed.seed + 1;
                eprintln!("{lie:?}: caught by run {seeds}: {}", failed.why);
            }
            Ok(_) => missed.push(lie),
        }
    }
    assert!(
        missed.is_empty(),
        "not caught in {SEEDS_MAX} runs: {missed:?}"
    );
}
