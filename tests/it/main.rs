//! Tests on real files and real sockets, in one binary.
// The settings in clippy.toml reach functions with `#[test]` only, and not their helpers here.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::panic, clippy::indexing_slicing)]

/// The allocator of the binary; simulations are a quarter faster with it, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod bench;
mod bench_check;
mod catalogue;
mod cli;
mod client;
mod copied_live;
mod crash;
mod descriptors;
mod every_bit;
mod every_crash;
mod export;
mod failing_calls;
mod faults;
mod figures;
mod flips;
mod golden;
mod group_commit;
mod http2;
mod http_batches;
mod http_bodies;
mod http_experiments;
mod http_framing;
mod http_idempotency;
mod http_keys;
mod http_limits;
mod http_order;
mod http_overload;
mod http_query;
mod http_segments;
mod http_stats;
mod http_tail;
mod idle;
mod kill;
mod ledger;
mod lies;
mod load;
mod misopen;
mod model;
mod offline;
mod offline_damage;
mod planted;
mod process;
mod process_end;
mod query;
mod real_entries;
mod repeats;
mod replay_to;
mod report;
mod rig;
mod rot;
mod rules;
mod scene;
mod secrets;
mod server;
mod settings;
mod starting;
mod stats_expected;
mod stats_real;
mod store;
mod tail;
mod tidy;
mod tls;
mod torn;
mod whole_files;
mod wrong_restore;
