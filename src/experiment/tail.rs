//! Following an experiment's log: all behind a place in it, and then what becomes durable.
//!
//! Nothing is handed from the writer to those who follow: they are told that there is news, and read
//! the log from where they are. So history and what is live are one path, on which there is no gap
//! and no double, and a slow reader costs the writer nothing.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::error::ReadError;
use super::news::{Listener, Over};
use super::reading::{Lost, Met, Order, Reader, Selection, Sink};
use super::registry::{Handle, Life};
use super::store::Store;
use crate::model::{LogId, Slug};

/// How often the log is looked at, at most: entries that come faster are read together.
const PACE: Duration = Duration::from_millis(20);

/// A place in an experiment's log that moves on.
pub struct Tail {
    store: Arc<Store>,
    slug: Slug,
    /// The life of the experiment that is followed.
    life: Life,
    news: Listener,
    /// What is wanted: of these variants, behind the place.
    selection: Selection,
    place: LogId,
    /// Whether there may be more to read.
    is_due: bool,
    /// What is being read.
    reader: Option<Reader>,
    read_next: Instant,
    /// What was told of damage.
    told: Told,
}

/// What comes next in a tail.
pub struct Read<S> {
    /// What took it.
    pub sink: S,
    /// Whether everything that was durable has been read.
    pub is_all: bool,
}

/// Why a tail has ended.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The experiment was deleted.
    #[error("the experiment was deleted")]
    Deleted,
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<Over> for TailError {
    fn from(_: Over) -> Self {
        Self::Deleted
    }
}

impl Tail {
    /// Follows an experiment from behind `after` on; without it, from its end.
    pub async fn begin(
        store: Arc<Store>,
        slug: &Slug,
        variants: Vec<String>,
        after: Option<LogId>,
    ) -> Result<Self, ReadError> {
        let handle = store.handle(slug).await?;
        let life = handle.life();
        let news = life.listen();
        let mut tail = Self {
            store,
            slug: slug.clone(),
            life,
            news,
            selection: Selection::default(),
            place: after.unwrap_or(LogId::MIN),
            is_due: after.is_some(),
            reader: None,
            read_next: Instant::now(),
            told: Told::default(),
        };
        if after.is_none() {
            tail.go_to_end(&handle).await?;
        }
        tail.selection.variants = variants;
        Ok(tail)
    }

    /// All selected entries up to this id were given.
    pub fn place(&self) -> LogId {
        self.place
    }

    /// Waits until there may be something behind the place, and reads some of it. Who drops this
    /// future loses nothing: the next one reads the same.
    pub async fn read<S: Sink>(&mut self, sink: S) -> Result<Read<S>, TailError> {
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.begin_reading().await?,
        };
        let through = reader.through();
        let following = Following {
            sink,
            last: None,
            through,
            told: self.told,
        };
        let step = reader.step(following).await?;
        let Following {
            sink, last, told, ..
        } = step.sink;
        self.told = told;
        let is_all = step.reader.is_none();
        self.reader = step.reader;
        // Where nothing is selected, the place moves on with the log.
        let through = through.filter(|_| is_all);
        self.place = self.place.max(last.max(through).unwrap_or(LogId::MIN));
        if is_all {
            self.is_due = false;
            self.told.before = self.told.now;
        }
        Ok(Read { sink, is_all })
    }

    async fn begin_reading(&mut self) -> Result<Reader, TailError> {
        loop {
            if !self.is_due {
                self.news.hear().await?;
                self.is_due = true;
            }
            tokio::time::sleep_until(self.read_next).await;
            self.news.catch_up()?;
            self.read_next = Instant::now() + PACE;
            match self.reader().await? {
                Some(reader) => return Ok(reader),
                // It is being deleted: there will be news of how that went.
                None => self.is_due = false,
            }
        }
    }

    /// A reading from the place on; `None` when the experiment isn't there, or another of its name.
    async fn reader(&self) -> Result<Option<Reader>, ReadError> {
        let handle = match self.store.handle(&self.slug).await {
            Ok(handle) => handle,
            Err(ReadError::UnknownExperiment) => return Ok(None),
            Err(error) => return Err(error),
        };
        if !self.life.is_of(&handle) {
            return Ok(None);
        }
        let selection = Selection {
            after: Some(self.place),
            ..self.selection.clone()
        };
        Ok(Some(self.store.reader(
            &handle,
            selection,
            Order::OldestFirst,
        )))
    }

    /// Passes over all that is durable.
    async fn go_to_end(&mut self, handle: &Handle) -> Result<(), ReadError> {
        let store = self.store.clone();
        let read = |after| {
            let selection = Selection {
                after,
                ..Selection::default()
            };
            store.reader(handle, selection, Order::OldestFirst)
        };
        // The last block holds the last entry.
        let through = read(None).through();
        self.place = through.unwrap_or(LogId::MIN);
        let mut reader = Some(read(through));
        while let Some(reading) = reader.take() {
            let following = Following {
                sink: Passed,
                last: None,
                through,
                told: self.told,
            };
            let step = reading.step(following).await?;
            self.place = self.place.max(step.sink.last.unwrap_or(LogId::MIN));
            self.told = step.sink.told;
            reader = step.reader;
        }
        self.told.before = self.told.now;
        Ok(())
    }
}

/// Behind which ids damage was told of: by earlier readings, and with this one. At the end of the
/// log it is met again until there is an entry behind it.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    before: Option<LogId>,
    now: Option<LogId>,
}

/// Notes how far a reading has come, and tells of damage once.
struct Following<S> {
    sink: S,
    last: Option<LogId>,
    /// What is behind it may become durable yet.
    through: Option<LogId>,
    told: Told,
}

impl<S: Sink> Sink for Following<S> {
    fn take(&mut self, met: Met<'_>) -> ControlFlow<()> {
        let last = match met {
            Met::Entry(entry) => Some(entry.id),
            Met::Lost(Lost { before, .. }) => {
                let before =
                    before.map(|before| LogId::from_u128(before.as_u128().saturating_sub(1)));
                before.filter(|_| before <= self.through)
            }
        };
        self.last = self.last.max(last);
        if let Met::Lost(Lost { after, .. }) = met {
            let after = Some(after);
            self.told.now = self.told.now.max(after);
            if after <= self.told.before {
                return ControlFlow::Continue(());
            }
        }
        self.sink.take(met)
    }

    fn is_full(&self) -> bool {
        self.sink.is_full()
    }
}

/// Takes nothing.
struct Passed;

impl Sink for Passed {
    fn take(&mut self, _: Met<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn is_full(&self) -> bool {
        false
    }
}
