//! A preloaded library that lets calls fall short, be interrupted, fail or take long: what strace
//! can't do is to write half of the bytes. It is compiled here, from `shim.c`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::cell::{Cell, On, Then};
use super::not_run;
use crate::server::{arg, trialog};

const JOURNAL: &str = ".journal";
const SEGMENT: &str = ".segment";

/// One fault: the call, the end of the file's path, what is done, the first and the last time, and
/// how many times there are between; what is sent, and what comes of it.
type Fault = (&'static str, &'static str, &'static str, [u32; 3], On, Then);

const ALWAYS: [u32; 3] = [1, u32::MAX, 1];
const EACH_SECOND: [u32; 3] = [1, u32::MAX, 2];
const ONCE: [u32; 3] = [1, 1, 1];
const EIO: &str = "5";
const EINTR: &str = "4";
const ENFILE: &str = "23";
const EMFILE: &str = "24";
const ENOSPC: &str = "28";

const CELLS: [Fault; 25] = [
    (
        "pwrite64",
        JOURNAL,
        "short",
        ALWAYS,
        On::Journal,
        Then::Nothing,
    ),
    (
        "pwrite64",
        JOURNAL,
        "short",
        EACH_SECOND,
        On::Around,
        Then::Nothing,
    ),
    (
        "pwrite64",
        JOURNAL,
        EINTR,
        EACH_SECOND,
        On::Journal,
        Then::Nothing,
    ),
    (
        "pwrite64",
        JOURNAL,
        EIO,
        [7, 7, 1],
        On::Journal,
        Then::Fails,
    ),
    ("pwrite64", JOURNAL, ENOSPC, ONCE, On::Journal, Then::Fails),
    (
        "pwrite64",
        JOURNAL,
        "delay",
        [1, 40, 4],
        On::Journal,
        Then::Nothing,
    ),
    ("fdatasync", JOURNAL, EIO, ONCE, On::Journal, Then::Fails),
    (
        "fdatasync",
        JOURNAL,
        ENOSPC,
        [9, 9, 1],
        On::Around,
        Then::Fails,
    ),
    (
        "fdatasync",
        JOURNAL,
        EINTR,
        EACH_SECOND,
        On::Journal,
        Then::Nothing,
    ),
    (
        "fdatasync",
        JOURNAL,
        "delay",
        [1, 40, 4],
        On::Around,
        Then::Nothing,
    ),
    (
        "pwrite64",
        SEGMENT,
        "short",
        ALWAYS,
        On::Segment,
        Then::Nothing,
    ),
    (
        "pwrite64",
        SEGMENT,
        "short",
        ALWAYS,
        On::Around,
        Then::Nothing,
    ),
    (
        "pwrite64",
        SEGMENT,
        EINTR,
        EACH_SECOND,
        On::Around,
        Then::Nothing,
    ),
    ("pwrite64", SEGMENT, EIO, [2, 2, 1], On::Around, Then::Fails),
    (
        "pwrite64",
        SEGMENT,
        ENOSPC,
        [1, 3, 1],
        On::Segment,
        Then::IsFull,
    ),
    (
        "fdatasync",
        SEGMENT,
        EIO,
        ONCE,
        On::Segment,
        Then::FailsBehind,
    ),
    (
        "fdatasync",
        SEGMENT,
        EIO,
        [3, 3, 1],
        On::Around,
        Then::Fails,
    ),
    (
        "fdatasync",
        SEGMENT,
        EINTR,
        EACH_SECOND,
        On::Segment,
        Then::Nothing,
    ),
    (
        "fdatasync",
        SEGMENT,
        "delay",
        [1, 40, 4],
        On::Segment,
        Then::Nothing,
    ),
    ("open64", SEGMENT, EMFILE, ONCE, On::Segment, Then::Nothing),
    ("open64", SEGMENT, ENFILE, ONCE, On::Any, Then::Nothing),
    // So long that a full lap waits for it.
    (
        "open64",
        SEGMENT,
        EMFILE,
        [1, 30, 1],
        On::Segment,
        Then::IsShort,
    ),
    (
        "open64",
        SEGMENT,
        "delay",
        [1, 40, 4],
        On::Any,
        Then::Nothing,
    ),
    (
        "pread64",
        SEGMENT,
        "short",
        ALWAYS,
        On::Segment,
        Then::Nothing,
    ),
    (
        "pread64",
        SEGMENT,
        EINTR,
        EACH_SECOND,
        On::Any,
        Then::Nothing,
    ),
];

#[test]
fn short_writes_and_interrupted_calls_change_nothing_and_failing_ones_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let Some(shim) = compile(dir.path()) else {
        return not_run("there is no cc to compile tests/it/faults/shim.c with");
    };
    for (n, fault) in CELLS.into_iter().enumerate() {
        run(&shim, &fault, n % 2 == 1);
    }
}

/// A batch that was cut short in the journal, and then failed, is no damage.
#[test]
fn half_a_write_and_then_an_error_leaves_nothing_that_is_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let Some(shim) = compile(dir.path()) else {
        return not_run("there is no cc to compile tests/it/faults/shim.c with");
    };
    for (n, (path, error, on, then)) in [
        (JOURNAL, "short,5", On::Journal, Then::Fails),
        (JOURNAL, "short,28", On::Around, Then::Fails),
        (SEGMENT, "short,28", On::Segment, Then::IsFull),
        (SEGMENT, "short,28", On::Around, Then::IsFull),
        (SEGMENT, "short,5", On::Segment, Then::FailsBehind),
        (SEGMENT, "short,5", On::Around, Then::Fails),
    ]
    .into_iter()
    .enumerate()
    {
        run(
            &shim,
            &("pwrite64", path, error, [3, 4, 1], on, then),
            n % 2 == 1,
        );
    }
}

fn run(shim: &Path, fault: &Fault, by_kill: bool) {
    let (call, path, what, [from, to, step], on, then) = *fault;
    let case = format!("{call} {path} {what} {from}..{to} by {step}, {on:?}");
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let armed = dir.path().join("armed");
    let mut command = trialog();
    command.env("LD_PRELOAD", shim).env("SHIM_ARMED", &armed);
    command
        .env("SHIM_CALL", call)
        .env("SHIM_PATH", path)
        .env("SHIM_DO", what);
    command
        .env("SHIM_FROM", from.to_string())
        .env("SHIM_TO", to.to_string());
    command.env("SHIM_STEP", step.to_string());
    let mut cell = Cell::start(&mut command, &store, on, &case);
    std::fs::write(&armed, "").unwrap();
    cell.expect(then);
    let done = std::fs::metadata(&armed).unwrap().len();
    assert!(done > 0, "{case}: nothing was done");
    cell.end(by_kill).assert_whole(&store);
}

pub fn compile(dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/faults/shim.c");
    let shim = dir.join("shim.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]);
    let compiled = cc.args([arg(&shim), arg(&source)]).output().ok()?;
    assert!(compiled.status.success(), "{compiled:?}");
    Some(shim)
}
