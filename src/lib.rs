//! trialog: a durable log store for AI experiments.
//!
//! Each execution of a variant of an experiment (a prompt, a model, a setting) is one *entry*: a
//! JSON object that names its variant. trialog keeps entries in an append-only log for each
//! experiment. An entry that was acknowledged is on stable storage, keeps its id and its place, and
//! comes back byte for byte: from the server, or from the files alone.
//!
//! The binary `trialog` is the appliance: an HTTP server and commands that read its files. This
//! library is what it is made of. To embed a store, begin with [`experiment::Store`]; to read
//! files without one, with [`offline`]. The files are described in [`log::format`].
//!
//! # Example
//!
//! ```
//! use trialog::experiment::{Store, StoreOptions};
//! use trialog::fs::real;
//! use trialog::model::{Definition, NewEntry, Slug, Variant};
//! use trialog::offline::Source;
//! use trialog::offline::replay::{Selection, replay};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let options = StoreOptions {
//!     dir: folder.path().join("store"),
//!     journal_bytes: 1 << 20,
//!     free_bytes_min: 0,
//!     ..StoreOptions::default()
//! };
//! let store = Store::open(options, real::host())?;
//!
//! // An experiment has variants; an entry names one of them.
//! let slug = Slug::parse("search-ranker")?;
//! let variants = ["A", "B"].map(|key| Variant {
//!     key: key.into(),
//!     weight: None,
//!     control: key == "A",
//! });
//! let definition = Definition {
//!     variants: variants.into(),
//!     ..Definition::default()
//! };
//! store.define(&slug, definition).await?;
//!
//! let body = r#"{"variantKey":"A","metrics":{"latency_ms":123.0}}"#;
//! let entry = NewEntry {
//!     variant_key: "A".into(),
//!     body: body.into(),
//!     idempotency: None,
//! };
//! // The permit bounds the bytes of all entries that are on their way.
//! let permit = store.reserve(body.len())?;
//! let id = store.append(&slug, entry, permit).await?; // It is on stable storage now.
//!
//! let found = store.get(&slug, id).await?.expect("it was acknowledged");
//! assert_eq!(found.body, body);
//! store.shutdown().await;
//!
//! // The files give it back without a store: also those of a running or of a killed process.
//! let source = Source::open(real::host().disk, &folder.path().join("store"))?;
//! let mut replayed = Vec::new();
//! replay(&source, &Selection::default(), |entry| {
//!     replayed.push((entry.id, entry.body.to_vec()));
//!     Ok(())
//! })?;
//! assert_eq!(replayed, [(id, body.into())]);
//! # Ok(())
//! # }
//! ```
//!
//! # The modules
//!
//! Calls go down this table. `tests/it/tidy.rs` holds the code to its last column.
//!
//! | module | what it is for | what it must not know |
//! | --- | --- | --- |
//! | [`cli`] | the commands: one small file each, glue only | |
//! | `bench` | the load generator: measures a server, and audits it | the server's insides: it asks it over sockets, and reads its files with [`offline`] |
//! | [`http`] | requests in, answers out | files: neither [`log`] nor [`journal`] nor [`fs`] |
//! | [`dashboard`] | the pages and plots for people: figures in, HTML and SVG out; pure | requests, files, a runtime |
//! | [`auth`] | whose request it is, and what it may do; the key file | experiments, logs |
//! | `archive` (a feature) | sealed segments on object storage: uploads beside a store, and a disk to read them by | HTTP, keys |
//! | [`offline`] | replay, verify, repair, backup and inspect from files alone | HTTP, a runtime |
//! | `replica` (a feature) | a store on several nodes, ordered by a replicated stream | HTTP, files: it asks the store |
//! | [`experiment`] | the store, and an actor for each experiment in use: the only place where async meets the log | HTTP, keys |
//! | [`journal`] | what makes a group of entries durable; redo; checkpoints | experiments, a runtime |
//! | [`mod@log`] | frames, segments, their index, readers and the writer | the journal, a runtime |
//! | [`stats`] | summaries of metrics, tests of significance, the report: pure | files, logs, a runtime |
//! | [`fs`] | the seam to the machine: the real one, and a simulated one for tests | anything of ours |
//! | [`entry_json`] | how an entry is given back as JSON | where it comes from |
//! | [`json_file`] | small JSON files that carry a checksum of their own bytes | what is in them |
//! | [`metrics`] | counters and histograms of a running process, and Prometheus' text of them | who counts what |
//! | `percent` | texts as values in an address | whose they are |
//! | [`model`] | the nouns: slugs, ids, variants, definitions, entries | I/O, a runtime |

#[cfg(feature = "archive")]
pub mod archive;
pub mod auth;
mod bench;
pub mod cli;
pub mod dashboard;
pub mod entry_json;
pub mod experiment;
pub mod fs;
pub mod http;
pub mod journal;
pub mod json_file;
pub mod log;
pub mod metrics;
pub mod model;
pub mod offline;
mod percent;
#[cfg(feature = "nats")]
pub mod replica;
pub mod stats;
