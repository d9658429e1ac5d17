//! Reading a journal: its laps, and the batches in each up to where the log durably ends.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::checkpoint::journal_path;
use super::correct::{Corrected, correct};
use super::format::{BATCHES_AT, Batch, HEADER_COPY_AT, LAP_HEADER_LEN, LapHeader};
use crate::fs::{Access, Disk, Mapping, read_up_to};
use crate::log::segment::HeaderError;

/// How many files a journal has.
pub const JOURNAL_FILES: u32 = 2;

/// A journal file with the lap that it holds.
pub struct Lap {
    /// The file.
    pub path: PathBuf,
    /// Who the lap is.
    pub header: LapHeader,
    bytes: Mapping,
}

/// A damaged range of a journal file: a batch in it may have been acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalDamage {
    /// The file.
    pub path: PathBuf,
    /// The range.
    pub range: Range<u64>,
    /// What is wrong.
    pub what: &'static str,
    /// The number of the batch that it is in, when it is known what stood there: then nothing is lost.
    pub corrected: Option<u64>,
}

/// Why a journal can't be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk failed.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        error: io::Error,
    },
    /// It is of another store.
    #[error(
        "{path} belongs to another store: put back the journal that belongs to these experiments"
    )]
    OtherStore {
        /// The file.
        path: PathBuf,
    },
    /// A later program wrote it.
    #[error(
        "{path}: journal format version {version} is newer than this program: use a newer trialog"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// How a journal is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To recover: what is read must be on the disk, so files are synced and their cached pages
    /// let go first.
    Recover,
    /// To look, beside a server that may be writing: nothing is touched, and the bytes are copied
    /// so that they stay the same.
    Look,
}

/// The laps of the journal in `journal_dir`, oldest first, and damage to their headers.
pub fn read_laps(
    disk: &dyn Disk,
    journal_dir: &Path,
    store_id: u64,
    purpose: Purpose,
) -> Result<(Vec<Lap>, Vec<JournalDamage>), JournalError> {
    let mut laps = Vec::new();
    let mut damages = Vec::new();
    for number in 1..=JOURNAL_FILES {
        let path = journal_path(journal_dir, number);
        let bytes = match read_file(disk, &path, purpose) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(JournalError::Io { path, error }),
        };
        let copies = [0, HEADER_COPY_AT as usize].map(|at| {
            let copy = bytes.get(at..at + LAP_HEADER_LEN).unwrap_or_default();
            LapHeader::decode(copy)
        });
        let [first, second] = copies;
        // When the copies differ, a crash came while one was written, or between them: the lap
        // has no batches yet that the segments don't hold. So one copy is enough, and no damage.
        let header = match (first, second) {
            (Ok(first), Ok(second)) if first.lap >= second.lap => first,
            (Ok(_), Ok(second)) => second,
            (Ok(header), Err(_)) | (Err(_), Ok(header)) => header,
            (Err(HeaderError::Newer(version)), _) | (_, Err(HeaderError::Newer(version))) => {
                return Err(JournalError::Newer { path, version });
            }
            (Err(_), Err(_)) => {
                // A file that is being made has no batches yet; without those nothing is lost.
                let batches = bytes.get(BATCHES_AT as usize..).unwrap_or_default();
                if batches.iter().any(|byte| *byte != 0) {
                    damages.push(JournalDamage {
                        path,
                        range: 0..BATCHES_AT,
                        what: "both copies of the lap's header are damaged",
                        corrected: None,
                    });
                }
                continue;
            }
        };
        if header.store_id != store_id {
            return Err(JournalError::OtherStore { path });
        }
        laps.push(Lap {
            path,
            header,
            bytes,
        });
    }
    laps.sort_by_key(|lap| lap.header.lap);
    Ok((laps, damages))
}

fn read_file(disk: &dyn Disk, path: &Path, purpose: Purpose) -> io::Result<Mapping> {
    match purpose {
        Purpose::Recover => {
            let file = disk.open(path, Access::ReadWrite)?;
            file.sync_data()?;
            file.drop_cache()?;
            file.map(file.len()?)
        }
        Purpose::Look => {
            let file = disk.open(path, Access::Read)?;
            let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
            let read = read_up_to(&*file, &mut bytes, 0)?;
            bytes.truncate(read);
            Ok(Mapping::Owned(bytes))
        }
    }
}

impl Lap {
    /// The lap's durable batches, in order, and the damage among them. `due` is the number of its
    /// first batch, where the lap before tells.
    pub fn batches(&self, due: Option<u64>) -> (Vec<Batch<'_>>, Vec<JournalDamage>) {
        let mut batches: Vec<Batch<'_>> = Vec::new();
        let mut damages = Vec::new();
        let mut position = BATCHES_AT as usize;
        loop {
            let due = batches.last().map(|last| last.number + 1).or(due);
            let here = self.batch_at(position, due).or_else(|| {
                let (batch, damage) = self.corrected_at(position, due)?;
                damages.push(damage);
                Some(batch)
            });
            let found = here
                .map(|batch| (position, batch))
                .or_else(|| self.find_next(position, due));
            let Some((at, batch)) = found else { break };
            if at != position {
                // Batches behind bad bytes: if the bad ones were synced before these were written,
                // they were acknowledged. Otherwise the power went while both were on their way.
                let first_bad = due.unwrap_or(batch.number.saturating_sub(1));
                if batch.synced_through < first_bad {
                    break;
                }
                damages.push(JournalDamage {
                    path: self.path.clone(),
                    range: position as u64..at as u64,
                    what: "a batch is damaged, and good ones follow it",
                    corrected: None,
                });
            }
            position = at + batch.len;
            batches.push(batch);
        }
        (batches, damages)
    }

    /// Where a later batch would begin.
    fn find_next(&self, position: usize, due: Option<u64>) -> Option<(usize, Batch<'_>)> {
        let sector = self.header.sector_bytes as usize;
        (position + sector..self.bytes.len())
            .step_by(sector)
            .find_map(|at| Some((at, self.batch_at(at, due)?)))
    }

    /// The batch that is due here, when all that is wrong with it is one bit.
    fn corrected_at(
        &self,
        position: usize,
        due: Option<u64>,
    ) -> Option<(Batch<'static>, JournalDamage)> {
        let Corrected { batch, wrong_byte } = correct(self.bytes.get(position..)?, &self.header)?;
        if due.is_some_and(|due| batch.number != due) {
            return None;
        }
        let begin = (position + wrong_byte) as u64;
        let damage = JournalDamage {
            path: self.path.clone(),
            range: begin..begin + 1,
            what: "one bit is wrong; it is known which, and nothing is lost",
            corrected: Some(batch.number),
        };
        Some((batch, damage))
    }

    fn batch_at(&self, position: usize, due: Option<u64>) -> Option<Batch<'_>> {
        let batch = Batch::decode(self.bytes.get(position..)?, &self.header)?;
        due.is_none_or(|due| batch.number >= due).then_some(batch)
    }
}
