//! What is kept of a log's metrics: the same as a fold over all entries, after any history, and
//! without reading them again.

use fastrand::Rng;
use trialog::experiment::log_figures::LogFigures;
use trialog::model::NewEntry;

use crate::rig::{Rig, figures_of, folded, slug};

const SEEDS: u64 = 400;
/// More than any group of entries has here.
const GROUP_BYTES: u64 = 16 << 10;

/// An entry with any metrics.
fn any_entry(rng: &mut Rng) -> NewEntry {
    let variant = ["A", "B", "größe"][rng.usize(..3)];
    let value = |rng: &mut Rng| {
        let values = [
            rng.i32(-400..400).to_string(),
            format!("{:e}", rng.f64() * 10f64.powi(rng.i32(-300..300))),
            "true".into(),
            r#""text""#.into(),
            "1e999".into(),
        ];
        values[rng.usize(..values.len())].clone()
    };
    let members = (0..rng.usize(..4)).map(|_| match rng.u8(..4) {
        0 => format!(r#""judge":{{"score":{}}}"#, value(rng)),
        n => format!(r#""m{n}":{}"#, value(rng)),
    });
    let metrics = members.collect::<Vec<_>>().join(",");
    let padding = "x".repeat(rng.usize(..900));
    let body = format!(
        r#"{{"variantKey":"{variant}","metrics":{{{metrics}}},"input":{{"p":"{padding}"}}}}"#
    );
    NewEntry {
        variant_key: variant.into(),
        idempotency: None,
        body: body.into_bytes().into(),
    }
}

#[test]
fn after_any_history_they_are_those_of_all_entries() {
    let mut long_count = 0;
    for seed in 0..SEEDS {
        let mut rng = Rng::with_seed(seed);
        let mut rig = Rig::new(seed);
        rig.segment_bytes = [4096, 40 << 10][rng.usize(..2)];
        rig.journal_bytes = 4 << 20;
        rig.start().unwrap();
        rig.create("one");
        for _ in 0..rng.usize(5..40) {
            match rng.u8(..12) {
                0..=6 => {
                    let entries = (0..rng.usize(1..12)).map(|_| any_entry(&mut rng));
                    let entries = entries.collect();
                    rig.append(&[("one", entries)]).unwrap();
                }
                7 => rig.background(),
                8 => rig.seal(),
                9 => rig.idle("one"),
                10 => rig.restart(),
                _ => {
                    let found = rig.figures("one").unwrap();
                    let expected = folded(&rig.models[&slug("one")].acked);
                    assert!(
                        figures_of(&found.summary) == figures_of(&expected),
                        "seed {seed}"
                    );
                    assert_eq!(found.damage_count, 0);
                }
            }
        }
        // Opened, so that what an earlier life has not sealed is sealed, too.
        rig.view("one");
        rig.seal();
        rig.restart();
        let found = rig.figures("one").unwrap();
        let expected = folded(&rig.models[&slug("one")].acked);
        assert!(
            figures_of(&found.summary) == figures_of(&expected),
            "seed {seed}"
        );
        // At most the segment that goes on is read: the others have footers.
        let scanned = found.scanned_bytes;
        assert!(
            scanned <= rig.segment_bytes + GROUP_BYTES,
            "seed {seed}: {scanned}"
        );
        let acked = rig.models[&slug("one")].acked.iter();
        let all: usize = acked.map(|(_, body)| body.len()).sum();
        long_count += usize::from(all as u64 > 2 * scanned);
    }
    assert!(
        long_count > 50,
        "{long_count} logs were longer than what was read"
    );
}

#[test]
fn a_second_look_reads_what_came_since() {
    let mut rig = Rig::with("one");
    rig.segment_bytes = 1 << 20;
    let mut rng = Rng::with_seed(7);
    let mut some = |count| (0..count).map(|_| any_entry(&mut rng)).collect::<Vec<_>>();
    rig.append(&[("one", some(1000))]).unwrap();
    let first = rig.figures("one").unwrap();
    assert!(first.scanned_bytes > 300_000, "{}", first.scanned_bytes);
    rig.append(&[("one", some(10))]).unwrap();
    // The block of 64 KiB in which the last one stood, and what came behind.
    let second = rig.figures("one").unwrap();
    assert!(second.scanned_bytes < 90_000, "{}", second.scanned_bytes);
    assert_eq!(second.summary.entry_count(), 1010);

    // What is sealed is not read at all, by another life either.
    rig.segment_bytes = 4096;
    rig.restart();
    for _ in 0..20 {
        rig.append(&[("one", some(10))]).unwrap();
        rig.background();
    }
    rig.seal();
    rig.restart();
    let third = rig.figures("one").unwrap();
    assert_eq!(third.summary.entry_count(), 1210);
    assert!(third.scanned_bytes < 20_000, "{}", third.scanned_bytes);
    let acked = &rig.models[&slug("one")].acked;
    assert!(figures_of(&third.summary) == figures_of(&folded(acked)));
}

/// Under load sealing is a few segments behind, and when the load ends nothing is closed any more: what is
/// sealed then has a footer, too.
#[test]
fn what_was_sealed_after_the_last_one_was_closed_is_not_read() {
    let mut rig = Rig::with("one");
    rig.segment_bytes = 4096;
    rig.restart();
    let mut rng = Rng::with_seed(7);
    for _ in 0..40 {
        let entries = (0..10).map(|_| any_entry(&mut rng)).collect();
        rig.append(&[("one", entries)]).unwrap();
    }
    rig.background();
    let before = rig.figures("one").unwrap();
    assert!(before.scanned_bytes > 100_000, "{}", before.scanned_bytes);
    assert_eq!(before.summary.entry_count(), 400);

    // A first look by another reader, which has kept nothing.
    rig.seal();
    rig.background();
    let view = rig.view("one");
    let disk = rig.machine.host().disk;
    let found = LogFigures::default()
        .read(
            &view.frozen(),
            &disk,
            trialog::stats::summary::Limits::default(),
        )
        .unwrap();
    assert!(found.scanned_bytes < 20_000, "{}", found.scanned_bytes);
    let acked = &rig.models[&slug("one")].acked;
    assert!(figures_of(&found.summary) == figures_of(&folded(acked)));
    assert!(figures_of(&found.summary) == figures_of(&before.summary));
}
