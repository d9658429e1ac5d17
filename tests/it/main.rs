//! Tests on real files and real sockets, in one binary.

mod crash;
mod flips;
mod group_commit;
mod idle;
mod kill;
mod ledger;
mod process;
mod real_entries;
mod rig;
mod rules;
mod scene;
mod server;
mod store;
mod torn;
