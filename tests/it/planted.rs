//! Bugs that are planted on purpose: each is caught by few seeds of the simulation of crashes, or
//! where a crash can't show it, of the one of damage. More of them, in the code itself: `tests/planted.rs`.

use crate::caught::{SEEDS_MAX, all_caught};
use crate::crash::campaign::run_all;
use crate::lies::Lie;
use crate::rot::by_damage;

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
