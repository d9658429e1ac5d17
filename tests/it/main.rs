//! Tests on real files and real sockets, in one binary.
// The settings in clippy.toml reach functions with `#[test]` only, and not their helpers here.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::panic, clippy::indexing_slicing)]

mod crash;
mod golden;
mod process;
mod rig;
mod server;
mod store;
mod tidy;
