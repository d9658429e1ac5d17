//! `trialog replay`: entries from segment files, as JSON lines.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::send::{self, Sender};
use super::{Outcome, output};
use crate::entry_json::EntryWriter;
use crate::fs::real;
use crate::log::select;
use crate::model::{LogId, Slug};
use crate::offline::Source;
use crate::offline::replay::{ReplayError, Replayed, Selection, replay};
use crate::offline::verify::verify_beside;

const BUFFER_LEN: usize = 256 << 10;

/// Give entries back from segment files, one JSON object a line, without a server.
///
/// PATH is a store's folder, an experiment's folder or one segment file: in place, beside a
/// running server, or a copy. Nothing is changed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  trialog replay trialog-data --experiment demo --variant A | jq .metrics\n  \
        trialog replay trialog-data --to http://10.0.0.7:7171 --api-key KEY"
)]
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
    /// Write to this file instead of stdout; it appears when it is whole.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    send: send::Args,
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
    if let Some(sender) = args.send.sender()? {
        return send_all(&args.paths, &selection, sender);
    }
    match &args.output {
        None => {
            let stdout = io::stdout().lock();
            write_all(&args.paths, &selection, stdout)
        }
        Some(path) => {
            let temporary = temporary_beside(path);
            let created = fs::File::create(&temporary);
            let file = created.with_context(|| format!("can't write {}", path.display()))?;
            let written = write_all(&args.paths, &selection, &file)
                .and_then(|outcome| Ok((outcome, file.sync_all()?)))
                .and_then(|(outcome, ())| {
                    fs::rename(&temporary, path)?;
                    Ok(outcome)
                });
            if written.is_err() {
                // The error that is told is the one that made it half-written.
                let _half_written = fs::remove_file(&temporary);
            }
            written
        }
    }
}

fn write_all(paths: &[PathBuf], selection: &Selection, out: impl Write) -> Result<Outcome> {
    let mut out = io::BufWriter::with_capacity(BUFFER_LEN, out);
    let mut writer = EntryWriter::default();
    let mut line = Vec::new();
    let replayed = replay_all(paths, selection, |entry| {
        line.clear();
        writer.write_line(
            &mut line,
            entry.slug,
            entry.id,
            entry.received_at_ms,
            entry.body,
        );
        out.write_all(&line)
    });
    let flushed = replayed.and_then(|outcome| {
        out.flush().map_err(ReplayError::Output)?;
        Ok(outcome)
    });
    match flushed {
        // The reader of the output has enough.
        Err(ReplayError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(Outcome::Done)
        }
        flushed => Ok(flushed?),
    }
}

fn send_all(paths: &[PathBuf], selection: &Selection, mut sender: Sender) -> Result<Outcome> {
    let mut refused = None;
    let replayed = replay_all(paths, selection, |entry| {
        sender.take(&entry).map_err(|error| {
            refused = Some(error);
            io::ErrorKind::Other.into()
        })
    });
    if let Some(refused) = refused {
        return Err(refused);
    }
    let (replayed, sent) = (replayed?, sender.finish()?);
    Ok(match replayed {
        Outcome::Done => sent,
        Outcome::FoundDamage => replayed,
    })
}

/// Hands all entries to `take`, and says what is damaged.
fn replay_all(
    paths: &[PathBuf],
    selection: &Selection,
    mut take: impl FnMut(Replayed<'_>) -> io::Result<()>,
) -> Result<Outcome, ReplayError> {
    let mut result = Outcome::Done;
    for path in paths {
        let source = Source::open(real::host().disk, path)?;
        let outcome = replay(&source, selection, &mut take)?;
        let has_met_damage = !outcome.damages.is_empty() || !outcome.unreadable.is_empty();
        // Beside a running server, what looked bad may have been on its way to the disk.
        if source.is_live
            && has_met_damage
            && verify_beside(real::host().disk, path)?.findings.is_empty()
        {
            continue;
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
        if has_met_damage {
            output::words("trialog: the rest was replayed; `trialog verify` tells what is lost");
            result = Outcome::FoundDamage;
        }
    }
    Ok(result)
}

fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

fn milliseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
}
