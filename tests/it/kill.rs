//! The real server, killed with SIGKILL again and again while it takes entries and while it
//! starts: what it acknowledged is there, and nothing else that it shouldn't have.
//!
//! `TRIALOG_TEST_KILLS` says how often, `TRIALOG_TEST_SEED` chooses other moments.

use std::path::Path;

use crate::faults::report;
use crate::ledger::{Ledger, Seen};
use crate::load::{
    ENDS_PER_STORE, SIZES, assert_all_was_at_work, assert_some_are_read, assert_whole, make_store,
    setting, under_load,
};
use crate::server::Server;
use crate::starting::{Moment, Starting};

#[test]
fn a_server_killed_again_and_again_loses_doubles_and_changes_nothing() {
    let kills = setting("TRIALOG_TEST_KILLS", 25);
    let mut random = fastrand::Rng::with_seed(setting("TRIALOG_TEST_SEED", 1));
    let mut total = Seen::default();
    for first in (0..kills).step_by(ENDS_PER_STORE as usize) {
        let dir = tempfile::tempdir().unwrap();
        let count = ENDS_PER_STORE.min(kills - first);
        total += one_store(&dir.path().join("store"), count, &mut random);
    }
    report(&format!("{kills} kills: {total:?}"));
}

fn one_store(store: &Path, kills: u64, random: &mut fastrand::Rng) -> Seen {
    make_store(store);
    let mut ledger = Ledger::default();
    let mut total = Seen::default();
    for kill in 0..kills {
        // Sometimes it dies at its start, before it was asked for anything.
        if kill % 5 == 4 {
            Starting::until(Moment::of(kill / 5), store, &SIZES).kill();
        } else {
            let server = Server::start(store, &SIZES);
            let after = random.u64(1..2000);
            under_load(server, &mut ledger, random, |server, tally| {
                tally.wait_until(|counts| counts.acknowledged >= after);
                server.kill();
            });
        }
        let seen = assert_whole(store, &mut ledger, &format!("kill {kill}"));
        total += seen.without_entries();
    }
    let server = Server::start(store, &SIZES);
    assert_some_are_read(&server, &ledger, random);
    assert!(server.stop().0.success());
    total += ledger.check(store);
    if kills >= 10 {
        assert_all_was_at_work(store, kills + 2);
    }
    total
}
