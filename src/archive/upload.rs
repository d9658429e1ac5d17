//! One segment on its way into an archive: sent, read back, compared.

use std::io;
use std::path::Path as FilePath;

use bytes::Bytes;
use object_store::path::Path;

use super::error::ArchiveError;
use super::store::{Archive, Object, PART_BYTES, Parts};
use crate::fs::{Disk, File, read_exact_at, read_small, read_up_to};
use crate::log::footer::TRAILER_LEN;
use crate::log::segment::{SEGMENT_HEADER_LEN, SegmentHeader};
use crate::log::whole::WholeCheck;

/// Definitions and marks are shorter.
const SMALL_LEN_MAX: u64 = 4 << 20;

/// A sealed segment's file.
pub struct Local<'a> {
    /// The file.
    pub file: &'a dyn File,
    /// Where it is.
    pub path: &'a FilePath,
    /// Its length.
    pub len: u64,
    /// Its salt.
    pub salt: u64,
}

/// What came of archiving a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// The CRC-32 of the whole object, as it was read back.
    pub crc: u32,
    /// Its tag.
    pub tag: Option<String>,
    /// Bytes that had to be sent.
    pub sent_bytes: u64,
}

/// What stands under a name in an archive.
pub enum There {
    /// A whole segment, with this CRC-32 of all its bytes.
    Whole(u32),
    /// Something else.
    Broken,
}

impl Local<'_> {
    /// Has the segment in the archive: what is there and whole is not sent again, what is broken is
    /// replaced, and what was sent is read back and compared. `there` is the object as it is now.
    pub async fn archive(
        &self,
        archive: &Archive,
        to: &Path,
        there: Option<&Object>,
    ) -> Result<Archived, ArchiveError> {
        let mut crc = None;
        if let Some(there) = there {
            let own_crc = self.read(None).await?;
            match examine(archive, there).await? {
                There::Whole(crc) if crc == own_crc => {
                    return Ok(Archived {
                        crc,
                        tag: there.tag.clone(),
                        sent_bytes: 0,
                    });
                }
                There::Whole(_) => {
                    let place = archive.place(to);
                    return Err(ArchiveError::Conflict { place });
                }
                There::Broken => crc = Some(own_crc),
            }
        }
        let sent_crc = self.send(archive, to).await?;
        let not_as_sent = || ArchiveError::NotAsSent {
            place: archive.place(to),
        };
        if crc.is_some_and(|crc| crc != sent_crc) {
            return Err(self.damaged());
        }
        let object = archive.head(to).await?.ok_or_else(not_as_sent)?;
        match examine(archive, &object).await? {
            There::Whole(crc) if crc == sent_crc => Ok(Archived {
                crc,
                tag: object.tag,
                sent_bytes: self.len,
            }),
            _ => Err(not_as_sent()),
        }
    }

    /// Sends it, and says the CRC-32 of all that was sent. Of a damaged file nothing comes to be.
    async fn send(&self, archive: &Archive, to: &Path) -> Result<u32, ArchiveError> {
        if self.len <= PART_BYTES {
            let bytes = self.piece(0)?;
            let mut check = self.check()?;
            check.update(&bytes);
            let crc = check.finish().ok_or_else(|| self.damaged())?;
            archive.put(to, bytes).await?;
            return Ok(crc);
        }
        let mut parts = archive.put_parts(to).await?;
        match self.read(Some(&mut parts)).await {
            Ok(crc) => {
                parts.complete().await?;
                Ok(crc)
            }
            Err(error) => {
                parts.abort().await;
                Err(error)
            }
        }
    }

    /// Reads all of it, and hands it on part by part.
    async fn read(&self, mut parts: Option<&mut Parts<'_>>) -> Result<u32, ArchiveError> {
        let mut check = self.check()?;
        for position in (0..self.len).step_by(PART_BYTES as usize) {
            let bytes = self.piece(position)?;
            check.update(&bytes);
            if let Some(parts) = &mut parts {
                parts.put(bytes).await?;
            }
        }
        check.finish().ok_or_else(|| self.damaged())
    }

    fn check(&self) -> Result<WholeCheck, ArchiveError> {
        let mut trailer = [0; TRAILER_LEN];
        let at = self.len.saturating_sub(TRAILER_LEN as u64);
        let read = read_up_to(self.file, &mut trailer, at).map_err(|error| self.failed(error))?;
        let trailer = trailer.get(..read).unwrap_or_default();
        WholeCheck::new(trailer, self.len, self.salt).ok_or_else(|| self.damaged())
    }

    fn piece(&self, position: u64) -> Result<Bytes, ArchiveError> {
        let len = (self.len - position).min(PART_BYTES) as usize;
        let mut bytes = vec![0; len];
        read_exact_at(self.file, &mut bytes, position).map_err(|error| self.failed(error))?;
        Ok(bytes.into())
    }

    fn damaged(&self) -> ArchiveError {
        let path = self.path.display().to_string();
        ArchiveError::LocalDamage { path }
    }

    fn failed(&self, error: io::Error) -> ArchiveError {
        let path = self.path.display().to_string();
        ArchiveError::Disk { path, error }
    }
}

/// Reads all of an object, a part at a time.
pub async fn examine(archive: &Archive, object: &Object) -> Result<There, ArchiveError> {
    let (path, len) = (&object.path, object.len);
    let trailer_at = len.saturating_sub(TRAILER_LEN as u64);
    if trailer_at < SEGMENT_HEADER_LEN {
        return Ok(There::Broken);
    }
    let head = archive.read(path, 0..SEGMENT_HEADER_LEN).await?;
    let Ok(head) = SegmentHeader::decode(&head) else {
        return Ok(There::Broken);
    };
    let trailer = archive.read(path, trailer_at..len).await?;
    let Some(mut check) = WholeCheck::new(&trailer, len, head.header.salt) else {
        return Ok(There::Broken);
    };
    for begin in (0..len).step_by(PART_BYTES as usize) {
        let end = len.min(begin + PART_BYTES);
        check.update(&archive.read(path, begin..end).await?);
    }
    Ok(check.finish().map_or(There::Broken, There::Whole))
}

/// Puts a small file there as it is, and says which bytes that were; `None` when there is no such file.
pub async fn put_small(
    archive: &Archive,
    disk: &dyn Disk,
    from: &FilePath,
    to: &Path,
    known_crc: Option<u32>,
) -> Result<Option<u32>, ArchiveError> {
    let bytes = match read_small(disk, from, SMALL_LEN_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| ArchiveError::Disk {
            path: from.display().to_string(),
            error,
        })?,
    };
    let crc = crc32fast::hash(&bytes);
    if known_crc != Some(crc) {
        archive.put(to, bytes.into()).await?;
    }
    Ok(Some(crc))
}
