//! Reading many entries of an experiment's log, step by step on the pool for what blocks. Neither its
//! actor nor the journal is asked.

use std::io;
use std::ops::ControlFlow;

use super::error::ReadError;
use super::registry::Handle;
use super::store::Store;
use crate::log::cursor::LogCursor;
pub use crate::log::cursor::{EntryRef, Lost, Met};
pub use crate::log::index::variant_key_of;
pub use crate::log::select::{Order, Selection};
use crate::model::{LogId, Slug};

/// After this much a step ends, so that one whose reader has gone soon does.
const STEP_BYTES: u64 = 1 << 20;

/// A reading of what is selected of the entries that were durable when it began.
pub struct Reader(LogCursor);

/// Takes what a reading meets.
pub trait Sink: Send + 'static {
    /// Takes one, and says whether the reading goes on.
    fn take(&mut self, met: Met<'_>) -> ControlFlow<()>;
    /// Whether it wants no more for now.
    fn is_full(&self) -> bool;
}

/// What a step leaves behind.
pub struct Step<S> {
    /// To go on with, unless all was read.
    pub reader: Option<Reader>,
    /// What took it.
    pub sink: S,
}

impl Store {
    /// Begins to read an experiment's log.
    pub async fn read(
        &self,
        slug: &Slug,
        selection: Selection,
        order: Order,
    ) -> Result<Reader, ReadError> {
        let handle = self.handle(slug).await?;
        Ok(self.reader(&handle, selection, order))
    }

    /// Whether an id is one of this experiment's: an entry has it, or may have had it before damage or
    /// retention took that. Reads a block at most.
    pub async fn knows(&self, slug: &Slug, id: LogId) -> Result<bool, ReadError> {
        let handle = self.handle(slug).await?;
        let number = id.as_u128();
        let dropped = handle.view.dropped().and_then(|dropped| dropped.last_id());
        if dropped.is_some_and(|last| number <= last) {
            return Ok(true);
        }
        let alone = Selection {
            after: Some(LogId::from_u128(number.saturating_sub(1))),
            before: Some(LogId::from_u128(number.saturating_add(1))),
            ..Selection::default()
        };
        let mut reader = Some(self.reader(&handle, alone, Order::OldestFirst));
        let mut any = Any(false);
        while let Some(reading) = reader.take() {
            let step = reading.step(any).await?;
            any = step.sink;
            reader = step.reader.filter(|_| !any.0);
        }
        Ok(any.0)
    }

    pub(super) fn reader(&self, handle: &Handle, selection: Selection, order: Order) -> Reader {
        let disk = self.shared.host.disk.clone();
        Reader(handle.view.cursor(disk, selection, order))
    }
}

/// Whether anything was met.
struct Any(bool);

impl Sink for Any {
    fn take(&mut self, _: Met<'_>) -> ControlFlow<()> {
        self.0 = true;
        ControlFlow::Break(())
    }

    fn is_full(&self) -> bool {
        self.0
    }
}

impl Reader {
    /// How much was read so far, of segments and their footers.
    pub fn read_bytes(&self) -> u64 {
        self.0.reading().bytes
    }

    /// All entries up to this one were durable when it began.
    pub(super) fn through(&self) -> Option<LogId> {
        self.0.through()
    }

    /// Reads on until `sink` is full, or for a while. Once `sink` has broken off, what it has not
    /// taken is left out.
    pub async fn step<S: Sink>(mut self, mut sink: S) -> Result<Step<S>, ReadError> {
        let step = tokio::task::spawn_blocking(move || {
            let end = self.0.reading().bytes + STEP_BYTES;
            while !sink.is_full() && self.0.reading().bytes < end {
                if !self.0.step(&mut |met| sink.take(met))? {
                    return Ok(Step { reader: None, sink });
                }
            }
            let reader = Some(self);
            Ok(Step { reader, sink })
        });
        step.await
            .unwrap_or_else(|panic| Err(ReadError::Io(io::Error::other(panic))))
    }
}
