//! A clock that costs next to nothing to read, for what is measured in tenths of a second.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment, as the kernel noted it at its last tick: some milliseconds ago at most.
#[derive(Debug, Clone, Copy)]
pub struct Moment(Duration);

impl Moment {
    /// The present one.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::MonotonicCoarse);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        Self(Duration::from_secs(seconds) + Duration::from_nanos(now.tv_nsec.unsigned_abs()))
    }

    /// How long ago it was.
    pub fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}
