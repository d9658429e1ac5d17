//! Large groups, which go around the journal, as an actor writes them.

use trialog::fs::sim::{Failure, Fault, Op};
use trialog::fs::{is_full, is_out_of_descriptors};
use trialog::journal::{CommitError, Group, IfFull, Mark};
use trialog::log::lead::Lead;
use trialog::log::segment_file::Trouble;
use trialog::log::writer::Staged;
use trialog::model::{NewEntry, Slug};

use super::{Rig, SECTOR, entry, group, is_taken_back, slug};
use crate::scene::SEGMENT;

impl Rig {
    /// A store with one entry, and behind it a large group whose sync failed: nobody was told that
    /// it is there.
    pub fn with_an_unsynced_large_group() -> Self {
        let mut rig = Self::with("one");
        rig.put("one", 1, 100);
        rig.machine.fail(Fault {
            op: Op::Sync,
            path: SEGMENT,
            after: 0,
            failure: Failure::Io,
            is_sticky: false,
        });
        let dead = (100..104).map(|n| entry("B", n, 700)).collect();
        assert!(rig.append_around("one", dead).is_err());
        rig
    }

    /// Appends a group around the journal, as the actor does with a large one.
    pub fn append_around(&mut self, name: &str, entries: Vec<NewEntry>) -> Result<(), CommitError> {
        let name = slug(name);
        let Ok(log) = self.log(&name) else {
            return Err(CommitError::Refused);
        };
        let mut staged = log.writer.stage(&entries).expect("staging is in memory");
        let before = staged.begin();
        let ids = staged.ids.clone();
        let (begin, end) = (staged.entries_begin(), staged.end());
        let (seam_offset, seam) = staged.seam(SECTOR);
        let body = staged.bytes.split_off(staged.head_len);
        let segment = staged.segment.file.clone();
        let closed = staged.closed.take();
        let head = Group {
            segment: segment.clone(),
            offset: staged.offset,
            lead: staged.lead.clone(),
            bytes: std::mem::take(&mut staged.bytes),
            entry_count: 0,
            mark: Mark::Begin,
            if_full: IfFull::IsTakenBack,
            done: Box::new(|_| {}),
        };
        let mut result = self.commit_one(head);
        if is_taken_back(result) {
            self.take_back(&name, before);
            return result;
        }
        if result.is_ok() {
            let life = self.life.as_mut().expect("alive");
            if let Some(closed) = closed {
                life.queue(closed, &name);
            }
            let shared = life.parts.shared.clone();
            let flushed = shared.flush().map_err(Trouble::Sync);
            result = match flushed.and_then(|()| segment.write_around(begin, &body)) {
                Ok(()) => self.commit_one(end_mark(&staged, end, seam_offset, seam)),
                Err(Trouble::Write(error)) if is_full(&error) => {
                    shared.note_full();
                    self.give_up(&name, &staged, begin);
                    Err(CommitError::Failed)
                }
                Err(Trouble::Write(error)) if is_out_of_descriptors(&error) => {
                    self.give_up(&name, &staged, begin);
                    Err(CommitError::Failed)
                }
                Err(Trouble::Write(error) | Trouble::Sync(error)) => {
                    shared.poison("writing a large group", &error);
                    Err(CommitError::Failed)
                }
            };
        }
        self.note(&name, &ids, &entries, result);
        result
    }

    /// As the actor gives up a large group that found the disk full.
    fn give_up(&mut self, name: &Slug, staged: &Staged, begin: u64) {
        let life = self.life.as_mut().expect("alive");
        let writer = &mut life.logs.get_mut(name).expect("staged there").writer;
        let closed = writer.abandon(staged);
        let next = writer.stage(&[]).expect("staging is in memory");
        let header = Group {
            if_full: IfFull::HasRoom,
            ..group(next, |_| {})
        };
        if self.commit_one(header).is_err() {
            return;
        }
        let _repeated_by_a_new_lap = self.commit_one(end_mark(staged, begin, begin, Vec::new()));
        if let Some(closed) = closed {
            self.life.as_mut().expect("alive").queue(closed, name);
        }
    }
}

fn end_mark(staged: &Staged, end: u64, seam_offset: u64, seam: Vec<u8>) -> Group {
    Group {
        segment: staged.segment.file.clone(),
        offset: seam_offset,
        lead: Lead::default(),
        bytes: seam,
        entry_count: 0,
        mark: Mark::End { end },
        if_full: IfFull::HasRoom,
        done: Box::new(|_| {}),
    }
}
