//! Entries over time are all of them, whichever way they are counted: by reading few, from the indexes of
//! segments that are written to and of sealed ones, and after a restart.

use trialog::experiment::glance::Span;
use trialog::experiment::{Store, StoreOptions};
use trialog::fs::real;
use trialog::model::{Definition, NewEntry, Slug};

const VARIANTS: [&str; 3] = ["A", "B", "C"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_entry_is_counted_once() {
    // One segment with many blocks; sealed ones with many, with few, and with one.
    for (segment_bytes, count) in [
        (64 << 20, 2400),
        (1 << 20, 4800),
        (200_000, 1200),
        (40_000, 300),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            dir: dir.path().join("s"),
            segment_bytes,
            free_bytes_min: 0,
            ..StoreOptions::default()
        };
        let slug = Slug::parse("demo").unwrap();
        let store = Store::open(options.clone(), real::host()).unwrap();
        let definition = Definition {
            open_variants: true,
            ..Definition::default()
        };
        store.define(&slug, definition).await.unwrap();
        for n in 0..count / 100 {
            let entries = (0..100).map(|at| entry(n * 100 + at)).collect();
            let permit = store.reserve(100_000).unwrap();
            store.append_batch(&slug, entries, permit).await.unwrap();
        }
        check(&store, &slug, count).await;
        store.shutdown().await;
        drop(store);
        let store = Store::open(options, real::host()).unwrap();
        check(&store, &slug, count).await;
        store.shutdown().await;
    }
}

async fn check(store: &Store, slug: &Slug, count: usize) {
    let overview = store.overview(slug).await.unwrap();
    let variants = overview.figures.summary.variants();
    let first = variants.iter().map(|one| one.received_at_ms_min).min();
    let last = variants.iter().map(|one| one.received_at_ms_max).max();
    let (first, last) = (first.unwrap(), last.unwrap());
    for step_count in [1, 7, 96] {
        let span = Span {
            begin_ms: first,
            step_ms: (last + 1 - first).div_ceil(step_count).max(1),
            step_count: step_count as usize,
        };
        let timeline = store.timeline(slug, span).await.unwrap();
        for key in VARIANTS {
            let (_, counts) = timeline
                .variants
                .iter()
                .find(|(known, _)| **known == *key)
                .unwrap();
            let sum: f64 = counts.iter().sum();
            let expected = (count / VARIANTS.len()) as f64;
            assert!(
                (sum - expected).abs() < 1e-6,
                "{key}: {sum} of {expected} in {step_count} steps"
            );
            assert_eq!(counts.len(), step_count as usize);
        }
        let nothing = Span {
            begin_ms: last + 1,
            ..span
        };
        let timeline = store.timeline(slug, nothing).await.unwrap();
        assert_eq!(timeline.total().iter().sum::<f64>(), 0.0);
    }
    let glance = store.glance(slug).await.unwrap();
    let hour: f64 = glance.minutes(store.now_ms()).iter().sum();
    assert!((hour - count as f64).abs() < 1e-6, "{hour}");
}

fn entry(n: usize) -> NewEntry {
    let key = VARIANTS[n % VARIANTS.len()];
    let body = format!(
        r#"{{"variantKey":"{key}","input":{{"text":"{}"}}}}"#,
        "x".repeat(600)
    );
    NewEntry {
        variant_key: key.into(),
        body: body.into(),
        idempotency: None,
    }
}
