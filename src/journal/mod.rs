//! What makes a group durable: the journal's trait, and the local one for a store on one machine.
//!
//! Actors submit groups; each group is answered exactly once, when it is durable or when it is
//! known not to become so. Nothing above this trait knows how.

pub mod checkpoint;
pub mod committer;
mod correct;
pub mod format;
pub mod local;
pub mod metrics;
pub mod redo;
pub mod scan;

use std::sync::Arc;

use crate::log::lead::Lead;
use crate::log::segment_file::SegmentFile;

/// What one actor hands to the journal at once: bytes that follow the segment's staged end.
pub struct Group {
    /// The segment that the bytes belong to.
    pub segment: Arc<SegmentFile>,
    /// Where in the segment the new bytes begin (or, with [`Mark::End`], the repeated ones).
    pub offset: u64,
    /// What comes before them in their sector, in case it is rewritten while the power goes.
    pub lead: Lead,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// How many entries are durable once it is: for the figures alone.
    pub entry_count: usize,
    /// Whether a large group around the journal begins or ends here.
    pub mark: Mark,
    /// What becomes of it while the journal is full.
    pub if_full: IfFull,
    /// Called once, on the thread that commits: it must not block.
    pub done: Box<dyn FnOnce(Result<(), CommitError>) + Send>,
}

/// What becomes of a group while no lap is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfFull {
    /// It waits for one.
    Waits,
    /// It waits too, but is refused when the journal is stuck. Whoever submitted it takes back what is
    /// staged, and submits no more for its segment until `done` has said so.
    IsTakenBack,
    /// It ends a large group, alone of its experiment: for that there is room in the lap before.
    HasRoom,
}

/// How a group around the journal is made known to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The journal holds the group's bytes: nothing goes around it.
    None,
    /// Behind this group's bytes the segment will be written without the journal.
    Begin,
    /// What was written without the journal is whole, up to `end`. The group's bytes are those of
    /// the sector that the journal's part and the other share: redo rewrites that sector.
    End {
        /// Where in the segment it ends.
        end: u64,
    },
}

/// Why a group is not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Its own write or sync failed: it may or may not be there after a restart.
    #[error("writing the journal failed")]
    Failed,
    /// An earlier write or sync failed, and nothing was tried since.
    #[error("the journal refuses writes since an earlier write or sync failed")]
    Refused,
    /// The journal is full and so is the disk; nothing was tried.
    #[error("the journal is full, and so is the disk")]
    Full,
    /// The journal is full and no descriptor is left to make room in it; nothing was tried.
    #[error("the journal is full, and no descriptor is left to make room in it")]
    OutOfDescriptors,
    /// The journal ends; nothing was tried.
    #[error("the journal ends")]
    Closed,
}

/// Whether the journal takes groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalHealth {
    /// It does.
    Ready,
    /// The disk is full; what was acknowledged is safe in the journal.
    Full,
    /// A full lap waits until its segments can be opened: no descriptor is left.
    OutOfDescriptors,
    /// A write or a sync failed. Only a restart, which checks what the disk has, ends this.
    Failed,
}

/// Makes groups durable, in the order of their submission for each segment.
pub trait Journal: Send + Sync {
    /// Takes a group; its `done` is called when it is durable or has failed.
    fn submit(&self, group: Group);
    /// Returns once all groups that were answered are on stable storage, which they are already
    /// unless durability is relaxed. Blocks.
    fn flush(&self) -> Result<(), CommitError>;
    /// Refuses all writes from now on, since a write or sync of a segment failed.
    fn poison(&self, what: &str, error: &std::io::Error);
    /// Takes note that a segment's write found the disk full.
    fn note_full(&self);
    /// Whether groups are taken.
    fn health(&self) -> JournalHealth;
    /// The unit in which a power cut may tear what is written.
    fn sector_bytes(&self) -> usize;
    /// Says that [`Self::shutdown`] is to come: from now on nothing waits for a journal that is stuck.
    /// The first group that would have to is refused, and all behind it.
    fn begin_shutdown(&self);
    /// Makes all segments durable and ends. Groups that come later are refused. Blocks.
    fn shutdown(&self);
}
