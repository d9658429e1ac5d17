//! The power goes while the server takes entries and while it starts, on a real ext4: what it
//! acknowledged is there, nothing is called damaged, and the next start goes on.
//!
//! `TRIALOG_TEST_POWER_CUTS` says how often, `TRIALOG_TEST_SEED` chooses other moments.

use std::time::Duration;

use super::disk::Ext4;
use super::report;
use crate::ledger::{Ledger, Seen};
use crate::load::{
    ENDS_PER_STORE, SIZES, assert_all_was_at_work, assert_some_are_read, assert_whole, make_store,
    setting, under_load,
};
use crate::server::Server;
use crate::starting::{Moment, Starting};

const DISK_BYTES: u64 = 1 << 30;

#[test]
fn power_cuts_under_load_and_at_starts_lose_double_and_change_nothing() {
    let cuts = setting("TRIALOG_TEST_POWER_CUTS", 10);
    let mut random = fastrand::Rng::with_seed(setting("TRIALOG_TEST_SEED", 1));
    let mut total = Seen::default();
    for first in (0..cuts).step_by(ENDS_PER_STORE as usize) {
        let Some(disk) = Ext4::mounted(DISK_BYTES) else {
            return;
        };
        total += one_disk(disk, ENDS_PER_STORE.min(cuts - first), &mut random);
    }
    report(&format!("{cuts} power cuts: {total:?}"));
}

fn one_disk(mut disk: Ext4, cuts: u64, random: &mut fastrand::Rng) -> Seen {
    let store = disk.path().join("store");
    make_store(&store);
    let mut ledger = Ledger::default();
    let mut total = Seen::default();
    for cut in 0..cuts {
        let cutter = disk.cutter();
        if cut % 5 == 4 {
            let starting = Starting::until(Moment::of(cut / 5), &store, &SIZES);
            // Somewhere in what it does next.
            std::thread::sleep(Duration::from_micros(random.u64(..20_000)));
            cutter.cut();
            starting.kill();
        } else {
            let server = Server::start(&store, &SIZES);
            let after = random.u64(1..2000);
            under_load(server, &mut ledger, random, |server, tally| {
                tally.wait_until(|counts| counts.acknowledged >= after);
                cutter.cut();
                server.wait_until_said("nothing more is acknowledged");
                server.kill();
            });
        }
        disk.unmount();
        disk.mount();
        let seen = assert_whole(&store, &mut ledger, &format!("power cut {cut}"));
        total += seen.without_entries();
    }
    let server = Server::start(&store, &SIZES);
    assert_some_are_read(&server, &ledger, random);
    assert!(server.stop().0.success());
    total += ledger.check(&store);
    if cuts >= 10 {
        assert_all_was_at_work(&store, cuts + 2);
    }
    total
}

/// That the cuts above are real: with relaxed durability they do cost entries, those at the end of
/// each log and no others. That is no damage either, and what is lost never comes back.
#[test]
fn with_relaxed_durability_a_power_cut_costs_the_last_entries_and_no_others() {
    let Some(mut disk) = Ext4::mounted(DISK_BYTES) else {
        return;
    };
    let args = [&SIZES[..], &["--durability", "relaxed"]].concat();
    let store = disk.path().join("store");
    make_store(&store);
    let mut random = fastrand::Rng::with_seed(1);
    let mut ledger = Ledger::default();
    let mut lost = 0;
    for cut in 0..4 {
        let cutter = disk.cutter();
        let server = Server::start(&store, &args);
        under_load(server, &mut ledger, &mut random, |server, tally| {
            tally.wait_until(|counts| counts.acknowledged >= 500);
            cutter.cut();
            server.wait_until_said("nothing more is acknowledged");
            server.kill();
        });
        disk.unmount();
        disk.mount();
        lost += ledger.give_up_lost_ends(&store);
        assert_whole(&store, &mut ledger, &format!("power cut {cut}"));
    }
    assert!(lost > 0, "the power was not cut");
}
