//! Statistics: what an experiment's metrics say. Pure: no files, no runtime, no clock.
//!
//! [`Summary`] is what is kept of a log or of a segment, and can be merged and written as bytes.

mod bytes;
pub mod exact;
pub mod extract;
pub mod series;
pub mod sketch;
pub mod summary;

pub use bytes::{DecodeError, METRICS_LIMIT_MAX};
pub use series::Series;
pub use summary::Summary;
