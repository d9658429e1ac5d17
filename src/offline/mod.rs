//! A store, an experiment or a single segment as files, read without a server: beside a running
//! one, behind a killed one, or from a copy. Nothing here writes, except [`repair`], and [`backup`] and
//! `restore` to a new folder.
//!
//! What a killed or running server has acknowledged may be in its journal only; it is laid over
//! the segments' bytes in memory.

mod archived;
pub mod backup;
pub mod export;
pub mod repair;
pub mod replay;
pub mod report;
#[cfg(feature = "archive")]
pub mod restore;
pub mod source;
pub mod target;
pub mod verify;
mod wanted;

pub use source::{OfflineError, Source, SourceSegment};
