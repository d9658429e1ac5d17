//! Bugs that are planted in the code of frames and footers itself, where no crash can show them: each is
//! caught by few seeds of the simulation of damage. Needs the feature `planted`. Those between the store and
//! its machine are in `it/planted.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::panic, clippy::indexing_slicing)]

/// What the integration tests have for it, and more.
#[path = "it"]
#[allow(dead_code, unused_imports)]
mod it {
    pub mod caught;
    pub mod lies;
    pub mod misopen;
    pub mod model;
    pub mod rig;
    pub mod rot;
    pub mod scene;
}
// Where they look for each other.
use it::{caught, lies, misopen, model, rig, rot, scene};

use trialog::log::planted::{Bug, plant};

#[test]
fn every_bug_in_frames_and_footers_is_caught() {
    let bugs = [
        Bug::CrcWithoutLength,
        Bug::CrcWithoutOrdinal,
        Bug::LastOfTwoWins,
        Bug::IndexTrusted,
    ];
    let caught = bugs.map(|bug| {
        plant(Some(bug));
        let caught = rot::by_damage(None);
        plant(None);
        (format!("{bug:?}"), caught)
    });
    caught::all_caught(caught.into_iter());
}
