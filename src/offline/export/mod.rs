//! Entries in a format to take along: lines of JSON, CSV, Parquet.
//!
//! A table (CSV, Parquet) has the columns `log_id`, `experiment`, `received_at`, `variant_key`, then
//! `input`, `output` and `context` as JSON text, one of numbers for each numeric metric,
//! `metrics.NAME`, and two more of JSON text, which are mostly empty: `metrics`, the entry's metrics
//! as they were sent where the numbers don't say all of it, and `other`, an object of the members
//! that the contract doesn't name. So nothing that was logged is lost.

mod columns;
mod csv;
mod jsonl;
mod parquet;
mod row;

use std::io::{self, Write};

pub use self::columns::Columns;
use super::replay::Replayed;

/// How entries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// One JSON object a line, as the API gives it.
    #[default]
    Jsonl,
    /// RFC 4180, with a line of names.
    Csv,
    /// Typed columns, compressed.
    Parquet,
}

/// Writes entries in one format.
pub trait Exporter {
    /// Writes an entry, or keeps it to write it later.
    fn take(&mut self, entry: &Replayed<'_>) -> io::Result<()>;
    /// Writes what is left. Without this, what was written is not whole.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

impl Format {
    /// Whether all columns must be known before the first entry is taken.
    pub fn has_columns(self) -> bool {
        self != Self::Jsonl
    }

    /// What writes entries to `out` in this format.
    pub fn exporter<'a>(
        self,
        out: impl Write + Send + 'a,
        columns: Columns,
    ) -> io::Result<Box<dyn Exporter + 'a>> {
        Ok(match self {
            Self::Jsonl => Box::new(jsonl::JsonLines::new(out)),
            Self::Csv => Box::new(csv::CsvTable::new(out, columns)?),
            Self::Parquet => Box::new(parquet::ParquetTable::new(out, columns)?),
        })
    }
}
