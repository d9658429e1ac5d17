//! `trialog replay`: entries from segment files, as JSON lines or as a table.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::output_file::OutputFile;
use super::progress::{Progress, is_watched};
use super::send::{self, Sender};
use super::{Outcome, output, place};
use crate::fs::{Disk, real};
use crate::log::select;
use crate::model::{LogId, Slug};
use crate::offline::export::{Columns, Format};
use crate::offline::replay::{self, ReplayError, Selection, replay, replay_watched};
use crate::offline::verify::verify_beside;
use crate::offline::{OfflineError, Source};

/// Give entries back from segment files, without a server: one JSON object a line, or as a table.
///
/// PATH is a store's folder, an experiment's folder or one segment file: in place, beside a
/// running server, or a copy. Nothing is changed.
///
/// A table (csv, parquet) has the columns log_id, experiment, received_at, variant_key, input, output,
/// context, a column metrics.NAME for each numeric metric (256 at most), then `metrics`: all metrics
/// of an entry as JSON, if those columns don't say all of them exactly; and `other`: its members that
/// have no column.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trialog replay trialog-data --experiment demo --variant A | jq .metrics
  trialog replay trialog-data --experiment demo --format parquet --output demo.parquet
  trialog replay trialog-data --to http://10.0.0.7:7171 --api-key KEY")]
pub struct Args {
    /// Where the segments are.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only entries of this experiment; may be given more than once.
    #[arg(long, value_name = "SLUG")]
    experiment: Vec<Slug>,
    /// Only entries of this variant; may be given more than once.
    #[arg(long, value_name = "KEY")]
    variant: Vec<String>,
    /// Only entries received at this time (RFC 3339) or later.
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Only entries received before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Only entries behind this log id.
    #[arg(long, value_name = "ID")]
    after: Option<LogId>,
    /// How entries are written.
    #[arg(long, value_enum, default_value_t)]
    format: FormatArg,
    /// Write to this file instead of stdout; it appears when it is whole.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    send: send::Args,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum FormatArg {
    #[default]
    Jsonl,
    Csv,
    Parquet,
}

pub fn run(args: Args) -> Result<Outcome> {
    let selection = Selection {
        experiments: args.experiment,
        entries: select::Selection {
            variants: args.variant,
            after: args.after,
            before: None,
            since_ms: args.since.map(milliseconds),
            until_ms: args.until.map(milliseconds),
        },
    };
    let entries = &selection.entries;
    if let (Some(since), Some(until)) = (entries.since_ms, entries.until_ms)
        && since >= until
    {
        let message = "--since must be before --until\n";
        clap::Error::raw(clap::error::ErrorKind::ValueValidation, message).exit();
    }
    let disk = place::disk(&args.paths)?;
    if let Some(sender) = args.send.sender()? {
        return send_all(&disk, &args.paths, &selection, sender);
    }
    let format = match args.format {
        FormatArg::Jsonl => Format::Jsonl,
        FormatArg::Csv => Format::Csv,
        FormatArg::Parquet => Format::Parquet,
    };
    let export = |out: &File, name: &str| {
        let export = Export {
            disk: disk.clone(),
            paths: &args.paths,
            selection: &selection,
            is_watched: is_watched(out),
        };
        match export.write(format, out) {
            // Whoever reads it has enough.
            Err(Failed::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                Ok(Outcome::Done)
            }
            Err(Failed::Output(error)) => Err(error).context(format!("can't write {name}")),
            Err(Failed::Source(error)) => Err(error),
            Ok(outcome) => Ok(outcome),
        }
    };
    match &args.output {
        None => {
            // Not `Stdout`, which looks for line breaks.
            let out = io::stdout().as_fd().try_clone_to_owned()?;
            real::widen_pipe(&out);
            export(&out.into(), "the output")
        }
        Some(path) => {
            let output = OutputFile::create(path)?;
            let outcome = export(output.file(), &path.display().to_string())?;
            output.finish()?;
            Ok(outcome)
        }
    }
}

struct Export<'a> {
    disk: Arc<dyn Disk>,
    paths: &'a [PathBuf],
    selection: &'a Selection,
    is_watched: bool,
}

enum Failed {
    Source(anyhow::Error),
    Output(io::Error),
}

impl Export<'_> {
    fn write(&self, format: Format, out: &File) -> Result<Outcome, Failed> {
        let columns = match format.has_columns() {
            true => self.find_columns()?,
            false => Columns::default(),
        };
        let mut exporter = format.exporter(out, columns).map_err(Failed::Output)?;
        let mut result = Outcome::Done;
        for path in self.paths {
            let source = self.open(path)?;
            let mut progress = self.progress("writing", &source)?;
            let watch = |bytes| progress.add(bytes);
            let replayed = replay_watched(&source, self.selection, watch, |e| exporter.take(&e))?;
            drop(progress);
            if tell_damage(path, &source, &replayed)? {
                result = Outcome::FoundDamage;
            }
        }
        exporter.finish().map_err(Failed::Output)?;
        Ok(result)
    }

    /// A table begins with its columns, so all entries are looked at before the first is written.
    fn find_columns(&self) -> Result<Columns, Failed> {
        let mut columns = Columns::default();
        for path in self.paths {
            let source = self.open(path)?;
            let mut progress = self.progress("looking for metrics", &source)?;
            let watch = |bytes| progress.add(bytes);
            replay_watched(&source, self.selection, watch, |entry| {
                columns.learn(entry.body);
                Ok(())
            })?;
        }
        if columns.has_more() {
            output::words(format_args!(
                "trialog: only the first {} metrics have a column of their own; the others, and \
                 those with long names, are in the column metrics",
                columns.names().len()
            ));
        }
        Ok(columns)
    }

    fn open(&self, path: &Path) -> Result<Source, Failed> {
        Ok(Source::open(self.disk.clone(), path)?)
    }

    fn progress(&self, what: &'static str, source: &Source) -> Result<Progress, Failed> {
        let segments = match self.is_watched {
            true => source.segments(&source.plan())?,
            false => Vec::new(),
        };
        let total = segments.iter().map(|segment| segment.len).sum();
        Ok(Progress::new(what, total, self.is_watched))
    }
}

impl From<ReplayError> for Failed {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Output(error) => Self::Output(error),
            error => Self::Source(error.into()),
        }
    }
}

impl From<OfflineError> for Failed {
    fn from(error: OfflineError) -> Self {
        Self::Source(error.into())
    }
}

fn send_all(
    disk: &Arc<dyn Disk>,
    paths: &[PathBuf],
    selection: &Selection,
    mut sender: Sender,
) -> Result<Outcome> {
    let mut refused = None;
    let mut result = Outcome::Done;
    for path in paths {
        let source = Source::open(disk.clone(), path)?;
        let replayed = replay(&source, selection, |entry| {
            sender.take(&entry).map_err(|error| {
                refused = Some(error);
                io::ErrorKind::Other.into()
            })
        });
        if let Some(refused) = refused {
            return Err(refused);
        }
        if tell_damage(path, &source, &replayed?)? {
            result = Outcome::FoundDamage;
        }
    }
    let sent = sender.finish()?;
    Ok(match result {
        Outcome::Done => sent,
        Outcome::FoundDamage => result,
    })
}

/// Says what a replay of `path` met, and whether that is damage.
fn tell_damage(
    path: &Path,
    source: &Source,
    outcome: &replay::Outcome,
) -> Result<bool, OfflineError> {
    let has_met_damage = !outcome.damages.is_empty() || !outcome.unreadable.is_empty();
    // Beside a running server, what looked bad may have been on its way to the disk.
    if !has_met_damage
        || source.is_live && verify_beside(real::host().disk, path)?.findings.is_empty()
    {
        return Ok(false);
    }
    for (path, damage) in &outcome.damages {
        let (start, end) = (damage.start, damage.end);
        let what = damage.reason.as_str();
        output::words(format_args!(
            "trialog: {}: bytes {start}..{end}: {what}",
            path.display()
        ));
    }
    for error in &outcome.unreadable {
        output::words(format_args!("trialog: {error}"));
    }
    output::words("trialog: the rest was replayed; `trialog verify` tells what is lost");
    Ok(true)
}

fn milliseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
}
