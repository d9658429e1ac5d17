//! The report, from files alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::{OfflineError, Source};
use super::wanted::with_footer;
use crate::experiment::definition::DefinitionFile;
use crate::experiment::figures::{self, Figures};
use crate::fs::{Disk, parent};
use crate::log::reader::{EndHint, Segment, SegmentError};
use crate::log::segment::SegmentHeader;
use crate::model::{Definition, Slug};
use crate::stats::question::Take;
use crate::stats::summary::Limits;
use crate::stats::{Entries, Summary};

/// One life of an experiment, as found in files.
pub struct FoundLog {
    /// The experiment.
    pub slug: Slug,
    /// Its definition, where one lies beside its segments.
    pub definition: Option<Definition>,
    /// In the order of the log. As they were when they were opened: a scan finds what the one
    /// before it found, also beside a running server.
    segments: Vec<FoundSegment>,
    disk: Arc<dyn Disk>,
    /// How many damaged places were met among the entries that had to be read.
    pub damage_count: usize,
}

/// A segment of a log.
enum FoundSegment {
    /// It is mapped.
    Open(Segment),
    /// It is read anew each time, and let go: it lies on another machine, and there is no memory for all.
    Remote {
        header: SegmentHeader,
        path: PathBuf,
        hint: EndHint,
    },
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
        for segment in source.segments_of(&plan, wanted)? {
            let is_wanted = segment
                .slug
                .as_ref()
                .is_none_or(|slug| wanted.is_empty() || wanted.contains(slug));
            if !is_wanted {
                continue;
            }
            if let (true, Ok(header)) = (source.is_archive, &segment.header) {
                let (header, path, hint) = (header.clone(), segment.path, segment.hint);
                let dir = parent(&path);
                found.add(FoundSegment::Remote { header, path, hint }, disk, &dir);
                continue;
            }
            match source.open_segment(&segment, &plan) {
                Ok(open) => {
                    let dir = parent(&open.path);
                    found.add(FoundSegment::Open(open), disk, &dir);
                }
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
                found.log(file.slug, incarnation, disk, dir);
            }
        }
    }
    for log in found.logs.values_mut() {
        log.segments
            .sort_by_key(|segment| segment.header().first_sequence);
    }
    Ok(found)
}

impl FoundLogs {
    fn add(&mut self, segment: FoundSegment, disk: &Arc<dyn Disk>, dir: &Path) {
        let header = segment.header();
        let (slug, salt) = (header.slug.clone(), header.salt);
        let log = self.log(slug, header.incarnation, disk, dir);
        if log.segments.iter().all(|known| known.header().salt != salt) {
            log.segments.push(segment);
        }
    }

    fn log(
        &mut self,
        slug: Slug,
        incarnation: u64,
        disk: &Arc<dyn Disk>,
        dir: &Path,
    ) -> &mut FoundLog {
        let key = (slug.clone(), incarnation);
        self.logs.entry(key).or_insert_with(|| FoundLog {
            definition: DefinitionFile::read(&**disk, dir)
                .ok()
                .filter(|file| file.slug == slug && file.incarnation().ok() == Some(incarnation))
                .map(|file| file.definition),
            slug,
            segments: Vec::new(),
            disk: disk.clone(),
            damage_count: 0,
        })
    }
}

impl Entries for FoundLog {
    type Error = OfflineError;

    fn summary(&mut self, limits: Limits) -> Result<Summary, OfflineError> {
        let mut summary = Summary::new(limits);
        self.damage_count = 0;
        for segment in &self.segments {
            let found = segment.figures(&*self.disk)?;
            summary.merge(&found.summary);
            self.damage_count += found.damage_count;
        }
        Ok(summary)
    }

    fn scan(&mut self, take: &mut Take<'_>) -> Result<(), OfflineError> {
        self.damage_count = 0;
        for segment in &self.segments {
            self.damage_count += segment.scan(&*self.disk, take)?;
        }
        Ok(())
    }
}

impl FoundSegment {
    fn header(&self) -> &SegmentHeader {
        match self {
            Self::Open(segment) => &segment.header,
            Self::Remote { header, .. } => header,
        }
    }

    fn figures(&self, disk: &dyn Disk) -> Result<Figures, SegmentError> {
        let (path, hint) = match self {
            Self::Open(segment) => return Ok(figures::of(segment)),
            Self::Remote { path, hint, .. } => (path, *hint),
        };
        let kept = with_footer(disk, path, hint)?.and_then(|segment| figures::kept(&segment));
        Ok(match kept {
            Some(summary) => Figures {
                summary,
                ..Figures::default()
            },
            None => figures::of(&Segment::open(disk, path, hint)?),
        })
    }

    fn scan(&self, disk: &dyn Disk, take: &mut Take<'_>) -> Result<usize, SegmentError> {
        Ok(match self {
            Self::Open(segment) => figures::scan(segment, take),
            Self::Remote { path, hint, .. } => {
                figures::scan(&Segment::open(disk, path, *hint)?, take)
            }
        })
    }
}
