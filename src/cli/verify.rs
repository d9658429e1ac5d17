//! `trialog verify`: checks every byte, and can write what is whole to new files.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use super::{Outcome, output, place};
use crate::experiment::{Store, StoreOptions};
use crate::fs::real;
use crate::offline::Source;
use crate::offline::repair::repair;
use crate::offline::verify::verify_beside;

/// Check every byte of a store, an experiment's folder or a segment file.
///
/// Prints what is damaged, where, and what it costs; exits 1 when anything is. Nothing is
/// changed, unless --repair is given.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  trialog verify trialog-data && echo whole")]
pub struct Args {
    /// What to check.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Write what is whole of each damaged segment to a new file; the damaged one is kept beside
    /// it. No server may be running there.
    #[arg(long)]
    repair: bool,
}

pub fn run(args: Args) -> Result<Outcome> {
    let mut result = Outcome::Done;
    for path in &args.paths {
        let disk = place::disk_of(path)?;
        if args.repair {
            ensure!(
                !disk.is_remote(path),
                "{}: an archive is only read: copy what is to be repaired to a folder",
                path.display()
            );
            settle(path)?;
        }
        let report = verify_beside(disk, path)?;
        for finding in &report.findings {
            output::data(format_args!("{}: {}", finding.path.display(), finding.what))?;
        }
        output::words(format_args!(
            "{}: {} entries in {} segments, {} bytes checked, {} findings",
            path.display(),
            report.entry_count,
            report.segment_count,
            report.byte_count,
            report.findings.len()
        ));
        if report.dropped_segments > 0 {
            let (segments, entries) = (report.dropped_segments, report.dropped_entries);
            output::words(format_args!(
                "{segments} segments with {entries} entries were dropped by retention"
            ));
        }
        if report.archived_segments > 0 {
            let (segments, entries) = (report.archived_segments, report.archived_entries);
            output::words(format_args!(
                "{segments} segments with {entries} entries are in the archive alone: verify its address, as \
                 s3://…, to check them"
            ));
        }
        if report.torn_bytes > 0 {
            let bytes = report.torn_bytes;
            output::words(format_args!(
                "{bytes} bytes at the end were still being written when this was copied"
            ));
        }
        if !report.findings.is_empty() {
            result = Outcome::FoundDamage;
        }
        if args.repair {
            for repaired in repair(&real::host(), path, &report.damaged)? {
                output::words(format_args!(
                    "{}: written anew with {} whole entries; the damaged file is {}",
                    repaired.path.display(),
                    repaired.entry_count,
                    repaired.kept.display()
                ));
            }
        }
    }
    Ok(result)
}

/// Brings a store's segments up to date from its journal, as a start does, so that they can be
/// written anew. Fails when a server is running there.
fn settle(path: &Path) -> Result<()> {
    let source = Source::open(real::host().disk, path)?;
    let Some(dir) = source.store_dir.clone() else {
        return Ok(());
    };
    if source.is_live {
        bail!(
            "a server has {} open: stop it before a repair",
            dir.display()
        );
    }
    let options = StoreOptions {
        dir,
        ..StoreOptions::default()
    };
    // Dropping the store makes everything durable in the segments.
    drop(Store::open(options, real::host())?);
    Ok(())
}
