//! `trialog report`: which variant is ahead, from files or from a running server.

use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use hyper::Method;

use super::client::{Address, Server, Trust, address};
use super::{Outcome, output, place};
use crate::http::DAMAGED_PLACES;
use crate::model::{Definition, Slug};
use crate::offline::report::{FoundLog, find_logs};
use crate::percent::encoded;
use crate::stats::Question;
use crate::stats::extract::FieldPath;
use crate::stats::report::{Adjustment, Format, ReportOptions, confidence_of_alpha};
use crate::stats::summary::Limits;

/// Say which variant is ahead, by how much, and how sure that is.
///
/// PATH is a store's folder, an experiment's folder or a segment file: in place, beside a running
/// server, or a copy. Nothing is changed. Without one, a running server is asked.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  trialog report trialog-data --experiment demo\n  trialog report --server http://127.0.0.1:7171 --experiment demo"
)]
pub struct Args {
    /// Where the segments are.
    #[arg(required_unless_present = "server", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// A running server's address.
    #[arg(long, value_name = "URL", value_parser = address, conflicts_with = "paths", requires = "experiment")]
    server: Option<Address>,
    /// The key to ask the server with. Without it, the store's own admin key is read from --data.
    #[arg(long, env = "TRIALOG_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// The store's folder, for its admin.key.
    #[arg(long, env = "TRIALOG_DATA", default_value = "trialog-data")]
    data: PathBuf,
    #[command(flatten)]
    trust: Trust,
    /// The experiment, when there are several.
    #[arg(long, value_name = "SLUG")]
    experiment: Option<Slug>,
    /// For people (table, markdown) or for programs (json).
    #[arg(long, default_value = "table")]
    format: Format,
    /// The variant that the others are compared with, in place of the definition's.
    #[arg(long, value_name = "VARIANT")]
    control: Option<String>,
    /// This metric alone: it is adjusted for fewer comparisons.
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
    /// The level of significance: intervals have a confidence of one less this. 0.05 unless given.
    #[arg(long, value_name = "P")]
    alpha: Option<Alpha>,
    /// One report for each value of this field, such as context.environment.
    #[arg(long, value_name = "FIELD")]
    by: Option<String>,
    /// How p-values are adjusted for the number of comparisons: holm or bh (Benjamini-Hochberg).
    #[arg(long, default_value = "holm")]
    adjust: Adjustment,
    /// The field that says who was assigned, in place of the definition's.
    #[arg(long, value_name = "FIELD")]
    unit: Option<String>,
    /// Names of metrics that are kept, the first ones in the log. A server that is asked has a setting
    /// of its own for it.
    #[arg(long, env = "TRIALOG_METRICS_LIMIT", value_name = "COUNT", default_value_t = 256,
        value_parser = clap::value_parser!(u16).range(1..=256))]
    metrics_limit: u16,
}

/// A level of significance, as it was written and as a confidence.
#[derive(Debug, Clone)]
struct Alpha {
    text: String,
    confidence: f64,
}

impl FromStr for Alpha {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self {
            text: text.to_owned(),
            confidence: confidence_of_alpha(text)?,
        })
    }
}

pub fn run(args: Args) -> Result<Outcome> {
    let damage_count = match (&args.server, &args.experiment) {
        (Some(server), Some(experiment)) => from_server(&args, server, experiment)?,
        _ => return from_files(&args),
    };
    Ok(outcome(damage_count))
}

fn from_server(args: &Args, server: &Address, experiment: &Slug) -> Result<usize> {
    let (api_key, data) = (args.api_key.clone(), args.data.clone());
    let server = Server::new(server.clone(), api_key, data, args.trust.clone());
    let format = match args.format {
        Format::Table => "table",
        Format::Json => "json",
        Format::Markdown => "markdown",
    };
    let adjust = match args.adjust {
        Adjustment::Holm => "holm",
        Adjustment::BenjaminiHochberg => "bh",
    };
    let mut path = format!("/experiment/{experiment}/report?format={format}&adjust={adjust}");
    let alpha = args.alpha.as_ref().map(|alpha| &alpha.text);
    for (name, value) in [
        ("control", args.control.as_ref()),
        ("metric", args.metric.as_ref()),
        ("alpha", alpha),
        ("by", args.by.as_ref()),
        ("unit", args.unit.as_ref()),
    ] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encoded(value)));
        }
    }
    let (headers, text) = server.ask_whole(Method::GET, &path, None)?;
    print(&text)?;
    let damaged = headers
        .get(DAMAGED_PLACES)
        .and_then(|count| count.to_str().ok());
    Ok(damaged.and_then(|count| count.parse().ok()).unwrap_or(0))
}

/// Tells of damage.
fn outcome(damage_count: usize) -> Outcome {
    if damage_count == 0 {
        return Outcome::Done;
    }
    output::words(format_args!(
        "trialog: {damage_count} damaged places; `trialog verify` tells what is lost"
    ));
    Outcome::FoundDamage
}

fn from_files(args: &Args) -> Result<Outcome> {
    let wanted: Vec<Slug> = args.experiment.iter().cloned().collect();
    let disk = place::disk(&args.paths)?;
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
    let question = question(args, &log);
    let answer = question.answer(&mut log)?;
    print(answer.render(args.format).as_bytes())?;
    let damage = outcome(log.damage_count);
    match found.unreadable.is_empty() {
        true => Ok(damage),
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
    let mut options = ReportOptions {
        experiment: Some(log.slug.to_string()),
        control: args.control.clone(),
        metric: args.metric.clone(),
        adjustment: args.adjust,
        ..ReportOptions::default()
    };
    if let Some(alpha) = &args.alpha {
        options.confidence = alpha.confidence;
    }
    let question = Question {
        definition: Definition {
            unit: args.unit.clone(),
            ..Definition::default()
        },
        by: args.by.as_deref().map(FieldPath::new),
        limits: Limits {
            metrics: args.metrics_limit.into(),
            ..Limits::default()
        },
        options,
    };
    question.about(log.definition.clone().unwrap_or_default())
}

fn print(text: &[u8]) -> Result<()> {
    match io::stdout().lock().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("writing the output failed")
        }
        _ => Ok(()),
    }
}
