//! How an actor makes a large group durable: around the journal.

use std::io;

use tokio::sync::oneshot;
use tracing::warn;

use super::Actor;
use crate::experiment::batch::Batch;
use crate::experiment::blocking::spawned;
use crate::experiment::error::AppendError;
use crate::fs::{is_full, is_out_of_descriptors};
use crate::journal::{CommitError, Group, IfFull, Mark};
use crate::log::lead::Lead;
use crate::log::segment_file::Trouble;
use crate::log::writer::Staged;

impl Actor {
    /// The way of a large group: a mark in the journal says where it begins, it is written into
    /// its segment and synced there, a second mark says that it is whole. Says whether it is durable.
    pub(super) async fn commit_around(&mut self, mut staged: Staged, batch: Batch) -> bool {
        // Whatever came before must be durable first: nothing may stand behind a hole.
        self.in_flight.wait_below(1).await;
        if let Some(error) = self.take_back_refused() {
            batch.answer(Err(error));
            return false;
        }
        let before = staged.begin();
        let (begin, end) = (staged.entries_begin(), staged.end());
        let (seam_offset, seam) = staged.seam(self.options.sector_bytes);
        let entries = staged.bytes.split_off(staged.head_len);
        let closed = staged.closed.take();
        let segment = staged.segment.file.clone();
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
        if let Err(error) = self.commit_group(head).await {
            if let CommitError::Full | CommitError::OutOfDescriptors = error {
                self.writer.take_back(before);
                self.met_variants = None;
            }
            batch.answer(Err(error.into()));
            return false;
        }
        if let Some(closed) = closed {
            let incarnation = self.options.incarnation.clone();
            self.shared.sealer.seal(closed, incarnation);
        }
        let journal = self.shared.journal.clone();
        let file = segment.clone();
        let written = spawned(move || {
            let flushed = journal.flush();
            flushed.map_err(|error| Trouble::Sync(io::Error::other(error)))?;
            file.write_around(begin, &entries)
        })
        .await
        .unwrap_or_else(|panic| Err(Trouble::Sync(panic)));
        match written {
            Ok(()) => {
                let mut end_mark = end_mark(&staged, end, seam_offset, seam);
                end_mark.entry_count = batch.new_count();
                let result = self.commit_group(end_mark).await;
                if result.is_ok() {
                    let counters = self.counters();
                    counters.entries.add(batch.new_count() as u64);
                    counters.bytes.add(end - begin);
                }
                self.news.tell();
                batch.answer(result.map_err(AppendError::from));
                return result.is_ok();
            }
            Err(Trouble::Write(error)) if is_full(&error) => {
                self.shared.journal.note_full();
                self.give_up(staged, begin).await;
                batch.answer(Err(AppendError::StorageFull));
            }
            Err(Trouble::Write(error)) if is_out_of_descriptors(&error) => {
                self.give_up(staged, begin).await;
                batch.answer(Err(AppendError::Overloaded));
            }
            Err(Trouble::Write(error) | Trouble::Sync(error)) => {
                self.shared.journal.poison("writing a large group", &error);
                batch.answer(Err(AppendError::Failed));
            }
        }
        false
    }

    /// Ends the segment in front of a large group that found the disk full, or no descriptor. The
    /// next segment, whose header says so, goes into the journal, and only then is the group's mark
    /// taken back.
    async fn give_up(&mut self, staged: Staged, begin: u64) {
        let closed = self.writer.abandon(&staged);
        let next = match self.writer.stage(&[]) {
            Ok(next) => next,
            Err(error) => return self.shared.journal.poison("beginning a segment", &error),
        };
        let header = Group {
            segment: next.segment.file.clone(),
            offset: next.offset,
            lead: next.lead,
            bytes: next.bytes,
            entry_count: 0,
            mark: Mark::None,
            if_full: IfFull::HasRoom,
            done: Box::new(|_| {}),
        };
        if self.commit_group(header).await.is_err() {
            return;
        }
        let taken_back = end_mark(&staged, begin, begin, Vec::new());
        if let Err(error) = self.commit_group(taken_back).await {
            warn!(%error, "taking back the mark of a large group");
        }
        if let Some(closed) = closed {
            let incarnation = self.options.incarnation.clone();
            self.shared.sealer.seal(closed, incarnation);
        }
    }

    async fn commit_group(&self, mut group: Group) -> Result<(), CommitError> {
        let (reply, result) = oneshot::channel();
        group.done = Box::new(move |result| {
            let _gone = reply.send(result);
        });
        self.shared.journal.submit(group);
        result.await.unwrap_or(Err(CommitError::Failed))
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
