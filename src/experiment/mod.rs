//! Experiments as actors: the only place where async meets the log.

mod actor;
mod actor_thread;
mod batch;
pub mod budget;
pub mod definition;
pub mod figures;
pub mod folder;
mod inflight;
mod registry;
mod sealer;
pub mod store;

pub use budget::{BytePermit, OverBudget};
pub use folder::OpenError;
pub use store::{AppendError, Defined, ReadError, Store, StoreError, StoreHealth, StoreOptions};
