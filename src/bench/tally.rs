//! What was acknowledged, by experiment: counts, and what tells whether the same ids are found.

use anyhow::{Context, Result};
use fastrand::Rng;

use super::answer::Answer;
use crate::model::LogId;

/// How many acknowledged entries are remembered to be read back one by one.
const SAMPLES_MAX: usize = 256;

/// Counts for each experiment, from 0.
pub struct Tally {
    per_request: u64,
    counts: Vec<Count>,
    /// Ids are looked at only when somebody will ask for them.
    samples: Option<Samples>,
}

/// What is known of one experiment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Entries that were acknowledged.
    pub acknowledged: u64,
    /// Entries that were sent, and may be there or not.
    pub unknown: u64,
    /// The sum of all acknowledged ids. Another set of ids hardly has the same.
    pub id_sum: u128,
}

/// Some of all acknowledged entries, each as likely as the others.
struct Samples {
    seen: u64,
    kept: Vec<Sample>,
    random: Rng,
}

/// An acknowledged entry.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub experiment: usize,
    pub id: LogId,
    /// Which of the bodies it had, counted on from the first again behind the last.
    pub body: usize,
}

impl Count {
    pub fn add_id(&mut self, id: LogId) {
        self.id_sum = self.id_sum.wrapping_add(id.as_u128());
    }
}

impl Tally {
    /// For so many experiments, with so many entries in each request.
    pub fn new(experiments: usize, per_request: usize, with_ids: bool, seed: u64) -> Self {
        Self {
            per_request: per_request as u64,
            counts: vec![Count::default(); experiments],
            samples: with_ids.then(|| Samples {
                seen: 0,
                kept: Vec::with_capacity(SAMPLES_MAX),
                random: Rng::with_seed(seed),
            }),
        }
    }

    /// A request was acknowledged, whose first body was `first`.
    pub fn acknowledged(
        &mut self,
        experiment: usize,
        first: usize,
        answer: &Answer<'_>,
    ) -> Result<()> {
        let Some(count) = self.counts.get_mut(experiment) else {
            return Ok(());
        };
        count.acknowledged += self.per_request;
        let Some(samples) = &mut self.samples else {
            return Ok(());
        };
        let mut found = 0;
        for (body, id) in (first..).zip(ids(answer.body)) {
            found += 1;
            count.add_id(id);
            samples.offer(Sample {
                experiment,
                id,
                body,
            });
        }
        let is_complete = found == self.per_request;
        is_complete
            .then_some(())
            .context("an acknowledgement lacks ids")
    }

    /// Nobody knows what became of a request.
    pub fn unknown(&mut self, experiment: usize) {
        if let Some(count) = self.counts.get_mut(experiment) {
            count.unknown += self.per_request;
        }
    }

    pub fn counts(&self) -> &[Count] {
        &self.counts
    }

    pub fn samples(&self) -> &[Sample] {
        self.samples.as_ref().map_or(&[], |samples| &samples.kept)
    }
}

impl Samples {
    fn offer(&mut self, sample: Sample) {
        self.seen += 1;
        if self.kept.len() < SAMPLES_MAX {
            return self.kept.push(sample);
        }
        let at = usize::try_from(self.random.u64(..self.seen)).unwrap_or(usize::MAX);
        if let Some(kept) = self.kept.get_mut(at) {
            *kept = sample;
        }
    }
}

/// The ids in an acknowledgement, in the order of the entries.
pub fn ids(body: &[u8]) -> impl Iterator<Item = LogId> + '_ {
    memchr::memmem::find_iter(body, b"\"log_").filter_map(|at| {
        let id = body.get(at + 1..at + 1 + LogId::TEXT_LEN)?;
        std::str::from_utf8(id).ok()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_counted_summed_and_sampled() {
        let id = |n: u32| LogId::from_u128(n.into());
        let text = |n: u32| {
            format!(
                r#"{{"success":true,"count":2,"logIds":["{}","{}"]}}"#,
                id(n),
                id(n + 1)
            )
        };
        let mut tally = Tally::new(2, 2, true, 1);
        for n in 0..1000 {
            let text = text(2 * n);
            let answer = Answer {
                status: 200,
                body: text.as_bytes(),
                len: 0,
                is_last: false,
            };
            tally.acknowledged(1, 2 * n as usize, &answer).unwrap();
        }
        tally.unknown(0);
        let expected = [
            Count {
                unknown: 2,
                ..Count::default()
            },
            Count {
                acknowledged: 2000,
                unknown: 0,
                id_sum: 1999 * 1000,
            },
        ];
        assert_eq!(tally.counts(), expected);
        assert_eq!(tally.samples().len(), SAMPLES_MAX);
        for sample in tally.samples() {
            assert_eq!(sample.id.as_u128(), sample.body as u128);
        }
        let late = tally.samples().iter().filter(|sample| sample.body >= 1000);
        assert!((80..176).contains(&late.count()), "all are as likely");
    }
}
