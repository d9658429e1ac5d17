//! Tests on real files and real sockets, in one binary.

mod crash;
mod rig;
mod store;
