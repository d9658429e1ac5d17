//! Damage of any kind to a store at rest: never a wrong entry, never more lost than was hit, never
//! lost without a word.

use std::ops::Range;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use trialog::log::frame::{FrameKind, Seed, encode};
use trialog::log::reader::{EndHint, Segment, SegmentError};
use trialog::log::scan::Found;
use trialog::log::segment::SEGMENT_HEADER_LEN;
use trialog::log::select;
use trialog::model::{LogId, NewEntry};
use trialog::offline::Source;
use trialog::offline::replay::{Selection, replay};

use crate::caught::{SEEDS_MAX, catch};
use crate::lies::{EQUAL_SALT, Lie};
use crate::rig::{Rig, SECTOR, STORE, entry, slug};
use crate::scene::Entries;

/// Where the frames of a segment are.
struct Anatomy {
    path: PathBuf,
    bytes: Vec<u8>,
    frames: Vec<Range<usize>>,
    /// The file's end when there is no footer.
    footer_start: usize,
    is_last: bool,
}

/// Damages the store of this number in one place; says what is wrong with what comes of it.
pub fn run(seed: u64, lie: Option<Lie>) -> Result<(), String> {
    let rng = &mut Rng::with_seed(seed ^ 0x726f_7400);
    let mut rig = filled(seed, rng, lie);
    let whole = rig.models[&slug("one")].acked.clone();
    let segments = rig.segments("one");
    let at = rng.usize(..segments.len());
    let anatomy = Anatomy::of(&rig, &segments[at], at + 1 == segments.len());
    let (damaged, hit) = anatomy.damage(rng);
    if damaged == anatomy.bytes {
        return Ok(());
    }
    rig.machine.overwrite(&anatomy.path, &damaged).unwrap();
    let touched = anatomy.frames.iter();
    let lost_max = touched.filter(|frame| overlaps(frame, &hit)).count();

    let place = format!("{} hit at {hit:?}", anatomy.path.display());
    judge(&mut rig, &whole, lost_max).map_err(|why| format!("{place}: {why}"))
}

fn judge(rig: &mut Rig, whole: &Entries, lost_max: usize) -> Result<(), String> {
    let lost = look(rig, whole, lost_max)?;
    rig.start()?;
    let view = rig.view("one");
    rig.wrong = None;
    for (id, body) in whole {
        match view.get(&*rig.machine.host().disk, *id) {
            Ok(Some(entry)) if entry.body == body[..] => {}
            Err(SegmentError::Damaged { .. } | SegmentError::Header { .. }) => {}
            read => return Err(format!("{id} is read as {read:?}")),
        }
    }
    // A footer may count entries that are lost.
    let counted = view.summary(&*rig.machine.host().disk);
    let count = counted.map_err(|error| error.to_string())?.count as usize;
    if !(whole.len() - lost..=whole.len()).contains(&count) {
        return Err(format!(
            "{count} entries are counted, {} were there",
            whole.len()
        ));
    }
    rig.put("one", 99, 40);
    rig.seal();
    rig.restart();
    rig.view("one");
    rig.wrong = None;
    rig.stop();
    let with_new = rig.models[&slug("one")].acked.clone();
    match look(rig, &with_new, lost_max)? {
        later if later == lost => Ok(()),
        later => Err(format!("{lost} entries are lost at first, {later} later")),
    }
}

/// As [`run`]; a panic is a failure like any other.
pub fn outcome(seed: u64, lie: Option<Lie>) -> Result<(), String> {
    catch(|| run(seed, lie))
}

/// The first seed of those that a planted bug has, whose damage shows it, and how.
pub fn by_damage(lie: Option<Lie>) -> Option<(u64, String)> {
    (0..SEEDS_MAX).find_map(|seed| Some((seed, outcome(seed, lie).err()?)))
}

/// A closed store with some segments, sealed or not. Some entries hide frames, made with the only
/// salt that can be known.
fn filled(seed: u64, rng: &mut Rng, lie: Option<Lie>) -> Rig {
    let mut rig = Rig::new(seed);
    rig.lie = lie;
    rig.segment_bytes = [2048, 4096][rng.usize(..2)];
    rig.journal_bytes = 16 << 10;
    rig.start().unwrap();
    rig.create("one");
    for n in 10..10 + rng.u64(4..20) {
        match rng.u8(..12) {
            0..=4 => rig.put("one", n, 40),
            5..=6 => rig.put("one", n, rng.usize(..500)),
            7..=8 => {
                let appended = rig.append(&[("one", vec![hiding(n)])]);
                assert_eq!(appended, Ok(()));
            }
            9 => rig.put_around("one", n * 100, rng.u64(1..4)),
            10 => rig.background(),
            _ => rig.seal(),
        }
    }
    rig.put("one", 30, 40);
    if rng.u8(..4) > 0 {
        rig.seal();
    }
    rig.stop();
    rig
}

/// An entry whose body has a whole frame in it at each place where one may begin.
fn hiding(n: u64) -> NewEntry {
    let mut hiding = entry("A", n, 8);
    let mut body = hiding.body.to_vec();
    let id = LogId::from_u128((1_764_000_000_001u128 << 80) + u128::from(n));
    for ordinal in 0..40 {
        let seed = Seed::new(EQUAL_SALT);
        // Frames begin at multiples of 8, and where a body begins isn't known: each place is tried.
        body.resize(body.len().next_multiple_of(8) + ordinal as usize % 8, b' ');
        encode(&mut body, seed, FrameKind::Entry, ordinal, id, |out| {
            out.extend_from_slice(b"{}");
        });
    }
    hiding.body = body.into();
    hiding
}

/// Compares what offline readers find with `whole`; says how many entries are lost.
fn look(rig: &Rig, whole: &Entries, lost_max: usize) -> Result<usize, String> {
    let (found, outcome) = rig.replay_of(Path::new(STORE));
    let mut rest = whole.iter();
    for entry in &found {
        if !rest.any(|known| known == entry) {
            return Err(format!("{} is wrong, doubled or out of order", entry.0));
        }
    }
    let middle = whole[whole.len() / 2].0;
    let behind = found.iter().filter(|(id, _)| *id > middle).cloned();
    if behind_in(rig, middle) != behind.collect::<Entries>() {
        return Err(format!("replay from {middle} on gives others"));
    }
    let lost = whole.len() - found.len();
    if lost > lost_max {
        return Err(format!("{lost} entries are lost, {lost_max} were hit"));
    }
    let told = outcome
        .damages
        .iter()
        .filter_map(|(_, damage)| damage.frames_lost);
    let told: u32 = told.sum();
    if told as usize > lost_max {
        return Err(format!(
            "{told} frames are said to be lost, {lost_max} were hit"
        ));
    }
    let findings = rig.verified().findings;
    if lost > 0
        && (findings.is_empty() || outcome.damages.is_empty() && outcome.unreadable.is_empty())
    {
        return Err(format!("{lost} entries are lost without a word"));
    }
    Ok(lost)
}

/// What a replay of what comes behind an entry gives.
fn behind_in(rig: &Rig, after: LogId) -> Entries {
    let source = Source::open(rig.machine.host().disk, Path::new(STORE)).unwrap();
    let selection = Selection {
        entries: select::Selection {
            after: Some(after),
            ..select::Selection::default()
        },
        ..Selection::default()
    };
    let mut entries = Entries::new();
    let replayed = replay(&source, &selection, |entry| {
        entries.push((entry.id, entry.body.to_vec()));
        Ok(())
    });
    replayed.unwrap();
    entries
}

impl Anatomy {
    fn of(rig: &Rig, path: &Path, is_last: bool) -> Self {
        let disk = rig.machine.host().disk;
        let segment = Segment::open(&*disk, path, EndHint::FileEnd).unwrap();
        let frames = segment.scan().filter_map(|found| match found {
            Found::Record {
                position, frame, ..
            } => Some(position as usize..position as usize + frame.frame_len()),
            _ => None,
        });
        let footer = segment.footer();
        Self {
            path: path.to_owned(),
            bytes: segment.bytes().to_vec(),
            frames: frames.collect(),
            footer_start: footer
                .map_or(segment.bytes().len(), |footer| footer.footer_start as usize),
            is_last,
        }
    }

    /// The bytes with damage, and which of them were hit.
    fn damage(&self, rng: &mut Rng) -> (Vec<u8>, Range<usize>) {
        let mut bytes = self.bytes.clone();
        let len = bytes.len();
        let frame = self.frames[rng.usize(..self.frames.len())].clone();
        let mut flip = |at: usize, bit: u8| {
            bytes[at] ^= 1 << bit;
            at..at + 1
        };
        let bit = rng.u8(..8);
        let hit = match rng.u8(..10) {
            0 => flip(rng.usize(..len), bit),
            // A frame's length, its ordinal, its payload, all of its header.
            1 => flip(frame.start + rng.usize(4..6), bit),
            2 => flip(frame.start + 8, bit),
            3 => flip(rng.usize(frame.start + 36..frame.end), bit),
            4 if self.footer_start < len => flip(rng.usize(self.footer_start..len), bit),
            4 => flip(rng.usize(..SEGMENT_HEADER_LEN as usize), bit),
            5 => {
                rng.fill(&mut bytes[frame.start..frame.start + 36]);
                frame
            }
            // A write that went to another frame's place.
            6..=7 => {
                let from = self.frames[rng.usize(..self.frames.len())].clone();
                if from.len() != frame.len() {
                    return (bytes, 0..0);
                }
                bytes.copy_within(from, frame.start);
                frame
            }
            8 => {
                let sector = rng.usize(1..len.div_ceil(SECTOR)) * SECTOR;
                let end = (sector + SECTOR).min(len);
                match rng.u8(..3) {
                    0 => bytes[sector..end].fill(0),
                    1 => rng.fill(&mut bytes[sector..end]),
                    _ => {
                        bytes.copy_within(SECTOR..SECTOR + (end - sector).min(len - SECTOR), sector)
                    }
                }
                sector..end
            }
            // The end of the last segment has no witness but itself.
            _ if self.is_last => 0..0,
            _ => {
                let cut = rng.usize(SEGMENT_HEADER_LEN as usize..len);
                bytes.truncate(cut);
                cut..len
            }
        };
        (bytes, hit)
    }
}

fn overlaps(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

#[test]
fn damage_anywhere_costs_what_it_hits_and_is_told() {
    let only = std::env::var("TRIALOG_TEST_SEED").map(|seed| seed.parse::<u64>().unwrap());
    let seeds = only.map_or(0..20_000, |seed| seed..seed + 1);
    for seed in seeds {
        if let Err(why) = outcome(seed, None) {
            panic!("TRIALOG_TEST_SEED={seed}: {why}");
        }
    }
}

#[test]
fn a_frame_written_over_any_other_one_costs_that_one_only() {
    let mut count = 0;
    for seed in 0..30 {
        let rig = filled(seed, &mut Rng::with_seed(seed), None);
        let whole = rig.models[&slug("one")].acked.clone();
        let segments = rig.segments("one");
        for (at, path) in segments.iter().enumerate() {
            let anatomy = Anatomy::of(&rig, path, at + 1 == segments.len());
            let frames = &anatomy.frames;
            let pairs = frames
                .iter()
                .flat_map(|to| frames.iter().map(move |from| (from, to)));
            for (from, to) in pairs.filter(|(from, to)| from.len() == to.len() && from != to) {
                let mut bytes = anatomy.bytes.clone();
                bytes.copy_within(from.clone(), to.start);
                let mut rig = rig.fork();
                rig.machine.overwrite(path, &bytes).unwrap();
                if let Err(why) = judge(&mut rig, &whole, 1) {
                    panic!(
                        "seed {seed}, {}: {from:?} over {to:?}: {why}",
                        path.display()
                    );
                }
                count += 1;
            }
        }
    }
    assert!(count > 300, "{count}");
}
