//! What clients ask for, and what they are told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use crate::experiment::Appended;
use crate::model::{Definition, Idempotency, IdempotencyKey, LogId, NewEntry, Slug, Variant};
use crate::replica::{Replica, ReplicaError};

/// Two whose entries are counted, and one that is deleted and made again.
pub const NAMES: [&str; 3] = ["one", "two", "remade"];

/// The nodes that are up.
pub type Nodes = Arc<Mutex<Vec<Option<Arc<Replica>>>>>;

/// What was acknowledged.
#[derive(Default)]
pub struct Told {
    /// Entries, by experiment.
    pub acknowledged: Vec<(Slug, LogId, Bytes)>,
    /// Requests that were answered as ones before them.
    pub repeated: u64,
    pub deleted: u64,
}

pub struct ClientTask {
    pub number: u64,
    pub nodes: Nodes,
    pub told: Arc<Mutex<Told>>,
    pub random: fastrand::Rng,
    pub request_count: usize,
}

pub fn slug(name: &str) -> Slug {
    Slug::parse(name).unwrap()
}

pub fn definition(description: &str) -> Definition {
    let variant = |key: &str| Variant {
        key: key.into(),
        weight: None,
        control: false,
    };
    Definition {
        variants: vec![variant("A"), variant("B")],
        open_variants: true,
        description: Some(description.into()),
        ..Definition::default()
    }
}

impl ClientTask {
    pub async fn run(mut self) {
        for n in 0..self.request_count {
            let pause = Duration::from_millis(self.random.u64(..30));
            sleep(pause).await;
            let name = NAMES[self.random.usize(..NAMES.len())];
            match self.random.u8(..24) {
                0 => self.define(name, n).await,
                1 if name == "remade" => self.delete(name).await,
                _ => self.append(name, n).await,
            }
        }
    }

    /// Any node that is up.
    fn node(&mut self) -> Option<Arc<Replica>> {
        let up: Vec<_> = self
            .nodes
            .lock()
            .unwrap()
            .iter()
            .flatten()
            .cloned()
            .collect();
        self.random.choice(up)
    }

    async fn define(&mut self, name: &str, n: usize) {
        let text = format!("by {} at {n}", self.number);
        if let Some(node) = self.node() {
            let _defined = node.define(&slug(name), definition(&text)).await;
        }
    }

    async fn delete(&mut self, name: &str) {
        if let Some(node) = self.node()
            && node.delete(&slug(name)).await.is_ok()
        {
            self.told.lock().unwrap().deleted += 1;
        }
    }

    async fn append(&mut self, name: &str, n: usize) {
        let entries = self.entries(n);
        let is_keyed = entries[0].idempotency.is_some();
        // Without a key it is sent once: nobody could tell a second time from the first.
        for _ in 0..if is_keyed { 6 } else { 1 } {
            let Some(node) = self.node() else {
                sleep(Duration::from_millis(40)).await;
                continue;
            };
            let bytes = entries.iter().map(|entry| entry.body.len()).sum();
            let Ok(permit) = node.store().reserve(bytes) else {
                continue;
            };
            match node.append(&slug(name), entries.clone(), permit).await {
                Ok(appended) => {
                    self.note(name, &entries, &appended);
                    // Some ask once more, as after an answer that got lost.
                    if !is_keyed || self.random.u8(..3) > 0 {
                        return;
                    }
                }
                Err(ReplicaError::Append(_) | ReplicaError::TooLarge { .. }) if !is_keyed => return,
                Err(_) => {}
            }
            let pause = Duration::from_millis(self.random.u64(..60));
            sleep(pause).await;
        }
    }

    fn note(&self, name: &str, entries: &[NewEntry], appended: &Appended) {
        let mut told = self.told.lock().unwrap();
        told.repeated += u64::from(appended.repeated > 0);
        assert_eq!(appended.ids.len(), entries.len());
        for (id, entry) in appended.ids.iter().zip(entries) {
            told.acknowledged
                .push((slug(name), *id, entry.body.clone()));
        }
    }

    fn entries(&mut self, n: usize) -> Vec<NewEntry> {
        let count = match self.random.u8(..4) {
            0 => self.random.usize(2..5),
            _ => 1,
        };
        let is_large = self.random.u8(..12) == 0;
        let key = (self.random.u8(..2) == 0).then(|| format!("k{}-{n}", self.number));
        let (client, padding) = (self.number, if is_large { 2200 } else { 20 });
        let variant = ["A", "B", "C"][self.random.usize(..3)];
        let entry = |at: usize| {
            let body = format!(
                r#"{{"variantKey":"{variant}","input":{{"c":{client},"n":{n},"at":{at},"p":"{:padding$}"}}}}"#,
                ""
            );
            let body = Bytes::from(body);
            let idempotency = key.as_ref().map(|key| {
                let key = IdempotencyKey::parse(key.as_bytes()).unwrap();
                Box::new(Idempotency::in_batch(key, at + 1, count, &body))
            });
            NewEntry {
                variant_key: variant.into(),
                body,
                idempotency,
            }
        };
        (0..count).map(entry).collect()
    }
}
