//! A disk that fills for real: entries are refused with 507, those that were acknowledged stay and
//! are read, and when there is room again entries are taken, without a restart.

use std::path::Path;

use super::disk::{Ballast, Ext4, Tmpfs};
use crate::ledger::{Ledger, Outcome};
use crate::load::{SIZES, assert_some_are_read, assert_whole, body, make_store, post, under_load};
use crate::process_end::END_WITHIN;
use crate::rig::slug;
use crate::server::{PATIENCE, Server, arg, trialog};

const DISK_BYTES: u64 = 64 << 20;
/// What is left beside the ballast: some laps of the journal, in segments.
const SPARE_BYTES: u64 = 6 << 20;

#[test]
fn an_ext4_that_fills_is_507_and_that_passes_by_itself() {
    for free_bytes in ["0", "2000000"] {
        let Some(mut disk) = Ext4::mounted(DISK_BYTES) else {
            return;
        };
        let store = disk.path().join("store");
        let mut ledger = fills_and_gets_room(disk.path(), &store, free_bytes);
        disk.unmount();
        disk.mount();
        assert_whole(&store, &mut ledger, "mounted again");
    }
}

#[test]
fn a_tmpfs_that_fills_is_507_and_that_passes_by_itself() {
    let Some(disk) = Tmpfs::mounted(DISK_BYTES) else {
        return;
    };
    fills_and_gets_room(disk.path(), &disk.path().join("store"), "0");
}

/// Ends with the server killed, and the ledger of all that was sent.
fn fills_and_gets_room(disk: &Path, store: &Path, free_bytes: &str) -> Ledger {
    let mut random = fastrand::Rng::with_seed(1);
    let mut ledger = Ledger::default();
    make_store(store);
    let args = [&SIZES[..], &["--min-free", free_bytes]].concat();
    for round in 0..3 {
        let ballast = Ballast::leave(SPARE_BYTES, disk);
        let server = Server::start(store, &args);
        under_load(server, &mut ledger, &mut random, |server, tally| {
            tally.wait_until(|counts| counts.full >= 50);
            assert_is_full(&server);
            ballast.remove();
            let before = tally.now().acknowledged;
            tally.wait_until(|counts| counts.acknowledged >= before + 500);
            assert_eq!(server.ask("GET", "/ready", "").status, 200);
            // Killed when all is well, and when it is full.
            if round == 1 {
                let ballast = Ballast::leave(0, disk);
                let before = tally.now().full;
                tally.wait_until(|counts| counts.full >= before + 50);
                server.kill();
                assert_starts_or_says_why(store, &args);
                ballast.remove();
            } else {
                server.kill();
            }
            assert_eq!(tally.now().failed, 0, "a full disk is no failure");
        });
        assert_whole(store, &mut ledger, &format!("round {round}"));
        let server = Server::start(store, &args);
        assert_some_are_read(&server, &ledger, &mut random);
        assert!(server.stop().0.success());
    }
    ledger
}

/// All that must go on goes on, and what is refused is refused with its code.
fn assert_is_full(server: &Server) {
    // It may have found room for a moment: a segment that was waiting is written in one piece.
    let ready = (0..100).map(|_| server.ask("GET", "/ready", ""));
    let unready = ready.into_iter().find(|answer| answer.status != 200);
    let unready = unready.expect("it says that it is full");
    assert_eq!(unready.status, 503);
    assert_eq!(unready.json()["reason"], "storage_full");
    assert_eq!(server.ask("GET", "/health", "").status, 200);
    let described = server.ask("GET", "/experiment/alpha", "");
    assert_eq!(described.status, 200, "{described:?}");
    let id = described.json()["lastEntry"]["logId"].clone();
    if let Some(id) = id.as_str() {
        let read = server.ask("GET", &format!("/experiment/alpha/log/{id}"), "");
        assert_eq!(read.status, 200, "the newest entry is read: {read:?}");
    }
}

/// A start on a full disk is a start, or it ends with a sentence.
fn assert_starts_or_says_why(store: &Path, args: &[&str]) {
    match Server::try_start(store, args) {
        // All that was acknowledged had found its place.
        Ok(server) => server.kill(),
        Err((status, said)) => {
            assert_eq!(status.code(), Some(1), "{said}");
            let last = said.lines().last().unwrap_or_default();
            assert!(
                last.starts_with("trialog: ") && last.contains("No space left"),
                "{said}"
            );
        }
    }
}

#[test]
fn sigterm_ends_a_server_whose_disk_is_full() {
    let Some(disk) = Ext4::mounted(DISK_BYTES) else {
        return;
    };
    let store = disk.path().join("store");
    make_store(&store);
    let mut ledger = Ledger::default();
    let ballast = Ballast::leave(SPARE_BYTES, disk.path());
    let server = Server::start(&store, &SIZES);
    let mut random = fastrand::Rng::with_seed(2);
    under_load(server, &mut ledger, &mut random, |server, tally| {
        tally.wait_until(|counts| counts.full >= 50);
        let (status, took) = server.stop();
        assert_eq!(status.code(), Some(0));
        assert!(took < END_WITHIN, "{took:?}");
    });
    ballast.remove();
    assert_whole(&store, &mut ledger, "after SIGTERM on a full disk");
    let server = Server::start(&store, &SIZES);
    assert_some_are_read(&server, &ledger, &mut random);
}

#[test]
fn a_disk_that_can_not_be_written_ends_the_start_with_a_sentence() {
    let Some(mut disk) = Ext4::mounted(DISK_BYTES) else {
        return;
    };
    let store = disk.path().join("store");
    make_store(&store);
    let server = Server::start(&store, &SIZES);
    let mut ledger = Ledger::default();
    let mut random = fastrand::Rng::with_seed(3);
    let bodies = vec![body(&mut random, 100)];
    let answer = post(&mut server.connect(), &server.key, &slug("alpha"), &bodies);
    let outcome = ledger.note(&slug("alpha"), bodies, answer);
    assert_eq!(outcome, Outcome::Acknowledged);
    server.kill();
    disk.make_read_only();
    let mut command = trialog();
    command.args(["serve", "--listen", "127.0.0.1:0", "--data", arg(&store)]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("LOCK failed: Read-only file system"),
        "{said}"
    );
    // Readers need no more than that.
    assert_whole(&store, &mut ledger, "read only");
    disk.unmount();
    disk.mount();
    let server = Server::start(&store, &SIZES);
    assert_some_are_read(&server, &ledger, &mut random);
    assert!(server.stop().1 < PATIENCE);
}
