//! Ids that strictly increase, whatever the clock does.

use crate::model::LogId;

const RANDOM_BITS: u32 = 80;

/// Gives an experiment's entries their ids.
///
/// The clock is passed in; when it stands still or goes back, ids continue from the last one.
/// (oklog/ulid #121: ids that followed the clock back.)
#[derive(Debug)]
pub struct IdGenerator {
    last: LogId,
    random: fastrand::Rng,
}

impl IdGenerator {
    /// A generator whose ids are all greater than `last`.
    pub fn new(last: LogId, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { last, random }
    }

    /// The last id given.
    pub fn last(&self) -> LogId {
        self.last
    }

    /// Goes on behind `last`, an id that was given elsewhere, also where it lies before the last one here.
    pub fn go_on_behind(&mut self, last: LogId) {
        self.last = last;
    }

    /// The next id, of the time `now_ms` (milliseconds since 1970) unless ids are ahead of it.
    pub fn next(&mut self, now_ms: u64) -> LogId {
        let time = u128::from(now_ms) << RANDOM_BITS;
        let id = if now_ms > self.last.timestamp_ms() {
            // The top random bit stays free, so that counting on within one millisecond has room.
            time | (self.random.u128(..) >> (128 - RANDOM_BITS + 1))
        } else {
            // Counts on; past the last random value this goes on into the next millisecond.
            self.last.as_u128().saturating_add(1)
        };
        self.last = LogId::from_u128(id);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_rise_over_any_clock_and_over_restarts(clock in proptest::collection::vec((0u64..1 << 44, any::<bool>()), 1..200)) {
            let mut ids = IdGenerator::new(LogId::MIN, 1);
            let mut last = LogId::MIN;
            for (now_ms, restart) in clock {
                if restart {
                    ids = IdGenerator::new(last, now_ms);
                }
                let id = ids.next(now_ms);
                prop_assert!(id > last);
                last = id;
            }
        }
    }

    #[test]
    fn the_id_has_the_time_of_the_clock() {
        let mut ids = IdGenerator::new(LogId::MIN, 1);
        assert_eq!(
            ids.next(1_764_000_000_000).timestamp_ms(),
            1_764_000_000_000
        );
        assert_eq!(ids.next(5).timestamp_ms(), 1_764_000_000_000);
    }
}
