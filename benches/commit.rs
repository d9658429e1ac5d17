//! What it costs to make one small entry durable in each of N experiments at once: through the one
//! journal, and with one sync for each segment. `cargo bench --bench commit` on an idle machine.

#![allow(clippy::expect_used)]

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trialog::fs::real;
use trialog::journal::local::{LocalOptions, Parts, Resume};
use trialog::journal::{Group, IfFull, Mark};
use trialog::log::segment_file::{Incarnation, SegmentFile, SegmentId};
use trialog::model::{Durability, Slug};

const ENTRY_LEN: usize = 432;
const RUN: Duration = Duration::from_secs(3);

fn main() {
    // `cargo test` runs benches once to see that they work; here there is nothing to see.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!(
        "{:>12} {:>22} {:>22}",
        "experiments", "journal", "a sync each"
    );
    for count in [1, 64, 1000] {
        // In the folder of the build, since a temporary folder may have no disk.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let mut journal = through_the_journal(dir.path(), count);
        let mut each = one_sync_each(dir.path(), count);
        let (journal, each) = (per_entry(count, &mut journal), per_entry(count, &mut each));
        println!("{count:>12} {journal:>14.1} us/entry {each:>14.1} us/entry");
    }
}

/// Microseconds for each entry, over rounds in which each experiment gets one.
fn per_entry(count: usize, round: &mut dyn FnMut(u64)) -> f64 {
    let begin = Instant::now();
    let mut rounds = 0;
    while begin.elapsed() < RUN {
        round(rounds);
        rounds += 1;
    }
    begin.elapsed().as_secs_f64() * 1e6 / (rounds * count as u64) as f64
}

fn through_the_journal(dir: &Path, count: usize) -> impl FnMut(u64) {
    let host = real::host();
    let options = LocalOptions {
        store_dir: dir.to_path_buf(),
        store_id: 1,
        durability: Durability::Sync,
        lap_bytes_max: 64 << 20,
        free_bytes_min: 0,
    };
    let mut parts = Parts::open(&host, &options, Resume::default()).expect("a journal");
    let segments: Vec<_> = (0..count)
        .map(|n| {
            let id = SegmentId {
                slug: Slug::parse(&format!("load-{n}")).expect("a slug"),
                incarnation: 1,
                first_sequence: 0,
                salt: 1,
            };
            let path = dir.join(format!("journaled-{n}"));
            let file = SegmentFile::new(host.disk.clone(), Incarnation::new(1), id, path);
            Arc::new(file)
        })
        .collect();
    let mut checkpointer = parts.checkpointer;
    std::thread::spawn(move || {
        while checkpointer.wait() {
            checkpointer.step();
        }
    });
    move |round| {
        let groups = segments.iter().map(|segment| Group {
            segment: segment.clone(),
            offset: round * ENTRY_LEN as u64,
            lead: trialog::log::lead::Lead::default(),
            bytes: vec![7; ENTRY_LEN],
            entry_count: 0,
            mark: Mark::None,
            if_full: IfFull::Waits,
            done: Box::new(|result| assert!(result.is_ok(), "{result:?}")),
        });
        let mut waiting = parts.committer.commit(groups.collect());
        while !waiting.is_empty() {
            std::thread::yield_now();
            waiting = parts.committer.commit(waiting);
        }
    }
}

fn one_sync_each(dir: &Path, count: usize) -> impl FnMut(u64) {
    let files: Vec<_> = (0..count)
        .map(|n| std::fs::File::create(dir.join(format!("alone-{n}"))).expect("a file"))
        .collect();
    move |round| {
        for file in &files {
            file.write_all_at(&[7; ENTRY_LEN], round * ENTRY_LEN as u64)
                .and_then(|()| file.sync_data())
                .expect("a write and a sync");
        }
    }
}
