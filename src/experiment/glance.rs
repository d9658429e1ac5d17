//! What a list says of an experiment. An experiment that is not in use stays so: what was seen of it last
//! is kept, and holds for as long as it has not changed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::blocking::blocking;
use super::error::ReadError;
use super::store::Store;
pub use crate::log::timeline::{Span, Timeline};
use crate::log::view::ViewState;
use crate::metrics::Counter;
use crate::model::{Description, Slug};

const MINUTE_MS: u64 = 60_000;
const MINUTES: usize = 60;

/// What was seen of an experiment.
#[derive(Debug)]
pub struct Glance {
    /// Its definition and its counts.
    pub description: Description,
    /// Entries of the hour in front of [`Self::hour_end_ms`], by minute.
    hour: Vec<f64>,
    /// In milliseconds since 1970.
    hour_end_ms: u64,
    state: ViewState,
}

/// What is kept of an experiment's last look, beside its actors.
#[derive(Default)]
pub struct Glances {
    kept: Mutex<Kept>,
    /// Requests that named a variant that isn't one of its own.
    pub unknown_variants: Counter,
}

#[derive(Default)]
struct Kept {
    glance: Option<Arc<Glance>>,
    /// What its last actor left behind.
    left: Option<ViewState>,
    /// Whether its last report by unit found another ratio of units than the planned one.
    is_unit_mismatch: Option<bool>,
    /// How often its definition was changed.
    change_count: u64,
}

impl Glance {
    /// Entries in each minute of the hour up to `now_ms`, as far as it is known.
    pub fn minutes(&self, now_ms: u64) -> Vec<f64> {
        let passed = now_ms.saturating_sub(self.hour_end_ms).div_ceil(MINUTE_MS);
        let gone = usize::try_from(passed).unwrap_or(MINUTES).min(MINUTES);
        let mut minutes: Vec<f64> = self.hour.iter().skip(gone).copied().collect();
        minutes.resize(MINUTES, 0.0);
        minutes
    }
}

impl Glances {
    /// What was seen, if the experiment was left as it was then.
    pub fn get(&self) -> Option<Arc<Glance>> {
        let kept = self.kept();
        let glance = kept.glance.as_ref()?;
        let is_same = Some(glance.state) == kept.left;
        is_same.then(|| glance.clone())
    }

    /// How often the definition was changed.
    pub fn change_count(&self) -> u64 {
        self.kept().change_count
    }

    /// Keeps what was seen, unless the definition was changed since.
    pub fn keep(&self, glance: Arc<Glance>, change_count: u64) {
        let mut kept = self.kept();
        kept.glance = (kept.change_count == change_count).then_some(glance);
    }

    /// Whether the last report by unit, since the definition was changed or the process began, found
    /// another ratio of units than the planned one; `None` without one.
    pub fn is_unit_mismatch(&self) -> Option<bool> {
        self.kept().is_unit_mismatch
    }

    /// Keeps what a report by unit found, unless the definition was changed since.
    pub fn keep_unit_ratio(&self, is_mismatch: bool, change_count: u64) {
        let mut kept = self.kept();
        if kept.change_count == change_count {
            kept.is_unit_mismatch = Some(is_mismatch);
        }
    }

    /// Takes note that the definition was changed.
    pub fn change(&self) {
        let mut kept = self.kept();
        kept.is_unit_mismatch = None;
        kept.change_count += 1;
        kept.glance = None;
    }

    /// Takes note of what an actor leaves behind.
    pub fn leave(&self, state: ViewState) {
        self.kept().left = Some(state);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// What a list says of an experiment.
    pub async fn glance(&self, slug: &Slug) -> Result<Arc<Glance>, ReadError> {
        if let Some(known) = self.registry.glance(slug) {
            return Ok(known);
        }
        let handle = self.handle(slug).await?;
        // Before anything is counted: what comes in between makes it look older, and never newer.
        let state = handle.view.state();
        let change_count = handle.glances().change_count();
        let description = self.describe(slug).await?;
        let hour_end_ms = self.now_ms().next_multiple_of(MINUTE_MS);
        let span = Span {
            begin_ms: hour_end_ms.saturating_sub(MINUTE_MS * MINUTES as u64),
            step_ms: MINUTE_MS,
            step_count: MINUTES,
        };
        let last_ms = description.last_entry.map_or(0, |(_, at_ms)| at_ms);
        let hour = match last_ms < span.begin_ms {
            true => vec![0.0; MINUTES],
            false => self.timeline(slug, span).await?.total(),
        };
        let glance = Arc::new(Glance {
            description,
            hour,
            hour_end_ms,
            state,
        });
        handle.glances().keep(glance.clone(), change_count);
        Ok(glance)
    }

    /// How many requests named a variant that isn't one of the experiment's, since the process began.
    pub fn unknown_variant_count(&self, slug: &Slug) -> u64 {
        self.registry.unknown_variant_count(slug)
    }

    /// Whether the last report by the experiment's unit found a mismatch of the sample ratio: only that
    /// reads all entries, so a list can't. `None` if there was none since its definition was changed or the
    /// process began.
    pub fn is_unit_mismatch(&self, slug: &Slug) -> Option<bool> {
        self.registry
            .with_glances(slug, Glances::is_unit_mismatch)?
    }

    /// How many entries of each variant came when.
    pub async fn timeline(&self, slug: &Slug, span: Span) -> Result<Timeline, ReadError> {
        let view = self.handle(slug).await?.view;
        let disk = self.shared.host.disk.clone();
        blocking(move || Ok(view.timeline(&disk, span)?)).await
    }

    /// The clock, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.shared.host.clock.now_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::view::LogView;

    #[test]
    fn minutes_pass() {
        let glance = Glance {
            description: Description {
                slug: Slug::parse("demo").unwrap(),
                definition: Default::default(),
                created_at_ms: 0,
                count: 0,
                variant_counts: Vec::new(),
                bytes_on_disk: 0,
                segment_count: 0,
                last_entry: None,
                dropped: Default::default(),
            },
            hour: (0..60).map(f64::from).collect(),
            hour_end_ms: 6_000_000,
            state: LogView::default().state(),
        };
        assert_eq!(glance.minutes(5_990_000).last(), Some(&59.0));
        assert_eq!(glance.minutes(6_000_000).first(), Some(&0.0));
        let later = glance.minutes(6_000_001);
        assert_eq!((later.first(), later.last()), (Some(&1.0), Some(&0.0)));
        assert_eq!(glance.minutes(u64::MAX), vec![0.0; 60]);
    }
}
