//! A sync that really fails. The image of an ext4 stands sparse on a tmpfs that has no room: the
//! write-back of what was written fails once, a retry would say that all is well, and the bytes
//! would be gone.

use super::disk::{Ballast, Ext4, Tmpfs};
use crate::ledger::{Ledger, Outcome};
use crate::load::{SIZES, assert_some_are_read, assert_whole, body, make_store, post};
use crate::rig::slug;
use crate::server::Server;

/// Both kinds: an ext4 without a journal answers ENOSPC, one with a journal EIO.
const KINDS: [&str; 2] = ["^has_journal", "has_journal"];

/// What the write-back of which fails.
#[derive(Debug, Clone, Copy)]
enum Of {
    /// The journal: the room that its zeros had is taken away.
    Journal,
    /// Segments: the journal keeps its room.
    Segments,
}

#[test]
fn what_a_failed_sync_of_the_journal_left_is_not_acknowledged() {
    for kind in KINDS {
        let Some((refusals, said)) = fails(kind, Of::Journal) else {
            return;
        };
        assert_eq!(refusals.first(), Some(&Outcome::AppendFailed), "{kind}");
        assert!(
            said.contains("writing or syncing the journal failed"),
            "{said}"
        );
    }
}

/// Which call is the first to be told may differ: ext4's own journal stands on the same disk.
#[test]
fn what_a_failed_sync_of_segments_lost_comes_from_the_journal() {
    for kind in KINDS {
        let Some((_, said)) = fails(kind, Of::Segments) else {
            return;
        };
        assert!(
            said.contains("failed: nothing more is acknowledged"),
            "{said}"
        );
    }
}

/// Makes a sync fail, unmounts, makes room, and holds what is there against the ledger. Gives back
/// the refusals, in their order, and what the server said.
fn fails(kind: &str, of: Of) -> Option<(Vec<Outcome>, String)> {
    let small = Tmpfs::mounted(24 << 20)?;
    let mut disk = Ext4::mounted_at(small.path().join("image"), 64 << 20, kind)?;
    let store = disk.path().join("store");
    make_store(&store);
    let server = Server::start(&store, &SIZES);
    if matches!(of, Of::Journal) {
        disk.dig_holes();
    }
    let ballast = Ballast::leave(0, small.path());
    let mut ledger = Ledger::default();
    let refusals = send_until_refused(&server, &mut ledger);
    let only_failures = [Outcome::AppendFailed, Outcome::StorageFailed];
    let is_failure = |refusal| only_failures.contains(refusal);
    assert!(refusals.iter().all(is_failure), "{refusals:?}");
    assert_eq!(refusals.last(), Some(&Outcome::StorageFailed));
    let ready = server.ask("GET", "/ready", "");
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["reason"], "storage_failed");
    let said = server.wait_until_said("nothing more is acknowledged");
    server.kill();
    disk.unmount();
    ballast.remove();
    if kind == "^has_journal" {
        disk.check();
    }
    disk.mount();
    let case = format!("{kind} {of:?}");
    assert_whole(&store, &mut ledger, &case);
    let server = Server::start(&store, &SIZES);
    if ledger.acknowledged_count() > 0 {
        assert_some_are_read(&server, &ledger, &mut fastrand::Rng::with_seed(1));
    }
    let id = server.ask("POST", "/experiment/demo/log", r#"{"variantKey":"A"}"#);
    assert_eq!(id.status, 200, "{case}: it goes on");
    Some((refusals, said))
}

/// Sends until nothing was taken ten times; gives back the refusals.
fn send_until_refused(server: &Server, ledger: &mut Ledger) -> Vec<Outcome> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut client = server.connect();
    let mut refusals = Vec::new();
    for _ in 0..20_000 {
        let bodies = vec![body(&mut random, 6000)];
        let answer = post(&mut client, &server.key, &slug("alpha"), &bodies);
        match ledger.note(&slug("alpha"), bodies, answer) {
            Outcome::Acknowledged => {
                assert!(refusals.is_empty(), "acknowledged after {refusals:?}");
            }
            refusal => refusals.push(refusal),
        }
        if refusals.len() == 10 {
            return refusals;
        }
    }
    panic!("nothing was refused")
}
