//! Where writes go: to the store, or to the node that has them ordered among those of other nodes first.

use super::error::{ApiError, ApiResult};
use super::server::AppState;
use crate::experiment::{AppendError, Appended, BytePermit, Defined};
use crate::model::{Definition, LogId, NewEntry, Slug};
#[cfg(feature = "nats")]
use crate::replica::{Replica, ReplicaError, ReplicaHealth};

/// A read that names an id which this node hasn't seen yet waits so long for it.
#[cfg(feature = "nats")]
const ID_WAITED_FOR: std::time::Duration = std::time::Duration::from_secs(2);

/// Why entries were not appended.
pub enum NotAppended {
    /// By the log.
    Log(AppendError),
    /// By what orders them.
    #[cfg(feature = "nats")]
    Replica(ReplicaError),
}

impl NotAppended {
    /// Which entry of the request it is about, if it is about one.
    pub fn position(&self) -> Option<usize> {
        let error = match self {
            Self::Log(error) => error,
            #[cfg(feature = "nats")]
            Self::Replica(ReplicaError::Append(error)) => error,
            #[cfg(feature = "nats")]
            Self::Replica(_) => return None,
        };
        match error {
            AppendError::UnknownVariant { position, .. }
            | AppendError::TooManyVariants { position }
            | AppendError::KeyConflict { position } => Some(*position),
            _ => None,
        }
    }
}

impl From<NotAppended> for ApiError {
    fn from(error: NotAppended) -> Self {
        match error {
            NotAppended::Log(error) => error.into(),
            #[cfg(feature = "nats")]
            NotAppended::Replica(error) => error.into(),
        }
    }
}

impl AppState {
    /// The same state, whose writes go to this node. It places them in the same store.
    #[cfg(feature = "nats")]
    pub fn with_replica(mut self, replica: Replica) -> Self {
        self.replica = Some(replica);
        self
    }

    /// Appends all entries or none; returns once they are durable.
    pub(super) async fn append(
        &self,
        slug: &Slug,
        entries: Vec<NewEntry>,
        permit: BytePermit,
    ) -> Result<Appended, NotAppended> {
        #[cfg(feature = "nats")]
        if let Some(replica) = &self.replica {
            let appended = Box::pin(replica.append(slug, entries, permit)).await;
            return appended.map_err(NotAppended::Replica);
        }
        let appended = self.store.append_batch(slug, entries, permit).await;
        appended.map_err(NotAppended::Log)
    }

    /// Creates an experiment, or changes its definition.
    pub async fn define(&self, slug: &Slug, definition: Definition) -> ApiResult<Defined> {
        #[cfg(feature = "nats")]
        if let Some(replica) = &self.replica {
            return Ok(replica.define(slug, definition).await?);
        }
        Ok(self.store.define(slug, definition).await?)
    }

    /// Deletes an experiment and its entries.
    pub(super) async fn delete(&self, slug: &Slug) -> ApiResult<()> {
        #[cfg(feature = "nats")]
        if let Some(replica) = &self.replica {
            return Ok(replica.delete(slug).await?);
        }
        Ok(self.store.delete(slug).await?)
    }

    /// Takes nothing more, and ends the node and the store.
    pub async fn shutdown(&self) {
        #[cfg(feature = "nats")]
        if let Some(replica) = &self.replica {
            replica.shutdown().await;
        }
        self.store.shutdown().await;
    }

    /// Why entries can't be ordered among those of other nodes now, if they are to be and can't.
    pub(super) fn away(&self) -> Option<&'static str> {
        #[cfg(feature = "nats")]
        if let Some(replica) = &self.replica {
            return match replica.health() {
                ReplicaHealth::Ready => None,
                ReplicaHealth::CatchingUp(_) => Some("catching_up"),
                ReplicaHealth::Unreachable(_) => Some("journal_unavailable"),
                ReplicaHealth::Stopped(_) => Some("journal_stopped"),
            };
        }
        None
    }

    /// Where another node may have given this id to an entry: waits until this one has seen as much of the
    /// experiment, for a while. An answer may come from anywhere, so this is no error where it doesn't come.
    pub(super) async fn await_id(&self, slug: &Slug, id: LogId) {
        #[cfg(feature = "nats")]
        if let Some(replica) = &self.replica {
            let seen = replica.await_id(slug, id);
            // Not in time: the answer is what this node has.
            let _late = tokio::time::timeout(ID_WAITED_FOR, seen).await;
        }
        #[cfg(not(feature = "nats"))]
        let _nobody_else = (slug, id);
    }
}
