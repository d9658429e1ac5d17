//! Experiments as actors: the only place where async meets the log.

mod actor;
mod actor_thread;
#[cfg(feature = "archive")]
pub mod archived;
pub mod asking;
mod batch;
mod blocking;
pub mod budget;
pub mod definition;
pub mod error;
pub mod figures;
mod figures_memory;
pub mod folder;
pub mod glance;
mod inflight;
#[cfg(feature = "archive")]
mod let_go;
pub mod log_figures;
mod news;
pub mod reading;
mod registry;
pub mod repeats;
#[cfg(feature = "nats")]
pub mod replicated;
pub mod retention;
mod sealer;
pub mod segments;
#[cfg(feature = "nats")]
#[cfg(test)]
pub(crate) mod simulated;
pub mod state;
pub mod store;
pub mod tail;

pub use batch::Appended;
#[cfg(all(test, feature = "nats"))]
pub(crate) use blocking::in_place;
pub use budget::{BytePermit, OverBudget};
pub use error::{AppendError, ReadError, StoreError};
pub use folder::OpenError;
pub use retention::keep_retaining;
pub use store::{Defined, Store, StoreHealth, StoreOptions};
