//! Many runs on all cores; and what makes one that fails easy to repeat and to read.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::run::{Seen, run};
use super::schedule::{End, How, Schedule, Step};
use crate::caught::catch;
use crate::lies::Lie;

/// How many runs a thread takes at once.
const BLOCK: u64 = 64;

/// A run that failed.
#[derive(Debug)]
pub struct Failed {
    pub seed: u64,
    pub why: String,
}

/// Runs the schedules of these numbers; the one with the lowest number that fails, if any does.
pub fn run_all(first: u64, count: u64, lie: Option<Lie>) -> Result<Seen, Failed> {
    let next = AtomicU64::new(first);
    let is_over = AtomicBool::new(false);
    let total = Mutex::new((Seen::default(), None::<Failed>));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let begin = next.fetch_add(BLOCK, Ordering::Relaxed);
                    let seeds = begin..(begin + BLOCK).min(first + count);
                    if seeds.is_empty() {
                        break;
                    }
                    let mut seen = Seen::default();
                    let failed = seeds.into_iter().find_map(|seed| {
                        match outcome(&Schedule::random(seed), lie) {
                            Ok(one) => {
                                seen.add(&one);
                                None
                            }
                            Err(why) => Some(Failed { seed, why }),
                        }
                    });
                    let mut total = total.lock().unwrap();
                    total.0.add(&seen);
                    if let Some(failed) = failed {
                        // Blocks are begun in order, so a lower one is finished too.
                        is_over.store(true, Ordering::Relaxed);
                        let is_first = |known: &Failed| known.seed > failed.seed;
                        if total.1.as_ref().is_none_or(is_first) {
                            total.1 = Some(failed);
                        }
                    }
                }
            });
        }
    });
    let (seen, failed) = total.into_inner().unwrap();
    failed.map_or(Ok(seen), Err)
}

/// What comes of a run; a panic is a failure like any other.
pub fn outcome(schedule: &Schedule, lie: Option<Lie>) -> Result<Seen, String> {
    catch(|| run(schedule, lie))
}

/// Says all that helps with a run that failed: how to repeat it, and a shorter one.
pub fn explain(test: &str, failed: &Failed) -> String {
    let schedule = Schedule::random(failed.seed);
    let (shorter, why) = shrink(&schedule, &failed.why);
    format!(
        "the schedule {seed} fails: {first}\nRepeat it with:\n  \
         TRIALOG_TEST_SEED={seed} cargo test --release --test it {test}\n\
         A shorter one fails too: {why}\n{shorter:#?}",
        seed = failed.seed,
        first = failed.why,
    )
}

/// Takes steps out of a schedule for as long as it fails, and some time at most.
fn shrink(schedule: &Schedule, why: &str) -> (Schedule, String) {
    let begun = Instant::now();
    let (mut best, mut best_why) = (schedule.clone(), why.to_owned());
    let mut try_one = |best: &mut Schedule, shorter: Schedule| {
        let Err(why) = outcome(&shorter, None) else {
            return false;
        };
        *best = shorter;
        best_why = why;
        true
    };
    let mut chunk = best.steps.len();
    while chunk > 0 && begun.elapsed() < Duration::from_secs(20) {
        let mut at = 0;
        let mut is_shorter = false;
        while at < best.steps.len() {
            let mut shorter = best.clone();
            let end = (at + chunk).min(shorter.steps.len());
            shorter.steps.drain(at..end);
            match try_one(&mut best, shorter) {
                true => is_shorter = true,
                false => at += chunk,
            }
        }
        if !is_shorter {
            chunk /= 2;
        }
    }
    for at in 0..best.steps.len() {
        for simpler in simpler(&best.steps[at]) {
            let mut schedule = best.clone();
            schedule.steps[at] = simpler;
            try_one(&mut best, schedule);
        }
    }
    (best, best_why)
}

/// The same step with less to it.
fn simpler(step: &Step) -> Vec<Step> {
    match step {
        Step::Append { which, .. } => vec![Step::Append {
            which: *which,
            count: 1,
            padding: 0,
        }],
        Step::End(end) => {
            let no_recovery = End {
                recovery: Vec::new(),
                ..end.clone()
            };
            let killed = End {
                how: How::Kill,
                ..no_recovery.clone()
            };
            vec![Step::End(no_recovery), Step::End(killed)]
        }
        _ => Vec::new(),
    }
}
