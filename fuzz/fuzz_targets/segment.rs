//! Any bytes as a segment's file, on a real disk and mapped: replay, verify and repair agree, and
//! what is repaired is whole.
#![no_main]

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use trialog::fs::{Mapping, real};
use trialog::log::reader::{EndHint, Segment};
use trialog::log::scan::Found;
use trialog::model::LogId;
use trialog::offline::Source;
use trialog::offline::repair::repair;
use trialog::offline::replay::{Selection, replay};
use trialog::offline::verify::{Report, verify};
use trialog_fuzz::forge;

const NAME: &str = "00000000000000000000.segment";

type Entries = Vec<(LogId, u64, Vec<u8>)>;

thread_local! {
    static FOLDER: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let mut forged = bytes.to_vec();
    forge::segment(&mut forged);
    check(&forged);
});

fn check(bytes: &[u8]) {
    for hint in [
        EndHint::Unknown,
        EndHint::FileEnd,
        EndHint::At(600),
        EndHint::At(u64::MAX),
    ] {
        check_scan(bytes, hint);
    }
    let dir = emptied_folder();
    let path = dir.join(NAME);
    std::fs::write(&path, bytes).expect("a temporary file");
    let report = verified(&path);
    let (entries, is_whole) = replayed(&path);
    assert_eq!(report.entry_count, entries.len() as u64);
    assert!(
        is_whole || !report.findings.is_empty(),
        "what replay misses, verify says"
    );

    let repaired = repair(&real::host(), &path, &report.damaged).expect("a readable file");
    for done in &repaired {
        assert_eq!(std::fs::read(&done.kept).expect("kept"), bytes);
        let again = verified(&path);
        assert_eq!(again.findings, [], "what is repaired is whole");
        assert_eq!(again.torn_bytes, 0);
        assert_eq!(replayed(&path).0, entries, "and has all that was whole");
    }
}

/// What a scan tells lies within the file, and goes forwards.
fn check_scan(bytes: &[u8], hint: EndHint) {
    let mapping = Mapping::Owned(bytes.to_vec());
    let Ok(segment) = Segment::from_bytes(NAME.into(), mapping, hint) else {
        return;
    };
    let end = segment.frames_end;
    assert!(end <= bytes.len() as u64);
    let mut behind = 0;
    let mut ordinal = None;
    for found in segment.scan() {
        match found {
            Found::Record {
                position, frame, ..
            } => {
                assert!(position >= behind && position + frame.frame_len() as u64 <= end);
                assert!(ordinal < Some(frame.header.ordinal), "ordinals rise");
                ordinal = Some(frame.header.ordinal);
                behind = position + frame.frame_len() as u64;
            }
            Found::Damage(damage) => {
                assert!(damage.start >= behind.min(damage.start) && damage.start <= damage.end);
            }
            Found::Torn { position } => assert!(position >= behind && position <= end),
        }
    }
    let fold = segment.fold();
    assert!(fold.damages.len() <= 2 + bytes.len());
    let _behind = segment.footer_damages();
    let postings = fold
        .index
        .variants
        .iter()
        .map(|variant| variant.postings.iter().count() as u64);
    assert_eq!(postings.sum::<u64>(), fold.index.entry_count);
}

fn emptied_folder() -> PathBuf {
    FOLDER.with_borrow_mut(|folder| {
        let made = folder.get_or_insert_with(|| {
            // In memory, where there is such a folder: a disk would only wear.
            let shm = Path::new("/dev/shm");
            let place = if shm.is_dir() {
                shm.into()
            } else {
                std::env::temp_dir()
            };
            tempfile::tempdir_in(place).expect("a temporary folder")
        });
        for entry in std::fs::read_dir(made.path()).expect("a folder") {
            std::fs::remove_file(entry.expect("an entry").path()).expect("a file of ours");
        }
        made.path().to_path_buf()
    })
}

fn verified(path: &Path) -> Report {
    verify(real::host().disk, path).expect("a readable file")
}

fn replayed(path: &Path) -> (Entries, bool) {
    let source = Source::open(real::host().disk, path).expect("a readable file");
    let mut entries = Vec::new();
    let outcome = replay(&source, &Selection::default(), |entry| {
        entries.push((entry.id, entry.received_at_ms, entry.body.to_vec()));
        Ok(())
    });
    let outcome = outcome.expect("a readable file");
    (
        entries,
        outcome.damages.is_empty() && outcome.unreadable.is_empty(),
    )
}
