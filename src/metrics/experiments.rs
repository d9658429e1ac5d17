//! Entries by experiment, for a bounded number of experiments.
//!
//! The first ones that get entries have a counter of their own until they are deleted; all others
//! share one. So each counter only grows, which the largest at any moment would not: one that comes
//! and goes looks like a restart.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Counter;
use crate::model::Slug;

/// What is counted of an experiment.
#[derive(Debug, Default)]
pub struct Counters {
    /// Entries that became durable.
    pub entries: Counter,
    /// Bytes that became durable in its segments.
    pub bytes: Counter,
}

/// The counters of all experiments.
pub struct ExperimentCounters {
    own_max: usize,
    own: Mutex<BTreeMap<Slug, Arc<Counters>>>,
    others: Arc<Counters>,
}

impl ExperimentCounters {
    /// Has counters for `own_max` experiments, and one for all others.
    pub fn new(own_max: usize) -> Self {
        Self {
            own_max,
            own: Mutex::default(),
            others: Arc::default(),
        }
    }

    /// The counters of an experiment that gets entries.
    pub fn of(&self, slug: &Slug) -> Arc<Counters> {
        let mut own = self.own();
        if let Some(counter) = own.get(slug) {
            return counter.clone();
        }
        if own.len() >= self.own_max {
            return self.others.clone();
        }
        own.entry(slug.clone()).or_default().clone()
    }

    /// Gives the place of a deleted experiment to another. What it counted stays, among the others.
    pub fn forget(&self, slug: &Slug) {
        if let Some(gone) = self.own().remove(slug) {
            self.others.add(&gone);
        }
    }

    /// Those with counters of their own, in order; and what all others have together, with those of
    /// them that `is_shown` leaves out.
    pub fn read(&self, is_shown: impl Fn(&Slug) -> bool) -> (Vec<(Slug, Arc<Counters>)>, Counters) {
        let own = self.own();
        let others = Counters::default();
        others.add(&self.others);
        let mut shown = Vec::new();
        for (slug, counters) in own.iter() {
            match is_shown(slug) {
                true => shown.push((slug.clone(), counters.clone())),
                false => others.add(counters),
            }
        }
        (shown, others)
    }

    fn own(&self) -> MutexGuard<'_, BTreeMap<Slug, Arc<Counters>>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters {
    fn add(&self, other: &Self) {
        self.entries.add(other.entries.get());
        self.bytes.add(other.bytes.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ones_have_their_own_and_nothing_ever_falls() {
        let counters = ExperimentCounters::new(2);
        let [a, b, c] = ["a", "b", "c"].map(|slug| Slug::parse(slug).unwrap());
        let read = |is_shown: fn(&Slug) -> bool| {
            let (own, others) = counters.read(is_shown);
            let own = own.iter();
            let own: Vec<_> = own
                .map(|(slug, c)| (slug.to_string(), c.entries.get()))
                .collect();
            (own, others.entries.get())
        };
        for (slug, count) in [(&a, 1), (&b, 2), (&c, 4), (&a, 8)] {
            counters.of(slug).entries.add(count);
        }
        assert_eq!(read(|_| true), (vec![("a".into(), 9), ("b".into(), 2)], 4));
        assert_eq!(
            read(|slug| slug.as_str() == "b"),
            (vec![("b".into(), 2)], 13)
        );
        counters.forget(&a);
        counters.of(&c).entries.add(16);
        assert_eq!(
            read(|_| true),
            (vec![("b".into(), 2), ("c".into(), 16)], 13)
        );
    }
}
