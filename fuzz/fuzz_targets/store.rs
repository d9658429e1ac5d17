//! Operations and crashes in any order on the simulated machine, against the plainest model: what
//! `tests/it/crash.rs` draws at random is led by coverage here.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use trialog::fs::sim::{Crash, Failure, Fault, Op};
use trialog::model::Durability;
use trialog_fuzz::model::Leeway;
use trialog_fuzz::rig::{Rig, entry};

const NAMES: [&str; 3] = ["one", "two", "three"];
const STEPS_MAX: usize = 60;

#[derive(Debug, Arbitrary)]
struct Input {
    seed: u16,
    is_relaxed: bool,
    segment_sectors: u8,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Append { which: u8, count: u8, padding: u8 },
    AppendToAll { padding: u8 },
    AppendAround { which: u8, count: u8 },
    Background,
    Seal,
    Idle { which: u8 },
    Remake { which: u8 },
    Clock { step_s: i16 },
    Stop,
    Kill,
    Crash { how: How },
    CrashIn { changes: u8, how: How },
    CrashInRecovery { changes: u8, how: How },
    Fail { op: FailingOp, after: u8 },
    Delete { which: u8 },
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum How {
    LoseAll,
    KeepAll,
    Random,
    RandomTorn,
    Subset(u16),
}

/// Calls whose failure poisons the store until the next start.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum FailingOp {
    Write,
    ShortWrite,
    Sync,
}

impl From<How> for Crash {
    fn from(how: How) -> Self {
        match how {
            How::LoseAll => Self::LoseAll,
            How::KeepAll => Self::KeepAll,
            How::Random => Self::Random,
            How::RandomTorn => Self::RandomTorn,
            How::Subset(bits) => Self::Subset(bits.into()),
        }
    }
}

fuzz_target!(|input: Input| {
    let mut run = Run::new(&input);
    for step in input.steps.iter().take(STEPS_MAX) {
        run.step(step);
    }
    run.end_life();
    run.start();
});

struct Run {
    rig: Rig,
    now_ms: u64,
    entry_count: u64,
    /// A crash that comes by itself: how, and at which change of the disk.
    pending: Option<(Crash, u64)>,
    has_failed: bool,
    /// How the last life ended: whether the power went.
    is_crash: bool,
    /// A sync failed, so the page cache shows what the disk may not have.
    was_cache_wrong: bool,
}

impl Run {
    fn new(input: &Input) -> Self {
        let mut rig = Rig::new(input.seed.into());
        rig.segment_bytes = 1024 + u64::from(input.segment_sectors) * 512;
        if input.is_relaxed {
            rig.durability = Durability::Relaxed;
        }
        rig.start().expect("a new machine");
        NAMES.iter().for_each(|name| rig.create(name));
        Self {
            rig,
            now_ms: 1_764_000_000_000,
            entry_count: 0,
            pending: None,
            has_failed: false,
            is_crash: false,
            was_cache_wrong: false,
        }
    }

    fn step(&mut self, step: &Step) {
        let name = |which: &u8| NAMES[usize::from(*which) % NAMES.len()];
        let is_quiet = self.pending.is_none() && !self.has_failed;
        match step {
            Step::Append {
                which,
                count,
                padding,
            } => {
                let entries = self.entries(count % 5 + 1, usize::from(*padding) * 3);
                let _failing = self.rig.append(&[(name(which), entries)]);
            }
            Step::AppendToAll { padding } => {
                let groups = NAMES.map(|name| (name, self.entries(1, (*padding).into())));
                let _failing = self.rig.append(&groups);
            }
            Step::AppendAround { which, count } => {
                let entries = self.entries(count % 12 + 1, 700);
                let _failing = self.rig.append_around(name(which), entries);
            }
            Step::Background => self.rig.background(),
            Step::Seal => self.rig.seal(),
            Step::Idle { which } => self.rig.idle(name(which)),
            Step::Remake { which } => {
                self.rig.delete(name(which));
                self.rig.create(name(which));
            }
            Step::Delete { which } => self.rig.delete(name(which)),
            Step::Clock { step_s } => {
                self.now_ms = self.now_ms.saturating_add_signed(i64::from(*step_s) * 1000);
                self.rig.machine.set_now_ms(self.now_ms);
            }
            Step::Stop if is_quiet => {
                self.end_life();
                self.start();
            }
            Step::Kill if self.pending.is_none() => {
                self.end(None);
                self.start();
            }
            Step::Crash { how } => self.crash((*how).into()),
            Step::CrashIn { changes, how } if self.pending.is_none() => {
                let changes = u64::from(changes % 32);
                self.rig.machine.stop_at(changes);
                let at = self.rig.machine.change_count() + changes;
                self.pending = Some(((*how).into(), at));
            }
            Step::CrashInRecovery { changes, how } => {
                self.end_life();
                self.rig.machine.stop_at((*changes).into());
                let _cut_off = self.rig.start();
                self.crash((*how).into());
            }
            Step::Fail { op, after } if is_quiet => {
                self.has_failed = true;
                let (op, failure) = match op {
                    FailingOp::Write => (Op::Write, Failure::Io),
                    FailingOp::ShortWrite => (Op::Write, Failure::Short),
                    FailingOp::Sync => (Op::Sync, Failure::Io),
                };
                self.rig.machine.fail(Fault {
                    op,
                    path: "",
                    after: (after % 16).into(),
                    failure,
                    is_sticky: false,
                });
            }
            Step::Stop | Step::Kill | Step::CrashIn { .. } | Step::Fail { .. } => {}
        }
        if let Some((crash, at)) = self.pending
            && self.rig.machine.change_count() >= at
        {
            self.crash(crash);
        }
    }

    fn entries(&mut self, count: u8, padding: usize) -> Vec<trialog::model::NewEntry> {
        let numbers = (0..u64::from(count)).map(|n| self.entry_count + n);
        let entries = numbers.map(|n| entry(["A", "B", "C"][n as usize % 3], n, padding));
        let entries = entries.collect();
        self.entry_count += u64::from(count);
        entries
    }

    fn crash(&mut self, crash: Crash) {
        self.end(Some(crash));
        self.start();
    }

    /// Ends the life there is, in the way that fits its state.
    fn end_life(&mut self) {
        let pending = self.pending.take().map(|(crash, _)| crash);
        if pending.is_none() && !self.has_failed {
            self.rig.stop();
        }
        self.end(pending);
    }

    /// The power goes, or the process is killed; what is left is checked.
    fn end(&mut self, crash: Option<Crash>) {
        self.was_cache_wrong |= self.rig.machine.is_cache_wrong();
        self.rig.machine.heal();
        self.is_crash = crash.is_some();
        match crash {
            Some(crash) => self.rig.crash(crash),
            None => self.rig.kill(),
        }
        self.check(Leeway {
            ends_may_be_lost: self.is_crash || self.was_cache_wrong,
            settles: self.is_crash,
        });
    }

    /// Recovers, and checks again.
    fn start(&mut self) {
        self.pending = None;
        self.has_failed = false;
        self.rig.start().expect("it always starts");
        self.check(Leeway {
            ends_may_be_lost: self.was_cache_wrong,
            settles: true,
        });
        self.was_cache_wrong = false;
    }

    fn check(&mut self, leeway: Leeway) {
        let is_relaxed = self.rig.durability == Durability::Relaxed;
        let checked = self.rig.try_check(Leeway {
            ends_may_be_lost: leeway.ends_may_be_lost && is_relaxed,
            ..leeway
        });
        checked.expect("what is promised");
    }
}
