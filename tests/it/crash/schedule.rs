//! What happens to a store in one run: all of it comes from one number.

use fastrand::Rng;
use trialog::fs::sim::{Crash, Failure, Fault, Op};
use trialog::log::expiry::Limits;
use trialog::model::Durability;

use crate::rig::Request;

/// The experiments of each run.
pub const NAMES: [&str; 3] = ["one", "two", "three"];

/// One run.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub seed: u64,
    pub durability: Durability,
    pub segment_bytes: u64,
    pub journal_bytes: u64,
    /// At which call of each commit the background work does a round.
    pub background_at: Option<Op>,
    pub steps: Vec<Step>,
}

/// What happens next. A new feature joins with a variant here, a line in [`Step::random`] and an
/// arm in `Runner::perform`.
#[derive(Debug, Clone)]
pub enum Step {
    Append {
        which: usize,
        count: usize,
        padding: usize,
    },
    AppendToAll {
        padding: usize,
    },
    /// A large group, around the journal.
    AppendAround {
        which: usize,
        count: usize,
    },
    /// A request with idempotency keys: mostly one that is known, or that may be.
    Send {
        which: usize,
        request: Request,
    },
    Read {
        which: usize,
        pick: usize,
    },
    /// A round of the background work.
    Background,
    Seal,
    /// An actor leaves; it comes back when it is needed.
    Idle {
        which: usize,
    },
    /// What isn't kept is dropped.
    Retain {
        which: usize,
        limits: Limits,
    },
    /// Deleted, and made again.
    Remake {
        which: usize,
    },
    /// Deleted; the next life makes it again.
    Delete {
        which: usize,
    },
    Clock {
        step_ms: i64,
    },
    /// Calls fail from now on, until this life ends.
    Fail(Fault),
    End(End),
}

/// The end of a life, and what gets in the way of the next one.
#[derive(Debug, Clone)]
pub struct End {
    pub how: How,
    /// Now, or at the n-th change to the disk from now on.
    pub after: Option<u64>,
    /// What cuts recovery off, one try after the other.
    pub recovery: Vec<CutOff>,
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum How {
    Stop,
    Kill,
    Crash(Crash),
}

/// What cuts recovery off.
#[derive(Debug, Clone)]
pub enum CutOff {
    /// The process or the machine ends at the n-th change to the disk.
    End(How, u64),
    /// A call fails.
    Fail(Fault),
}

impl Schedule {
    /// The run of this number. Each has a crash at its end, at least.
    pub fn random(seed: u64) -> Self {
        let rng = &mut Rng::with_seed(seed ^ 0x7472_6961_6c6f_6721);
        let durability = match rng.u8(..5) {
            0 => Durability::Relaxed,
            _ => Durability::Sync,
        };
        let mut schedule = Self {
            seed,
            durability,
            segment_bytes: pick(rng, &[2048, 4096, 4096, 8192]),
            journal_bytes: pick(rng, &[12 << 10, 16 << 10, 24 << 10]),
            background_at: pick(rng, &[None, None, Some(Op::Write), Some(Op::Sync)]),
            steps: (0..rng.usize(4..24))
                .flat_map(|_| {
                    let step = Step::random(rng);
                    with_what_it_needs(rng, step)
                })
                .collect(),
        };
        let mut last = End::random(rng);
        last.how = How::Crash(crash(rng));
        last.after = None;
        schedule.steps.push(Step::End(last));
        schedule
    }
}

impl Step {
    fn random(rng: &mut Rng) -> Self {
        let which = rng.usize(..NAMES.len());
        match rng.u8(..47) {
            46 => Self::Retain {
                which,
                limits: Limits {
                    bytes_max: Some(rng.u64(..8192)).filter(|bytes| bytes % 4 != 0),
                    age_ms_max: rng.bool().then(|| rng.u64(..100_000)),
                    number_end: None,
                },
            },
            40..=45 => Self::Send {
                which,
                request: request(rng),
            },
            0..=7 => Self::Append {
                which,
                count: rng.usize(1..5),
                padding: rng.usize(..600),
            },
            8..=11 => Self::AppendToAll {
                padding: rng.usize(..300),
            },
            12..=14 => Self::AppendAround {
                which,
                count: rng.usize(1..12),
            },
            15..=16 => Self::Read {
                which,
                pick: rng.usize(..100),
            },
            17..=22 => Self::Background,
            23..=25 => Self::Seal,
            26 => Self::Idle { which },
            27 => Self::Delete { which },
            28 => Self::Remake { which },
            29..=30 => Self::Clock {
                step_ms: rng.i64(-100_000..100_000),
            },
            31..=33 => Self::Fail(fault(rng)),
            _ => Self::End(End::random(rng)),
        }
    }
}

impl End {
    fn random(rng: &mut Rng) -> Self {
        let how = match rng.u8(..10) {
            0 => How::Stop,
            1..=3 => How::Kill,
            _ => How::Crash(crash(rng)),
        };
        // What a kill leaves in the page cache, the next power cut may take.
        let cut_offs = match how {
            How::Kill => pick(rng, &[1, 1, 2]),
            _ => pick(rng, &[0, 0, 0, 1, 1, 2]),
        };
        Self {
            how,
            after: (rng.u8(..3) > 0).then(|| rng.u64(..16)),
            recovery: (0..cut_offs).map(|_| CutOff::random(rng)).collect(),
        }
    }
}

impl CutOff {
    fn random(rng: &mut Rng) -> Self {
        match rng.u8(..10) {
            0 => Self::Fail(fault(rng)),
            1..=2 => Self::Fail(failing_read(rng)),
            3 => Self::End(How::Kill, rng.u64(..40)),
            _ => Self::End(How::Crash(crash(rng)), rng.u64(..24)),
        }
    }
}

/// What can be dropped has been filled, sealed and written before; and often a life ends meanwhile.
fn with_what_it_needs(rng: &mut Rng, step: Step) -> Vec<Step> {
    let Step::Retain { which, .. } = step else {
        return vec![step];
    };
    let fill = Step::AppendAround { which, count: 8 };
    let roll = Step::Append {
        which,
        count: 2,
        padding: 100,
    };
    let mut end = End::random(rng);
    end.after = Some(rng.u64(..8));
    let end = rng.bool().then_some(Step::End(end));
    let before = [fill, roll, Step::Seal, Step::Background].into_iter();
    before.chain(end).chain([step]).collect()
}

fn request(rng: &mut Rng) -> Request {
    Request {
        key: rng.u64(..3),
        count: pick(rng, &[1, 1, 2, 3]),
        version: u64::from(rng.u8(..8) == 0),
        is_each: rng.bool(),
        is_large: rng.u8(..4) == 0,
    }
}

fn crash(rng: &mut Rng) -> Crash {
    let all = [
        Crash::LoseAll,
        Crash::KeepAll,
        Crash::Random,
        Crash::RandomTorn,
    ];
    pick(
        rng,
        &[0, 0, 1, 2, 2, 2, 3, 3, 3, 3].map(|at: usize| all[at]),
    )
}

fn fault(rng: &mut Rng) -> Fault {
    use Failure::{Full, Interrupted, Io, Short, TooManyFiles};
    let (op, failures): (Op, &[Failure]) = match rng.u8(..16) {
        0..=4 => (Op::Write, &[Io, Full, Interrupted, Short]),
        5..=8 => (Op::Sync, &[Io, Full, Interrupted]),
        9 => (Op::SyncDir, &[Io]),
        10 => (Op::SyncFilesystem, &[Io]),
        11 => (Op::Open, &[Io, TooManyFiles]),
        12 => (Op::Create, &[Io, Full, TooManyFiles]),
        13 => (Op::Rename, &[Io, Full]),
        14 => (Op::Read, &[Io, Interrupted]),
        _ => pick(
            rng,
            &[
                (Op::Map, &[Io] as _),
                (Op::List, &[Io]),
                (Op::Remove, &[Io]),
            ],
        ),
    };
    let failure = pick(rng, failures);
    Fault {
        op,
        path: pick(rng, &["", ".journal", ".segment"]),
        after: rng.u64(..8),
        failure,
        // An interrupted call is tried again, and so must not be interrupted for ever.
        is_sticky: failure != Interrupted && rng.u8(..4) == 0,
    }
}

fn failing_read(rng: &mut Rng) -> Fault {
    Fault {
        op: pick(rng, &[Op::Read, Op::Map, Op::Map, Op::List]),
        path: pick(rng, &["", ".journal", ".segment"]),
        after: rng.u64(..6),
        failure: Failure::Io,
        is_sticky: rng.bool(),
    }
}

fn pick<T: Copy>(rng: &mut Rng, among: &[T]) -> T {
    among[rng.usize(..among.len())]
}
