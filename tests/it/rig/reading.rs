//! Reading what a rig's store holds: as an offline reader does, and as the server.

use std::path::Path;
use std::sync::Arc;

use trialog::experiment::figures::Figures;
use trialog::fs::Disk;
use trialog::log::index::variant_key_of;
use trialog::log::reader::SegmentError;
use trialog::log::view::LogView;
use trialog::model::{LogId, Slug};
use trialog::offline::Source;
use trialog::offline::replay::{Selection, replay};
use trialog::stats::Summary;
use trialog::stats::summary::Limits;

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

/// The summary of entries, one by one.
pub fn folded(entries: &[(LogId, Vec<u8>)]) -> Summary {
    let mut summary = Summary::default();
    for (_, body) in entries {
        summary.apply(&variant_key_of(body), 0, body);
    }
    summary
}

/// All that a summary says but times, which a model doesn't know.
pub fn figures_of(summary: &Summary) -> impl PartialEq + std::fmt::Debug + use<> {
    let metrics = summary.metrics().to_vec();
    let variants = summary.variants().iter().map(|variant| {
        let series = (0..metrics.len()).map(|place| variant.series(place).cloned());
        (variant.key.clone(), variant.entry_count, series.collect())
    });
    let variants: Vec<(_, _, Vec<_>)> = variants.collect();
    (variants, summary.dropped().clone(), metrics)
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
        self.check_figures(&name, &view, &disk);
    }

    /// What is kept of the log's metrics, brought up to now.
    pub fn figures(&mut self, name: &str) -> Result<Figures, SegmentError> {
        let view = self.view(name);
        let life = self.life.as_mut().expect("alive");
        let disk = life.host.disk.clone();
        let kept = life.figures.entry(slug(name)).or_default();
        kept.read(&view.frozen(), &disk, Limits::default())
    }

    /// What is kept of the metrics is what a fold over the entries gives.
    fn check_figures(&mut self, name: &Slug, view: &LogView, disk: &Arc<dyn Disk>) {
        let life = self.life.as_mut().expect("alive");
        let kept = life.figures.entry(name.clone()).or_default();
        let model = &self.models[name];
        let wrong = match kept.read(&view.frozen(), disk, Limits::default()) {
            Err(SegmentError::Io { .. }) => return,
            Err(error) => error.to_string(),
            // After a failed sync the page cache may lack what the journal has.
            Ok(_) if self.machine.is_cache_wrong() => return,
            Ok(found) if found.damage_count > 0 => "damage among the metrics".into(),
            // Nobody knows yet whether these entries are there.
            Ok(_) if !model.unsure.is_empty() => return,
            Ok(found) => match figures_of(&found.summary) == figures_of(&folded(&model.acked)) {
                true => return,
                false => format!("the metrics are {:?}", found.summary),
            },
        };
        self.wrong = Some(format!("{name}: {wrong}"));
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
