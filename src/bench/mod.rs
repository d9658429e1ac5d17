//! The load generator that users get: it measures a trialog from outside, beside peers that get the
//! same work, and looks for everything that was acknowledged.
//!
//! It knows the server as its clients do, over sockets, and the store's files as every offline reader
//! does. The way of a run, in the order of the files to read: [`run`] sets up and measures in rounds;
//! a [`target`] takes the work; [`driver`] sends it over [`connection`]s at a [`pace`]; [`load`] is the
//! work, [`tally`] what became of it, [`meter`] what it took; [`check`] looks for all of it; [`report`]
//! says it. [`audit`] kills its server meanwhile, and keeps a [`ledger`].

mod alarm;
mod answer;
pub mod api;
pub mod audit;
mod check;
mod child;
mod connection;
mod driver;
pub mod entries;
mod ledger;
mod load;
pub mod machine;
pub mod meter;
pub mod noop;
mod own;
mod pace;
#[cfg(feature = "peers")]
mod peers;
pub mod plan;
mod raw_sync;
pub mod report;
pub mod run;
mod spread;
mod tally;
pub mod target;
pub mod verdict;
pub mod wire;
