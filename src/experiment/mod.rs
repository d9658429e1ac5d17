//! Experiments as actors: the only place where async meets the log.

pub mod budget;
pub mod store;

pub use budget::{BytePermit, OverBudget};
pub use store::{AppendError, Defined, ReadError, Store, StoreError, StoreHealth, StoreOptions};
