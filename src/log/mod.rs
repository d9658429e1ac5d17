//! The log of one experiment: records in frames in segments. Synchronous and without a runtime,
//! so that the server, recovery and every offline command use the same code.
//!
//! The bytes are described in [`mod@format`].

pub mod archived;
mod block_reader;
mod closed;
pub mod cursor;
pub mod dropped;
pub mod expiry;
pub mod footer;
pub mod format;
pub mod frame;
pub mod frozen;
pub mod index;
pub mod lead;
pub mod listing;
pub mod numbers;
pub mod open;
pub mod outline;
pub mod planted;
pub mod reader;
pub mod record;
pub mod scan;
pub mod segment;
pub mod segment_file;
pub mod select;
pub mod timeline;
pub mod ulid;
pub mod view;
#[cfg(feature = "archive")]
pub mod whole;
pub mod writer;
