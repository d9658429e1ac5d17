//! Why a replica doesn't do what it is asked for.

use crate::experiment::{AppendError, ReadError, StoreError};
use crate::model::Slug;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The entries can't be appended; nothing was stored.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The experiment can't be made, changed or deleted; nothing was.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Too many requests wait for this shard; nothing was stored.
    #[error("too many requests wait for this shard")]
    Overloaded,
    /// It doesn't fit into one message of the stream; nothing was stored.
    #[error(
        "the request takes {bytes} bytes, and a message of the stream at most {bytes_max}: send fewer entries \
         at once, or raise the NATS servers' max_payload"
    )]
    TooLarge {
        /// About as many bytes as it takes.
        bytes: usize,
        /// As many as there may be.
        bytes_max: usize,
    },
    /// No quorum acknowledged it in time: it may or may not be stored, now or later.
    #[error(
        "the stream hasn't acknowledged it: it may or may not be stored; send it again with the same \
         idempotency key"
    )]
    Unsettled,
    /// This node's part of the shard has stopped; nothing was stored.
    #[error("this node takes nothing for this shard: {0}")]
    Stopped(Stopped),
    /// The node is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Why a shard takes and places nothing more on this node, until it is started again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The stream isn't the one that this node has followed.
    #[error(
        "shard {shard}: the stream has lost messages that were acknowledged, or isn't the one that this node \
         has followed ({what}); restore the stream, or begin anew with a copy of a node that follows it"
    )]
    Diverged {
        /// The shard.
        shard: u16,
        /// What was seen.
        what: String,
    },
    /// What this node needs next was dropped.
    #[error(
        "shard {shard}: this node is new, or was away for longer than the stream keeps messages: it is behind \
         message {placed}, and what comes next was written behind message {kept}; begin with a copy of another \
         node's folder: run `trialog backup` there, and start this node on the copy (or `trialog restore` one of its archive)"
    )]
    Behind {
        /// The shard.
        shard: u16,
        /// The last message that is placed here.
        placed: u64,
        /// The message behind which the first one was written that the stream still has.
        kept: u64,
    },
    /// A message can't be read.
    #[error("shard {shard}: message {sequence} of the stream can't be read: {error}")]
    Unreadable {
        /// The shard.
        shard: u16,
        /// Its sequence.
        sequence: u64,
        /// Why.
        error: super::message::MessageError,
    },
    /// What the stream says of an experiment can't be placed in this node's files of it.
    #[error(
        "shard {shard}: this node can't place what the stream says of {experiment} ({what}); other nodes have it: \
         look at this node's disk and start it again, or begin anew with a copy of another node's folder"
    )]
    Files {
        /// The shard.
        shard: u16,
        /// The experiment.
        experiment: Slug,
        /// What was seen.
        what: String,
    },
    /// This node's disk failed.
    #[error("shard {shard}: this node's store takes no writes until it is restarted ({what})")]
    Disk {
        /// The shard.
        shard: u16,
        /// What was seen.
        what: String,
    },
}

impl From<ReadError> for ReplicaError {
    fn from(error: ReadError) -> Self {
        Self::Store(error.into())
    }
}
