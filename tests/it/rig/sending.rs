//! Requests with idempotency keys, as an actor takes them; the model says what each must be told.

use std::collections::BTreeMap;

use trialog::experiment::repeats::{Conflict, Known, Repeats, Window};
use trialog::log::view::LogView;
use trialog::model::{LogId, NewEntry, Slug};

use super::{Rig, slug};
use crate::lies::Lie;
use crate::model::Model;

/// A request whose entries have keys.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Its key; where its entries have keys of their own, the first one's.
    pub key: u64,
    pub count: usize,
    /// Other bodies under the same keys.
    pub version: u64,
    /// Whether the entries have keys of their own, which entries of other requests may have, too.
    pub is_each: bool,
    /// Whether it goes around the journal.
    pub is_large: bool,
}

/// What stands in front of keys in bodies, where the model finds them.
const BEFORE_KEY: &str = r#"{"variantKey":"A","key":""#;

impl Request {
    fn entries(&self) -> Vec<NewEntry> {
        let count = self.count as u64;
        let entry = |key: &str, of: u64| {
            let version = self.version;
            let body = format!(r#"{BEFORE_KEY}{key}","of":{of},"v":{version}}}"#);
            NewEntry {
                variant_key: "A".into(),
                body: body.into_bytes().into(),
                idempotency: None,
            }
        };
        if self.is_each {
            let keys = (self.key..self.key + count).map(|key| format!("each-{key}"));
            return keys.map(|key| super::keyed(entry(&key, 1), &key)).collect();
        }
        let key = format!("batch-{}", self.key);
        let entries = (1..=count).map(|number| entry(&format!("{key} {number}"), count));
        super::keyed_batch(entries.collect(), &key)
    }
}

/// The key in a body, with the entry's number in its batch.
fn key_in(body: &[u8]) -> Option<&str> {
    let rest = body.strip_prefix(BEFORE_KEY.as_bytes())?;
    let (key, _) = std::str::from_utf8(rest).ok()?.split_once('"')?;
    Some(key)
}

impl Model {
    /// The acknowledged entries with keys; no two have the same one.
    pub fn by_key(&self) -> Result<BTreeMap<&str, (LogId, &[u8])>, String> {
        let mut by_key = BTreeMap::new();
        for (id, body) in &self.acked {
            let Some(key) = key_in(body) else { continue };
            if let Some((before, _)) = by_key.insert(key, (*id, &**body)) {
                return Err(format!("{before} and {id} have the same key, {key}"));
            }
        }
        Ok(by_key)
    }

    /// What a request must be told: the ids of those of its entries that are there.
    fn expected(&self, entries: &[NewEntry]) -> Result<Result<Vec<Known>, Conflict>, String> {
        let by_key = self.by_key()?;
        let mut known = Vec::new();
        for (position, entry) in entries.iter().enumerate() {
            match key_in(&entry.body).and_then(|key| by_key.get(key)) {
                Some((id, body)) if entry.body == *body => known.push((position, *id)),
                Some(_) => return Ok(Err(Conflict(position))),
                None => {}
            }
        }
        Ok(Ok(known))
    }
}

impl Rig {
    /// Sends a request. What is known gets its first ids; the rest is appended.
    pub fn send(&mut self, name: &str, request: Request) {
        let name_of = slug(name);
        let mut entries = request.entries();
        let Some(found) = self.look_up(&name_of, &entries) else {
            return;
        };
        let expected = self.models[&name_of].expected(&entries);
        if expected.as_ref() != Ok(&found) {
            self.wrong = Some(format!(
                "{name}: {request:?} finds {found:?}, not {expected:?}"
            ));
        }
        let Ok(known) = found else { return };
        let mut position = 0;
        entries.retain(|_| {
            position += 1;
            known.iter().all(|(known, _)| known + 1 != position)
        });
        let _failing = match (entries.is_empty(), request.is_large) {
            (true, _) => Ok(()),
            (_, true) => self.append_around(name, entries),
            (_, false) => self.append(&[(name, entries)]),
        };
    }

    /// `None` where it would be refused, or the disk fails to say.
    fn look_up(
        &mut self,
        name: &Slug,
        entries: &[NewEntry],
    ) -> Option<Result<Vec<Known>, Conflict>> {
        let view = self.log(name).ok()?.writer.view().clone();
        let lie = self.lie;
        let life = self.life.as_mut()?;
        if life.parts.shared.is_failed() {
            return None;
        }
        let now_ms = life.host.clock.now_ms();
        if !life.repeats.contains_key(name) {
            let view = match lie {
                Some(Lie::KeysForgotten) => &LogView::default(),
                _ => &*view,
            };
            let (disk, memory) = (&*life.host.disk, life.repeats_memory.clone());
            let loaded = Repeats::load(view, disk, Window::default(), &memory, now_ms).ok()?;
            life.repeats.insert(name.clone(), loaded);
        }
        Some(life.repeats.get_mut(name)?.look_up(entries, now_ms))
    }

    /// Remembers the keys of entries that are durable.
    pub(super) fn remember(&mut self, name: &Slug, ids: &[LogId], entries: &[NewEntry]) {
        let life = self.life.as_mut().expect("alive");
        if let Some(repeats) = life.repeats.get_mut(name) {
            repeats.note(trialog::experiment::repeats::keyed(entries, ids));
        }
    }
}
