//! The rules in `DESIGN.md` that make a store safe: each has tests here, named after it, that
//! fail when it is not kept.

mod batches;
mod damage;
mod recovery;
mod reuse;
mod salts;
mod store;
mod write_ahead;
