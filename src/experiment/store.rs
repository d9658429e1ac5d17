//! A store: the folder, its experiments, and what may be asked of them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tracing::info;

use super::actor::{Message, Removal, Shared, Stop};
use super::actor_thread::ActorThread;
use super::asking::Turns;
use super::batch::{Append, Appended};
use super::blocking::blocking;
use super::budget::{Budget, BytePermit, OverBudget};
use super::definition;
use super::error::{AppendError, ReadError, StoreError};
use super::figures_memory::FiguresMemory;
use super::folder::{self, Folder, OpenError};
use super::registry::{Handle, Registry, Removed};
use super::repeats::Window;
use super::sealer::Sealer;
use crate::fs::Host;
use crate::journal::local::{LocalOptions, Parts};
use crate::journal::metrics::JournalMetrics;
use crate::journal::{Journal, JournalHealth};
use crate::log::segment_file::Trouble;
use crate::log::writer::LogOptions;
use crate::metrics::experiments::ExperimentCounters;
use crate::model::{
    Definition, Description, Durability, Entry, LogId, NewEntry, Slug, VARIANTS_MAX,
};
use crate::stats::summary::{self, METRICS_MAX};

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
    /// How long an experiment remembers idempotency keys.
    pub window: Window,
    /// The memory for idempotency keys, over all experiments in use.
    pub repeats_bytes: usize,
    /// The memory for figures of metrics between two questions, over all experiments in use.
    pub figures_bytes: usize,
    /// How many variants an experiment may have, defined or met; [`VARIANTS_MAX`] at most.
    pub variants_max: usize,
    /// How many names of metrics figures have, the first ones in the log; [`METRICS_MAX`] at most.
    pub metrics_max: usize,
    /// How many experiments have counters of their own.
    pub counted_experiments_max: usize,
    /// How far logs are in an archive, if there is one: what isn't there is kept.
    #[cfg(feature = "archive")]
    pub archived: Option<Arc<super::archived::Archived>>,
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
    /// Reads only, until there are descriptors to open files with again.
    OutOfDescriptors,
    /// Shutting down: no more requests are taken.
    ShuttingDown,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            dir: "trialog-data".into(),
            segment_bytes: 64 << 20,
            journal_bytes: 64 << 20,
            large_group_bytes: 256 << 10,
            durability: Durability::Sync,
            mailbox_len: 8192,
            inflight_bytes: 256 << 20,
            idle_timeout: Duration::from_secs(60),
            free_bytes_min: 256 << 20,
            experiments_max: 1_000_000,
            window: Window::default(),
            repeats_bytes: 512 << 20,
            figures_bytes: 256 << 20,
            variants_max: VARIANTS_MAX,
            metrics_max: METRICS_MAX,
            counted_experiments_max: 100,
            #[cfg(feature = "archive")]
            archived: None,
        }
    }
}

/// An open store. Its folder is locked for this process until it is dropped.
pub struct Store {
    /// First, so that it has ended when the folder's lock is given back.
    actor_thread: Option<ActorThread>,
    pub(super) options: StoreOptions,
    folder: Folder,
    pub(super) shared: Arc<Shared>,
    pub(super) registry: Arc<Registry>,
    pub(super) budget: Budget,
    pub(super) journal_metrics: Arc<JournalMetrics>,
    pub(super) turns: Turns,
    is_closing: AtomicBool,
    /// Held while an experiment is made or removed.
    pub(super) catalogue: Arc<tokio::sync::Mutex<()>>,
}

impl Store {
    /// Opens the store in `options.dir`, or makes one there if the folder is empty or missing.
    /// Brings its segments up to date from the journal.
    pub fn open(options: StoreOptions, host: Host) -> Result<Self, OpenError> {
        let folder = Folder::open(&host, &options.dir)?;
        let resume = folder.recover(&host)?;
        let local = LocalOptions {
            store_dir: options.dir.clone(),
            store_id: folder.store_id,
            durability: options.durability,
            lap_bytes_max: options.journal_bytes,
            free_bytes_min: options.free_bytes_min,
        };
        let journal_error = |error| OpenError::Io {
            what: "making the journal in",
            path: options.dir.clone(),
            error,
        };
        let parts = Parts::open(&host, &local, resume).map_err(journal_error)?;
        let metrics = parts.shared.metrics.clone();
        let (actor_thread, journal) = ActorThread::start(parts).map_err(journal_error)?;
        let mut store = Self::open_on(options, host, folder, actor_thread.actors(), journal)?;
        store.actor_thread = Some(actor_thread);
        store.journal_metrics = metrics;
        Ok(store)
    }

    /// Opens the store on a journal and where actors run, whoever drives those.
    pub(crate) fn open_on(
        options: StoreOptions,
        host: Host,
        folder: Folder,
        actors: tokio::runtime::Handle,
        journal: Arc<dyn Journal>,
    ) -> Result<Self, OpenError> {
        let slugs = folder.experiments(&host)?;
        let sealer = Sealer::start(host.disk.clone(), journal.clone());
        let sealer = sealer.map_err(|error| OpenError::Io {
            what: "starting a thread for",
            path: options.dir.clone(),
            error,
        })?;
        info!(experiments = slugs.len(), "store open");
        Ok(Self {
            registry: Arc::new(Registry::new(slugs, options.mailbox_len)),
            budget: Budget::new(options.inflight_bytes),
            journal_metrics: Arc::default(),
            turns: Turns::default(),
            is_closing: AtomicBool::new(false),
            catalogue: Arc::default(),
            shared: Arc::new(Shared {
                host,
                actors,
                journal,
                sealer,
                large_group_bytes: options.large_group_bytes,
                idle_timeout: options.idle_timeout,
                window: options.window,
                repeats_memory: Budget::new(options.repeats_bytes),
                figures_memory: FiguresMemory::new(options.figures_bytes),
                variants_max: options.variants_max.min(VARIANTS_MAX),
                figure_limits: summary::Limits {
                    metrics: options.metrics_max.min(METRICS_MAX),
                    ..summary::Limits::default()
                },
                counters: ExperimentCounters::new(options.counted_experiments_max),
                #[cfg(feature = "archive")]
                archived: options.archived.clone(),
            }),
            folder,
            options,
            actor_thread: None,
        })
    }

    /// The store's folder.
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }

    /// How far logs are in an archive, if there is one.
    #[cfg(feature = "archive")]
    pub fn archived(&self) -> Option<Arc<super::archived::Archived>> {
        self.options.archived.clone()
    }

    /// What its folder is on.
    #[cfg(feature = "archive")]
    pub fn disk(&self) -> Arc<dyn crate::fs::Disk> {
        self.shared.host.disk.clone()
    }

    /// What tells it from other stores.
    #[cfg(feature = "archive")]
    pub fn store_id(&self) -> u64 {
        self.folder.store_id
    }

    /// How many segments were sealed since it was opened.
    #[cfg(feature = "archive")]
    pub fn sealed_count(&self) -> u64 {
        self.shared.sealer.sealed_count()
    }

    /// What an acknowledgement means here.
    pub fn durability(&self) -> Durability {
        self.options.durability
    }

    /// Whether the store can do its work.
    pub fn health(&self) -> StoreHealth {
        if self.is_closing.load(Ordering::Acquire) {
            return StoreHealth::ShuttingDown;
        }
        match self.shared.journal.health() {
            JournalHealth::Ready => StoreHealth::Ready,
            JournalHealth::Full => StoreHealth::StorageFull,
            JournalHealth::OutOfDescriptors => StoreHealth::OutOfDescriptors,
            JournalHealth::Failed => StoreHealth::StorageFailed,
        }
    }

    /// Takes bytes of the in-flight budget, before a body is read.
    pub fn reserve(&self, bytes: usize) -> Result<BytePermit, OverBudget> {
        self.budget.try_take(bytes)
    }

    /// Whether there is an experiment `slug`. Cheap: for the check before a body is read.
    pub fn contains(&self, slug: &Slug) -> bool {
        self.registry.contains(slug)
    }

    /// The slugs behind `after`, in order, at most `limit` of them.
    pub fn slugs(&self, after: Option<&Slug>, limit: usize) -> Vec<Slug> {
        self.registry.slugs(after, limit)
    }

    /// Appends one entry; returns once it is durable.
    pub async fn append(
        &self,
        slug: &Slug,
        entry: NewEntry,
        permit: BytePermit,
    ) -> Result<LogId, AppendError> {
        let appended = self.append_batch(slug, vec![entry], permit).await?;
        appended.ids.first().copied().ok_or(AppendError::Failed)
    }

    /// Appends all entries or none, one behind the other; returns once they are durable. An entry
    /// whose idempotency key was met is not appended again: the answer has the id that it got first.
    pub async fn append_batch(
        &self,
        slug: &Slug,
        entries: Vec<NewEntry>,
        permit: BytePermit,
    ) -> Result<Appended, AppendError> {
        let (reply, answer) = oneshot::channel();
        let mut message = Message::Append(Append {
            entries,
            known: Vec::new(),
            reply,
            permit,
        });
        loop {
            if self.is_closing.load(Ordering::Acquire) {
                return Err(AppendError::ShuttingDown);
            }
            match self.registry.try_send(slug, message) {
                Ok(()) => break,
                Err(TrySendError::Full(_)) => return Err(AppendError::MailboxFull),
                // The actor isn't there, or was leaving. It comes back for this message.
                Err(TrySendError::Closed(back)) => message = back,
            }
            Box::pin(self.handle(slug))
                .await
                .map_err(AppendError::from)?;
        }
        let answered = answer.await.unwrap_or(Err(AppendError::Failed));
        if let Err(AppendError::UnknownVariant { .. }) = answered {
            self.registry.note_unknown_variant(slug);
        }
        answered
    }

    /// The entry `id`.
    pub async fn get(&self, slug: &Slug, id: LogId) -> Result<Option<Entry>, ReadError> {
        let view = self.handle(slug).await?.view;
        let disk = self.shared.host.disk.clone();
        blocking(move || Ok(view.get(&*disk, id)?)).await
    }

    /// An experiment's definition and what its log holds.
    pub async fn describe(&self, slug: &Slug) -> Result<Description, ReadError> {
        self.ask(slug, Message::Describe).await?
    }

    /// Creates an experiment, or changes its definition. Once begun, that is done to its end, also
    /// when this future is dropped.
    pub async fn define(&self, slug: &Slug, definition: Definition) -> Result<Defined, StoreError> {
        definition::check(&definition, VARIANTS_MAX)?;
        let catalogue = self.catalogue.clone().lock_owned().await;
        if self.is_closing.load(Ordering::Acquire) {
            return Err(ReadError::ShuttingDown.into());
        }
        if self.contains(slug) {
            let description = self
                .ask(slug, |reply| Message::Define(definition.into(), reply))
                .await??;
            self.registry.note_change(slug);
            let created = false;
            return Ok(Defined {
                created,
                description,
            });
        }
        definition::check(&definition, self.options.variants_max)?;
        if self.registry.len() >= self.options.experiments_max {
            return Err(StoreError::TooManyExperiments);
        }
        match self.shared.journal.health() {
            JournalHealth::Ready => {}
            JournalHealth::OutOfDescriptors => return Err(ReadError::Overloaded.into()),
            JournalHealth::Full => return Err(StoreError::StorageFull),
            JournalHealth::Failed => return Err(StoreError::StorageFailed),
        }
        let (shared, registry) = (self.shared.clone(), self.registry.clone());
        let (dir, new) = (self.dir().to_path_buf(), slug.clone());
        // What blocks runs to its end, and nobody else makes or removes an experiment until then.
        let made = blocking(move || {
            let made = folder::create_experiment(&shared.host, &dir, &new, definition);
            if let Err(Trouble::Sync(error)) = &made {
                let journal = &shared.journal;
                journal.poison("syncing the folder of the experiments", error);
            }
            if made.is_ok() {
                info!(experiment = %new, "experiment created");
                registry.insert(new);
            }
            Ok((made, catalogue))
        });
        let (made, _catalogue) = made.await.map_err(StoreError::Io)?;
        made.map_err(|trouble| match trouble {
            Trouble::Write(error) => StoreError::of(error),
            Trouble::Sync(error) => StoreError::Io(error),
        })?;
        let description = self.describe(slug).await?;
        let created = true;
        Ok(Defined {
            created,
            description,
        })
    }

    /// Deletes an experiment and its files. Entries that were sent before are stored before; later
    /// ones are refused. Where it fails with nothing changed, the experiment stays as it is. Once
    /// begun, it is done to its end, also when this future is dropped.
    pub async fn delete(&self, slug: &Slug) -> Result<(), StoreError> {
        let catalogue = self.catalogue.clone().lock_owned().await;
        let incarnation = self.handle(slug).await?.incarnation();
        let (shared, dir, old) = (self.shared.clone(), self.dir().to_path_buf(), slug.clone());
        let removal = Box::new(move || {
            let removed =
                folder::remove_experiment(&shared.host, &dir, &old, incarnation.as_deref());
            if let Err(Trouble::Sync(error)) = &removed {
                shared.journal.poison("deleting an experiment", error);
            }
            removed
        });
        let (done, removed) = oneshot::channel();
        let removal = Some(removal as Removal);
        self.send(slug, Message::Stop(Stop { removal, done }))
            .await?;
        let forgotten = self.registry.remove(slug);
        let end = |gone: Option<Removed>| gone.iter().for_each(Removed::end);
        let (registry, slug) = (self.registry.clone(), slug.clone());
        let shared = self.shared.clone();
        let deletion = tokio::spawn(async move {
            let _catalogue = catalogue;
            let error = match removed.await {
                Ok(Ok(())) => {
                    info!(experiment = %slug, "experiment deleted");
                    shared.counters.forget(&slug);
                    #[cfg(feature = "archive")]
                    shared.archived.iter().for_each(|all| all.forget(&slug));
                    end(forgotten);
                    return Ok(());
                }
                // It may be gone or not: only the next start can tell.
                Ok(Err(Trouble::Sync(error))) => {
                    end(forgotten);
                    return Err(StoreError::Io(error));
                }
                Ok(Err(Trouble::Write(error))) => StoreError::of(error),
                Err(_) => ReadError::ShuttingDown.into(),
            };
            if let Some(forgotten) = forgotten {
                registry.restore(slug, forgotten);
            }
            Err(error)
        });
        let panicked = |panic| Err(StoreError::Io(io::Error::other(panic)));
        deletion.await.unwrap_or_else(panicked)
    }

    /// Refuses new work, finishes what was accepted, and makes everything durable in the
    /// segments, so that the next start has nothing to redo. What a full disk keeps from being
    /// finished is refused, and the next start recovers from the journal.
    pub async fn shutdown(&self) {
        self.is_closing.store(true, Ordering::Release);
        self.shared.journal.begin_shutdown();
        let _catalogue = self.catalogue.lock().await;
        let mut stopping = tokio::task::JoinSet::new();
        for handle in self.registry.live() {
            stopping.spawn(async move { handle.stop().await });
        }
        stopping.join_all().await;
        let shared = self.shared.clone();
        let closed = blocking(move || {
            shared.sealer.shutdown();
            shared.journal.shutdown();
            Ok::<_, io::Error>(())
        });
        if let Err(error) = closed.await {
            tracing::error!(%error, "shutting down");
        }
    }

    pub(super) async fn ask<T>(
        &self,
        slug: &Slug,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, ReadError> {
        let (reply, answer) = oneshot::channel();
        self.send(slug, message(reply)).await?;
        answer.await.map_err(|_| ReadError::UnknownExperiment)
    }

    async fn send(&self, slug: &Slug, mut message: Message) -> Result<(), ReadError> {
        loop {
            let handle = self.handle(slug).await?;
            match handle.mailbox.send(message).await {
                Ok(()) => return Ok(()),
                // The actor was leaving. It comes back for this message.
                Err(back) => message = back.0,
            }
        }
    }

    /// The experiment's actor, started when it isn't there.
    pub(super) async fn handle(&self, slug: &Slug) -> Result<Handle, ReadError> {
        if self.is_closing.load(Ordering::Acquire) {
            return Err(ReadError::ShuttingDown);
        }
        if let Some(handle) = self.registry.live_handle(slug) {
            return Ok(handle);
        }
        let dir = folder::experiment_dir(self.dir(), slug);
        let options = |incarnation| LogOptions {
            store_id: self.folder.store_id,
            slug: slug.clone(),
            incarnation,
            dir: dir.clone(),
            segment_bytes: self.options.segment_bytes,
            sector_bytes: self.shared.journal.sector_bytes(),
        };
        let handle = self
            .registry
            .handle(slug, &self.shared, options, dir.clone())
            .await?;
        if self.is_closing.load(Ordering::Acquire) {
            // It may have come too late for the list of those that the shutdown stops.
            handle.stop().await;
            return Err(ReadError::ShuttingDown);
        }
        Ok(handle)
    }
}

#[cfg(test)]
#[path = "interleave/mod.rs"]
mod interleave;
