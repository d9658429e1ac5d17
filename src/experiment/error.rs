//! Why a store doesn't do what it is asked for: one small enum for each kind of request.

use std::io;

use crate::fs::{Away, is_full, is_out_of_descriptors};
use crate::log::reader::SegmentError;

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
    /// The idempotency key of the entry (its position in the batch, from 0) was given for another.
    #[error("this idempotency key was given for something else: each new entry needs a new key")]
    KeyConflict {
        /// The position of the entry in its batch, from 0.
        position: usize,
    },
    /// Something is short, and will be there again: try again later.
    #[error("too many requests wait")]
    Overloaded,
    /// As many requests wait for this experiment as may; try again later.
    #[error("too many requests wait for this experiment")]
    MailboxFull,
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
    /// The entries are in the archive, which can't be read now: says why.
    #[error("the archive can't be read: {0}")]
    ArchiveUnavailable(String),
    /// The disk failed.
    #[error("reading failed: {0}")]
    Io(io::Error),
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
    /// The definition has more variants than it may; says how many that is.
    #[error("at most {0} variants")]
    TooManyVariants(usize),
    /// A variant that has entries was left out.
    #[error("variant {0:?} has entries and can't be removed")]
    VariantInUse(Box<str>),
    /// The store has as many experiments as it may.
    #[error("the store has the largest number of experiments")]
    TooManyExperiments,
    /// Reading the log for it failed, or the server is going down or overloaded.
    #[error(transparent)]
    Read(ReadError),
    /// The disk is full.
    #[error("the disk is full")]
    StorageFull,
    /// An earlier write or sync failed; the store refuses writes until it is reopened.
    #[error("the store refuses writes since an earlier write or sync failed")]
    StorageFailed,
    /// The disk failed.
    #[error("storage failed: {0}")]
    Io(io::Error),
}

/// Why an experiment's actor takes no entries.
impl From<ReadError> for AppendError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::UnknownExperiment => Self::UnknownExperiment,
            ReadError::ShuttingDown => Self::ShuttingDown,
            ReadError::Overloaded | ReadError::ArchiveUnavailable(_) => Self::Overloaded,
            ReadError::Damaged(_) | ReadError::Io(_) => Self::StorageFailed,
        }
    }
}

impl From<ReadError> for StoreError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::UnknownExperiment => Self::UnknownExperiment,
            error => Self::Read(error),
        }
    }
}

impl StoreError {
    /// What a call of the disk that changed nothing failed with.
    pub(super) fn of(error: io::Error) -> Self {
        match error {
            error if is_full(&error) => Self::StorageFull,
            error if is_out_of_descriptors(&error) => Self::Read(ReadError::Overloaded),
            error => Self::Io(error),
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match Away::in_error(&error) {
            Some(Away::NoArchive | Away::Unreachable(_)) => {
                Self::ArchiveUnavailable(error.to_string())
            }
            Some(Away::Missing(_)) => Self::Damaged(error.to_string()),
            Some(Away::Busy(_)) => Self::Overloaded,
            None if is_out_of_descriptors(&error) => Self::Overloaded,
            None => Self::Io(error),
        }
    }
}

impl From<SegmentError> for ReadError {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::Io { error, .. } => error.into(),
            damaged => Self::Damaged(damaged.to_string()),
        }
    }
}
