//! A store: the folder, its experiments, and what may be asked of them.

use std::path::PathBuf;
use std::time::Duration;

use super::budget::{BytePermit, OverBudget};
use crate::fs::Host;
use crate::model::{Definition, Description, Durability, Entry, LogId, NewEntry, Slug};

/// How a store behaves.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The store's folder.
    pub dir: PathBuf,
    /// A segment that has reached this size is sealed and a new one begun.
    pub segment_bytes: u64,
    /// The size up to which each of the journal's two files grows.
    pub journal_bytes: u64,
    /// A group of at least this size goes around the journal.
    pub large_group_bytes: usize,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// How many requests may wait for one experiment.
    pub mailbox_len: usize,
    /// How many bytes of requests may be in flight, over all experiments.
    pub inflight_bytes: usize,
    /// An experiment that nobody used for this long leaves memory.
    pub idle_timeout: Duration,
    /// With less than this free on the disk, appends are refused.
    pub free_bytes_min: u64,
    /// How many experiments the store may have.
    pub experiments_max: usize,
}

/// What is answered when an experiment was created or updated.
#[derive(Debug, Clone)]
pub struct Defined {
    /// Whether it is new.
    pub created: bool,
    /// What it is now.
    pub description: Description,
}

/// Whether the store can do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreHealth {
    /// Reads and writes.
    Ready,
    /// Reads only, until there is room on the disk again.
    StorageFull,
    /// Reads only, until a restart has checked the disk: a write or a sync failed.
    StorageFailed,
    /// Shutting down: no more requests are taken.
    ShuttingDown,
}

/// Why an append was not done. Except for `Failed`, nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No such experiment.
    #[error("there is no experiment with this slug")]
    UnknownExperiment,
    /// The entry (its position in the batch, from 0) names a variant that isn't defined.
    #[error("unknown variant {key:?}")]
    UnknownVariant {
        /// The position of the entry in its batch, from 0.
        position: usize,
        /// What it named.
        key: Box<str>,
        /// What is defined (at most the first 20).
        defined: Vec<Box<str>>,
    },
    /// An open experiment has as many variants as it may.
    #[error("this experiment has the largest number of variants")]
    TooManyVariants {
        /// The position of the entry in its batch, from 0.
        position: usize,
    },
    /// Too much waits already; try again later.
    #[error("too many requests wait")]
    Overloaded,
    /// The disk is full.
    #[error("the disk is full")]
    StorageFull,
    /// The write or sync of this very entry failed. It may or may not be there after a restart.
    #[error("writing to stable storage failed")]
    Failed,
    /// An earlier write or sync failed; the store refuses writes until it is reopened.
    #[error("the store refuses writes since an earlier write or sync failed")]
    StorageFailed,
    /// The server is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Why a read was not done.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No such experiment.
    #[error("there is no experiment with this slug")]
    UnknownExperiment,
    /// Too much waits already; try again later.
    #[error("too many requests wait")]
    Overloaded,
    /// The bytes on disk are damaged.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The disk failed.
    #[error("reading failed: {0}")]
    Io(#[from] std::io::Error),
    /// The server is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Why an experiment was not created, changed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such experiment.
    #[error("there is no experiment with this slug")]
    UnknownExperiment,
    /// The definition can't be: says why.
    #[error("{0}")]
    BadDefinition(String),
    /// A variant that has entries was left out.
    #[error("variant {0:?} has entries and can't be removed")]
    VariantInUse(Box<str>),
    /// The store has as many experiments as it may.
    #[error("the store has the largest number of experiments")]
    TooManyExperiments,
    /// Reading the log for it failed, or the server is going down or overloaded.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The disk is full.
    #[error("the disk is full")]
    StorageFull,
    /// The disk failed.
    #[error("storage failed: {0}")]
    Io(std::io::Error),
}

/// An open store.
pub struct Store {
    _private: (),
}

#[allow(clippy::unimplemented, missing_docs, unused_variables)]
impl Store {
    pub fn open(options: StoreOptions, host: Host) -> anyhow::Result<Self> {
        unimplemented!()
    }
    /// Takes bytes of the in-flight budget, before a body is read.
    pub fn reserve(&self, bytes: usize) -> Result<BytePermit, OverBudget> {
        unimplemented!()
    }
    /// Whether there is an experiment `slug`; cheap, for the check before a body is read.
    pub fn contains(&self, slug: &Slug) -> bool {
        unimplemented!()
    }
    /// Appends one entry; returns once it is durable.
    pub async fn append(&self, slug: &Slug, entry: NewEntry, permit: BytePermit) -> Result<LogId, AppendError> {
        unimplemented!()
    }
    /// Appends all entries or none.
    pub async fn append_batch(&self, slug: &Slug, entries: Vec<NewEntry>, permit: BytePermit) -> Result<Vec<LogId>, AppendError> {
        unimplemented!()
    }
    pub async fn get(&self, slug: &Slug, id: LogId) -> Result<Option<Entry>, ReadError> {
        unimplemented!()
    }
    pub async fn describe(&self, slug: &Slug) -> Result<Description, ReadError> {
        unimplemented!()
    }
    /// Slugs behind `after`, in order.
    pub fn slugs(&self, after: Option<&Slug>) -> Vec<Slug> {
        unimplemented!()
    }
    /// Creates or updates; validates `definition`.
    pub async fn define(&self, slug: &Slug, definition: Definition) -> Result<Defined, StoreError> {
        unimplemented!()
    }
    pub async fn delete(&self, slug: &Slug) -> Result<(), StoreError> {
        unimplemented!()
    }
    pub fn health(&self) -> StoreHealth {
        unimplemented!()
    }
    pub fn durability(&self) -> Durability {
        unimplemented!()
    }
    /// Refuses new work, finishes what was accepted, checkpoints.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}
