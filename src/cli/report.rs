//! `trialog report`: which variant is ahead, from files.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::{Outcome, output};
use crate::fs::real;
use crate::model::Slug;
use crate::offline::report::{FoundLog, find_logs};
use crate::stats::Question;
use crate::stats::extract::FieldPath;
use crate::stats::report::{Adjustment, Format, ReportOptions};

/// Say which variant is ahead, by how much, and how sure that is.
///
/// PATH is a store's folder, an experiment's folder or a segment file: in place, beside a running
/// server, or a copy. Nothing is changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  trialog report trialog-data --experiment demo")]
pub struct Args {
    /// Where the segments are.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The experiment, when there are several.
    #[arg(long, value_name = "SLUG")]
    experiment: Option<Slug>,
    /// For people (table, markdown) or for programs (json).
    #[arg(long, default_value = "table")]
    format: Format,
    /// One report for each value of this field, such as context.environment.
    #[arg(long, value_name = "FIELD")]
    by: Option<String>,
    /// How p-values are adjusted for the number of comparisons: holm or bh (Benjamini-Hochberg).
    #[arg(long, default_value = "holm")]
    adjust: Adjustment,
    /// The field that says who was assigned, in place of the definition's.
    #[arg(long, value_name = "FIELD")]
    unit: Option<String>,
}

pub fn run(args: Args) -> Result<Outcome> {
    let wanted: Vec<Slug> = args.experiment.iter().cloned().collect();
    let disk = real::host().disk;
    let found = find_logs(&disk, &args.paths, &wanted)?;
    for error in &found.unreadable {
        output::words(format_args!("trialog: {error}"));
    }
    let slugs: Vec<_> = found.logs.keys().map(|(slug, _)| slug.as_str()).collect();
    if slugs.len() > 1 {
        let has_lives = slugs
            .windows(2)
            .any(|pair| matches!(pair, [a, b] if a == b));
        match args.experiment.is_some() || has_lives {
            true => bail!("these are segments of several experiments of one name: {slugs:?}"),
            false => bail!(
                "there are several experiments; name one with --experiment: {}",
                slugs.join(", ")
            ),
        }
    }
    let Some(mut log) = found.logs.into_values().next() else {
        match &args.experiment {
            Some(slug) => bail!("there is no experiment {slug}"),
            None => bail!("there is no experiment"),
        }
    };
    let question = question(&args, &log);
    let answer = question.answer(&mut log)?;
    print(answer.render(args.format).as_bytes())?;
    if log.damage_count > 0 {
        let count = log.damage_count;
        output::words(format_args!(
            "trialog: {count} damaged places; `trialog verify` tells what is lost"
        ));
    }
    match found.unreadable.is_empty() && log.damage_count == 0 {
        true => Ok(Outcome::Done),
        false => Ok(Outcome::FoundDamage),
    }
}

fn question(args: &Args, log: &FoundLog) -> Question {
    if log.definition.is_none() {
        output::words(format_args!(
            "trialog: no experiment.json beside the segments of {}: without weights, a unit or a \
             control, the first variant in the log is the control",
            log.slug
        ));
    }
    let mut definition = log.definition.clone().unwrap_or_default();
    if args.unit.is_some() {
        definition.unit.clone_from(&args.unit);
    }
    Question {
        definition,
        by: args.by.as_deref().map(FieldPath::new),
        options: ReportOptions {
            experiment: Some(log.slug.to_string()),
            adjustment: args.adjust,
            ..ReportOptions::default()
        },
    }
}

fn print(text: &[u8]) -> Result<()> {
    match io::stdout().lock().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("writing the output failed")
        }
        _ => Ok(()),
    }
}
