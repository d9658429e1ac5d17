//! Real faults on the real binary: the power goes, syncs fail, disks fill, calls are made to fail,
//! descriptors run out.
//!
//! Where the machine can't make a fault, the test says `NOT RUN` and why.

mod cell;
pub mod disk;
mod exact;
mod failing_sync;
mod full;
mod full_journal;
mod injected;
mod limits;
mod power;
pub mod preloaded;
mod starts;
mod strace;
mod survived;

use std::io::Write;

/// Says that a test could not run here, which is a failure where all must run.
pub fn not_run(why: &str) {
    assert!(
        std::env::var_os("TRIALOG_TEST_ALL").is_none_or(|all| all == "0"),
        "TRIALOG_TEST_ALL is set, and this can't run: {why}"
    );
    report(&format!("NOT RUN: {why}"));
}

/// Says what a long run has come to. Not by `eprintln!`, which the test runner keeps to itself.
pub fn report(words: &str) {
    std::io::stderr()
        .write_all(format!("{words}\n").as_bytes())
        .expect("stderr");
}
