//! Each call of a start that recovers, in turn, is the one at which it is killed, at which the
//! power goes, or which fails: after each of them everything is there, and nothing is damaged.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::disk::Ext4;
use super::{not_run, report};
use crate::ledger::Ledger;
use crate::load::{SIZES, assert_some_are_read, assert_whole, make_store, under_load};
use crate::server::{Server, arg};
use crate::starting::{Listening, Starting};

/// The calls by which a start changes what is on the disk.
const CALLS: [&str; 6] = [
    "pwrite64",
    "fdatasync",
    "fsync",
    "syncfs",
    "rename",
    "mkdir",
];

/// What happens at a call, as strace says it.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    /// The process is stopped there, the power goes, and then it is killed.
    Power,
    Error(&'static str),
}

impl Fault {
    fn inject(self, call: &str, when: u32) -> String {
        match self {
            Self::Kill => format!("{call}:signal=KILL:when={when}"),
            Self::Power => format!("{call}:signal=STOP:when={when}"),
            Self::Error(error) => format!("{call}:error={error}:when={when}"),
        }
    }
}

#[test]
fn a_start_that_is_killed_at_any_of_its_calls_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut sweep = Sweep::new(dir.path().join("store"), None);
    sweep.each_call(Fault::Kill);
}

#[test]
fn a_start_whose_power_goes_at_any_of_its_calls_costs_nothing() {
    let Some(disk) = Ext4::mounted(256 << 20) else {
        return;
    };
    let mut sweep = Sweep::new(disk.path().join("store"), Some(disk));
    sweep.each_call(Fault::Power);
}

#[test]
fn a_start_any_of_whose_calls_fails_says_so_and_the_next_one_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut sweep = Sweep::new(dir.path().join("store"), None);
    sweep.each_call(Fault::Error("EIO"));
    sweep.each_call(Fault::Error("ENOSPC"));
}

struct Sweep {
    store: PathBuf,
    disk: Option<Ext4>,
    ledger: Ledger,
    random: fastrand::Rng,
}

impl Sweep {
    fn new(store: PathBuf, disk: Option<Ext4>) -> Self {
        make_store(&store);
        Self {
            store,
            disk,
            ledger: Ledger::default(),
            random: fastrand::Rng::with_seed(1),
        }
    }

    fn each_call(&mut self, fault: Fault) {
        let mut count = 0;
        for call in CALLS {
            self.leave_something_to_recover();
            for when in 1.. {
                let inject = fault.inject(call, when);
                match self.start(&inject, fault) {
                    None => return not_run("there is no strace"),
                    Some(false) => break,
                    Some(true) => count += 1,
                }
                assert_whole(&self.store, &mut self.ledger, &inject);
            }
        }
        let server = Server::start(&self.store, &SIZES);
        assert_some_are_read(&server, &self.ledger, &mut self.random);
        assert!(server.stop().0.success());
        assert!(count >= 10, "{count} calls of a start");
        report(&format!("{fault:?} at {count} calls of starts"));
    }

    fn leave_something_to_recover(&mut self) {
        let server = Server::start(&self.store, &SIZES);
        under_load(
            server,
            &mut self.ledger,
            &mut self.random,
            |server, tally| {
                tally.wait_until(|counts| counts.acknowledged >= 300);
                server.kill();
            },
        );
        // Of a batch that was being synced when the kill came, the page cache may show what a power
        // cut still takes: nobody was told of it. What is looked at now must be on the disk.
        for lap in std::fs::read_dir(self.store.join("journal")).unwrap() {
            let lap = std::fs::File::open(lap.unwrap().path()).unwrap();
            lap.sync_data().unwrap();
        }
        assert_whole(&self.store, &mut self.ledger, "what a start will recover");
    }

    /// Starts until the fault or its end; says whether the fault came. `None` without strace.
    fn start(&mut self, inject: &str, fault: Fault) -> Option<bool> {
        let cutter = self.disk.as_ref().map(Ext4::cutter);
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut starting = Starting::spawn(&mut under_strace(inject, &log), &self.store, &SIZES)?;
        let has_come = match fault {
            Fault::Kill => match starting.listening() {
                Listening::Yes => false,
                Listening::Ended(status, said) => {
                    assert_eq!(status.signal(), Some(9), "{inject}: {said}");
                    true
                }
            },
            Fault::Power => starting.is_stopped(),
            Fault::Error(_) => {
                if let Listening::Ended(status, said) = starting.listening() {
                    assert_eq!(status.code(), Some(1), "{inject}: {said}");
                    let last = said.lines().last().unwrap_or_default();
                    assert!(last.starts_with("trialog: "), "{inject}: {said}");
                }
                starting.kill_and_wait_for_tracer();
                std::fs::read_to_string(&log)
                    .unwrap()
                    .contains("(INJECTED)")
            }
        };
        if let Some(cutter) = cutter.filter(|_| has_come) {
            cutter.cut();
        }
        starting.kill();
        if let Some(disk) = &mut self.disk {
            disk.unmount();
            disk.mount();
        }
        Some(has_come)
    }
}

/// The binary, traced by a grandchild, so that the child is the server itself.
fn under_strace(inject: &str, log: &Path) -> Command {
    let (call, _) = inject
        .split_once(':')
        .expect("a call and what to do with it");
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-qq", "-o", arg(log)]);
    command.args([
        "-e",
        &format!("trace={call}"),
        "-e",
        &format!("inject={inject}"),
    ]);
    command.arg(env!("CARGO_BIN_EXE_trialog"));
    command
}
