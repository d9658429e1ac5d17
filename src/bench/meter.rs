//! What a run measured: latencies in a histogram, entries and errors by the second and by round.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

/// The histogram's resolution.
pub const SIGNIFICANT_DIGITS: u8 = 3;
/// An hour; what takes longer counts as this.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// Hears of each second that is over.
pub type Watch = Rc<dyn Fn(&str, &Second)>;

/// Collects what becomes of the requests to one target.
pub struct Meter {
    name: String,
    entries_per_request: u64,
    watch: Option<Watch>,
    /// Of the second that runs.
    now: Histogram<u64>,
    now_errors: u64,
    now_since: Instant,
    round_since: Instant,
    total: Histogram<u64>,
    errors: BTreeMap<String, u64>,
    seconds: Vec<Second>,
    rounds: Vec<Round>,
    unsent: u64,
}

/// One second of a run, or the rest of one at the end of a round.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Second {
    /// Which round, from 0.
    pub round: usize,
    /// When it began, in seconds since the round did.
    pub at_seconds: f64,
    /// How long it was.
    pub seconds: f64,
    /// Entries that were acknowledged.
    pub entries: u64,
    /// Requests that failed.
    pub errors: u64,
    pub latency_us: Latency,
}

/// A stretch of work without a pause, from its first request to its last answer.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    pub entries: u64,
    pub seconds: f64,
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p999: f64,
    pub max: f64,
}

/// All that was measured of one target.
pub struct Measured {
    pub name: String,
    pub entries_per_request: u64,
    /// In nanoseconds, one for each request that was acknowledged.
    pub histogram: Histogram<u64>,
    pub errors: BTreeMap<String, u64>,
    pub seconds: Vec<Second>,
    pub rounds: Vec<Round>,
    /// Requests of an open loop that were due and could not be sent in time.
    pub unsent: u64,
}

impl Meter {
    pub fn new(name: &str, entries_per_request: usize, watch: Option<Watch>) -> Result<Self> {
        let empty = || Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS);
        let now = Instant::now();
        Ok(Self {
            name: name.into(),
            entries_per_request: entries_per_request as u64,
            watch,
            now: empty()?,
            now_errors: 0,
            now_since: now,
            round_since: now,
            total: empty()?,
            errors: BTreeMap::new(),
            seconds: Vec::new(),
            rounds: Vec::new(),
            unsent: 0,
        })
    }

    /// Work begins, or goes on after a pause.
    pub fn begin_round(&mut self, now: Instant) {
        self.round_since = now;
        self.now_since = now;
    }

    /// A request was acknowledged.
    pub fn acknowledged(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.now.saturating_record(ns);
    }

    /// A request failed.
    pub fn failed(&mut self, code: String) {
        self.now_errors += 1;
        *self.errors.entry(code).or_default() += 1;
    }

    /// Requests were due and not sent.
    pub fn left_unsent(&mut self, count: u64) {
        self.unsent += count;
    }

    /// Closes the second that runs, if it is over.
    pub fn tick(&mut self, now: Instant) -> Result<()> {
        if now.saturating_duration_since(self.now_since) < Duration::from_secs(1) {
            return Ok(());
        }
        self.close_second(now)?;
        if let (Some(watch), Some(second)) = (&self.watch, self.seconds.last()) {
            watch(&self.name, second);
        }
        Ok(())
    }

    /// The last answer has come.
    pub fn end_round(&mut self, now: Instant) -> Result<()> {
        if !self.now.is_empty() || self.now_errors > 0 {
            self.close_second(now)?;
        }
        let seconds = self.seconds.iter();
        let entries = seconds
            .filter(|second| second.round == self.rounds.len())
            .map(|second| second.entries)
            .sum();
        self.rounds.push(Round {
            entries,
            seconds: (now - self.round_since).as_secs_f64(),
        });
        Ok(())
    }

    pub fn measured(self) -> Measured {
        Measured {
            name: self.name,
            entries_per_request: self.entries_per_request,
            histogram: self.total,
            errors: self.errors,
            seconds: self.seconds,
            rounds: self.rounds,
            unsent: self.unsent,
        }
    }

    fn close_second(&mut self, now: Instant) -> Result<()> {
        let second = Second {
            round: self.rounds.len(),
            at_seconds: (self.now_since - self.round_since).as_secs_f64(),
            seconds: (now - self.now_since).as_secs_f64(),
            entries: self.now.len() * self.entries_per_request,
            errors: self.now_errors,
            latency_us: Latency::of(&self.now),
        };
        self.seconds.push(second);
        self.total.add(&self.now)?;
        self.now.reset();
        self.now_errors = 0;
        self.now_since = now;
        Ok(())
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            p50: us(0.5),
            p90: us(0.9),
            p99: us(0.99),
            p999: us(0.999),
            max: histogram.max() as f64 / 1000.0,
        }
    }
}

impl Measured {
    pub fn latency(&self) -> Latency {
        Latency::of(&self.histogram)
    }

    /// Acknowledged entries.
    pub fn entries(&self) -> u64 {
        self.histogram.len() * self.entries_per_request
    }

    pub fn seconds(&self) -> f64 {
        self.rounds.iter().map(|round| round.seconds).sum()
    }

    pub fn entries_per_second(&self) -> f64 {
        per_second(self.entries(), self.seconds())
    }

    /// Requests that failed.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

impl Round {
    pub fn entries_per_second(&self) -> f64 {
        per_second(self.entries, self.seconds)
    }
}

fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_out_between_seconds_and_rounds() {
        let mut meter = Meter::new("x", 10, None).unwrap();
        let begin = Instant::now();
        let ms = Duration::from_millis;
        for round in 0..2 {
            let begin = begin + ms(round * 10_000);
            meter.begin_round(begin);
            for n in 0..25 {
                meter.acknowledged(ms(n));
                meter.tick(begin + ms(n * 100)).unwrap();
            }
            meter.failed("overloaded".into());
            meter.end_round(begin + ms(2500)).unwrap();
        }
        meter.left_unsent(3);
        let measured = meter.measured();
        assert_eq!((measured.entries(), measured.unsent), (500, 3));
        assert_eq!(measured.error_count(), 2);
        let by_second: Vec<_> = measured
            .seconds
            .iter()
            .map(|second| (second.round, second.entries, second.errors))
            .collect();
        let of_round = |n| [(n, 110, 0), (n, 100, 0), (n, 40, 1)];
        assert_eq!(by_second, [of_round(0), of_round(1)].concat());
        assert!(measured.rounds.iter().all(|round| round.entries == 250));
        assert_eq!(measured.entries_per_second(), 100.0);
        let latency = measured.latency();
        assert!((latency.max - 24_000.0).abs() < 24.0, "{latency:?}");
        assert!((latency.p50 - 12_000.0).abs() < 12.0, "{latency:?}");
    }
}
