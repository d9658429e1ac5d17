//! Appends that wait for the journal: each is answered exactly once.

use tokio::sync::oneshot;

use super::budget::BytePermit;
use super::error::AppendError;
use super::repeats::Known;
use crate::journal::CommitError;
use crate::model::{LogId, NewEntry};

/// Entries that a request wants appended, all or none.
pub struct Append {
    /// The entries.
    pub entries: Vec<NewEntry>,
    /// Those of them that were appended before.
    pub known: Vec<Known>,
    /// Where the answer goes.
    pub reply: AppendReply,
    /// The request's share of the in-flight budget, held until it is answered.
    pub permit: BytePermit,
}

/// Where the answer to an append goes.
pub type AppendReply = oneshot::Sender<Result<Appended, AppendError>>;

/// What became of the entries of a request: all of them are durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Their ids, in the order of the request.
    pub ids: Vec<LogId>,
    /// How many of them were appended before, by a request with the same idempotency key.
    pub repeated: usize,
}

/// Appends whose entries are staged. Consumed by whoever answers them; when dropped instead, the
/// callers learn that it failed.
#[derive(Default)]
pub struct Batch {
    appends: Vec<StagedAppend>,
    ids_left: std::vec::IntoIter<LogId>,
}

struct StagedAppend {
    entry_count: usize,
    known: Vec<Known>,
    reply: AppendReply,
    _permit: BytePermit,
}

impl Batch {
    /// Takes an append and gives back its entries (without those that are known), to be staged in
    /// this order.
    pub fn push(&mut self, append: Append) -> Vec<NewEntry> {
        self.appends.push(StagedAppend {
            entry_count: append.entries.len(),
            known: append.known,
            reply: append.reply,
            _permit: append.permit,
        });
        append.entries
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.appends.is_empty()
    }

    /// Whether any of the entries was appended before.
    pub fn has_known(&self) -> bool {
        self.appends.iter().any(|append| !append.known.is_empty())
    }

    /// Takes the ids that the entries got, in the order in which they were staged.
    pub fn set_ids(&mut self, ids: Vec<LogId>) {
        self.ids_left = ids.into_iter();
    }

    /// How many entries were staged and are not answered yet.
    pub fn new_count(&self) -> usize {
        self.ids_left.len()
    }

    /// Answers every append.
    pub fn answer(mut self, result: Result<(), AppendError>) {
        for append in self.appends.drain(..) {
            let new = self.ids_left.by_ref().take(append.entry_count);
            let appended = Appended::of(new, &append.known);
            // A caller that has gone needs no answer.
            let _gone = append.reply.send(result.clone().map(|()| appended));
        }
    }
}

impl Appended {
    /// Entries that all were appended before.
    pub fn repeated(known: &[Known]) -> Self {
        Self::of(std::iter::empty(), known)
    }

    /// New entries, and in between those that are known, at their positions.
    pub fn of(mut new: impl Iterator<Item = LogId>, known: &[Known]) -> Self {
        let repeated = known.len();
        if known.is_empty() {
            let ids = new.collect();
            return Self { ids, repeated };
        }
        let mut ids = Vec::with_capacity(new.size_hint().0 + repeated);
        for (position, id) in known {
            let between = position.saturating_sub(ids.len());
            ids.extend(new.by_ref().take(between));
            ids.push(*id);
        }
        ids.extend(new);
        Self { ids, repeated }
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
