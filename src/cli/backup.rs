//! `trialog backup`: a consistent copy of a store, in use or not.

use std::path::PathBuf;

use anyhow::{Context, Result};
use hyper::Method;
use serde::Deserialize;

use super::client::Server;
use super::{Outcome, output};
use crate::fs::real;
use crate::model::Slug;
use crate::offline::backup::{BackedUp, DurableSegment, backup, is_in_use};

/// Copy a store, also beside its server, to a new folder that `trialog serve` can run on.
///
/// Reads the store's folder (--data) on this machine. When a server has it open, that is asked, with
/// a key that may read all experiments, how far each segment is durable. All that was acknowledged before the
/// backup began is in it. `admin.key` is left out; `keys.json` is in it, so all keys stay valid.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  trialog backup /backup/trialog-2026-11-27 --data /var/lib/trialog"
)]
pub struct Args {
    /// The new folder. Until the copy is whole and on the disk its name ends with .unfinished.
    #[arg(value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    server: Server,
}

#[derive(Deserialize)]
struct Page {
    segments: Vec<Listed>,
    next: Option<u64>,
}

#[derive(Deserialize)]
struct Listed {
    file: String,
    bytes: u64,
}

pub fn run(args: Args) -> Result<Outcome> {
    let host = real::host();
    let (from, to) = (args.server.data(), &args.to);
    let mut ask = |slug: &Slug| segments(&args.server, slug).map_err(|error| format!("{error:#}"));
    let copied = match is_in_use(&*host.disk, from) {
        true => backup(&host, from, to, Some(&mut ask)),
        false => backup(&host, from, to, None),
    };
    let BackedUp {
        experiments,
        segments,
        bytes,
        archived_segments,
        findings,
    } = copied.with_context(|| format!("no backup of {}", from.display()))?;
    for finding in &findings {
        output::words(format_args!("{finding}"));
    }
    output::words(format_args!(
        "{}: {experiments} experiments, {segments} segments, {bytes} bytes",
        to.display()
    ));
    if archived_segments > 0 {
        output::words(format_args!(
            "{archived_segments} further segments are in the archive alone, and this backup reads them there: \
             keep it"
        ));
    }
    Ok(match findings.is_empty() {
        true => Outcome::Done,
        false => Outcome::FoundDamage,
    })
}

fn segments(server: &Server, slug: &Slug) -> Result<Vec<DurableSegment>> {
    let mut segments = Vec::new();
    let mut path = format!("/experiment/{slug}/segments?limit=1000");
    loop {
        let (_, answer) = server.ask_whole(Method::GET, &path, None)?;
        let page: Page = serde_json::from_slice(&answer)?;
        segments.extend(page.segments.into_iter().map(|listed| DurableSegment {
            file_name: listed.file,
            bytes: listed.bytes,
        }));
        match page.next {
            Some(next) => path = format!("/experiment/{slug}/segments?limit=1000&after={next}"),
            None => return Ok(segments),
        }
    }
}
