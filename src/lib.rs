//! trialog: the log store for AI experiments.

pub mod auth;
pub mod cli;
pub mod entry_json;
pub mod experiment;
pub mod fs;
pub mod http;
pub mod journal;
pub mod log;
pub mod model;
pub mod offline;
