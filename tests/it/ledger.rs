//! What a store was sent and what it answered, held against what it gives back after an end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::ops::AddAssign;
use std::path::Path;

use trialog::fs::real;
use trialog::model::{LogId, Slug};
use trialog::offline::Source;
use trialog::offline::replay::{Selection, replay};

use crate::server::Answer;

/// A body as it was sent.
pub type Body = Vec<u8>;

/// What is known of each experiment. No two bodies are equal.
#[derive(Default)]
pub struct Ledger {
    experiments: BTreeMap<Slug, Known>,
    /// Entries that a client was told are there; of others it is found out by looking.
    told: usize,
}

#[derive(Default)]
struct Known {
    acknowledged: BTreeMap<LogId, Body>,
    /// Requests without an answer: each is there whole or not at all.
    unsure: Vec<Vec<Body>>,
    /// Bodies that were refused, or not there after an end: they never come back.
    absent: HashSet<Body>,
}

/// What became of a request to append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 200.
    Acknowledged,
    /// 500: it may be there or not.
    AppendFailed,
    /// 503, and nothing was stored.
    StorageFailed,
    /// 507, and nothing was stored.
    StorageFull,
    /// 503 with `retry-after`, and nothing was stored.
    Overloaded,
    /// The connection ended: it may be there or not.
    NoAnswer,
}

/// What one check saw.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    /// Entries that were acknowledged to a client.
    pub acknowledged: usize,
    /// Entries that are there.
    pub entries: usize,
    /// Requests without an answer that are there.
    pub unsure_there: usize,
    /// Requests without an answer that are not.
    pub unsure_absent: usize,
}

impl AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.entries += other.entries;
        self.unsure_there += other.unsure_there;
        self.unsure_absent += other.unsure_absent;
    }
}

impl Seen {
    /// What it saw of open requests alone: entries are seen again by each look at a store.
    pub fn without_entries(self) -> Self {
        Self {
            acknowledged: 0,
            entries: 0,
            ..self
        }
    }
}

impl Ledger {
    /// Takes note of what was answered to a request. An answer that no [`Outcome`] is for is a
    /// failure.
    pub fn note(&mut self, slug: &Slug, bodies: Vec<Body>, answer: io::Result<Answer>) -> Outcome {
        let Ok(answer) = answer else {
            self.leave_open(slug, bodies);
            return Outcome::NoAnswer;
        };
        if answer.status == 200 {
            self.acknowledge(slug, ids_of(&answer), bodies);
            return Outcome::Acknowledged;
        }
        match (answer.status, &*answer.code()) {
            (500, "append_failed") => {
                self.leave_open(slug, bodies);
                Outcome::AppendFailed
            }
            (503, "storage_failed") => {
                self.refuse(slug, bodies);
                Outcome::StorageFailed
            }
            (507, "storage_full") => {
                self.refuse(slug, bodies);
                Outcome::StorageFull
            }
            (503, "overloaded") => {
                assert!(answer.header("retry-after").is_some());
                self.refuse(slug, bodies);
                Outcome::Overloaded
            }
            other => panic!("{other:?} is no answer to an append"),
        }
    }

    /// Takes note of an answered request.
    pub fn acknowledge(&mut self, slug: &Slug, ids: Vec<LogId>, bodies: Vec<Body>) {
        assert_eq!(ids.len(), bodies.len(), "an id for each entry");
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "ids rise");
        self.told += ids.len();
        let known = self.experiments.entry(slug.clone()).or_default();
        for (id, body) in ids.into_iter().zip(bodies) {
            let before = known.acknowledged.insert(id, body);
            assert!(before.is_none(), "{id} was given twice");
        }
    }

    /// Takes note of a request that was not answered.
    pub fn leave_open(&mut self, slug: &Slug, bodies: Vec<Body>) {
        let known = self.experiments.entry(slug.clone()).or_default();
        known.unsure.push(bodies);
    }

    /// Takes note of a request that was refused before anything was stored.
    pub fn refuse(&mut self, slug: &Slug, bodies: Vec<Body>) {
        let known = self.experiments.entry(slug.clone()).or_default();
        known.absent.extend(bodies);
    }

    /// How many entries were acknowledged.
    pub fn acknowledged_count(&self) -> usize {
        let known = self.experiments.values();
        known.map(|known| known.acknowledged.len()).sum()
    }

    /// All that was acknowledged.
    pub fn acknowledged(&self) -> impl Iterator<Item = (&Slug, LogId, &Body)> {
        self.experiments.iter().flat_map(|(slug, known)| {
            let entries = known.acknowledged.iter();
            entries.map(move |(id, body)| (slug, *id, body))
        })
    }

    /// Takes note that what the store in `dir` has lost at the end of each log is gone, as may be
    /// with relaxed durability; says how many acknowledged entries that are.
    pub fn give_up_lost_ends(&mut self, dir: &Path) -> usize {
        let found = read_all(dir);
        let mut lost = 0;
        for (slug, known) in &mut self.experiments {
            let last = found.get(slug).and_then(|entries| entries.last());
            let last = last.map(|(id, _)| *id);
            let gone = known.acknowledged.extract_if(.., |id, _| Some(*id) > last);
            let gone: Vec<Body> = gone.map(|(_, body)| body).collect();
            lost += gone.len();
            known.absent.extend(gone);
        }
        lost
    }

    /// Holds the store in `dir`, which nobody serves, against all this, and settles what was
    /// unsure.
    pub fn check(&mut self, dir: &Path) -> Seen {
        let mut found = read_all(dir);
        let mut seen = Seen {
            acknowledged: self.told,
            ..Seen::default()
        };
        for (slug, known) in &mut self.experiments {
            let entries = found.remove(slug).unwrap_or_default();
            let rises = entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
            assert!(rises, "{slug}: ids fall, or an entry is there twice");
            seen.entries += entries.len();
            known.settle(slug, entries, &mut seen);
        }
        assert!(found.values().all(Vec::is_empty), "entries of nobody");
        seen
    }
}

impl Known {
    fn settle(&mut self, slug: &Slug, entries: Vec<(LogId, Body)>, seen: &mut Seen) {
        let mut surplus: HashMap<Body, LogId> = HashMap::new();
        let mut acknowledged_there = 0;
        for (id, body) in entries {
            match self.acknowledged.get(&id) {
                Some(sent) => {
                    assert!(*sent == body, "{slug} {id}: the entry has changed");
                    acknowledged_there += 1;
                }
                None => {
                    let twice = surplus.insert(body, id);
                    assert_eq!(twice, None, "{slug} {id}: an entry is there twice");
                }
            }
        }
        let missing = self.acknowledged.len() - acknowledged_there;
        assert_eq!(missing, 0, "{slug}: acknowledged entries are lost");
        for bodies in std::mem::take(&mut self.unsure) {
            let ids: Vec<LogId> = bodies
                .iter()
                .filter_map(|body| surplus.remove(body))
                .collect();
            if ids.is_empty() {
                seen.unsure_absent += 1;
                self.absent.extend(bodies);
                continue;
            }
            seen.unsure_there += 1;
            assert_eq!(ids.len(), bodies.len(), "{slug}: a batch is there in part");
            assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "in its order");
            self.acknowledged.extend(ids.into_iter().zip(bodies));
        }
        if let Some((body, id)) = surplus.into_iter().next() {
            let was_absent = self.absent.contains(&body);
            panic!(
                "{slug} {id}: nobody sent this, or it was acknowledged before under another id, or refused or absent before: {was_absent}"
            );
        }
    }
}

/// The ids that an answer acknowledges.
pub fn ids_of(answer: &Answer) -> Vec<LogId> {
    let body = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, 200, "{body}");
    let json = answer.json();
    let id = |value: &serde_json::Value| value.as_str().and_then(|id| id.parse().ok());
    let ids = match json["logIds"].as_array() {
        Some(ids) => ids.iter().map(id).collect(),
        None => Some(vec![id(&json["logId"]).expect("a logId")]),
    };
    ids.expect("log ids")
}

/// All entries of a store, in the order of its logs.
fn read_all(dir: &Path) -> HashMap<Slug, Vec<(LogId, Body)>> {
    let source = Source::open(real::host().disk, dir).unwrap();
    let mut found: HashMap<Slug, Vec<(LogId, Body)>> = HashMap::new();
    let outcome = replay(&source, &Selection::default(), |entry| {
        let entries = found.entry(entry.slug.clone()).or_default();
        entries.push((entry.id, entry.body.to_vec()));
        Ok(())
    });
    let outcome = outcome.unwrap();
    assert!(outcome.damages.is_empty(), "{:?}", outcome.damages);
    assert!(outcome.unreadable.is_empty(), "{:?}", outcome.unreadable);
    found
}
