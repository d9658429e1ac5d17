//! At the end of a run: all that was acknowledged is looked for.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Result, bail};

use super::api::Server;
use super::entries::Entries;
use super::tally::{Count, Tally};
use super::verdict::Verdict;
use crate::fs::real;
use crate::model::{LogId, Slug};
use crate::offline::Source;
use crate::offline::replay::{Selection, replay};
use crate::offline::verify::verify;

/// What is found of one experiment.
#[derive(Default)]
struct Found {
    /// Entries with different ids.
    count: Count,
    last: Option<LogId>,
}

/// Looks for everything in the files of a store that nobody serves.
pub fn in_store(store: &Path, slugs: &[Slug], tally: &Tally, entries: &Entries) -> Result<Verdict> {
    let disk = real::host().disk;
    let report = verify(disk.clone(), store)?;
    let mut verdict = Verdict {
        damage: report
            .findings
            .into_iter()
            .map(|found| found.what)
            .collect(),
        ..Verdict::default()
    };
    let places: HashMap<&Slug, usize> = slugs.iter().zip(0..).collect();
    let sent: HashSet<&[u8]> = entries.bodies.iter().map(|body| body.as_bytes()).collect();
    let mut found: Vec<Found> = slugs.iter().map(|_| Found::default()).collect();
    let source = Source::open(disk, store)?;
    replay(&source, &Selection::default(), |entry| {
        verdict.found += 1;
        let place = places.get(entry.slug).and_then(|at| found.get_mut(*at));
        let Some(found) = place else {
            verdict.unexpected += 1;
            return Ok(());
        };
        if !sent.contains(entry.body) {
            verdict.changed += 1;
        }
        // Ids rise, so that one that is there twice is seen by its neighbour.
        if found.last.is_some_and(|last| entry.id <= last) {
            verdict.doubled += 1;
            return Ok(());
        }
        found.last = Some(entry.id);
        found.count.acknowledged += 1;
        found.count.add_id(entry.id);
        Ok(())
    })?;
    for (expected, found) in tally.counts().iter().zip(&found) {
        verdict.hold(expected, &found.count);
    }
    Ok(verdict)
}

/// Asks the server: how many entries have come, and for some of them one by one. `before` are the
/// counts from before the run; nobody else may write there meanwhile.
pub fn through_api(
    server: &Server,
    slugs: &[Slug],
    before: &[u64],
    tally: &Tally,
    entries: &Entries,
) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    let after = server.counts(slugs)?;
    for ((expected, before), after) in tally.counts().iter().zip(before).zip(after) {
        let found = Count {
            acknowledged: after.saturating_sub(*before),
            unknown: 0,
            // Only the files tell all ids.
            id_sum: expected.id_sum,
        };
        verdict.found += found.acknowledged;
        verdict.hold(expected, &found);
    }
    let mut client = server.connect()?;
    let mut missing = 0;
    for sample in tally.samples() {
        let Some(slug) = slugs.get(sample.experiment) else {
            continue;
        };
        let path = format!("/experiment/{slug}/log/{}", sample.id);
        let answer = client.ask("GET", &path, b"")?;
        let sent = entries.bodies.get(sample.body % entries.bodies.len());
        let sent = sent.and_then(|body| body.strip_prefix('{'));
        match answer.status {
            // Its own members come last, byte for byte.
            200 if sent.is_some_and(|sent| answer.body.ends_with(sent.as_bytes())) => {}
            200 => verdict.changed += 1,
            404 => missing += 1,
            _ => bail!("can't read {} back: {}", sample.id, answer.words()),
        }
    }
    // They may be among those that the counts miss.
    verdict.lost = verdict.lost.max(missing);
    Ok(verdict)
}

impl Verdict {
    /// Takes in one experiment.
    fn hold(&mut self, expected: &Count, found: &Count) {
        let (acknowledged, found_count) = (expected.acknowledged, found.acknowledged);
        self.acknowledged += acknowledged;
        self.unknown += expected.unknown;
        self.lost += acknowledged.saturating_sub(found_count);
        self.unexpected += found_count.saturating_sub(acknowledged + expected.unknown);
        let is_same_count = acknowledged == found_count && expected.unknown == 0;
        if is_same_count && expected.id_sum != found.id_sum {
            self.changed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_ids_are_held_against_each_other() {
        let count = |acknowledged, unknown, id_sum| Count {
            acknowledged,
            unknown,
            id_sum,
        };
        let held = |expected, found| {
            let mut verdict = Verdict::default();
            verdict.hold(&expected, &found);
            [verdict.lost, verdict.unexpected, verdict.changed]
        };
        assert_eq!(held(count(5, 0, 9), count(5, 0, 9)), [0, 0, 0]);
        assert_eq!(held(count(5, 0, 9), count(3, 0, 4)), [2, 0, 0]);
        assert_eq!(held(count(5, 0, 9), count(6, 0, 12)), [0, 1, 0]);
        assert_eq!(held(count(5, 0, 9), count(5, 0, 8)), [0, 0, 1]);
        // Two requests without an answer may be there or not.
        assert_eq!(held(count(5, 2, 9), count(7, 0, 20)), [0, 0, 0]);
        assert_eq!(held(count(5, 2, 9), count(8, 0, 20)), [0, 1, 0]);
    }
}
