//! A log as it was at one moment: it can be read several times, and is the same each time.

use std::sync::Arc;

use super::closed::ClosedSegment;
use super::cursor::{LogCursor, Part, Source};
use super::select::{Order, Selection};
use super::view::ActiveSegment;
use crate::fs::Disk;
use crate::model::LogId;

/// What was durable of a log at one moment.
#[derive(Clone)]
pub struct Frozen {
    /// The newest first.
    parts: Vec<Part>,
}

/// A segment of a frozen log, or the place of one.
pub enum FrozenSegment<'a> {
    /// In its file, and ended.
    Closed(&'a ClosedSegment),
    /// Not in its file yet, or not ended.
    Live(LiveSegment<'a>),
    /// Missing, or unreadable.
    Missing,
}

/// A segment that may have gone on since.
pub struct LiveSegment<'a> {
    part: &'a Part,
    active: &'a ActiveSegment,
}

impl Frozen {
    pub(super) fn new(parts: Vec<Part>) -> Self {
        Self { parts }
    }

    /// A reading of what is selected of it.
    pub fn cursor(&self, disk: Arc<dyn Disk>, selection: Selection, order: Order) -> LogCursor {
        LogCursor::new(disk, self.parts.clone(), selection, order)
    }

    /// Its segments, in the order of the log.
    pub fn segments(&self) -> impl Iterator<Item = FrozenSegment<'_>> {
        self.parts.iter().rev().map(|part| match &part.source {
            Source::Closed(closed) => FrozenSegment::Closed(closed),
            Source::Live(active, _) => FrozenSegment::Live(LiveSegment { part, active }),
            Source::Missing(_) => FrozenSegment::Missing,
        })
    }
}

impl FrozenSegment<'_> {
    /// What tells it from all others; `None` when it is missing.
    pub fn salt(&self) -> Option<u64> {
        match self {
            Self::Closed(closed) => Some(closed.header.salt),
            Self::Live(live) => Some(live.salt()),
            Self::Missing => None,
        }
    }
}

impl LiveSegment<'_> {
    /// What tells it from all others.
    pub fn salt(&self) -> u64 {
        self.active.header.salt
    }

    /// The keys of its variants, by number; those that came later aren't in what was durable. `None` for
    /// one that is known from its entries only.
    pub fn variant_keys(&self) -> Vec<Option<Box<str>>> {
        let index = self.active.index();
        let keys = (0..index.next_number()).map(|number| index.key_of(number).map(Box::from));
        keys.collect()
    }

    /// A reading of its entries behind this id.
    pub fn cursor_behind(&self, disk: Arc<dyn Disk>, after: Option<LogId>) -> LogCursor {
        let selection = Selection {
            after,
            ..Selection::default()
        };
        LogCursor::new(disk, vec![self.part.clone()], selection, Order::OldestFirst)
    }
}
