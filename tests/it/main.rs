//! Tests on real files and real sockets, in one binary.

mod crash;
mod golden;
mod process;
mod rig;
mod server;
mod store;
