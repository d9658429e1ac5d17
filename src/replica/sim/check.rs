//! What must hold when all is quiet.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use super::clients::Told;
use super::stream::Stored;
use crate::experiment::simulated::{Held, Kept};
use crate::model::{Definition, LogId, Slug};
use crate::replica::message::{Message, What};
use crate::replica::position::Position;

/// An experiment as the stream's messages make it.
struct Life {
    incarnation: u64,
    definition: Definition,
    entries: Vec<Kept>,
    bodies: HashSet<Bytes>,
}

/// What a stream comes to.
pub struct Fold {
    /// What there is at its end.
    pub held: Held,
    /// All entries that there ever were, also of lives that have ended.
    pub ever: HashMap<(Slug, LogId), Bytes>,
}

/// What the stream's messages come to, in order. Says what is wrong with them.
pub fn fold(stored: &[Stored]) -> Result<Fold, String> {
    let mut ends: HashMap<u16, Position> = HashMap::new();
    let mut lives: BTreeMap<Slug, Life> = BTreeMap::new();
    let mut ever = HashMap::new();
    for stored in stored {
        let message = Message::decode(&stored.message).map_err(|error| error.to_string())?;
        let end = ends.entry(stored.shard).or_default();
        if message.previous != *end {
            return Err(format!(
                "message {} stands behind {end:?}, and was written behind {:?}",
                stored.sequence, message.previous
            ));
        }
        *end = Position {
            sequence: stored.sequence,
            id: message.id,
        };
        for change in message.changes {
            let slug = change.slug;
            let is_same = lives
                .get(&slug)
                .map(|life| life.incarnation == change.incarnation);
            match (change.what, is_same) {
                (What::Definition(placed), None) => {
                    let life = Life {
                        incarnation: change.incarnation,
                        definition: placed.definition,
                        entries: Vec::new(),
                        bodies: HashSet::new(),
                    };
                    lives.insert(slug, life);
                }
                (What::Definition(placed), Some(true)) => {
                    if let Some(life) = lives.get_mut(&slug) {
                        life.definition = placed.definition;
                    }
                }
                (What::Deletion, Some(true)) => drop(lives.remove(&slug)),
                (What::Entries { after, entries }, Some(true)) => {
                    let Some(life) = lives.get_mut(&slug) else {
                        continue;
                    };
                    let mut last = life.entries.last().map_or(LogId::MIN, |kept| kept.0);
                    if after != last {
                        return Err(format!("{slug}: entries behind {after}, and not {last}"));
                    }
                    for placed in entries {
                        if placed.id <= last {
                            return Err(format!("{slug}: {} behind {last}", placed.id));
                        }
                        last = placed.id;
                        let entry = placed.entry;
                        ever.insert((slug.clone(), placed.id), entry.body.clone());
                        if !life.bodies.insert(entry.body.clone()) {
                            return Err(format!("{slug}: stored twice: {:?}", entry.body));
                        }
                        let key = entry.idempotency.map(|key| key.text);
                        life.entries.push((
                            placed.id,
                            placed.received_at_ms,
                            entry.variant_key,
                            key.unwrap_or_default(),
                            entry.body,
                        ));
                    }
                }
                (what, is_same) => {
                    return Err(format!("{slug}: {what:?} where the life is {is_same:?}"));
                }
            }
        }
    }
    let lives = lives.into_iter();
    let held = lives.map(|(slug, life)| (slug, life.incarnation, life.definition, life.entries));
    Ok(Fold {
        held: held.collect(),
        ever,
    })
}

/// Everything that was acknowledged is there, with its id, or was until its experiment was deleted.
pub fn holds_all(fold: &Fold, told: &Told) -> Result<(), String> {
    for (slug, id, body) in &told.acknowledged {
        if fold.ever.get(&(slug.clone(), *id)) != Some(body) {
            return Err(format!("{slug}: acknowledged and not there: {id} {body:?}"));
        }
    }
    Ok(())
}

/// What a node's files hold is what the stream's messages come to.
pub fn is_fold(node: usize, held: &Held, fold: &Held) -> Result<(), String> {
    let names = |held: &Held| -> Vec<(Slug, u64)> {
        held.iter()
            .map(|(slug, incarnation, ..)| (slug.clone(), *incarnation))
            .collect()
    };
    if names(held) != names(fold) {
        let (held, fold) = (names(held), names(fold));
        return Err(format!("node {node} has {held:?}, the stream {fold:?}"));
    }
    for ((slug, _, definition, entries), (_, _, said, expected)) in held.iter().zip(fold) {
        if definition != said {
            return Err(format!("node {node}, {slug}: {definition:?}, not {said:?}"));
        }
        if entries != expected {
            let differ = entries.iter().zip(expected).position(|(a, b)| a != b);
            let (has, should) = (entries.len(), expected.len());
            return Err(format!(
                "node {node}, {slug}: {has} entries of {should}; the first that differs: {differ:?}"
            ));
        }
    }
    Ok(())
}
