//! Calls that `strace` makes fail or take long on the running server: what is answered, that no
//! sync is tried again, and that the next start has everything.

use super::cell::{Cell, On, Then};
use super::strace::{Call, Strace};
use crate::server::trialog;

/// The table: what is injected, on which files, what comes of it.
const CELLS: [(&str, On, Then); 40] = [
    // The sync that acknowledgements wait for. Never again on that descriptor, whatever it says.
    ("fdatasync:error=EIO:when=1", On::Journal, Then::Fails),
    ("fdatasync:error=EIO:when=20", On::Journal, Then::Fails),
    ("fdatasync:error=ENOSPC:when=1", On::Journal, Then::Fails),
    ("fdatasync:error=EDQUOT:when=3", On::Journal, Then::Fails),
    ("fdatasync:error=EROFS:when=1", On::Journal, Then::Fails),
    ("fdatasync:error=EINVAL:when=2", On::Journal, Then::Fails),
    // The write in front of it: what stands there is unknown.
    ("pwrite64:error=EIO:when=1", On::Journal, Then::Fails),
    ("pwrite64:error=EIO:when=20", On::Journal, Then::Fails),
    ("pwrite64:error=ENOSPC:when=2", On::Journal, Then::Fails),
    ("pwrite64:error=EFBIG:when=1", On::Journal, Then::Fails),
    ("pwrite64:error=EROFS:when=5", On::Journal, Then::Fails),
    ("pwrite64:error=EINTR:when=1+2", On::Journal, Then::Nothing),
    // Segments are written behind the acknowledgement, and synced by checkpoints.
    ("pwrite64:error=EIO:when=1", On::Segment, Then::FailsBehind),
    ("pwrite64:error=EIO:when=3", On::Segment, Then::FailsBehind),
    (
        "pwrite64:error=EROFS:when=1",
        On::Segment,
        Then::FailsBehind,
    ),
    (
        "pwrite64:error=EFBIG:when=1",
        On::Segment,
        Then::FailsBehind,
    ),
    ("pwrite64:error=ENOSPC:when=1", On::Segment, Then::IsFull),
    ("pwrite64:error=ENOSPC:when=2..4", On::Segment, Then::IsFull),
    ("pwrite64:error=EDQUOT:when=1..3", On::Segment, Then::IsFull),
    ("pwrite64:error=EINTR:when=1+2", On::Segment, Then::Nothing),
    ("fdatasync:error=EIO:when=1", On::Segment, Then::FailsBehind),
    (
        "fdatasync:error=ENOSPC:when=1",
        On::Segment,
        Then::FailsBehind,
    ),
    (
        "fdatasync:error=EDQUOT:when=2",
        On::Segment,
        Then::FailsBehind,
    ),
    ("openat:error=EIO:when=1", On::Segment, Then::FailsBehind),
    ("openat:error=EACCES:when=1", On::Segment, Then::FailsBehind),
    ("openat:error=ENOSPC:when=1", On::Segment, Then::IsFull),
    // A large batch is written there first, and acknowledged by a mark in the journal.
    ("pwrite64:error=EIO:when=1", On::Around, Then::Fails),
    ("pwrite64:error=ENOSPC:when=1", On::Around, Then::IsFull),
    ("pwrite64:error=EDQUOT:when=2", On::Around, Then::IsFull),
    ("pwrite64:error=EINTR:when=1+2", On::Around, Then::Nothing),
    ("fdatasync:error=EIO:when=1", On::Around, Then::Fails),
    ("fdatasync:error=ENOSPC:when=2", On::Around, Then::Fails),
    ("openat:error=EIO:when=1", On::Around, Then::Fails),
    (
        "fdatasync:delay_enter=50000:when=1+9",
        On::Around,
        Then::Nothing,
    ),
    // One sync for many segments.
    ("syncfs:error=EIO:when=1", On::Any, Then::FailsBehind),
    ("syncfs:error=ENOSPC:when=2", On::Any, Then::FailsBehind),
    // Slow is not failed.
    (
        "fdatasync:delay_enter=20000:when=1+9",
        On::Journal,
        Then::Nothing,
    ),
    (
        "pwrite64:delay_exit=20000:when=1+9",
        On::Journal,
        Then::Nothing,
    ),
    (
        "pwrite64,fdatasync:delay_enter=100000",
        On::Segment,
        Then::Nothing,
    ),
    ("syncfs:delay_enter=300000", On::Any, Then::Nothing),
];

#[test]
fn calls_that_fail_are_answered_as_promised_and_the_next_start_has_everything() {
    for (n, (inject, on, then)) in CELLS.into_iter().enumerate() {
        // Half of them end by SIGTERM, which would make a last checkpoint.
        if run(inject, on, then, n % 2 == 1).is_none() {
            return;
        }
    }
}

fn run(inject: &str, on: On, then: Then, by_kill: bool) -> Option<()> {
    let case = format!("{inject} on {on:?}");
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut cell = Cell::start(&mut trialog(), &store, on, &case);
    // Each thread's first time fails, and so does each reader's.
    cell.reads_fail = inject.starts_with("openat:error");
    let strace = Strace::attach(&cell.server, inject, &on.paths(&store))?;
    cell.expect(then);
    let ended = cell.end(by_kill);
    let calls = strace.calls();
    let was_injected = calls.iter().any(|call| call.is_injected);
    assert!(was_injected, "{case}: nothing was injected");
    if matches!(then, Then::Fails | Then::FailsBehind) {
        assert_no_second_sync(&calls, &case);
    }
    ended.assert_whole(&store);
    Some(())
}

/// After a sync or a write that failed on a file, nothing is synced on it. One that failed on the
/// whole file system is the last one of segments: the journal's own syncs tell of its own errors.
fn assert_no_second_sync(calls: &[Call], case: &str) {
    let mut injected = calls.iter().filter(|call| call.is_injected);
    let failed = injected.next().expect("checked before");
    let is_again = |call: &&Call| {
        let is_sync = ["fdatasync", "fsync", "syncfs"].contains(&&*call.name);
        let of_all = [&call.name, &failed.name].contains(&&"syncfs".to_owned());
        let is_same = call.path == failed.path || of_all && !call.path.ends_with(".journal");
        call.began > failed.ended && is_sync && is_same
    };
    let again: Vec<_> = calls.iter().filter(is_again).collect();
    assert!(again.is_empty(), "{case}: synced again: {again:?}");
}
