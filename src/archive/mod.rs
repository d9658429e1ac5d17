//! Sealed segments on object storage: S3 and what speaks as it does, Google Cloud Storage, Azure, a folder.
//!
//! [`keeper`] uploads what is sealed, checks it, and lets local copies go; [`read_through`] lets a server read
//! those in the archive, and [`disk`] the offline commands. [`copies`] hold
//! what isn't sealed yet, so that a store can begin of what an archive has.
//!
//! # The layout
//!
//! Below the address that the server was given, all names are fixed:
//!
//! | object | what |
//! | --- | --- |
//! | `<store id>/<slug>/<incarnation>/<file name>` | a sealed segment: the bytes and the name of its file, `<first sequence number, 20 digits>.segment` |
//! | `<store id>/<slug>/<incarnation>/experiment.json` | the definition, as it was last |
//! | `<store id>/_copies/<name>/…` | a [copy](copies) of what of the store isn't archived, and the list of all |
//! | `<store id>/<slug>/<incarnation>/dropped-locally.json` | the mark of what the server has dropped of its own copies, if it has |
//!
//! The store's id and the incarnation are 16 hexadecimal digits each, as in a segment's header. So a copy of
//! one incarnation's folder is an experiment's folder, which every command reads. The mark has another name
//! than in a store, since here nothing is dropped: it only says why the first segments may be missing, if
//! they had been dropped before there was an archive. Nothing in an archive is ever deleted: not when an
//! experiment is, nor when a local copy goes.

mod cache;
pub mod copies;
pub mod disk;
mod error;
pub mod keeper;
mod known;
mod layout;
mod local_copies;
mod mark;
pub mod read_through;
mod store;
mod upload;

pub use error::ArchiveError;
pub use store::Archive;
