//! How an actor recognizes what was sent before: by idempotency keys.

use std::sync::Arc;

use tracing::error;

use super::{Actor, Shared};
use crate::experiment::batch::{Append, Appended};
use crate::experiment::blocking::blocking;
use crate::experiment::error::{AppendError, ReadError};
use crate::experiment::repeats::{Conflict, Known, Repeats};
use crate::log::index::Keyed;
use crate::log::view::LogView;
use crate::model::NewEntry;

impl Actor {
    /// Whether any entry of a request has an idempotency key.
    pub(super) fn is_keyed(entries: &[NewEntry]) -> bool {
        let mut entries = entries.iter();
        entries.any(|entry| entry.idempotency.is_some())
    }

    /// Whether what was gathered, and has no ids yet, may be meant by this request. After something was
    /// taken back nobody knows.
    pub(super) fn has_gathered(&self, entries: &[NewEntry]) -> bool {
        let repeats = self.repeats.as_ref();
        repeats.is_none_or(|repeats| repeats.has_gathered(entries))
    }

    /// Which of these entries were appended before.
    pub(super) async fn recognize(
        &mut self,
        entries: &[NewEntry],
    ) -> Result<Vec<Known>, AppendError> {
        self.take_back_refused();
        let now_ms = self.shared.host.clock.now_ms();
        let repeats = match &mut self.repeats {
            Some(repeats) => repeats,
            empty => {
                let loaded = load(&self.shared, self.writer.view().clone(), now_ms).await;
                empty.insert(loaded.map_err(|error| {
                    error!(%error, "reading the idempotency keys that an experiment has met");
                    match error {
                        ReadError::Overloaded => AppendError::Overloaded,
                        _ => AppendError::Failed,
                    }
                })?)
            }
        };
        let known = repeats.look_up(entries, now_ms);
        known.map_err(|Conflict(position)| AppendError::KeyConflict { position })
    }

    /// Takes an admitted request into what will be staged, without the entries that are known. When
    /// all are, answers it once they are durable: their group may be on its way still.
    pub(super) async fn gather(&mut self, mut append: Append) -> Option<Append> {
        if append.known.len() == append.entries.len() {
            self.in_flight.wait_below(1).await;
            let answer = match self.take_back_refused() {
                // The first one may be among what was refused.
                Some(refused) => Err(refused),
                // Whether the first one is there after a restart nobody knows yet.
                None if self.in_flight.has_failed() => Err(AppendError::StorageFailed),
                None => Ok(Appended::repeated(&append.known)),
            };
            let _gone = append.reply.send(answer);
            return None;
        }
        let mut known = append
            .known
            .iter()
            .map(|(position, _)| *position)
            .peekable();
        let mut position = 0;
        append.entries.retain(|_| {
            let is_known = known.next_if_eq(&position).is_some();
            position += 1;
            !is_known
        });
        if let Some(repeats) = &mut self.repeats {
            repeats.gather(&append.entries);
        }
        Some(append)
    }

    /// Remembers entries that are staged. Those that don't become durable are not asked for: nothing
    /// more is answered until a restart then, or, where they are taken back, all is forgotten and
    /// loaded again.
    pub(super) fn remember(&mut self, appended: Vec<Keyed>) {
        if let Some(repeats) = &mut self.repeats {
            repeats.note(appended);
        }
    }
}

async fn load(shared: &Arc<Shared>, view: Arc<LogView>, now_ms: u64) -> Result<Repeats, ReadError> {
    let shared = shared.clone();
    let load = move || {
        let memory = shared.repeats_memory.clone();
        let repeats = Repeats::load(&view, &*shared.host.disk, shared.window, &memory, now_ms);
        Ok(repeats?)
    };
    blocking(load).await
}
