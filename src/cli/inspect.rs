//! `trialog inspect`: a segment's parts, for people.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Result;

use super::{Outcome, place};
use crate::entry_json::rfc3339_ms;
use crate::experiment::figures;
use crate::fs::parent;
use crate::log::dropped::DropMark;
use crate::log::reader::{EndHint, Segment};
use crate::log::record::Record;
use crate::log::scan::{End, Found};
use crate::model::DroppedCount;

/// Show a segment's header, frames and footer.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  trialog inspect trialog-data/experiments/demo/00000000000000000000.segment --frames 5"
)]
pub struct Args {
    /// The segment file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How many frames to show.
    #[arg(long, value_name = "N", default_value_t = 20)]
    frames: usize,
}

pub fn run(args: Args) -> Result<Outcome> {
    let disk = place::disk_of(&args.file)?;
    let segment = Segment::open(&*disk, &args.file, EndHint::Unknown)?;
    let mark = DropMark::read(&*disk, &parent(&args.file))?;
    match show(&segment, &mark, args.frames, &mut io::stdout().lock()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Outcome::Done),
    }
}

fn show(
    segment: &Segment,
    mark: &DropMark,
    frame_count_max: usize,
    out: &mut impl Write,
) -> io::Result<()> {
    let header = &segment.header;
    writeln!(out, "experiment      {}", header.slug)?;
    writeln!(out, "incarnation     {:016x}", header.incarnation)?;
    writeln!(out, "store           {:016x}", header.store_id)?;
    writeln!(
        out,
        "segment         number {}, from sequence {}",
        header.number, header.first_sequence
    )?;
    writeln!(out, "created         {}", rfc3339_ms(header.created_at_ms))?;
    writeln!(out, "salt            {:016x}", header.salt)?;
    writeln!(out, "last id before  {}", header.last_id)?;
    if let Some(previous) = header.previous {
        let (end, last) = (previous.frames_end, previous.last_sequence);
        writeln!(out, "before it       ends at {end}, with sequence {last}")?;
    }
    if let Some(dropped) = mark.known() {
        let DroppedCount {
            segments, entries, ..
        } = dropped.count();
        let through = dropped.through_number;
        writeln!(
            out,
            "dropped         up to number {through}: {segments} segments, {entries} entries"
        )?;
    }
    let certainty = match segment.end {
        End::Known => "known",
        End::Guessed => "a guess: this copy has no footer and no journal",
    };
    writeln!(out, "frames end      {} ({certainty})", segment.frames_end)?;
    writeln!(out, "file            {} bytes", segment.bytes().len())?;
    writeln!(out)?;
    writeln!(
        out,
        "{:>12}  {:>10}  {:>8}  what",
        "position", "sequence", "bytes"
    )?;
    for found in segment.scan().take(frame_count_max) {
        show_found(header.first_sequence, &found, out)?;
    }
    writeln!(out)?;
    let Some(footer) = segment.footer() else {
        return writeln!(out, "no footer: not sealed yet, or damaged");
    };
    let summary = footer.summary;
    writeln!(out, "footer          at {}", footer.footer_start)?;
    writeln!(
        out,
        "frames          {}, of them entries {}",
        summary.frame_count, summary.entry_count
    )?;
    let (first, last) = (summary.received_at_ms_min, summary.received_at_ms_max);
    writeln!(
        out,
        "received        {} to {}",
        rfc3339_ms(first),
        rfc3339_ms(last)
    )?;
    for (key, count, _) in footer.variants() {
        writeln!(out, "variant         {key:?}: {count} entries")?;
    }
    writeln!(out, "blocks of ids   {}", footer.blocks().len())?;
    match (figures::kept(segment), footer.metrics) {
        (Some(kept), Some(bytes)) => {
            let (count, len) = (kept.metrics().len(), bytes.len());
            writeln!(out, "metrics         {count}, in {len} bytes")
        }
        _ => writeln!(
            out,
            "metrics         not kept: they are read from the frames"
        ),
    }
}

fn show_found(first_sequence: u64, found: &Found<'_>, out: &mut impl Write) -> io::Result<()> {
    match found {
        Found::Record {
            position,
            frame,
            record,
        } => {
            let sequence = first_sequence + u64::from(frame.header.ordinal);
            let len = frame.frame_len();
            write!(out, "{position:>12}  {sequence:>10}  {len:>8}  ")?;
            match record {
                Record::Variant(variant) => {
                    writeln!(out, "variant {} is {:?}", variant.number, variant.key)
                }
                Record::Entry(entry) => {
                    let at = rfc3339_ms(entry.received_at_ms);
                    let (id, variant) = (frame.header.id, entry.variant);
                    writeln!(
                        out,
                        "{id} {at} variant {variant}, body of {} bytes",
                        entry.body.len()
                    )
                }
            }
        }
        Found::Damage(damage) => {
            let (start, end) = (damage.start, damage.end);
            writeln!(
                out,
                "{start:>12}  damage up to {end}: {}",
                damage.reason.as_str()
            )
        }
        Found::Torn { position } => writeln!(out, "{position:>12}  torn from here on"),
    }
}
