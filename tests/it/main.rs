//! Tests on real files and real sockets, in one binary.

mod store;
