//! The content of each page.

pub mod compare;
pub mod define;
pub mod entries;
pub mod entry;
pub mod experiment;
pub mod experiments;
pub mod failure;
pub mod keys;
pub mod operation;
pub mod sign_in;
