//! Operations in any order with crashes in between, against a plain model.

use proptest::prelude::*;
use trialog::fs::sim::Crash;
use trialog::model::Durability;

use crate::rig::{Rig, entry};

const NAMES: [&str; 3] = ["one", "two", "three"];

#[derive(Debug, Clone)]
enum Step {
    Append {
        which: usize,
        count: usize,
        padding: usize,
    },
    AppendToAll {
        padding: usize,
    },
    AppendAround {
        which: usize,
        count: usize,
    },
    Background,
    Seal,
    Idle {
        which: usize,
    },
    Remake {
        which: usize,
    },
    Clock {
        step_ms: i64,
    },
    Stop,
    Kill,
    Crash {
        crash: Crash,
        after: Option<u64>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..NAMES.len();
    let crash = prop_oneof![
        1 => Just(Crash::LoseAll),
        1 => Just(Crash::KeepAll),
        4 => Just(Crash::Random),
        4 => Just(Crash::RandomTorn),
    ];
    prop_oneof![
        8 => (which.clone(), 1..5usize, 0..600usize)
            .prop_map(|(which, count, padding)| Step::Append { which, count, padding }),
        4 => (0..300usize).prop_map(|padding| Step::AppendToAll { padding }),
        3 => (which.clone(), 1..12usize).prop_map(|(which, count)| Step::AppendAround { which, count }),
        6 => Just(Step::Background),
        2 => Just(Step::Seal),
        1 => which.clone().prop_map(|which| Step::Idle { which }),
        1 => which.prop_map(|which| Step::Remake { which }),
        2 => (-100_000..100_000i64).prop_map(|step_ms| Step::Clock { step_ms }),
        1 => Just(Step::Stop),
        1 => Just(Step::Kill),
        3 => (crash, proptest::option::of(0..25u64))
            .prop_map(|(crash, after)| Step::Crash { crash, after }),
    ]
}

/// Runs the steps; after each end of a life, what is left is checked before and after recovery.
fn run(seed: u64, durability: Durability, steps: &[Step]) {
    let mut rig = Rig::new(seed);
    rig.durability = durability;
    rig.start().unwrap();
    for name in NAMES {
        rig.create(name);
    }
    let mut now_ms = 1_764_000_000_000i64;
    let mut n = 0;
    let mut crash_pending: Option<(Crash, u64)> = None;
    for step in steps {
        let mut is_over = false;
        match step {
            Step::Append {
                which,
                count,
                padding,
            } => {
                let entries = (0..*count).map(|i| {
                    n += 1;
                    entry(["A", "B", "C"][i % 3], n, *padding)
                });
                let entries = entries.collect();
                let _crashing = rig.append(&[(NAMES[*which], entries)]);
            }
            Step::AppendToAll { padding } => {
                n += 1;
                let groups = NAMES.map(|name| (name, vec![entry("A", n, *padding)]));
                let _crashing = rig.append(&groups);
            }
            Step::AppendAround { which, count } => {
                let entries = (0..*count).map(|_| {
                    n += 1;
                    entry("B", n, 700)
                });
                let entries = entries.collect();
                let _crashing = rig.append_around(NAMES[*which], entries);
            }
            Step::Background => rig.background(),
            Step::Seal => rig.seal(),
            Step::Idle { which } => rig.idle(NAMES[*which]),
            Step::Remake { which } if crash_pending.is_none() => {
                rig.delete(NAMES[*which]);
                rig.create(NAMES[*which]);
            }
            Step::Remake { .. } => {}
            Step::Clock { step_ms } => {
                now_ms = (now_ms + step_ms).max(1_700_000_000_000);
                rig.machine.set_now_ms(now_ms as u64);
            }
            Step::Stop if crash_pending.is_none() => {
                rig.stop();
                is_over = true;
            }
            Step::Kill if crash_pending.is_none() => {
                rig.kill();
                is_over = true;
            }
            Step::Stop | Step::Kill => {}
            Step::Crash { crash, after: None } => {
                rig.crash(*crash);
                crash_pending = None;
                is_over = true;
            }
            Step::Crash {
                crash,
                after: Some(after),
            } => {
                if crash_pending.is_none() {
                    rig.machine.stop_at(*after);
                    crash_pending = Some((*crash, rig.machine.change_count() + after));
                }
            }
        }
        if let Some((crash, at)) = crash_pending
            && rig.machine.change_count() >= at
            && !is_over
        {
            rig.crash(crash);
            crash_pending = None;
            is_over = true;
        }
        if is_over {
            check(&mut rig);
            // Sometimes recovery itself is cut off.
            let cut_off = n % 3;
            if cut_off > 0 && rig.life.is_none() {
                rig.machine.stop_at(cut_off * 7);
                if rig.start().is_err() {
                    rig.crash(Crash::RandomTorn);
                } else {
                    rig.crash(Crash::Random);
                }
            }
            rig.start().unwrap();
            check(&mut rig);
        }
    }
    rig.stop();
    check(&mut rig);
}

/// What is promised of what is left. With relaxed durability a power cut may take the end of what
/// was acknowledged, and nothing else.
fn check(rig: &mut Rig) {
    if rig.durability == Durability::Relaxed {
        rig.forget_lost_ends();
    }
    rig.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, max_shrink_iters: 4000, ..ProptestConfig::default() })]
    #[test]
    fn nothing_acknowledged_is_ever_lost(seed in any::<u64>(), steps in proptest::collection::vec(step(), 1..60)) {
        run(seed, Durability::Sync, &steps);
    }
    #[test]
    fn with_relaxed_durability_a_crash_takes_ends_only(seed in any::<u64>(), steps in proptest::collection::vec(step(), 1..60)) {
        run(seed, Durability::Relaxed, &steps);
    }
}
