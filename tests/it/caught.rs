//! What simulations catch: a panic, which is a failure like any other, and bugs that are planted.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Each planted bug must be caught by this many seeds.
pub const SEEDS_MAX: u64 = 1000;

/// What `run` says, or what it panicked with.
pub fn catch<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| Some((*panic.downcast_ref::<&str>()?).to_owned()));
        Err(format!("a panic: {}", text.unwrap_or_default()))
    })
}

/// Says for each bug by how many seeds it was caught; all must be.
pub fn all_caught(bugs: impl Iterator<Item = (String, Option<(u64, String)>)>) {
    let mut missed = Vec::new();
    for (bug, caught) in bugs {
        match caught {
            Some((seed, why)) => eprintln!("{bug}: caught by {} seeds: {why}", seed + 1),
            None => missed.push(bug),
        }
    }
    assert!(
        missed.is_empty(),
        "not caught by {SEEDS_MAX} seeds: {missed:?}"
    );
}
