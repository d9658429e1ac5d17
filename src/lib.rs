//! trialog: the log store for AI experiments.
pub mod fs;
pub mod model;
pub mod experiment;
