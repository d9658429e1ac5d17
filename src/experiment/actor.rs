//! One experiment's actor: the only writer of its log.

mod around;
mod recognize;
mod retain;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::batch::{Append, Batch};
use super::blocking::blocking;
use super::budget::Budget;
use super::definition::{self, DefinitionFile};
use super::error::{AppendError, ReadError, StoreError};
use super::figures_memory::FiguresMemory;
use super::inflight::InFlight;
use super::news::News;
use super::repeats::{self, Repeats, Window};
use super::retention::KnownLimits;
use super::sealer::Sealer;
use crate::fs::Host;
use crate::journal::{CommitError, Group, IfFull, Journal, JournalHealth, Mark};
use crate::log::dropped::DropMark;
use crate::log::open::OpenedLog;
use crate::log::segment_file::Trouble;
use crate::log::view::{LogSummary, LogView};
use crate::log::writer::{LogOptions, LogWriter};
use crate::metrics::experiments::{Counters, ExperimentCounters};
use crate::model::{Definition, Description, DroppedCount, NewEntry, VariantCount};
use crate::stats::summary;

/// Messages taken from the mailbox at once.
const MESSAGES_MAX: usize = 512;
/// Groups of one experiment that may wait for the journal; then its mailbox fills.
const GROUPS_IN_FLIGHT_MAX: usize = 1024;
/// Bytes of entries that are staged into one group.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Variant keys that an error names.
const NAMED_VARIANTS_MAX: usize = 20;

/// What an actor is asked for.
pub enum Message {
    /// Append entries.
    Append(Append),
    /// Describe the experiment.
    Describe(oneshot::Sender<Result<Description, ReadError>>),
    /// Change the definition. (In a box, so that mailboxes of appends stay small.)
    Define(
        Box<Definition>,
        oneshot::Sender<Result<Description, StoreError>>,
    ),
    /// Drop what the retention says. Says what was dropped.
    Retain {
        /// What time it is, in milliseconds since 1970.
        now_ms: u64,
        /// Told what came of it.
        reply: oneshot::Sender<Result<DroppedCount, StoreError>>,
    },
    /// Stop for good.
    Stop(Stop),
}

/// How an actor is stopped: when all that it accepted is answered.
pub struct Stop {
    /// Removes the experiment then. Where it fails with nothing changed, the actor goes on.
    pub removal: Option<Removal>,
    /// Told what came of it.
    pub done: oneshot::Sender<Result<(), Trouble>>,
}

/// What removes an experiment's files. Blocks.
pub type Removal = Box<dyn FnOnce() -> Result<(), Trouble> + Send>;

/// What all actors of a store share.
pub struct Shared {
    /// The machine.
    pub host: Host,
    /// Where actors run: the thread that drives the journal.
    pub actors: tokio::runtime::Handle,
    /// Makes groups durable.
    pub journal: Arc<dyn Journal>,
    /// Seals closed segments.
    pub sealer: Sealer,
    /// A group of at least this size goes around the journal.
    pub large_group_bytes: usize,
    /// An actor that gets no message for this long leaves.
    pub idle_timeout: Duration,
    /// How long idempotency keys are remembered.
    pub window: Window,
    /// The memory for that, over all experiments.
    pub repeats_memory: Budget,
    /// The memory for figures of metrics, over all experiments.
    pub figures_memory: FiguresMemory,
    /// How many variants an experiment may have.
    pub variants_max: usize,
    /// How much is kept of an experiment's metrics.
    pub figure_limits: summary::Limits,
    /// What became durable, by experiment.
    pub counters: ExperimentCounters,
    /// How far logs are in an archive, if there is one.
    #[cfg(feature = "archive")]
    pub archived: Option<Arc<super::archived::Archived>>,
}

/// Whom an actor tells what.
pub struct Told {
    /// Those who follow the experiment: that there is more.
    pub news: Arc<News>,
    /// The retention: how much is kept.
    pub limits: Arc<KnownLimits>,
}

/// The actor.
pub struct Actor {
    shared: Arc<Shared>,
    news: Arc<News>,
    limits: Arc<KnownLimits>,
    file: DefinitionFile,
    options: LogOptions,
    writer: LogWriter,
    in_flight: Arc<InFlight>,
    /// In an open experiment, the keys met so far; read from the log when first needed.
    met_variants: Option<HashSet<Box<str>>>,
    /// The idempotency keys met so far; read from the log when first needed.
    repeats: Option<Repeats>,
    /// Of its experiment; there once it has had an entry.
    counters: Option<Arc<Counters>>,
}

/// Why the run loop ended.
pub enum Ended {
    /// Nobody asked for anything for a while; what is staged is written.
    Idle,
    /// It was stopped.
    Stopped(Stop),
}

impl Actor {
    /// The actor of an experiment whose log was opened.
    pub fn new(
        shared: Arc<Shared>,
        told: Told,
        file: DefinitionFile,
        options: LogOptions,
        opened: OpenedLog,
    ) -> Self {
        for (path, damage) in &opened.damages {
            error!(
                experiment = %options.slug, file = %path.display(), from = damage.start,
                to = damage.end, "{}", damage.reason.as_str()
            );
        }
        for unreadable in &opened.unreadable {
            error!(experiment = %options.slug, "{unreadable}: left as it is");
        }
        if let DropMark::Damaged(error) = &opened.mark {
            let slug = &options.slug;
            error!(experiment = %slug, "what was dropped of its log can't be read: {error}");
        }
        if let Some(error) = &opened.not_unlinked {
            warn!(experiment = %options.slug, %error, "what was dropped is still there");
        }
        for closed in opened.unsealed {
            shared.sealer.seal(closed, options.incarnation.clone());
        }
        Self {
            shared,
            news: told.news,
            limits: told.limits,
            file,
            options,
            writer: opened.writer,
            in_flight: Arc::default(),
            met_variants: None,
            repeats: None,
            counters: None,
        }
    }

    /// What readers see of the log.
    pub fn view(&self) -> &Arc<LogView> {
        self.writer.view()
    }

    /// Takes messages until it is stopped or idle. All messages that wait are taken at once, and
    /// their entries make one group; while the journal works on it, the next gather.
    ///
    /// Cancellation: the future is never dropped before it ends; the store awaits it.
    pub async fn run(&mut self, mailbox: &mut mpsc::Receiver<Message>) -> Ended {
        let mut idle = tokio::time::interval(self.shared.idle_timeout);
        idle.tick().await;
        let mut was_used = true;
        let mut messages = Vec::with_capacity(64);
        loop {
            self.in_flight.wait_below(GROUPS_IN_FLIGHT_MAX).await;
            tokio::select! {
                biased;
                taken = mailbox.recv_many(&mut messages, MESSAGES_MAX) => {
                    was_used = true;
                    if taken == 0 {
                        return Ended::Idle;
                    }
                }
                _ = idle.tick() => {
                    if !std::mem::take(&mut was_used) && self.can_leave() {
                        return Ended::Idle;
                    }
                    continue;
                }
            }
            if let Some(stop) = self.handle(&mut messages).await {
                return Ended::Stopped(stop);
            }
        }
    }

    /// Handles what is left in a closed mailbox, then waits until everything is answered.
    pub async fn drain(&mut self, mailbox: &mut mpsc::Receiver<Message>) -> Option<Stop> {
        let mut messages = Vec::new();
        let mut stopped = None;
        while mailbox.recv_many(&mut messages, MESSAGES_MAX).await > 0 {
            if let Some(stop) = self.handle(&mut messages).await {
                stopped = Some(stop);
            }
        }
        self.in_flight.wait_below(1).await;
        stopped
    }

    /// Writes everything durable into the segment's file, for the next actor to find.
    pub async fn write_out(&self) -> io::Result<()> {
        let Some(active) = self.writer.active().cloned() else {
            return Ok(());
        };
        let journal = self.shared.journal.clone();
        blocking(move || {
            journal.flush().map_err(io::Error::other)?;
            active.file.write_out(u64::MAX).map(|_| ())
        })
        .await
    }

    fn can_leave(&self) -> bool {
        self.in_flight.count() == 0
            && self.shared.journal.health() == JournalHealth::Ready
            && self.view().is_settled()
    }

    async fn handle(&mut self, messages: &mut Vec<Message>) -> Option<Stop> {
        let mut batch = Batch::default();
        let mut entries = Vec::new();
        let mut entry_bytes = 0;
        let mut stopped = None;
        for message in messages.drain(..) {
            match message {
                Message::Append(append) => {
                    let is_keyed = Self::is_keyed(&append);
                    // What is taken back is so while nothing is gathered, whose keys would be forgotten.
                    let is_refused = self.in_flight.is_refused();
                    if is_keyed && (is_refused || self.has_gathered(&append)) {
                        self.commit(std::mem::take(&mut batch), &entries).await;
                        entries.clear();
                        entry_bytes = 0;
                    }
                    let Some(mut append) = self.admit(append, is_keyed).await else {
                        continue;
                    };
                    if is_keyed {
                        let Some(gathered) = self.gather(append).await else {
                            continue;
                        };
                        append = gathered;
                    }
                    let append_entries = batch.push(append);
                    entry_bytes += append_entries.iter().map(|e| e.body.len()).sum::<usize>();
                    if entries.is_empty() {
                        entries = append_entries;
                    } else {
                        entries.extend(append_entries);
                    }
                    if entry_bytes >= GROUP_BYTES_MAX {
                        self.commit(std::mem::take(&mut batch), &entries).await;
                        entries.clear();
                        entry_bytes = 0;
                    }
                }
                Message::Describe(reply) => {
                    let _gone = reply.send(self.describe().await);
                }
                Message::Define(definition, reply) => {
                    let _gone = reply.send(self.define(*definition).await);
                }
                Message::Retain { now_ms, reply } => {
                    let _gone = reply.send(self.retain(now_ms).await);
                }
                Message::Stop(stop) => stopped = Some(stop),
            }
        }
        self.commit(batch, &entries).await;
        stopped
    }

    /// Refuses what can't be appended; gives back what can. A caller that has gone is refused
    /// too, before anything is written.
    async fn admit(&mut self, mut append: Append, is_keyed: bool) -> Option<Append> {
        let stuck = match self.shared.journal.health() {
            JournalHealth::Ready => None,
            JournalHealth::Full => Some(AppendError::StorageFull),
            JournalHealth::OutOfDescriptors => Some(AppendError::Overloaded),
            JournalHealth::Failed => {
                let _gone = append.reply.send(Err(AppendError::StorageFailed));
                return None;
            }
        };
        let known = match is_keyed {
            true => self.recognize(&append.entries).await,
            false => Ok(Vec::new()),
        };
        let refusal = match (known, stuck) {
            // What is stored already needs no room.
            (Ok(known), _) if is_keyed && known.len() == append.entries.len() => {
                append.known = known;
                None
            }
            (Err(conflict @ AppendError::KeyConflict { .. }), _) => Some(conflict),
            (_, Some(stuck)) => Some(stuck),
            (Err(refusal), None) => Some(refusal),
            (Ok(known), None) => {
                append.known = known;
                self.refused_variant(&append.entries).await
            }
        };
        match refusal {
            None if append.reply.is_closed() => None,
            None => Some(append),
            Some(refusal) => {
                let _gone = append.reply.send(Err(refusal));
                None
            }
        }
    }

    async fn refused_variant(&mut self, entries: &[NewEntry]) -> Option<AppendError> {
        let mut new: HashSet<&str> = HashSet::new();
        for (position, entry) in entries.iter().enumerate() {
            let variants = &self.file.definition.variants;
            if variants
                .iter()
                .any(|variant| variant.key == entry.variant_key)
            {
                continue;
            }
            if !self.file.definition.open_variants {
                return Some(AppendError::UnknownVariant {
                    position,
                    key: entry.variant_key.clone(),
                    defined: variants
                        .iter()
                        .take(NAMED_VARIANTS_MAX)
                        .map(|variant| variant.key.clone())
                        .collect(),
                });
            }
            if let Err(error) = self.load_met_variants().await {
                error!(%error, "reading which variants an experiment has");
                return Some(match error {
                    ReadError::Overloaded => AppendError::Overloaded,
                    _ => AppendError::Failed,
                });
            }
            if new.contains(&*entry.variant_key) || self.has_met(&entry.variant_key) {
                continue;
            }
            if self.variant_count() + new.len() >= self.shared.variants_max {
                return Some(AppendError::TooManyVariants { position });
            }
            new.insert(&entry.variant_key);
        }
        // Only now: a refused append uses up no place.
        if let Some(met) = &mut self.met_variants {
            met.extend(new.into_iter().map(Box::from));
        }
        None
    }

    async fn load_met_variants(&mut self) -> Result<(), ReadError> {
        if self.met_variants.is_none() {
            let summary = self.summary().await?;
            let met = summary.variants.into_iter().map(|v| v.key);
            self.met_variants = Some(met.collect());
        }
        Ok(())
    }

    fn has_met(&self, key: &str) -> bool {
        let met = self.met_variants.as_ref();
        met.is_some_and(|met| met.contains(key))
    }

    /// The variants that are defined or were met; many are both.
    fn variant_count(&self) -> usize {
        let met = self.met_variants.as_ref().map_or(0, HashSet::len);
        let defined = self.file.definition.variants.iter();
        met + defined
            .filter(|variant| !self.has_met(&variant.key))
            .count()
    }

    /// Stages entries and hands them to the journal, whose thread answers for them.
    async fn commit(&mut self, mut batch: Batch, entries: &[NewEntry]) {
        if batch.is_empty() {
            return;
        }
        if self.in_flight.count() > 0 && self.writer.is_full_for(entries) {
            // So that what may have to be taken back is never of two segments.
            self.in_flight.wait_below(1).await;
        }
        if let Some(error) = self.take_back_refused()
            && batch.has_known()
        {
            // What they repeat may be what isn't there now.
            return batch.answer(Err(error));
        }
        let mut staged = match self.writer.stage(entries) {
            Ok(staged) => staged,
            Err(error) => {
                self.shared.journal.poison("staging entries", &error);
                return batch.answer(Err(AppendError::Failed));
            }
        };
        let keyed = repeats::keyed(entries, &staged.ids);
        batch.set_ids(std::mem::take(&mut staged.ids));
        if staged.bytes.len() - staged.head_len >= self.shared.large_group_bytes {
            let is_durable = self.commit_around(staged, batch).await;
            return self.remember(if is_durable { keyed } else { Vec::new() });
        }
        self.remember(keyed);
        let ticket = self.in_flight.enter();
        let begin = staged.begin();
        let closed = staged.closed.take();
        let closed = closed.map(|closed| {
            let incarnation = self.options.incarnation.clone();
            (closed, incarnation, self.shared.clone())
        });
        let news = self.news.clone();
        let counters = self.counters();
        let (entry_count, byte_count) = (batch.new_count(), staged.bytes.len());
        let done = move |result: Result<(), CommitError>| {
            match result {
                Ok(()) => {
                    counters.entries.add(entry_count as u64);
                    counters.bytes.add(byte_count as u64);
                }
                Err(error @ (CommitError::Full | CommitError::OutOfDescriptors)) => {
                    ticket.note_refused(begin, error.into());
                }
                Err(_) => ticket.note_failed(),
            }
            news.tell();
            batch.answer(result.map_err(AppendError::from));
            // The next segment's header is durable and says where the closed one ends.
            if let (Ok(()), Some((closed, incarnation, shared))) = (result, closed) {
                shared.sealer.seal(closed, incarnation);
            }
            drop(ticket);
        };
        self.shared.journal.submit(Group {
            segment: staged.segment.file.clone(),
            offset: staged.offset,
            lead: staged.lead,
            bytes: staged.bytes,
            entry_count,
            mark: Mark::None,
            if_full: IfFull::IsTakenBack,
            done: Box::new(done),
        });
    }

    fn counters(&mut self) -> Arc<Counters> {
        let of_experiment = || self.shared.counters.of(&self.options.slug);
        self.counters.get_or_insert_with(of_experiment).clone()
    }

    /// Takes back what the journal, which is stuck, has refused; says what the requests were told.
    fn take_back_refused(&mut self) -> Option<AppendError> {
        let refusal = self.in_flight.take_refusal()?;
        self.writer.take_back(refusal.begin);
        // Some may have been met in what isn't there now.
        self.met_variants = None;
        self.repeats = None;
        Some(refusal.error)
    }

    async fn define(&mut self, definition: Definition) -> Result<Description, StoreError> {
        // One that has more, since the setting was another, can still be changed.
        let variants_max = self.file.definition.variants.len();
        definition::check(&definition, variants_max.max(self.shared.variants_max))?;
        let kept = |key: &str| {
            definition
                .variants
                .iter()
                .any(|variant| &*variant.key == key)
        };
        if !definition.open_variants {
            let summary = self.summary().await?;
            let removed = summary
                .variants
                .iter()
                .find(|v| v.count > 0 && !kept(&v.key));
            if let Some(removed) = removed {
                return Err(StoreError::VariantInUse(removed.key.clone()));
            }
        }
        let file = DefinitionFile {
            definition,
            ..self.file.clone()
        };
        let (disk, dir) = (self.shared.host.disk.clone(), self.options.dir.clone());
        let (written, file) = blocking(move || Ok((file.write(&*disk, &dir), file)))
            .await
            .map_err(StoreError::of)?;
        written.map_err(StoreError::of)?;
        self.file = file;
        self.limits.set(definition::limits(&self.file.definition));
        info!(experiment = %self.options.slug, "definition changed");
        Ok(self.describe().await?)
    }

    async fn describe(&self) -> Result<Description, ReadError> {
        let summary = self.summary().await?;
        let (disk, dir) = (self.shared.host.disk.clone(), self.options.dir.clone());
        let bytes_on_disk = blocking(move || {
            let listed = crate::log::reader::list_segments(&*disk, &dir);
            let listed = listed.map_err(|error| io::Error::other(error.to_string()))?;
            Ok::<_, io::Error>(listed.iter().map(|segment| segment.local_len).sum())
        })
        .await?;
        let definition = self.file.definition.clone();
        let mut variant_counts: Vec<VariantCount> = Vec::new();
        for variant in &definition.variants {
            let key = variant.key.clone();
            variant_counts.push(VariantCount { key, count: 0 });
        }
        for met in summary.variants {
            match variant_counts.iter_mut().find(|known| known.key == met.key) {
                Some(known) => known.count = met.count,
                None => variant_counts.push(met),
            }
        }
        Ok(Description {
            slug: self.options.slug.clone(),
            definition,
            created_at_ms: self.file.created_at_ms,
            count: summary.count,
            variant_counts,
            bytes_on_disk,
            segment_count: summary.segment_count,
            last_entry: summary.last,
            dropped: self
                .view()
                .dropped()
                .map_or_else(Default::default, |dropped| dropped.count()),
        })
    }

    async fn summary(&self) -> Result<LogSummary, ReadError> {
        let view = self.writer.view().clone();
        let disk = self.shared.host.disk.clone();
        blocking(move || Ok(view.summary(&*disk)?)).await
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What was staged may or may not be in the journal: only a restart can tell.
            let error = io::Error::other("a bug: the actor panicked");
            self.shared.journal.poison("an experiment's actor", &error);
        }
    }
}
