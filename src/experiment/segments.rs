//! The segments of an experiment's log: the list, and the files of those that are written no more.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::blocking::blocking;
use super::error::ReadError;
use super::store::Store;
use crate::fs::{File, read_exact_at};
use crate::log::dropped::was_dropped;
use crate::log::listing::{Figures, SegmentRef};
use crate::log::reader::SegmentError;
use crate::model::Slug;

/// What is told of a segment.
#[derive(Debug, Clone)]
pub struct SegmentInfo {
    /// Its place among all segments of the log, from 0.
    pub number: u64,
    /// Its file's name.
    pub name: String,
    /// Its length, but for a footer that is on its way.
    pub len: u64,
    /// Whether it can be had, and is whole.
    pub state: SegmentState,
    /// What it holds, if its beginning can be read.
    pub figures: Option<Figures>,
    /// Of its file, once nothing is written to it any more.
    pub tag: Option<String>,
}

/// What becomes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentState {
    /// It is written to.
    Active,
    /// Its last bytes and its footer are on their way to its file.
    Sealing,
    /// It is finished.
    Sealed,
    /// It is finished, and its bytes are in the archive alone.
    Archived,
    /// It is finished, and has no footer: it is damaged.
    Unsealed,
}

/// The file of a finished segment, to be read in pieces.
pub struct SegmentDownload {
    file: Arc<dyn File>,
    /// Its name.
    pub name: String,
    /// Its length.
    pub len: u64,
    /// Differs between files that differ.
    pub tag: String,
}

/// A segment that was asked for.
pub enum Sought {
    /// It is finished.
    Found(SegmentDownload),
    /// It is written to.
    NotFinished,
    /// There is none of this number.
    Unknown,
}

impl Store {
    /// The segments behind the one with the number `after`, in order, at most `limit` of them.
    pub async fn segments(
        &self,
        slug: &Slug,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<SegmentInfo>, ReadError> {
        let view = self.handle(slug).await?.view;
        let disk = self.shared.host.disk.clone();
        blocking(move || {
            let segments = view.segments(after.map_or(0, |after| after.saturating_add(1)));
            let infos = segments.iter().map(|segment| {
                let figures = match segment.figures(&*disk) {
                    Err(SegmentError::Header { .. }) => None,
                    figures => Some(figures?),
                };
                let whole = segment.whole_file(&*disk)?;
                Ok(SegmentInfo {
                    number: segment.header().number,
                    name: name_of(segment),
                    len: whole
                        .as_ref()
                        .map_or(segment.frames_end(), |whole| whole.len),
                    state: match (segment, &whole) {
                        (SegmentRef::Active(_), _) => SegmentState::Active,
                        (SegmentRef::Closed(_), None) => SegmentState::Sealing,
                        (_, Some(whole)) if whole.file.is_none() => SegmentState::Archived,
                        (_, Some(whole)) if whole.is_sealed => SegmentState::Sealed,
                        _ => SegmentState::Unsealed,
                    },
                    figures,
                    tag: whole.map(|whole| whole.tag),
                })
            });
            let is_there = |info: &Result<SegmentInfo, SegmentError>| {
                let error = info.as_ref().err();
                !error.is_some_and(|error| was_dropped(&*disk, error))
            };
            let infos = infos.filter(is_there).take(limit);
            Ok::<_, ReadError>(infos.collect::<Result<_, SegmentError>>()?)
        })
        .await
    }

    /// The file of the segment with this number.
    pub async fn segment(&self, slug: &Slug, number: u64) -> Result<Sought, ReadError> {
        let view = self.handle(slug).await?.view;
        let disk = self.shared.host.disk.clone();
        blocking(move || {
            let segments = view.segments(number);
            let first = segments.into_iter().next();
            let Some(segment) = first.filter(|segment| segment.header().number == number) else {
                return Ok(Sought::Unknown);
            };
            let whole = match segment.whole_file(&*disk) {
                Ok(Some(whole)) => whole,
                Ok(None) => return Ok(Sought::NotFinished),
                Err(error) if was_dropped(&*disk, &error) => return Ok(Sought::Unknown),
                Err(error) => return Err(error.into()),
            };
            let file = match whole.file {
                Some(file) => file,
                None => segment.open_archived(&*disk)?,
            };
            Ok(Sought::Found(SegmentDownload {
                name: name_of(&segment),
                file,
                len: whole.len,
                tag: whole.tag,
            }))
        })
        .await
    }
}

impl SegmentDownload {
    /// The bytes from `begin` to `end`. A file that has become shorter is an error.
    pub async fn read(&self, begin: u64, end: u64) -> Result<Bytes, ReadError> {
        let file = self.file.clone();
        blocking(move || {
            let len = usize::try_from(end.saturating_sub(begin)).map_err(io::Error::other)?;
            let mut bytes = vec![0; len];
            read_exact_at(&*file, &mut bytes, begin)?;
            Ok(bytes.into())
        })
        .await
    }
}

fn name_of(segment: &SegmentRef) -> String {
    let name = segment.path().file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
