//! When requests begin: as soon as a client has its answer, or by the clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Says when the next request begins. Its latency counts from there, also when it had to wait for a
/// free connection: a server that stalls can't hide the requests that it kept from being sent.
pub enum Pace {
    /// A closed loop: each client sends again when it has its answer.
    Closed {
        /// Since when clients want to send, the longest waiting first.
        waiting: VecDeque<Instant>,
    },
    /// An open loop: requests begin at fixed times, whatever becomes of the ones before.
    Open(Schedule),
}

/// Times at equal distances, from `begin` up to `end`.
#[derive(Debug, Clone)]
pub struct Schedule {
    begin: Instant,
    rate: u64,
    taken: u64,
    due: u64,
}

impl Pace {
    /// `clients` that want to send from `begin` on.
    pub fn closed(clients: usize, begin: Instant) -> Self {
        let waiting = std::iter::repeat_n(begin, clients).collect();
        Self::Closed { waiting }
    }

    /// `rate` requests a second from `begin` on, for as long as `span`.
    pub fn open(rate: u64, begin: Instant, span: Duration) -> Self {
        Self::Open(Schedule {
            begin,
            rate,
            taken: 0,
            // Those whose time lies before the end.
            due: count(rate, span),
        })
    }

    /// When a request began that may be sent now.
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        match self {
            Self::Closed { waiting } => waiting.pop_front_if(|since| *since <= now),
            Self::Open(schedule) => schedule.take(now),
        }
    }

    /// A client has its answer.
    pub fn answered(&mut self, now: Instant) {
        if let Self::Closed { waiting } = self {
            waiting.push_back(now);
        }
    }

    /// When the next request begins, if the clock says so.
    pub fn next(&self) -> Option<Instant> {
        match self {
            Self::Closed { .. } => None,
            Self::Open(schedule) => schedule.next(),
        }
    }

    /// Requests whose time came or would have come by the end, and that were not sent.
    pub fn unsent(&self) -> u64 {
        match self {
            Self::Closed { .. } => 0,
            Self::Open(schedule) => schedule.due - schedule.taken,
        }
    }
}

impl Schedule {
    fn next(&self) -> Option<Instant> {
        (self.taken < self.due).then(|| {
            let ns = u128::from(self.taken) * 1_000_000_000 / u128::from(self.rate);
            self.begin + Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
        })
    }

    fn take(&mut self, now: Instant) -> Option<Instant> {
        let next = self.next().filter(|next| *next <= now)?;
        self.taken += 1;
        Some(next)
    }
}

fn count(rate: u64, span: Duration) -> u64 {
    let count = (u128::from(rate) * span.as_nanos()).div_ceil(1_000_000_000);
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_counts_from_the_intended_time_and_leaves_none_out() {
        let begin = Instant::now();
        let ms = Duration::from_millis;
        let mut pace = Pace::open(1000, begin, ms(300));
        assert_eq!(pace.next(), Some(begin));
        assert_eq!(pace.take(begin), Some(begin));
        assert_eq!(pace.take(begin), None, "one a millisecond");
        // The server stalls: those that were held up keep their times.
        let late = begin + ms(100);
        let times: Vec<_> = std::iter::from_fn(|| pace.take(late)).collect();
        let intended: Vec<_> = (1..=100).map(|n| begin + ms(n)).collect();
        assert_eq!(times, intended);
        assert_eq!(pace.unsent(), 199);
        let end = begin + ms(1000);
        assert_eq!(std::iter::from_fn(|| pace.take(end)).count(), 199);
        assert_eq!((pace.unsent(), pace.next()), (0, None));
    }

    #[test]
    fn rates_that_do_not_divide_a_second_do_not_drift() {
        let begin = Instant::now();
        let mut pace = Pace::open(7, begin, Duration::from_secs(1_000_000));
        let last = std::iter::from_fn(|| pace.take(begin + Duration::from_secs(999_999)));
        assert_eq!(last.count(), 7 * 999_999 + 1);
    }

    #[test]
    fn in_a_closed_loop_a_client_waits_from_its_last_answer_on() {
        let begin = Instant::now();
        let mut pace = Pace::closed(2, begin);
        let later = begin + Duration::from_millis(5);
        assert_eq!(pace.take(later), Some(begin));
        pace.answered(later);
        assert_eq!(pace.take(begin), Some(begin));
        assert_eq!(pace.take(begin), None, "not yet");
        pace.answered(later);
        assert_eq!(pace.take(later), Some(later));
        assert_eq!(pace.take(later), Some(later));
        assert_eq!(pace.take(later), None);
        assert_eq!((pace.unsent(), pace.next()), (0, None));
    }
}
