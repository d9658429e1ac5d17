//! Journal files that anything may have happened to, beside a small store. Recovery doesn't panic
//! and takes no memory without a bound; no entry comes out that didn't go in, none twice, none in
//! another order.
//!
//! The salts depend on the input, so that no input can bring bytes of its own that fit them: what
//! decodes nevertheless was let through. With `forge` the checksums of the journal are made right
//! again, so that the fields behind them are anything, too.
#![no_main]

use std::path::{Path, PathBuf};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use trialog::fs::sim::Crash;
use trialog::journal::format::LapHeader;
use trialog::log::segment::SEGMENT_LEN_MAX;
use trialog::model::LogId;
use trialog::offline::Source;
use trialog::offline::replay::{Selection, replay};
use trialog::offline::verify::verify;
use trialog_fuzz::forge;
use trialog_fuzz::rig::{Rig, SECTOR, STORE, entry, slug};

const NAMES: [&str; 2] = ["one", "two"];
const APPENDS_MAX: usize = 40;
const FILE_LEN_MAX: usize = 128 << 10;
const HEAVY_LEN: u64 = 1 << 22;
/// Where the fields of a batch's header and of its first group stand.
const FIELDS: [usize; 12] = [4, 8, 16, 24, 32, 40, 44, 48, 56, 64, OFFSET, 80];
const OFFSET: usize = 72;

#[derive(Debug, Arbitrary)]
struct Input {
    appends: Vec<Append>,
    edits: Vec<Edit>,
    forge: bool,
}

#[derive(Debug, Arbitrary)]
enum Append {
    Plain { which: bool, padding: u8 },
    Around { which: bool, count: u8 },
    Background,
    Seal,
    Restart,
}

/// Something that happens to the journal's file of this place.
#[derive(Debug, Arbitrary)]
enum Edit {
    /// Bytes of the input, anywhere.
    Put {
        file: bool,
        at: u32,
        bytes: Vec<u8>,
    },
    /// A field of one of the first batches, or of the lap's header.
    PutField {
        file: bool,
        batch: u8,
        field: u8,
        value: u64,
    },
    /// Bytes of the one or the other file, moved by sectors.
    Copy {
        from: bool,
        from_sector: u8,
        to: bool,
        to_sector: u8,
        sectors: u8,
    },
    Flip {
        file: bool,
        at: u32,
        bit: u8,
    },
    Cut {
        file: bool,
        len: u32,
    },
    Zero {
        file: bool,
        sector: u8,
        sectors: u8,
    },
    Swap,
}

fuzz_target!(|input: Input| {
    let mut rig = Rig::new(u64::from(crc32fast::hash(format!("{input:?}").as_bytes())));
    rig.start().expect("a new machine");
    NAMES.iter().for_each(|name| rig.create(name));
    for (n, append) in (0..).zip(input.appends.iter().take(APPENDS_MAX)) {
        let name = |which: &bool| NAMES[usize::from(*which)];
        match append {
            Append::Plain { which, padding } => {
                let entries = vec![entry("A", n, usize::from(*padding) * 2)];
                rig.append(&[(name(which), entries)])
                    .expect("a good machine");
            }
            Append::Around { which, count } => {
                let entries = (0..=u64::from(count % 4)).map(|i| entry("B", n * 10 + i, 500));
                rig.append_around(name(which), entries.collect())
                    .expect("a good machine");
            }
            Append::Background => rig.background(),
            Append::Seal => rig.seal(),
            Append::Restart => {
                rig.kill();
                rig.start().expect("a good machine");
            }
        }
    }
    rig.crash(Crash::KeepAll);
    damage(&rig, input);

    let _unreadable = verify(rig.machine.host().disk, Path::new(STORE));
    check(&rig);
    if rig.start().is_ok() {
        check(&rig);
        rig.stop();
        check(&rig);
    }
});

fn damage(rig: &Rig, input: Input) {
    let paths = [1, 2].map(|n| PathBuf::from(format!("{STORE}/journal/0000000{n}.journal")));
    let [first, second] = &paths;
    let mut files = [first, second].map(|path| rig.machine.read(path).unwrap_or_default());
    let salts = [0, 1].map(|at| {
        LapHeader::decode(&files[at])
            .map(|lap| lap.salt)
            .unwrap_or(0)
    });
    for edit in input.edits {
        apply(edit, &mut files);
    }
    for (at, path) in paths.iter().enumerate() {
        if input.forge {
            forge::journal(&mut files[at], salts[at], SECTOR);
        }
        let _no_such_file = rig.machine.overwrite(path, &files[at]);
    }
}

fn apply(edit: Edit, files: &mut [Vec<u8>; 2]) {
    match edit {
        Edit::Put { file, at, bytes } => {
            put(
                &mut files[usize::from(file)],
                at as usize % FILE_LEN_MAX,
                &bytes,
            );
        }
        Edit::PutField {
            file,
            batch,
            field,
            value,
        } => {
            let file = &mut files[usize::from(file)];
            let batches = file.windows(4).enumerate().step_by(SECTOR);
            let mut batches = batches
                .filter(|(_, magic)| *magic == b"TLJB")
                .map(|(at, _)| at);
            let begin = match batch {
                0 => Some(0),
                batch => batches.nth(usize::from(batch % 8)),
            };
            let field = FIELDS[usize::from(field) % FIELDS.len()];
            // How long a file may become that is allowed to be long is a matter of the disk.
            let is_heavy = field == OFFSET && (HEAVY_LEN..=SEGMENT_LEN_MAX).contains(&value);
            let value = if is_heavy { value % HEAVY_LEN } else { value };
            if let Some(at) = begin.map(|begin| begin + field)
                && at + 8 <= file.len()
            {
                put(file, at, &value.to_le_bytes());
            }
        }
        Edit::Copy {
            from,
            from_sector,
            to,
            to_sector,
            sectors,
        } => {
            let source = &files[usize::from(from)];
            let begin = (usize::from(from_sector) * SECTOR).min(source.len());
            let end = (begin + usize::from(sectors) * SECTOR).min(source.len());
            let bytes = source[begin..end].to_vec();
            put(
                &mut files[usize::from(to)],
                usize::from(to_sector) * SECTOR,
                &bytes,
            );
        }
        Edit::Flip { file, at, bit } => {
            let file = &mut files[usize::from(file)];
            if let Some(at) = (at as usize).checked_rem(file.len()) {
                file[at] ^= 1 << (bit % 8);
            }
        }
        Edit::Cut { file, len } => files[usize::from(file)].truncate(len as usize % FILE_LEN_MAX),
        Edit::Zero {
            file,
            sector,
            sectors,
        } => {
            let zeros = vec![0; usize::from(sectors) * SECTOR];
            put(
                &mut files[usize::from(file)],
                usize::from(sector) * SECTOR,
                &zeros,
            );
        }
        Edit::Swap => files.swap(0, 1),
    }
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[at..end].copy_from_slice(bytes);
}

/// Whatever is there: of what was written, once each, in order.
fn check(rig: &Rig) {
    let Ok(source) = Source::open(rig.machine.host().disk, Path::new(STORE)) else {
        return;
    };
    for name in NAMES {
        let selection = Selection {
            experiments: vec![slug(name)],
            ..Selection::default()
        };
        let mut found: Vec<(LogId, Vec<u8>)> = Vec::new();
        let _damaged = replay(&source, &selection, |entry| {
            found.push((entry.id, entry.body.to_vec()));
            Ok(())
        });
        let written = &rig.models[&slug(name)].acked;
        let mut rest = written.iter();
        for entry in &found {
            assert!(rest.any(|known| known == entry), "{name}: {:?}", entry.0);
        }
    }
}
