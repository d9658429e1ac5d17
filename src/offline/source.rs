//! What a path names, and the segments found there, in log order.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archived::{log_dirs, named};
use super::wanted::{Wanted, may_hold};
use crate::experiment::folder::{
    LOCK_FILE, OpenError, experiments_dir, life_of, missing_journals, read_store_id,
};
use crate::fs::{Access, Disk, Mapping, parent};
use crate::journal::local::journal_dir;
use crate::journal::redo::{Life, Plan, SegmentPlan, is_dropped};
use crate::journal::scan::{JournalDamage, JournalError, Lap, Purpose, read_laps};
use crate::log::dropped::was_dropped;
use crate::log::outline::{Outline, outline_path, outlined_name};
use crate::log::reader::{EndHint, Listed, Listing, Segment, SegmentError, list_all, list_log};
use crate::log::segment::{HeaderError, Owner, SegmentHeader, first_sequence_of, segment_path};
use crate::log::select::Selection;
use crate::model::Slug;

/// What was found at a path.
pub struct Source {
    disk: Arc<dyn Disk>,
    /// The folders of experiments, or one file.
    places: Vec<Place>,
    journal: Option<JournalView>,
    store_id: Option<u64>,
    /// Whether a server has the store open.
    pub is_live: bool,
    /// Whether it is an archive's: what is sealed, without a journal.
    pub is_archive: bool,
    /// The store's folder, when the path is in one.
    pub store_dir: Option<PathBuf>,
}

enum Place {
    Experiment(PathBuf),
    File(PathBuf),
}

struct JournalView {
    laps: Vec<Lap>,
    damages: Vec<JournalDamage>,
}

/// A segment of a source, not opened yet.
pub struct SourceSegment {
    /// Its file, which may not be there yet when all of it is in the journal.
    pub path: PathBuf,
    /// The experiment, as the segment or its folder names it.
    pub slug: Option<Slug>,
    /// What it says of itself.
    pub header: Result<SegmentHeader, HeaderError>,
    /// The length of its file: 0 without one.
    pub len: u64,
    /// What is known of where its frames end.
    pub(super) hint: EndHint,
    /// Whether its bytes are here, and not in an archive alone.
    pub is_here: bool,
    /// The place in the journal's plan.
    journaled: Option<usize>,
    has_file: bool,
}

impl SourceSegment {
    fn of(listed: Listed, slug_of_folder: Option<&Slug>) -> Self {
        Self {
            slug: match &listed.header {
                Ok(header) => Some(header.slug.clone()),
                Err(_) => slug_of_folder.cloned(),
            },
            path: listed.path,
            header: listed.header,
            len: listed.len,
            hint: listed.hint,
            is_here: listed.is_here,
            journaled: None,
            has_file: listed.is_here,
        }
    }
}

/// Why a path can't be read as trialog's.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// Nothing of ours is there.
    #[error("{0} is neither a trialog store, nor an experiment's folder, nor a segment file")]
    NotOurs(PathBuf),
    /// The disk failed.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the disk said.
        error: io::Error,
    },
    /// The store's folder can't be read.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The journal can't be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A segment can't be read.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

impl Source {
    /// Looks at `path`: a store's folder, an experiment's, or a segment's file.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, OfflineError> {
        if disk.is_remote(path) {
            return Self::open_archive(disk, path);
        }
        let is_file = disk.open(path, Access::Read).is_ok() && disk.list(path).is_err();
        if is_file {
            let experiment_dir = parent(path);
            let store_dir = store_of(&*disk, &experiment_dir)?;
            return Self::with(disk, vec![Place::File(path.to_path_buf())], store_dir);
        }
        let entries = disk.list(path).map_err(|error| OfflineError::Io {
            path: path.to_path_buf(),
            error,
        })?;
        if read_store_id(&*disk, path)?.is_some() {
            let all = experiments_dir(path);
            let mut dirs: Vec<PathBuf> = disk
                .list(&all)
                .map_err(|error| OfflineError::Io {
                    path: all.clone(),
                    error,
                })?
                .iter()
                .filter(|entry| entry.is_dir && Slug::parse(&entry.name).is_ok())
                .map(|entry| all.join(&entry.name))
                .collect();
            dirs.sort();
            let places = dirs.into_iter().map(Place::Experiment).collect();
            return Self::with(disk, places, Some(path.to_path_buf()));
        }
        let has_segments = entries.iter().any(|entry| {
            let outlined = outlined_name(&entry.name);
            first_sequence_of(outlined.as_ref().unwrap_or(&entry.name)).is_some()
        });
        let store_dir = store_of(&*disk, path)?;
        if !has_segments && store_dir.is_none() {
            return Err(OfflineError::NotOurs(path.to_path_buf()));
        }
        let places = vec![Place::Experiment(path.to_path_buf())];
        Self::with(disk, places, store_dir)
    }

    fn with(
        disk: Arc<dyn Disk>,
        places: Vec<Place>,
        store_dir: Option<PathBuf>,
    ) -> Result<Self, OfflineError> {
        let mut is_live = false;
        let mut journal = None;
        let mut store_id = None;
        if let Some(dir) = &store_dir {
            is_live = disk.is_locked(&dir.join(LOCK_FILE)).unwrap_or(false);
            store_id = read_store_id(&*disk, dir)?;
            if let Some(store_id) = store_id {
                // Before the segments: what leaves the journal meanwhile is in them then.
                let (mut laps, mut damages) =
                    read_laps(&*disk, &journal_dir(dir), store_id, Purpose::Look)?;
                damages.extend(missing_journals(&*disk, dir)?);
                if Plan::read(&laps, &damages).is_empty() {
                    // As after a clean end: all the memory of two laps for nothing.
                    laps.clear();
                }
                journal = Some(JournalView { laps, damages });
            }
        }
        Ok(Self {
            disk,
            places,
            journal,
            store_id,
            is_live,
            is_archive: false,
            store_dir,
        })
    }

    /// Looks at `path` in an archive: all of it, or what is below one of its folders, or one segment.
    fn open_archive(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, OfflineError> {
        let failed = |error| OfflineError::Io {
            path: path.to_path_buf(),
            error,
        };
        let is_segment = path.file_name().and_then(|name| name.to_str());
        let places = match is_segment.and_then(first_sequence_of) {
            Some(_) => {
                disk.open(path, Access::Read).map_err(failed)?;
                vec![Place::File(path.to_path_buf())]
            }
            None => {
                let dirs = log_dirs(&*disk, path).map_err(failed)?;
                if dirs.is_empty() {
                    return Err(OfflineError::NotOurs(path.to_path_buf()));
                }
                dirs.into_iter().map(Place::Experiment).collect()
            }
        };
        Ok(Self {
            disk,
            places,
            journal: None,
            store_id: None,
            is_live: false,
            is_archive: true,
            store_dir: None,
        })
    }

    /// The disk that it is on.
    pub fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// What the journal adds to the segments' files. Made once, and given to the other methods.
    pub fn plan(&self) -> Plan<'_> {
        match &self.journal {
            Some(journal) => Plan::read(&journal.laps, &journal.damages),
            None => Plan::default(),
        }
    }

    /// Whether all segments of a log must be there: this is a store, or an experiment in one.
    pub fn has_whole_logs(&self) -> bool {
        let is_experiment = |place: &Place| matches!(place, Place::Experiment(_));
        let is_store = self.store_dir.is_some() || self.is_archive;
        is_store && self.places.iter().all(is_experiment)
    }

    /// The folders of the experiments.
    pub fn experiment_dirs(&self) -> impl Iterator<Item = &Path> {
        self.places.iter().filter_map(|place| match place {
            Place::Experiment(dir) => Some(&**dir),
            Place::File(_) => None,
        })
    }

    /// All segments, experiment by experiment, each in log order.
    pub fn segments(&self, plan: &Plan<'_>) -> Result<Vec<SourceSegment>, OfflineError> {
        self.segments_of(plan, &[])
    }

    /// As [`Self::segments`], but for those that can't be of the experiments `wanted`, if there are any.
    /// What is left has to be looked at nevertheless.
    pub fn segments_of(
        &self,
        plan: &Plan<'_>,
        wanted: &[Slug],
    ) -> Result<Vec<SourceSegment>, OfflineError> {
        let mut segments = Vec::new();
        for place in &self.places {
            match place {
                Place::Experiment(dir) if self.is_archive => {
                    let slug = named(dir).slug;
                    if slug.is_none_or(|slug| wanted.is_empty() || wanted.contains(&slug)) {
                        segments.extend(self.of_archived(dir)?);
                    }
                }
                Place::File(path) if self.is_archive => {
                    let all = self.of_archived(&parent(path))?;
                    segments.extend(all.into_iter().filter(|segment| segment.path == *path));
                }
                Place::Experiment(dir) => segments.extend(self.of_experiment(dir, plan)?),
                Place::File(path) => {
                    let dir = parent(path);
                    let siblings = self.of_experiment(&dir, plan)?;
                    let own = siblings.into_iter().find(|segment| segment.path == *path);
                    let is_in_store = self.store_dir.is_some();
                    segments.push(match own {
                        Some(own) if is_in_store => own,
                        own => self.alone(path, own),
                    });
                }
            }
        }
        Ok(segments)
    }

    /// Opens what may be selected of a segment: all of it where that costs nothing; `None` if nothing is.
    pub(super) fn open_wanted(
        &self,
        segment: &SourceSegment,
        plan: &Plan<'_>,
        selection: &Selection,
    ) -> Result<Option<Wanted>, SegmentError> {
        if !segment.is_here
            && let Ok(outline) = Outline::read(&*self.disk, &segment.path)
            && outline
                .footer()
                .is_some_and(|footer| !may_hold(&footer, selection))
        {
            return Ok(None);
        }
        match (self.is_archive, &segment.header) {
            (true, Ok(_)) => Wanted::read(&*self.disk, &segment.path, segment.hint, selection),
            _ => Ok(Some(Wanted::whole(self.open_segment(segment, plan)?))),
        }
    }

    /// Opens a segment, with what the journal adds to it.
    pub fn open_segment(
        &self,
        segment: &SourceSegment,
        plan: &Plan<'_>,
    ) -> Result<Segment, SegmentError> {
        if let Err(error @ HeaderError::Elsewhere(_)) = segment.header {
            let path = segment.path.clone();
            return Err(SegmentError::Header { path, error });
        }
        if !segment.is_here {
            return Err(match &segment.header {
                Ok(_) => SegmentError::Archived {
                    path: segment.path.clone(),
                },
                Err(error) => SegmentError::Header {
                    path: outline_path(&segment.path),
                    error: *error,
                },
            });
        }
        let journaled = segment
            .journaled
            .and_then(|at| plan.segments.get(at))
            .map(|(_, plan)| plan);
        let Some(journaled) = journaled else {
            return Segment::open(&*self.disk, &segment.path, segment.hint);
        };
        let file = if segment.has_file {
            let mapped = self
                .disk
                .open(&segment.path, Access::Read)
                .and_then(|file| file.map(file.len()?));
            mapped.map_err(|error| SegmentError::Io {
                path: segment.path.clone(),
                error,
            })?
        } else {
            Mapping::Owned(Vec::new())
        };
        let bytes = Mapping::Owned(journaled.lay_over(&file));
        let path = segment.path.clone();
        match (segment.hint, journaled.unfinished_from) {
            (hint @ EndHint::At(_), _) | (hint, None) => Segment::from_bytes(path, bytes, hint),
            (hint, Some(end)) => {
                let cut = Segment::from_bytes(path, bytes, EndHint::At(end))?;
                match cut.goes_on_behind_end() {
                    true => cut.with_hint(hint),
                    false => Ok(cut),
                }
            }
        }
    }

    /// Whether a segment can't be opened since a server dropped it meanwhile.
    pub fn was_dropped(&self, error: &SegmentError) -> bool {
        !self.is_archive && was_dropped(&*self.disk, error)
    }

    /// Whether the journal speaks of the segment as it was before it went on.
    pub fn has_older_journal(
        &self,
        segment: &SourceSegment,
        open: &Segment,
        plan: &Plan<'_>,
    ) -> bool {
        let journaled = segment.journaled.and_then(|at| plan.segments.get(at));
        let unfinished_from = journaled.and_then(|(_, plan)| plan.unfinished_from);
        let is_known = matches!(segment.hint, EndHint::At(_));
        unfinished_from.is_some_and(|end| !is_known && open.frames_end > end)
    }

    /// The segments of a log in an archive. What was dropped elsewhere is here.
    fn of_archived(&self, dir: &Path) -> Result<Vec<SourceSegment>, OfflineError> {
        let named = named(dir);
        let owner = Owner {
            store_id: named.store_id,
            slug: named.slug.as_ref(),
            incarnation: named.incarnation,
        };
        let mut listed = list_all(&*self.disk, dir)?;
        for segment in &mut listed {
            segment.must_belong_to(&owner);
        }
        let listed = listed.into_iter();
        let mut segments: Vec<_> = listed
            .map(|listed| SourceSegment::of(listed, named.slug.as_ref()))
            .collect();
        self.set_ends(&mut segments);
        Ok(segments)
    }

    fn of_experiment(
        &self,
        dir: &Path,
        plan: &Plan<'_>,
    ) -> Result<Vec<SourceSegment>, OfflineError> {
        let is_in_store = self.store_dir.is_some();
        let life = match is_in_store {
            false => Life::None,
            true => life_of(&*self.disk, dir).map_err(|error| OfflineError::Io {
                path: dir.to_path_buf(),
                error,
            })?,
        };
        let slug = dir
            .file_name()
            .and_then(|name| Slug::parse(name.to_str()?).ok());
        let owner = Owner {
            store_id: self.store_id,
            slug: slug.as_ref().filter(|_| is_in_store),
            incarnation: match life {
                Life::Of(incarnation) => Some(incarnation),
                Life::None | Life::Unknown => None,
            },
        };
        let Listing {
            segments: mut listed,
            mark,
            ..
        } = list_log(&*self.disk, dir)?;
        for segment in &mut listed {
            segment.must_belong_to(&owner);
        }
        let mut segments: Vec<SourceSegment> = listed
            .into_iter()
            .map(|listed| SourceSegment::of(listed, slug.as_ref()))
            .collect();
        for (at, (id, journaled)) in plan.segments.iter().enumerate() {
            let is_of_log = Some(&id.slug) == slug.as_ref() && Life::Of(id.incarnation) == life;
            if !is_of_log || is_dropped(&mark, id) {
                continue;
            }
            let path = segment_path(dir, id.first_sequence);
            match segments.iter_mut().find(|segment| segment.path == path) {
                Some(SourceSegment {
                    header: Err(HeaderError::Elsewhere(_)),
                    ..
                }) => {}
                Some(segment) if !segment.is_here => {}
                Some(segment) => {
                    let salt = segment.header.as_ref().map(|header| header.salt);
                    // A file that was begun may not have its header yet.
                    if salt == Ok(id.salt) || begins_file(journaled) {
                        segment.journaled = Some(at);
                        if segment.header.is_err() {
                            segment.header = journaled_header(journaled);
                        }
                    }
                }
                None if begins_file(journaled) => segments.push(SourceSegment {
                    path,
                    slug: slug.clone(),
                    header: journaled_header(journaled),
                    len: 0,
                    hint: EndHint::FileEnd,
                    is_here: true,
                    journaled: Some(at),
                    has_file: false,
                }),
                None => {}
            }
        }
        segments.sort_by(|a, b| a.path.cmp(&b.path));
        self.set_ends(&mut segments);
        Ok(segments)
    }

    /// A segment ends where the next one says. The last one of a store that nobody writes ends
    /// with its file; beside a running server, or without a store, its end is a guess.
    fn set_ends(&self, segments: &mut [SourceSegment]) {
        let previous: Vec<_> = segments
            .iter()
            .skip(1)
            .map(|next| next.header.as_ref().ok().and_then(|header| header.previous))
            .collect();
        let is_settled = self.store_dir.is_some() && !self.is_live;
        let last = segments.len().saturating_sub(1);
        for (at, segment) in segments.iter_mut().enumerate() {
            let salt = segment.header.as_ref().map(|header| header.salt);
            let said = previous.get(at).copied().flatten();
            segment.hint = match said {
                Some(previous) if salt == Ok(previous.salt) => EndHint::At(previous.frames_end),
                _ if at == last && is_settled => EndHint::FileEnd,
                _ => EndHint::Unknown,
            };
        }
    }

    fn alone(&self, path: &Path, listed: Option<SourceSegment>) -> SourceSegment {
        let opened = Segment::open(&*self.disk, path, EndHint::Unknown);
        let len = opened.as_ref().map_or(0, |open| open.bytes().len() as u64);
        let header = match (opened, listed) {
            (Ok(segment), _) => Ok(segment.header),
            (Err(SegmentError::Header { error, .. }), _) => Err(error),
            (Err(_), Some(listed)) => listed.header,
            (Err(_), None) => Err(HeaderError::Unreadable),
        };
        SourceSegment {
            path: path.to_path_buf(),
            slug: header.as_ref().ok().map(|header| header.slug.clone()),
            header,
            len,
            hint: EndHint::Unknown,
            is_here: true,
            journaled: None,
            has_file: true,
        }
    }
}

fn begins_file(plan: &SegmentPlan<'_>) -> bool {
    plan.writes.first().is_some_and(|(offset, _)| *offset == 0)
}

fn journaled_header(plan: &SegmentPlan<'_>) -> Result<SegmentHeader, HeaderError> {
    let first = plan.writes.first().map(|(_, data)| &**data);
    SegmentHeader::decode(first.unwrap_or_default()).map(|read| read.header)
}

/// The store that an experiment's folder lies in.
fn store_of(disk: &dyn Disk, experiment_dir: &Path) -> Result<Option<PathBuf>, OfflineError> {
    let Ok(absolute) = std::path::absolute(experiment_dir) else {
        return Ok(None);
    };
    let store_dir = absolute.parent().and_then(Path::parent);
    let Some(store_dir) = store_dir else {
        return Ok(None);
    };
    let is_in_place = experiments_dir(store_dir) == parent(&absolute);
    if !is_in_place {
        return Ok(None);
    }
    match read_store_id(disk, store_dir) {
        Ok(Some(_)) => Ok(Some(store_dir.to_path_buf())),
        // What can't be read as a store any more still has segments that can.
        Ok(None) | Err(OpenError::BadFormat { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
