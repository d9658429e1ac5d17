//! Appends that wait for the journal: each is answered exactly once.

use tokio::sync::oneshot;

use super::budget::BytePermit;
use super::error::AppendError;
use crate::journal::CommitError;
use crate::model::{LogId, NewEntry};

/// Entries that a request wants appended, all or none.
pub struct Append {
    /// The entries.
    pub entries: Vec<NewEntry>,
    /// Where the answer goes.
    pub reply: AppendReply,
    /// The request's share of the in-flight budget, held until it is answered.
    pub permit: BytePermit,
}

/// Where the answer to an append goes.
pub type AppendReply = oneshot::Sender<Result<Vec<LogId>, AppendError>>;

/// Appends whose entries are staged. Consumed by whoever answers them; when dropped instead, the
/// callers learn that it failed.
#[derive(Default)]
pub struct Batch {
    appends: Vec<StagedAppend>,
    ids_left: std::vec::IntoIter<LogId>,
}

struct StagedAppend {
    entry_count: usize,
    reply: AppendReply,
    _permit: BytePermit,
}

impl Batch {
    /// Takes an append and gives back its entries, to be staged in this order.
    pub fn push(&mut self, append: Append) -> Vec<NewEntry> {
        self.appends.push(StagedAppend {
            entry_count: append.entries.len(),
            reply: append.reply,
            _permit: append.permit,
        });
        append.entries
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.appends.is_empty()
    }

    /// Takes the ids that the entries got, in the order in which they were staged.
    pub fn set_ids(&mut self, ids: Vec<LogId>) {
        self.ids_left = ids.into_iter();
    }

    /// Answers every append.
    pub fn answer(mut self, result: Result<(), AppendError>) {
        for append in self.appends.drain(..) {
            let ids = self.ids_left.by_ref().take(append.entry_count).collect();
            // A caller that has gone needs no answer.
            let _gone = append.reply.send(result.clone().map(|()| ids));
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        for append in self.appends.drain(..) {
            let _gone = append.reply.send(Err(AppendError::Failed));
        }
    }
}

impl From<CommitError> for AppendError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Failed => Self::Failed,
            CommitError::Refused => Self::StorageFailed,
            CommitError::Full => Self::StorageFull,
            CommitError::OutOfDescriptors => Self::Overloaded,
            CommitError::Closed => Self::ShuttingDown,
        }
    }
}
