//! How an actor serves a replica: it says what would become of requests, without staging anything, and
//! places entries whose ids and times were given elsewhere.

use std::collections::HashSet;

use tokio::sync::oneshot;
use tracing::error;

use super::Actor;
use crate::experiment::batch::{Append, Appended, Batch};
use crate::experiment::blocking::blocking;
use crate::experiment::error::{AppendError, ReadError};
use crate::experiment::replicated::{Ask, Entries, Placing, Plan, Planned};
use crate::log::numbers::Given;
use crate::log::open::OpenedLog;
use crate::model::{LogId, NewEntry};

/// How far what a replica places is in the log.
pub(super) struct PlacedThrough {
    /// The last id that is known to be in it.
    id: LogId,
    /// Whether ids behind that one may have been lost from this node's files.
    is_lossy: bool,
}

impl PlacedThrough {
    pub(super) fn of(opened: &OpenedLog) -> Self {
        Self {
            id: opened.last_known_id,
            is_lossy: opened.writer.last_id() != opened.last_known_id,
        }
    }
}

impl Actor {
    /// Does what a replica asks for.
    pub(super) async fn answer_replica(&mut self, ask: Ask) {
        match ask {
            Ask::Plan(requests, reply) => {
                let _gone = reply.send(self.plan(requests).await);
            }
            Ask::Place(placing, reply) => {
                let _gone = reply.send(self.place(placing).await);
            }
            Ask::CheckDefinition(definition, reply) => {
                let _gone = reply.send(self.check_definition(&definition).await);
            }
            Ask::PlaceDefinition(definition, reply) => {
                let _gone = reply.send(self.write_definition(definition).await);
            }
        }
    }

    /// What would become of these requests, one behind the other. Nothing is staged or remembered.
    async fn plan(&mut self, requests: Vec<Entries>) -> Plan {
        let met_before = self.met_variants.as_ref().map_or(0, HashSet::len);
        let mut outcomes = Vec::with_capacity(requests.len());
        for entries in requests {
            outcomes.push(self.plan_one(&entries).await);
        }
        if let Some(repeats) = &mut self.repeats {
            // Whoever asked knows which keys it has taken; here they come with their entries.
            repeats.note(Vec::new());
        }
        let met = self.met_variants.as_ref().map_or(0, HashSet::len);
        if met > met_before {
            // The new ones aren't in the log yet, and may never be.
            self.met_variants = None;
        }
        Plan {
            incarnation: self.options.incarnation.number,
            last_id: self.placed.id,
            outcomes,
        }
    }

    async fn plan_one(&mut self, entries: &[NewEntry]) -> Planned {
        let is_keyed = Self::is_keyed(entries);
        if self.placed.is_lossy {
            // What the last id was only the stream knows.
            return Planned::Refused(AppendError::StorageFailed);
        }
        if is_keyed && self.repeats.is_some() && self.has_gathered(entries) {
            return Planned::Later;
        }
        let known = match self.checked(entries, is_keyed).await {
            Ok(known) => known,
            Err(refusal) => return Planned::Refused(refusal),
        };
        if is_keyed && known.len() == entries.len() {
            return Planned::Repeated(Appended::repeated(&known));
        }
        if let Some(repeats) = &mut self.repeats
            && is_keyed
        {
            repeats.gather(entries);
        }
        Planned::New(known)
    }

    /// Appends entries with the ids and times that they were given; what is in the log already is passed
    /// over. Returns when all are durable here.
    async fn place(&mut self, placing: Placing) -> Result<(), AppendError> {
        let Placing { after, entries } = placing;
        let (slug, through) = (&self.options.slug, self.placed.id);
        if after > through {
            error!(
                experiment = %slug, %after, %through,
                "entries up to `after` were placed here, and aren't in the log: damage has taken them; replace \
                 this node's files"
            );
        }
        let there = entries.partition_point(|placed| placed.id <= through);
        if let Some(last) = there.checked_sub(1).and_then(|at| entries.get(at)) {
            self.must_hold(last.id).await?;
        }
        let new: Vec<_> = entries.into_iter().skip(there).collect();
        if new.is_empty() {
            return Ok(());
        }
        // Behind what was passed over, or behind what the log ends with.
        let after = after.max(through);
        let pairs: Vec<_> = new.iter().map(|new| (new.id, new.received_at_ms)).collect();
        let entries: Vec<_> = new.into_iter().map(|new| new.entry).collect();
        if let Some(met) = &mut self.met_variants {
            met.extend(entries.iter().map(|entry| entry.variant_key.clone()));
        }
        let (reply, placed) = oneshot::channel();
        let mut batch = Batch::default();
        let entries = batch.push(Append {
            entries,
            known: Vec::new(),
            reply,
            // Whose request it was here or elsewhere holds the permit, if anybody waits.
            permit: self.shared.repeats_memory.none(),
        });
        let pairs = pairs.as_slice();
        let given = Given {
            after,
            pairs: pairs.iter(),
        };
        self.commit_numbered(batch, &entries, given).await;
        placed.await.unwrap_or(Err(AppendError::Failed))?;
        if let Some((last, _)) = pairs.last() {
            self.placed.id = *last;
        }
        Ok(())
    }

    /// An entry that is passed over, since the log has ids behind it, must be there; if it isn't, the log says
    /// so. What retention dropped was there.
    async fn must_hold(&self, id: LogId) -> Result<(), AppendError> {
        let dropped = self.view().dropped().and_then(|dropped| dropped.last_id());
        if dropped.is_some_and(|last| id.as_u128() <= last) {
            return Ok(());
        }
        let (view, disk) = (self.view().clone(), self.shared.host.disk.clone());
        let found = blocking(move || Ok::<_, ReadError>(view.get(&*disk, id)?)).await;
        let slug = &self.options.slug;
        match found {
            Ok(Some(_)) => {}
            Ok(None) => error!(
                experiment = %slug, %id,
                "this entry of the stream isn't in the log, which has later ones; replace this node's files"
            ),
            Err(ReadError::Overloaded) => return Err(AppendError::Overloaded),
            Err(error) => error!(experiment = %slug, %id, %error, "looking for an entry"),
        }
        Ok(())
    }
}
