//! `trialog restore`: a store from the copy in an archive.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Outcome, output, place};
use crate::fs::real;
use crate::offline::restore::restore;

/// Make a store of the newest copy in an archive, in a new folder that `trialog serve` can run on.
///
/// `trialog backup` with an archive's address makes such copies. All segments are copied and compared with their
/// checksums, so the archive isn't needed afterwards. Of a node of a replicated store it is a new node.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  trialog restore s3://bucket/trialog /var/lib/trialog")]
pub struct Args {
    /// The archive's address; with several stores in it that of a store, or of a copy.
    #[arg(value_name = "ADDRESS")]
    from: PathBuf,
    /// The new folder. Until the store is whole and on the disk its name ends with .unfinished.
    #[arg(value_name = "DIR")]
    to: PathBuf,
}

pub fn run(args: Args) -> Result<Outcome> {
    let Args { from, to } = args;
    let there = place::disk_of(&from)?;
    let restored = restore(&real::host(), &*there, &from, &to);
    let restored = restored.with_context(|| format!("nothing is restored to {}", to.display()))?;
    output::words(format_args!(
        "{}: {} segments, {} bytes, from {}",
        to.display(),
        restored.segments,
        restored.bytes,
        restored.copy.display()
    ));
    Ok(Outcome::Done)
}
