//! The store as a library: append, read, restart.

use std::sync::Arc;

use trialog::experiment::{Store, StoreOptions};
use trialog::fs::real;
use trialog::model::{Definition, NewEntry, Slug, Variant};

fn options(dir: &std::path::Path) -> StoreOptions {
    StoreOptions {
        dir: dir.join("store"),
        journal_bytes: 1 << 20,
        segment_bytes: 64 << 10,
        free_bytes_min: 0,
        ..StoreOptions::default()
    }
}

fn definition() -> Definition {
    let variant = |key: &str| Variant {
        key: key.into(),
        weight: None,
        control: false,
    };
    Definition {
        variants: vec![variant("A"), variant("B")],
        ..Definition::default()
    }
}

fn entry(key: &str, n: usize) -> NewEntry {
    let body = format!(r#"{{"variantKey":"{key}","input":{{"n":{n}}}}}"#);
    NewEntry {
        variant_key: key.into(),
        body: body.into_bytes().into(),
        idempotency: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let slug = Slug::parse("demo").unwrap();
    let mut ids = Vec::new();
    for round in 0..3 {
        let store = Arc::new(Store::open(options(dir.path()), real::host()).unwrap());
        if round == 0 {
            assert!(store.define(&slug, definition()).await.unwrap().created);
        }
        let mut tasks = Vec::new();
        for n in 0..2000 {
            let (store, slug) = (store.clone(), slug.clone());
            tasks.push(tokio::spawn(async move {
                let permit = store.reserve(100).unwrap();
                (n, store.append(&slug, entry("A", n), permit).await.unwrap())
            }));
        }
        for task in tasks {
            ids.push(task.await.unwrap());
        }
        let big: Vec<_> = (0..4000).map(|n| entry("B", n)).collect();
        let permit = store.reserve(100).unwrap();
        let batch = store.append_batch(&slug, big, permit).await.unwrap();
        assert!(batch.ids.windows(2).all(|pair| pair[0] < pair[1]));
        ids.extend(batch.ids.into_iter().enumerate());
        for (n, id) in &ids {
            let found = store
                .get(&slug, *id)
                .await
                .unwrap()
                .unwrap_or_else(|| panic!("round {round} n {n} {id}, of {}", ids.len()));
            assert!(String::from_utf8_lossy(&found.body).contains(&format!("{{\"n\":{n}}}")));
        }
        let described = store.describe(&slug).await.unwrap();
        assert_eq!(described.count, ids.len() as u64);
        if round != 1 {
            store.shutdown().await;
        }
    }
}
