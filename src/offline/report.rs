//! The report, from files alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::{OfflineError, Source};
use crate::experiment::definition::DefinitionFile;
use crate::experiment::figures;
use crate::fs::{Disk, parent};
use crate::log::reader::{Segment, SegmentError};
use crate::model::{Definition, Slug};
use crate::stats::question::Take;
use crate::stats::{Entries, Summary};

/// One life of an experiment, as found in files.
pub struct FoundLog {
    /// The experiment.
    pub slug: Slug,
    /// Its definition, where one lies beside its segments.
    pub definition: Option<Definition>,
    /// In the order of the log. As they were when they were opened: a scan finds what the one
    /// before it found, also beside a running server.
    segments: Vec<Segment>,
    /// How many damaged places were met among the entries that had to be read.
    pub damage_count: usize,
}

/// What was found at some paths.
#[derive(Default)]
pub struct FoundLogs {
    /// By experiment and incarnation.
    pub logs: BTreeMap<(Slug, u64), FoundLog>,
    /// Segments that could not be read.
    pub unreadable: Vec<SegmentError>,
}

/// Opens the logs at `paths`, of the experiments `wanted` or of all if there are none. A segment
/// that is there twice counts once.
pub fn find_logs(
    disk: &Arc<dyn Disk>,
    paths: &[PathBuf],
    wanted: &[Slug],
) -> Result<FoundLogs, OfflineError> {
    let mut found = FoundLogs::default();
    for path in paths {
        let source = Source::open(disk.clone(), path)?;
        let plan = source.plan();
        for segment in source.segments(&plan)? {
            let is_wanted = segment
                .slug
                .as_ref()
                .is_none_or(|slug| wanted.is_empty() || wanted.contains(slug));
            if !is_wanted {
                continue;
            }
            match source.open_segment(&segment, &plan) {
                Ok(open) => found.add(open, &**disk),
                Err(error) if source.was_dropped(&error) => {}
                Err(error @ SegmentError::Header { .. }) => found.unreadable.push(error),
                Err(error) => return Err(error.into()),
            }
        }
        // An experiment that has no entries yet.
        for dir in source.experiment_dirs() {
            if let Ok(file) = DefinitionFile::read(&**disk, dir)
                && (wanted.is_empty() || wanted.contains(&file.slug))
                && let Ok(incarnation) = file.incarnation()
            {
                found.log(file.slug, incarnation, &**disk, dir);
            }
        }
    }
    for log in found.logs.values_mut() {
        log.segments
            .sort_by_key(|segment| segment.header.first_sequence);
    }
    Ok(found)
}

impl FoundLogs {
    fn add(&mut self, segment: Segment, disk: &dyn Disk) {
        let header = &segment.header;
        let (slug, salt) = (header.slug.clone(), header.salt);
        let log = self.log(slug, header.incarnation, disk, &parent(&segment.path));
        if log.segments.iter().all(|known| known.header.salt != salt) {
            log.segments.push(segment);
        }
    }

    fn log(&mut self, slug: Slug, incarnation: u64, disk: &dyn Disk, dir: &Path) -> &mut FoundLog {
        let key = (slug.clone(), incarnation);
        self.logs.entry(key).or_insert_with(|| FoundLog {
            definition: DefinitionFile::read(disk, dir)
                .ok()
                .filter(|file| file.slug == slug && file.incarnation().ok() == Some(incarnation))
                .map(|file| file.definition),
            slug,
            segments: Vec::new(),
            damage_count: 0,
        })
    }
}

impl Entries for FoundLog {
    type Error = OfflineError;

    fn summary(&mut self) -> Result<Summary, OfflineError> {
        let mut summary = Summary::default();
        self.damage_count = 0;
        for segment in &self.segments {
            let found = figures::of(segment);
            summary.merge(&found.summary);
            self.damage_count += found.damage_count;
        }
        Ok(summary)
    }

    fn scan(&mut self, take: &mut Take<'_>) -> Result<(), OfflineError> {
        let segments = self.segments.iter();
        self.damage_count = segments.map(|segment| figures::scan(segment, take)).sum();
        Ok(())
    }
}
