//! trialog: the log store for AI experiments.
pub mod experiment;
pub mod fs;
pub mod journal;
pub mod log;
pub mod model;
