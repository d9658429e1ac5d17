//! What each part of the hot path and of reading costs: `cargo bench --bench parts`.
//!
//! Criterion compares with its own last run and says what has become slower.

#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use trialog::experiment::figures;
use trialog::experiment::{Store, StoreOptions};
use trialog::fs::{Host, real};
use trialog::http::json::{NESTING_MAX, parse_entry};
use trialog::log::footer;
use trialog::log::frame::{self, FrameKind, Seed};
use trialog::log::open::{OpenedLog, open};
use trialog::log::reader::{EndHint, Segment, list_segments};
use trialog::log::record::{self, EntryRecord};
use trialog::log::segment_file::Incarnation;
use trialog::log::writer::LogOptions;
use trialog::model::{LogId, NewEntry, Slug};

/// The entry that the contract gives as its example, 331 bytes.
const ENTRY: &str = r#"{"variantKey":"A","input":{"query":"What are the latest AI advancements?"},"output":{"response":"Recent AI advancements include improvements in large language models and generative AI."},"metrics":{"latency_ms":123,"token_count":78,"user_rating":5},"context":{"session_id":"session_abc_123","environment":"production"}}"#;
const SEGMENT_BYTES: u64 = 8 << 20;

fn entries(count: usize) -> Vec<NewEntry> {
    let entry = parse_entry(Bytes::from_static(ENTRY.as_bytes()), NESTING_MAX).unwrap();
    vec![entry; count]
}

fn json(c: &mut Criterion) {
    let mut group = c.benchmark_group("json");
    let body = Bytes::from_static(ENTRY.as_bytes());
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("check", |b| {
        b.iter(|| parse_entry(body.clone(), NESTING_MAX).unwrap())
    });
    group.finish();
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    let record = EntryRecord {
        received_at_ms: 1_700_000_000_000,
        variant: 0,
        idempotency: None,
        body: ENTRY.as_bytes(),
    };
    let seed = Seed::new(7);
    let mut out = Vec::new();
    group.throughput(Throughput::Bytes(ENTRY.len() as u64));
    group.bench_function("encode", |b| {
        b.iter(|| {
            out.clear();
            frame::encode(&mut out, seed, FrameKind::Entry, 3, LogId::MIN, |bytes| {
                record::encode(&record, bytes);
            });
            black_box(&out);
        });
    });
    group.finish();
}

/// A log of four sealed segments and one that is written to, and the ids in it.
fn log(dir: &Path) -> (Host, OpenedLog, Vec<LogId>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let slug = Slug::parse("bench").unwrap();
    let options = StoreOptions {
        dir: dir.join("store"),
        segment_bytes: SEGMENT_BYTES,
        ..StoreOptions::default()
    };
    let ids = runtime.block_on(async {
        let store = Store::open(options, real::host()).unwrap();
        let definition = serde_json::from_str(r#"{"variants":[{"key":"A"}]}"#).unwrap();
        store.define(&slug, definition).await.unwrap();
        let mut ids = Vec::new();
        for _ in 0..100 {
            let permit = store.reserve(1 << 20).unwrap();
            let batch = store.append_batch(&slug, entries(1000), permit).await;
            ids.extend(batch.unwrap().ids);
        }
        store.shutdown().await;
        ids
    });
    let host = real::host();
    let dir = dir.join("store/experiments/bench");
    let first = list_segments(&*host.disk, &dir).unwrap().remove(0);
    let first = Segment::open(&*host.disk, &first.path, EndHint::FileEnd).unwrap();
    let options = LogOptions {
        store_id: first.header.store_id,
        slug,
        incarnation: Incarnation::new(first.header.incarnation),
        dir,
        segment_bytes: SEGMENT_BYTES,
        sector_bytes: 4096,
    };
    let opened = open(options, host.clone()).unwrap();
    (host, opened, ids)
}

fn groups(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let (_, mut opened, _) = log(dir.path());
    let mut group = c.benchmark_group("stage a group");
    for count in [1, 16, 256] {
        let entries = entries(count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(
            BenchmarkId::from_parameter(count),
            &entries,
            |b, entries| {
                b.iter_batched(
                    || (),
                    |()| opened.writer.stage(entries).unwrap(),
                    BatchSize::SmallInput,
                );
            },
        );
    }
    group.finish();
}

fn reading(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let (host, opened, ids) = log(dir.path());
    let listed = list_segments(&*host.disk, &dir.path().join("store/experiments/bench")).unwrap();
    let hint = EndHint::FileEnd;
    let segment = Segment::open(&*host.disk, &listed.first().unwrap().path, hint).unwrap();
    let fold = segment.fold();

    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Bytes(segment.bytes().len() as u64));
    group.bench_function("scan a segment", |b| {
        b.iter(|| segment.scan().count());
    });
    group.bench_function("fold the metrics of a segment", |b| {
        b.iter(|| figures::fold(&segment));
    });
    group.throughput(Throughput::Elements(1));
    let view = Arc::clone(opened.writer.view());
    let mut next = 0;
    group.bench_function("look up by id", |b| {
        b.iter(|| {
            // Far apart, so that no two are of one block.
            next = (next + 39_119) % ids.len();
            let id = ids.get(next).copied().unwrap();
            assert!(view.get(&*host.disk, id).unwrap().is_some());
        });
    });
    group.bench_function("write a footer", |b| {
        let salt = segment.header.salt;
        let end = segment.frames_end;
        let metrics = figures::section(&segment);
        b.iter(|| footer::encode(&fold.index, &metrics, salt, end, end, 7));
    });
    group.finish();
}

criterion_group!(parts, json, frames, groups, reading);
criterion_main!(parts);
