//! Statistics: what an experiment's metrics say. Pure: no files, no runtime, no clock.
//!
//! [`Summary`] is what is kept of a log or of a segment: it can be merged, and written as bytes.
//! [`units::UnitScan`] adds, with scans of the log, which entries belong together. A [`Report`] is
//! made of both and of the experiment's definition. A [`Question`] does all of that on any log.

mod bytes;
pub mod distributions;
pub mod exact;
pub mod extract;
mod members;
pub mod order;
pub mod power;
pub mod question;
pub mod ratio;
pub mod report;
pub mod sample_ratio;
pub mod sequence;
pub mod series;
pub mod significance;
pub mod sketch;
pub mod summary;
pub mod units;

pub use bytes::{DecodeError, METRICS_LIMIT_MAX};
pub use question::{Answer, Entries, Question};
pub use report::Report;
pub use series::Series;
pub use summary::Summary;
