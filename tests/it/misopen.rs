//! Openings of logs that err, for [`Lie`]s that a disk can't tell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trialog::fs::Host;
use trialog::fs::sim::SimMachine;
use trialog::log::frame::{self, FRAME_HEADER_LEN, Frame, FrameError, FrameHeader, Seed};
use trialog::log::lead::Lead;
use trialog::log::open::{OpenedLog, open};
use trialog::log::reader::{EndHint, Segment, SegmentError, list_log, list_segments};
use trialog::log::segment::{SEGMENT_HEADER_LEN, SegmentHeader};
use trialog::log::segment_file::SegmentFile;
use trialog::log::view::{ActiveSegment, ClosedSegment, LogView};
use trialog::log::writer::{LogOptions, LogWriter, Resume, segment_id};
use trialog::model::LogId;

use crate::lies::Lie;
use crate::rig::STORE;
use crate::scene::SEGMENT;

/// Where recovery has cut a log: its folder, and the end of its frames.
pub type Cuts = BTreeMap<PathBuf, u64>;

/// What recovery with this bug leaves behind: for [`Lie::WriteInPlaceAfterCut`], the segment that a
/// cut has made, which would say where the one before ends, is not there.
pub fn take_cuts(machine: &SimMachine, lie: Option<Lie>) -> Cuts {
    let mut cuts = Cuts::new();
    if lie != Some(Lie::WriteInPlaceAfterCut) {
        return cuts;
    }
    let disk = machine.host().disk;
    let all = Path::new(STORE).join("experiments");
    for entry in disk.list(&all).unwrap_or_default() {
        let dir = all.join(entry.name);
        let Ok(listed) = list_segments(&*disk, &dir) else {
            continue;
        };
        let Some(last) = listed.last().filter(|last| last.len == SEGMENT_HEADER_LEN) else {
            continue;
        };
        let previous = last.header.as_ref().ok().and_then(|header| header.previous);
        if let Some(previous) = previous
            && disk.remove_file(&last.path).is_ok()
        {
            cuts.insert(dir, previous.frames_end);
        }
    }
    cuts
}

/// Gives damaged payloads a checksum that fits, for [`Lie::FreshChecksum`].
pub fn freshen(machine: &SimMachine, lie: Option<Lie>) {
    let is_segment = |path: &PathBuf| path.to_string_lossy().ends_with(SEGMENT);
    if lie != Some(Lie::FreshChecksum) {
        return;
    }
    for path in machine.files().into_iter().filter(is_segment) {
        let mut bytes = machine.read(&path).unwrap();
        let Ok(read) = SegmentHeader::decode(&bytes) else {
            continue;
        };
        let seed = Seed::new(read.header.salt);
        let mut at = SEGMENT_HEADER_LEN as usize;
        while let Some(header) = bytes
            .get(at..)
            .and_then(|rest| FrameHeader::decode(rest, seed))
        {
            let end = at + header.frame_len();
            if end > bytes.len() {
                break;
            }
            if let Err(FrameError::Payload(_)) = Frame::decode(&bytes[at..], seed) {
                let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
                let payload = bytes[at + FRAME_HEADER_LEN..][..len].to_vec();
                let mut fresh = Vec::new();
                frame::encode(
                    &mut fresh,
                    seed,
                    header.kind,
                    header.ordinal,
                    header.id,
                    |out| {
                        out.extend_from_slice(&payload);
                    },
                );
                bytes[at..end].copy_from_slice(&fresh);
            }
            at = end;
        }
        machine.overwrite(&path, &bytes).unwrap();
    }
}

/// Opens a log, with this bug.
pub fn open_with(
    options: LogOptions,
    host: Host,
    cuts: &Cuts,
    lie: Option<Lie>,
) -> Result<OpenedLog, SegmentError> {
    let cut = cuts.get(&options.dir).copied();
    let is_last_open = |listed: &Segment| {
        listed.footer().is_none() && listed.frames_end == listed.bytes().len() as u64
    };
    let listing = list_log(&*host.disk, &options.dir)?;
    let Some((last, before)) = listing.segments.split_last() else {
        return open(options, host);
    };
    let hint = cut.map_or(EndHint::FileEnd, EndHint::At);
    let (last_id, segment) = match (lie, Segment::open(&*host.disk, &last.path, hint)) {
        (Some(Lie::IdsNotSeeded), Ok(segment)) if is_last_open(&segment) => (LogId::MIN, segment),
        (Some(Lie::WriteInPlaceAfterCut), Ok(segment)) if cut.is_some() => {
            (segment.fold().last_id().unwrap_or(LogId::MIN), segment)
        }
        _ => return open(options, host),
    };
    let closed = before.iter().filter_map(|listed| {
        let EndHint::At(end) = listed.hint else {
            return None;
        };
        let header = listed.header.clone().ok()?;
        Some(Arc::new(ClosedSegment::new(
            header,
            listed.path.clone(),
            end,
        )))
    });
    let view = Arc::new(LogView::new(closed.collect()));
    if let Some(dropped) = listing.mark.known() {
        view.note_dropped(dropped.clone());
    }
    let (fold, end) = (segment.fold(), segment.frames_end);
    let file = SegmentFile::with_end(
        host.disk.clone(),
        options.incarnation.clone(),
        segment_id(&segment.header),
        segment.path.clone(),
        end,
    );
    let header = segment.header.clone();
    let active = Arc::new(ActiveSegment::new(header, Arc::new(file), fold.index));
    view.set_active(active.clone());
    let boundary = end as usize / options.sector_bytes * options.sector_bytes;
    let lead = Lead::new(segment.bytes()[boundary..end as usize].to_vec());
    let resume = Resume {
        next_sequence: 0,
        next_number: 0,
        previous: None,
    };
    let mut writer = LogWriter::new(options, host, view, last_id, resume).map_err(|error| {
        let path = segment.path.clone();
        SegmentError::Io { path, error }
    })?;
    writer.continue_in(active, fold.next_ordinal, end, lead);
    Ok(OpenedLog {
        writer,
        unsealed: Vec::new(),
        damages: Vec::new(),
        unreadable: Vec::new(),
        last_known_id: last_id,
        mark: listing.mark,
        not_unlinked: None,
    })
}
