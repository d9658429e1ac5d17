//! Dropping what isn't kept, as an actor does.

use trialog::experiment::retention::drop_due;
use trialog::log::expiry::{self, Limits};
use trialog::log::segment_file::Trouble;
use trialog::model::LogId;

use super::{Rig, slug};

impl Rig {
    /// Drops what is due of an experiment, if a request for that would be heard.
    pub fn retain(&mut self, name: &str, limits: &Limits) {
        let name = slug(name);
        let Ok(log) = self.log(&name) else { return };
        let (view, dir) = (log.writer.view().clone(), log_dir(&name));
        let life = self.life.as_mut().expect("alive");
        if life.parts.shared.flush().is_err() {
            return;
        }
        let (disk, now_ms) = (life.host.disk.clone(), life.host.clock.now_ms());
        let Ok(due) = expiry::due(&view, &*disk, limits, now_ms) else {
            return;
        };
        let through = due.map(|due| LogId::from_u128(due.last_id().expect("it has one")));
        let retained = drop_due(&*disk, &dir, &view, limits, now_ms);
        let Some(through) = through else { return };
        let model = self.models.get_mut(&name).expect("its log was opened");
        let is_dropped = |id: &LogId| *id <= through;
        match retained {
            Ok(retained) => {
                assert!(retained.dropped.segments > 0, "what was due is dropped");
                self.dropped += retained.dropped.segments;
                model.acked.retain(|(id, _)| !is_dropped(id));
                for group in &mut model.unsure {
                    group.retain(|(id, _)| !is_dropped(id));
                }
                model.dropped_through = Some(through);
                life.repeats.remove(&name);
            }
            // Nothing was changed.
            Err(Trouble::Write(_)) => {}
            // It is all dropped or all there: the next start tells.
            Err(Trouble::Sync(error)) => {
                life.parts.shared.poison("marking what is dropped", &error);
                let kept = model.acked.iter().position(|(id, _)| !is_dropped(id));
                let dropped = model.acked.drain(..kept.unwrap_or(model.acked.len()));
                model.unsure.push(dropped.collect());
                model.dropped_through = Some(through);
                model.is_drop_unsure = true;
            }
        }
    }

    /// Opens the logs of which nobody knows what was dropped, as the next request does.
    pub fn look_at_drops(&mut self) {
        let models = self.models.iter();
        let unsure = models.filter(|(_, model)| model.is_drop_unsure);
        let unsure: Vec<_> = unsure.map(|(name, _)| name.clone()).collect();
        for name in unsure {
            if self.life.is_some() && self.log(&name).is_ok() {
                let model = self.models.get_mut(&name);
                model.expect("it was there").is_drop_unsure = false;
            }
        }
    }
}

fn log_dir(name: &trialog::model::Slug) -> std::path::PathBuf {
    trialog::experiment::folder::experiment_dir(std::path::Path::new(super::STORE), name)
}
