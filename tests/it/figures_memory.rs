//! The memory that figures of metrics take: for one experiment whatever is logged, and for all of them.

use std::fs;
use std::process::Command;

use serde_json::Value;
use trialog::experiment::{Store, StoreOptions};
use trialog::fs::real;
use trialog::model::{Definition, NewEntry, Slug};

use crate::offline::segments;
use crate::report::{post, printed};
use crate::server::{Server, arg};

/// The most memory of its own that the server had so far.
fn memory_peak_kib(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse().unwrap()
}

/// 256,000 metrics of variants, each twice: 16,384 are kept, and the rest is counted.
#[test]
fn a_thousand_variants_with_256_metrics_take_no_more_than_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &["--segment-bytes", "2000000"]);
    let open = r#"{"variants":[],"openVariants":true}"#;
    assert_eq!(server.ask("PUT", "/experiment/wide", open).status, 201);
    let line = |n: usize| {
        let metrics = (0..256).map(|m| format!(r#""n{m}":{}.5"#, (n * 7919 + m * 31) % 5000 + 300));
        let metrics = metrics.collect::<Vec<_>>().join(",");
        format!(
            r#"{{"variantKey":"v{}","metrics":{{{metrics}}}}}"#,
            n % 1000
        )
    };
    post(&server, "wide", &(0..2000).map(line).collect::<Vec<_>>());
    let before = memory_peak_kib(&server);
    let found = server.ask("GET", "/experiment/wide/stats", "").json();
    let grown = memory_peak_kib(&server) - before;
    // All of them, in what is kept, in what is merged and in the answer, are some 400 MB.
    assert!(grown < 100_000, "{grown} KiB");

    let variants = found["variants"].as_array().unwrap();
    let metrics = |variant: &Value| variant["metrics"].as_array().unwrap().clone();
    let kept: Vec<Value> = variants.iter().flat_map(metrics).collect();
    assert_eq!((found["count"].as_u64(), kept.len()), (Some(2000), 16_384));
    let values: u64 = kept.iter().map(|one| one["count"].as_u64().unwrap()).sum();
    let dropped = found["droppedMetrics"]["valueCount"].as_u64().unwrap();
    assert_eq!(values + dropped, 2000 * 256, "what isn't kept is counted");
    assert_eq!(found["droppedMetrics"]["nameCount"], 0, "all names are");
    assert!(kept.iter().all(|one| one["isIncomplete"] == true));
    // Those that came first in the log.
    assert!(variants[..64].iter().all(|one| metrics(one).len() == 256));

    let report = server.ask("GET", "/experiment/wide/report?metric=n7&format=json", "");
    let report = String::from_utf8(report.body).unwrap();
    assert!(report.contains("more metrics of variants than the 16384 that are kept"));
    // And so it is from files, and after a kill.
    server.kill();
    let offline = ["--experiment", "wide", "--metric", "n7", "--format", "json"];
    assert!(printed(&[&[arg(&store)], &offline[..]].concat()) == report);

    // The reader that was made from the page keeps the same ones.
    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/format/reader.py");
    let first = &segments(&store.join("experiments/wide"))[0];
    match Command::new("python3").arg(reader).arg(first).output() {
        Ok(read) => assert!(
            read.status.success(),
            "{}",
            String::from_utf8_lossy(&read.stderr)
        ),
        Err(_) => crate::faults::not_run("there is no python3 to run tests/format/reader.py"),
    }
}

fn entry(n: usize) -> NewEntry {
    let body = format!(
        r#"{{"variantKey":"A","metrics":{{"ms":{}}}}}"#,
        1000 + n * 7
    );
    NewEntry {
        variant_key: "A".into(),
        idempotency: None,
        body: body.into_bytes().into(),
    }
}

/// Who was asked for longest ago is forgotten, and read again; the answers are the same.
#[tokio::test(flavor = "multi_thread")]
async fn over_all_experiments_they_have_a_budget() {
    const FIGURES_BYTES: usize = 60_000;
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        dir: dir.path().join("s"),
        free_bytes_min: 0,
        figures_bytes: FIGURES_BYTES,
        ..StoreOptions::default()
    };
    let store = Store::open(options, real::host()).unwrap();
    let slugs: Vec<_> = (0..40)
        .map(|n| Slug::parse(&format!("e{n}")).unwrap())
        .collect();
    for slug in &slugs {
        let definition = Definition {
            open_variants: true,
            ..Definition::default()
        };
        store.define(slug, definition).await.unwrap();
        let permit = store.reserve(100_000).unwrap();
        let entries = (0..1000).map(entry).collect();
        store.append_batch(slug, entries, permit).await.unwrap();
    }
    let read = async |slug: &Slug| {
        let figures = store.overview(slug).await.unwrap().figures;
        assert_eq!(figures.summary.entry_count(), 1000);
        figures.scanned_bytes
    };
    let mut whole = u64::MAX;
    for slug in &slugs {
        whole = whole.min(read(slug).await);
        let used = store.state(|_| false).figures_bytes;
        assert!(used <= FIGURES_BYTES, "{used}");
    }
    assert!(
        store.state(|_| false).figures_bytes > FIGURES_BYTES / 2,
        "they are kept while there is room"
    );
    assert!(whole > 70_000, "the first look reads all: {whole}");
    // The last one goes on from its last block, the first one begins anew.
    let [first, .., last] = &slugs[..] else {
        unreachable!()
    };
    assert!(read(last).await < whole);
    assert_eq!(read(first).await, whole);
    assert!(read(first).await < whole);
}
