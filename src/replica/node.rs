//! A node of a replicated store: takes requests, each to its shard's task, and says how the shards are.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::error;

use super::ageing::{Ageing, Joining};
use super::error::{ReplicaError, Stopped};
use super::notes::{self, Identity, StartError};
use super::plan::{AppendRequest, Reply, Request};
use super::position::shard_of;
use super::shard::{Pace, Shard, Status};
use super::stream::Stream;
use crate::experiment::{Appended, BytePermit, Defined, Store};
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
    pace: Pace,
    shards: Vec<Handle>,
    is_ending: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
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
        let mut shards = Vec::with_capacity(usize::from(shard_count));
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
                position,
                waiting: VecDeque::new(),
                noted: (position, Instant::now()),
                diverged_looks: 0,
            };
            tasks.spawn(shard.run());
            shards.push(Handle {
                requests: sender,
                status: told,
            });
        }
        let ageing = Ageing {
            node: identity.node(),
            store: store.clone(),
            stream,
            pace: options.pace,
            retention: options.retention,
            shards: shards.iter().map(|shard| shard.status.clone()).collect(),
            joining,
            is_ending: ending,
            dropped: vec![0; shards.len()],
        };
        tasks.spawn(ageing.run());
        Ok(Self {
            store,
            identity,
            pace: options.pace,
            shards,
            is_ending,
            tasks: Mutex::new(tasks),
        })
    }

    /// Appends all entries or none; returns once a quorum has them, and this node has placed them.
    pub async fn append(
        &self,
        slug: &Slug,
        entries: Vec<NewEntry>,
        permit: BytePermit,
    ) -> Result<Appended, ReplicaError> {
        let request = |reply| {
            Request::Append(AppendRequest {
                slug: slug.clone(),
                entries: Arc::new(entries),
                permit,
                reply,
            })
        };
        self.ask(slug, request).await
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
        let created = self.ask(slug, request).await?;
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
        self.ask(slug, request).await
    }

    /// Returns once this node has placed as much of an experiment as has this id, or a later one.
    pub async fn await_id(&self, slug: &Slug, id: LogId) {
        let number = shard_of(slug, self.identity.shard_count);
        let Some(shard) = self.shards.get(usize::from(number)) else {
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
        let (mut behind, mut unreachable) = (0, 0);
        for shard in &self.shards {
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

    /// How each shard is.
    pub fn statuses(&self) -> Vec<Status> {
        let shards = self.shards.iter();
        shards.map(|shard| shard.status.borrow().clone()).collect()
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

    async fn ask<T>(
        &self,
        slug: &Slug,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, ReplicaError> {
        // One for each number.
        let number = shard_of(slug, self.identity.shard_count);
        let shard = self.shards.get(usize::from(number));
        let shard = shard.ok_or(ReplicaError::ShuttingDown)?;
        let (reply, answer) = oneshot::channel();
        shard
            .requests
            .try_send(request(reply))
            .map_err(|error| match error {
                TrySendError::Full(_) => ReplicaError::Overloaded,
                TrySendError::Closed(_) => ReplicaError::ShuttingDown,
            })?;
        match timeout(self.pace.answer_within, answer).await {
            Ok(Ok(answer)) => answer,
            // A task that was dropped with it, or no answer in time.
            Ok(Err(_)) | Err(_) => Err(ReplicaError::Unsettled),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
