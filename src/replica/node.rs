//! A node of a replicated store: takes requests, each to its shard's task, and says how the shards are.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::{error, warn};

use super::ageing::{Ageing, Joining};
use super::error::{ReplicaError, Stopped};
use super::metrics::ReplicaMetrics;
use super::notes::{self, Identity, StartError};
use super::pace::Pace;
use super::passing::{Exchange, Passing, all_have_keys};
use super::plan::{AppendRequest, Reply, Request};
use super::planted::{Bug, is_planted};
use super::position::shard_of;
use super::rounds::Rounds;
use super::shard::Shard;
use super::status::Status;
use super::stream::Stream;
use super::words::Outcome;
use crate::experiment::replicated::Entries;
use crate::experiment::{Appended, BytePermit, Defined, Store};
use crate::metrics::text::Text;
use crate::model::{Definition, LogId, NewEntry, Slug};

/// Requests that may wait for one shard.
const REQUESTS_MAX: usize = 8192;
/// How many shards there may be.
pub const SHARDS_MAX: u16 = 4096;

/// How a node behaves.
#[derive(Debug, Clone)]
pub struct ReplicaOptions {
    /// The stream's name.
    pub stream: String,
    /// How many shards it has.
    pub shard_count: u16,
    /// How long the stream keeps messages at least; `None`: for ever.
    pub retention: Option<Duration>,
    /// How long is waited for what.
    pub pace: Pace,
    /// Whether entries are passed on to the node that is preferred for their shard, and taken from others.
    pub passes_on: bool,
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaHealth {
    /// It follows all shards.
    Ready,
    /// It hasn't reached yet what the stream held when it started, on so many shards.
    CatchingUp(usize),
    /// The stream doesn't answer, or acknowledges nothing, for so many shards.
    Unreachable(usize),
    /// A shard takes and places nothing more here.
    Stopped(Stopped),
}

/// The node.
pub struct Replica {
    store: Arc<Store>,
    identity: Identity,
    shards: Arc<Shards>,
    passing: Option<Passing>,
    is_ending: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
}

/// Its shards' tasks, as requests reach them.
pub(super) struct Shards {
    pub(super) pace: Pace,
    pub(super) metrics: Arc<ReplicaMetrics>,
    handles: Vec<Handle>,
}

struct Handle {
    requests: mpsc::Sender<Request>,
    status: watch::Receiver<Status>,
}

impl Replica {
    /// Starts a task for each shard, and one that tells the other nodes how far they are. The store may be new, or one that has followed this stream before.
    pub async fn start<S: Stream>(
        store: Arc<Store>,
        stream: Arc<S>,
        options: ReplicaOptions,
    ) -> Result<Self, StartError> {
        let shard_count = options.shard_count.clamp(1, SHARDS_MAX);
        let identity = Identity::of(&store, &options.stream, shard_count).await?;
        let (is_ending, ending) = watch::channel(false);
        let mut joining = Vec::with_capacity(usize::from(shard_count));
        let mut handles = Vec::with_capacity(usize::from(shard_count));
        let metrics = Arc::new(ReplicaMetrics::default());
        let rounds = Arc::new(Rounds::new());
        let mut tasks = JoinSet::new();
        for number in 0..shard_count {
            let position = notes::read_position(&store, number).await?;
            let (sender, requests) = mpsc::channel(REQUESTS_MAX);
            let (status, told) = watch::channel(Status {
                position,
                noted: position.sequence,
                ..Status::default()
            });
            // One for each, so that all go on in the same order in every run of a simulation.
            let (joins, joined) = watch::channel(Joining::Begun);
            joining.push(joins);
            let shard = Shard {
                number,
                node: identity.node(),
                store: store.clone(),
                stream: stream.clone(),
                pace: options.pace,
                requests,
                status,
                is_ending: ending.clone(),
                joining: joined,
                rounds: rounds.clone(),
                metrics: metrics.clone(),
                position,
                waiting: VecDeque::new(),
                noted: (position, Instant::now()),
                diverged_looks: 0,
            };
            tasks.spawn(shard.run());
            handles.push(Handle {
                requests: sender,
                status: told,
            });
        }
        let ageing = Ageing {
            node: identity.node(),
            store: store.clone(),
            stream: stream.clone(),
            pace: options.pace,
            retention: options.retention,
            metrics: metrics.clone(),
            shards: handles.iter().map(|shard| shard.status.clone()).collect(),
            joining,
            is_ending: ending.clone(),
            dropped: vec![0; handles.len()],
        };
        tasks.spawn(ageing.run());
        let shards = Arc::new(Shards {
            pace: options.pace,
            metrics,
            handles,
        });
        let mut passing = None;
        if options.passes_on {
            let drawn = store.random().map_err(|error| StartError::Io {
                what: "drawing a run's number",
                error,
            })?;
            let run = drawn as u64;
            match stream.post(run).await {
                Ok(post) => {
                    let (node, store, shards) = (identity.node(), store.clone(), shards.clone());
                    let exchange = Exchange::new(post, run, node, store, shards, ending.clone());
                    let (exchange, way) = exchange;
                    tasks.spawn(exchange.run());
                    passing = Some(way);
                }
                Err(error) => warn!(%error, "this node passes nothing on to others"),
            }
        }
        Ok(Self {
            store,
            identity,
            shards,
            passing,
            is_ending,
            tasks: Mutex::new(tasks),
        })
    }

    /// Appends all entries or none, here or by the node that is preferred for their shard; returns once a quorum
    /// has them, and that node has placed them.
    pub async fn append(
        &self,
        slug: &Slug,
        entries: Vec<NewEntry>,
        permit: BytePermit,
    ) -> Result<Appended, ReplicaError> {
        let until = Instant::now() + self.shards.pace.answer_within;
        let (entries, permit) = (Arc::new(entries), Arc::new(permit));
        if let Some(passing) = &self.passing {
            match passing.append(slug, &entries, &permit, until).await {
                Outcome::Done(appended) => return Ok(appended),
                Outcome::NotDone => {}
                Outcome::Unknown if all_have_keys(&entries) || is_planted(Bug::AppendedTwice) => {}
                Outcome::Unknown => return Err(ReplicaError::Unsettled),
            }
        }
        self.shards.append(slug, entries, permit, until).await
    }

    /// Whether what this node is asked to append to an experiment is appended by itself, as things are.
    pub fn is_preferred(&self, slug: &Slug) -> bool {
        let passing = self.passing.as_ref();
        passing.is_none_or(|passing| passing.preferred(slug).is_none())
    }

    /// Creates an experiment, or changes its definition, on all nodes.
    pub async fn define(
        &self,
        slug: &Slug,
        definition: Definition,
    ) -> Result<Defined, ReplicaError> {
        let request = |reply| Request::Define {
            slug: slug.clone(),
            definition: Box::new(definition),
            reply,
        };
        let created = self.shards.ask(slug, request).await?;
        let description = self.store.describe(slug).await?;
        Ok(Defined {
            created,
            description,
        })
    }

    /// Deletes an experiment and its entries, on all nodes.
    pub async fn delete(&self, slug: &Slug) -> Result<(), ReplicaError> {
        let request = |reply| Request::Delete {
            slug: slug.clone(),
            reply,
        };
        self.shards.ask(slug, request).await
    }

    /// Returns once this node has placed as much of an experiment as has this id, or a later one.
    pub async fn await_id(&self, slug: &Slug, id: LogId) {
        let Some(shard) = self.shards.of(slug) else {
            return;
        };
        let mut status = shard.status.clone();
        loop {
            status.borrow_and_update();
            // An error: it isn't there yet, perhaps.
            if let Ok(description) = self.store.describe(slug).await
                && description.last_entry.is_some_and(|(last, _)| last >= id)
            {
                return;
            }
            if status.changed().await.is_err() {
                return;
            }
        }
    }

    /// Where it is placed.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Which stream it follows.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How it is.
    pub fn health(&self) -> ReplicaHealth {
        self.shards.health()
    }

    /// How each shard is.
    pub fn statuses(&self) -> Vec<Status> {
        let shards = self.shards.handles.iter();
        shards.map(|shard| shard.status.borrow().clone()).collect()
    }

    /// Writes what is counted.
    pub fn write_metrics(&self, text: &mut Text) {
        self.shards.metrics.write(&self.statuses(), text);
    }

    /// Takes nothing more, and ends the tasks. What waits is refused, or told that nobody knows. The store stays
    /// open.
    pub async fn shutdown(&self) {
        // An error: no task is left.
        let _none = self.is_ending.send(true);
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                error!(%error, "a task ended by a bug: requests of its shard were told that nobody knows");
            }
        }
    }

    /// Ends the tasks wherever they are, as a crash would.
    #[cfg(test)]
    pub(super) async fn abort(&self) {
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.shutdown().await;
    }
}

impl Shards {
    /// How many there are.
    pub(super) fn count(&self) -> u16 {
        // No more than SHARDS_MAX.
        self.handles.len() as u16
    }

    /// How it is.
    pub(super) fn health(&self) -> ReplicaHealth {
        let (mut behind, mut unreachable) = (0, 0);
        for shard in &self.handles {
            let status = shard.status.borrow();
            if let Some(stopped) = &status.stopped {
                return ReplicaHealth::Stopped(stopped.clone());
            }
            behind += usize::from(!status.is_caught_up);
            let is_silent =
                status.unreachable_since.is_some() || status.unacknowledged_since.is_some();
            unreachable += usize::from(is_silent);
        }
        match (unreachable, behind) {
            (0, 0) => ReplicaHealth::Ready,
            (0, behind) => ReplicaHealth::CatchingUp(behind),
            (unreachable, _) => ReplicaHealth::Unreachable(unreachable),
        }
    }

    /// Appends all entries or none, by this node. They are answered by then, and not begun afterwards.
    pub(super) async fn append(
        &self,
        slug: &Slug,
        entries: Entries,
        permit: Arc<BytePermit>,
        until: Instant,
    ) -> Result<Appended, ReplicaError> {
        let request = |reply| {
            Request::Append(AppendRequest {
                slug: slug.clone(),
                entries,
                permit,
                until,
                reply,
            })
        };
        self.ask_until(slug, until, request).await
    }

    async fn ask<T>(
        &self,
        slug: &Slug,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, ReplicaError> {
        let until = Instant::now() + self.pace.answer_within;
        self.ask_until(slug, until, request).await
    }

    async fn ask_until<T>(
        &self,
        slug: &Slug,
        until: Instant,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, ReplicaError> {
        let shard = self.of(slug).ok_or(ReplicaError::ShuttingDown)?;
        let (reply, answer) = oneshot::channel();
        shard
            .requests
            .try_send(request(reply))
            .map_err(|error| match error {
                TrySendError::Full(_) => ReplicaError::Overloaded,
                TrySendError::Closed(_) => ReplicaError::ShuttingDown,
            })?;
        match timeout_at(until, answer).await {
            Ok(Ok(answer)) => answer,
            // A task that was dropped with it, or no answer in time.
            Ok(Err(_)) | Err(_) => Err(ReplicaError::Unsettled),
        }
    }

    fn of(&self, slug: &Slug) -> Option<&Handle> {
        // One for each number.
        let number = shard_of(slug, self.count());
        self.handles.get(usize::from(number))
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
