//! Operations in any order with crashes in between, against a plain model: very many short runs,
//! each made from one number.

pub mod campaign;
mod run;
mod schedule;

use campaign::{Failed, explain, outcome, run_all};
use schedule::Schedule;

/// Runs in a plain `cargo test`.
const SCHEDULES: u64 = 200_000;

#[test]
fn nothing_acknowledged_is_ever_lost() {
    const TEST: &str = "crash::nothing_acknowledged_is_ever_lost";
    if let Some(seed) = number("TRIALOG_TEST_SEED") {
        let schedule = Schedule::random(seed);
        eprintln!("{schedule:#?}");
        if let Err(why) = outcome(&schedule, None) {
            panic!("{}", explain(TEST, &Failed { seed, why }));
        }
        return;
    }
    let count = number("TRIALOG_TEST_SCHEDULES").unwrap_or(SCHEDULES);
    let first = number("TRIALOG_TEST_FIRST").unwrap_or(0);
    let begun = std::time::Instant::now();
    let seen = match run_all(first, count, None) {
        Ok(seen) => seen,
        Err(failed) => panic!("{}", explain(TEST, &failed)),
    };
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!(
        "{seen:#?}\nin {seconds:.1} s, {:.0} a second",
        count as f64 / seconds
    );
    assert_eq!(seen.schedules, count);
    if count < 1000 {
        return;
    }
    let at_least = |part: u64, percent: u64| part * 100 >= count * percent;
    assert!(at_least(seen.with_several_crashes, 30), "{seen:#?}");
    assert!(at_least(seen.with_crash_in_recovery, 10), "{seen:#?}");
    assert!(at_least(seen.with_failed_call, 10), "{seen:#?}");
    // Seldom: both laps are full, and the disk.
    assert!(seen.dropped * 10 >= count, "{seen:#?}");
    assert!(seen.taken_back * 20_000 >= count, "{seen:#?}");
    for doing in [
        "append",
        "append to all",
        "request with keys",
        "large group",
        "roll",
        "write-out",
        "checkpoint",
        "seal",
        "leaving",
        "retention",
        "deletion",
        "deletion and making",
        "clean stop",
    ] {
        assert!(
            seen.inside.contains_key(doing),
            "none inside {doing}: {seen:#?}"
        );
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}
