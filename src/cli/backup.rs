//! `trialog backup`: a consistent copy of a store, in use or not.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hyper::Method;
use serde::Deserialize;

use super::client::Server;
use super::{Outcome, output};
use crate::fs::{Host, real};
use crate::model::Slug;
use crate::offline::backup::{Ask, BackedUp, DurableSegment, backup, is_in_use};

/// Copy a store, also beside its server, to a new folder that `trialog serve` can run on, or into its archive.
///
/// Reads the store's folder (--data) on this machine. When a server has it open, that is asked, with
/// a key that may read all experiments, how far each segment is durable. All that was acknowledged before the
/// backup began is in it. `admin.key` is left out; `keys.json` is in it, so all keys stay valid.
///
/// To an archive (s3://…, as --archive of `trialog serve`) goes what isn't there already, with a list of all;
/// `trialog restore` makes a store of that, where nothing else is left.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  trialog backup /backup/trialog-2026-11-27 --data /var/lib/trialog"
)]
pub struct Args {
    /// The new folder, or an archive's address. Until a copy is whole and on the disk its name ends with .unfinished.
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
    let is_used = is_in_use(&*host.disk, from);
    let mut ask = |slug: &Slug| segments(&args.server, slug).map_err(|error| format!("{error:#}"));
    let ask = is_used.then_some(&mut ask as &mut Ask<'_>);
    let (place, copied) = match to.to_str().filter(|to| to.contains("://")) {
        Some(address) => into_archive(&host, from, address, ask)?,
        None => {
            let copied = backup(&host, from, to, ask, None);
            let copied = copied.with_context(|| format!("no backup of {}", from.display()))?;
            (to.display().to_string(), copied)
        }
    };
    let BackedUp {
        experiments,
        segments,
        bytes,
        archived_segments,
        elsewhere,
        findings,
    } = copied;
    for finding in &findings {
        output::words(format_args!("{finding}"));
    }
    output::words(format_args!(
        "{place}: {experiments} experiments, {segments} segments, {bytes} bytes"
    ));
    if !elsewhere.is_empty() {
        output::words(format_args!(
            "{} further segments are in the archive already",
            elsewhere.len()
        ));
    }
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

/// By way of a folder in the store's, for what isn't archived.
#[cfg(feature = "archive")]
fn into_archive(
    host: &Host,
    from: &Path,
    address: &str,
    ask: Option<&mut Ask<'_>>,
) -> Result<(String, BackedUp)> {
    use crate::archive::copies::Copies;
    use crate::experiment::folder::read_store_id;
    use crate::offline::target::Passing;

    let none = || format!("no backup of {}", from.display());
    let store_id = read_store_id(&*host.disk, from).with_context(none)?;
    let store_id =
        store_id.with_context(|| format!("{} is not a trialog store", from.display()))?;
    let copies = Copies::open(address, store_id).with_context(none)?;
    let elsewhere = |dir: &Path, file_name: &str, bytes: u64| {
        let found = copies.find(&*host.disk, dir, file_name, bytes);
        found.map_err(|error| error.to_string())
    };
    let passing = Passing::begin(host, from).with_context(none)?;
    let copied = backup(host, from, passing.dir(), ask, Some(&elsewhere)).with_context(none)?;
    let name = jiff::Timestamp::now()
        .strftime("%Y%m%dT%H%M%S.%3fZ")
        .to_string();
    let put = copies.put(&*host.disk, passing.dir(), &copied.elsewhere, &name);
    Ok((put.with_context(none)?, copied))
}

#[cfg(not(feature = "archive"))]
fn into_archive(
    _host: &Host,
    _from: &Path,
    address: &str,
    _ask: Option<&mut Ask<'_>>,
) -> Result<(String, BackedUp)> {
    anyhow::bail!("{address}: this trialog can't write archives: build one with --features archive")
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
