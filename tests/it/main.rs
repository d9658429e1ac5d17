//! Tests on real files and real sockets, in one binary.

mod crash;
mod http_bodies;
mod http_framing;
mod http_order;
mod process;
mod rig;
mod server;
mod store;
