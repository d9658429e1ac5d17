//! Reading what a rig's store holds: as an offline reader does, and as the server.

use std::path::Path;
use std::sync::Arc;

use trialog::fs::Disk;
use trialog::log::reader::SegmentError;
use trialog::log::view::LogView;
use trialog::model::{LogId, Slug};
use trialog::offline::Source;
use trialog::offline::replay::{Selection, replay};

use super::{Rig, STORE, slug};

/// What an offline reader finds of one experiment of the store in `dir`; nothing is damaged.
pub fn replayed(disk: Arc<dyn Disk>, dir: &Path, name: &Slug) -> Vec<(LogId, Vec<u8>)> {
    let source = Source::open(disk, dir).unwrap();
    let selection = Selection {
        experiments: vec![name.clone()],
        ..Selection::default()
    };
    let mut entries = Vec::new();
    let outcome = replay(&source, &selection, |entry| {
        entries.push((entry.id, entry.body.to_vec()));
        Ok(())
    })
    .unwrap();
    assert!(outcome.damages.is_empty(), "{:?}", outcome.damages);
    assert!(outcome.unreadable.is_empty(), "{:?}", outcome.unreadable);
    entries
}

impl Rig {
    /// What an offline reader sees of an experiment now.
    pub fn replayed(&self, name: &Slug) -> Vec<(LogId, Vec<u8>)> {
        replayed(self.machine.host().disk, Path::new(STORE), name)
    }

    /// What the server reads of an experiment's log.
    pub fn view(&mut self, name: &str) -> Arc<LogView> {
        let log = self.log(&slug(name)).unwrap();
        log.writer.view().clone()
    }

    /// Reads an entry as the server does; `pick` chooses among those of the experiment.
    pub fn read(&mut self, name: &str, pick: usize) {
        let name = slug(name);
        let Ok(log) = self.log(&name) else { return };
        let view = log.writer.view().clone();
        let disk = self.life.as_ref().expect("alive").host.disk.clone();
        let Some(model) = self.models.get(&name) else {
            return;
        };
        if let Some((id, body)) = model.acked.get(pick % model.acked.len().max(1)) {
            // The disk may fail to say; but it must not say something else.
            match view.get(&*disk, *id) {
                Ok(Some(entry)) if entry.body == body[..] => {}
                Err(SegmentError::Io { .. }) => {}
                read => self.wrong = Some(format!("{name}: {id} is read as {read:?}")),
            }
        }
    }

    /// Before a group is durable nobody reads it.
    pub(super) fn must_not_be_read(&mut self, name: &Slug, id: LogId) {
        let life = self.life.as_ref().expect("alive");
        let view = life.logs.get(name).expect("staged there").writer.view();
        let failed_before = self.machine.failed_count();
        let read = view.get(&*life.host.disk, id);
        if !matches!(read, Ok(None)) && self.machine.failed_count() == failed_before {
            self.wrong = Some(format!("{name}: {id} is not durable and read as {read:?}"));
        }
    }
}
