//! Group commit: all waiting groups in one write and one sync, then their answers.
//!
//! A state machine without a thread of its own, so that a simulation can drive it;
//! [`local`](super::local) gives it one.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use tracing::error;

use super::checkpoint::{OpenLap, Shared};
use super::format::{
    BATCH_HEADER_LEN, RecordMark, begin_batch, finish_batch, group_len_max, push_group,
};
use super::{CommitError, Group, IfFull, JournalHealth, Mark};
use crate::fs::write_all_at;
use crate::log::segment::SEGMENT_HEADER_LEN;
use crate::log::segment_file::SegmentId;
use crate::model::Durability;

/// A batch takes groups until it has this many bytes.
const BATCH_BYTES_MAX: usize = 2 << 20;

/// Writes batches into the open lap, one at a time: the next is written only when the one before
/// it is synced (unless durability is relaxed; then each says how far the sync was).
pub struct Committer {
    shared: Arc<Shared>,
    lap: OpenLap,
    next_batch: u64,
    buffer: Vec<u8>,
    /// The lap before, until the first batch of this one is written.
    left: Option<OpenLap>,
    /// Groups around the journal that have begun. A new lap repeats them, since the old lap may
    /// be reused before they end.
    open_marks: Vec<OpenMark>,
}

struct OpenMark {
    segment: SegmentId,
    offset: u64,
    data: Vec<u8>,
}

impl Committer {
    /// Goes on in `lap` with the batch number `next_batch`.
    pub fn new(shared: Arc<Shared>, lap: OpenLap, next_batch: u64) -> Self {
        Self {
            shared,
            lap,
            next_batch,
            buffer: Vec::new(),
            left: None,
            open_marks: Vec::new(),
        }
    }

    /// Makes groups durable and answers each. Gives back those that wait until a lap is free, in
    /// their order: they come first in the next call, which [`Shared::wake_with`] asks for.
    #[must_use]
    pub fn commit(&mut self, groups: Vec<Group>) -> Vec<Group> {
        let mut waiting = groups.into_iter().peekable();
        while waiting.peek().is_some() {
            let mut batch = Vec::new();
            let mut batch_len = 0;
            while let Some(group) = waiting
                .next_if(|group| batch_len == 0 || batch_len + len_max(group) <= BATCH_BYTES_MAX)
            {
                batch_len += len_max(&group);
                batch.push(group);
            }
            if let Some(batch) = self.commit_batch(batch, batch_len) {
                return self.keep_waiting(batch.into_iter().chain(waiting));
            }
        }
        Vec::new()
    }

    /// The lap in use, when no more groups will come. `None` while a large group has not ended: redo
    /// must find its mark, so the laps stay as they are.
    pub fn into_lap(self) -> Option<OpenLap> {
        self.open_marks.is_empty().then_some(self.lap)
    }

    /// Makes a batch durable and answers it; gives it back when there is no lap for it.
    fn commit_batch(&mut self, batch: Vec<Group>, batch_len: usize) -> Option<Vec<Group>> {
        if self.shared.is_failed() {
            answer_all(batch, CommitError::Refused);
            return None;
        }
        match self.write(&batch, batch_len) {
            Ok(true) => self.acknowledge(batch),
            Ok(false) => return Some(batch),
            Err(error) => {
                self.shared.poison("writing or syncing the journal", &error);
                answer_all(batch, CommitError::Failed);
            }
        }
        None
    }

    /// Of groups that have no lap to go to, those that wait for one. While nobody knows when there
    /// will be one, those that can are taken back.
    fn keep_waiting(&mut self, groups: impl Iterator<Item = Group>) -> Vec<Group> {
        let (urgent, groups): (Vec<_>, Vec<_>) =
            groups.partition(|group| group.if_full == IfFull::HasRoom);
        let urgent_len = urgent.iter().map(len_max).sum();
        let urgent = match urgent.is_empty() {
            true => None,
            false => self.commit_batch(urgent, urgent_len),
        };
        let groups = urgent.into_iter().flatten().chain(groups);
        let why = match self.shared.health() {
            JournalHealth::Full => CommitError::Full,
            JournalHealth::OutOfDescriptors => CommitError::OutOfDescriptors,
            JournalHealth::Ready | JournalHealth::Failed => return groups.collect(),
        };
        let (refused, waiting) = groups.partition(|group| group.if_full == IfFull::IsTakenBack);
        answer_all(refused, why);
        waiting
    }

    /// Writes a batch, and syncs it if that is asked for; `false` when there is no lap for it.
    fn write(&mut self, groups: &[Group], groups_len_max: usize) -> io::Result<bool> {
        let marks = self.open_marks.iter();
        let marks_len_max: usize = marks.map(|m| group_len_max(&m.segment, m.data.len())).sum();
        let around = BATCH_HEADER_LEN + self.lap.header.sector_bytes as usize;
        let needed = around + marks_len_max + groups_len_max + self.kept_for_ends(groups);
        let is_full = self.lap.room() < needed as u64;
        if is_full && !self.begin_lap()? {
            return Ok(false);
        }
        begin_batch(&mut self.buffer);
        let mut group_count = 0;
        if self.lap.is_unused() {
            for mark in &self.open_marks {
                let data = &mark.data;
                push_group(
                    &mut self.buffer,
                    &self.lap.header,
                    &mark.segment,
                    mark.offset,
                    &[data],
                    RecordMark::Begin,
                );
                group_count += 1;
            }
        }
        for group in groups {
            let lead = match self.lap.note(&group.segment) || group.mark == Mark::Begin {
                true => group.lead.to_vec(),
                // The lap has the segment's last sector.
                false => Vec::new(),
            };
            push_group(
                &mut self.buffer,
                &self.lap.header,
                &group.segment.id,
                group.offset - lead.len() as u64,
                &[&lead, &group.bytes],
                group.mark.into(),
            );
            group_count += 1;
        }
        let synced_through = match self.shared.durability {
            Durability::Sync => self.next_batch.saturating_sub(1),
            Durability::Relaxed => self.shared.synced_through(),
        };
        let lap = &self.lap.header;
        finish_batch(
            &mut self.buffer,
            lap,
            self.next_batch,
            synced_through,
            group_count,
        );
        let metrics = &self.shared.metrics;
        write_all_at(&*self.lap.file, &self.buffer, self.lap.position)?;
        if self.shared.durability == Durability::Sync {
            let begun = Instant::now();
            self.lap.file.sync_data()?;
            metrics.sync_us.observe_us(begun.elapsed());
        }
        metrics.written_bytes.add(self.buffer.len() as u64);
        let entries: usize = groups.iter().map(|group| group.entry_count).sum();
        metrics.batch_entries.observe(entries as u64);
        self.shared.note_written(self.next_batch);
        self.lap.position += self.buffer.len() as u64;
        self.next_batch += 1;
        if let Some(left) = self.left.take() {
            // Only now: a checkpoint of it takes away the marks that this batch has repeated.
            self.shared.retire(left);
        }
        Ok(true)
    }

    /// Room that a batch of these groups leaves for the ends of large groups.
    fn kept_for_ends(&self, groups: &[Group]) -> usize {
        let is_end = |group: &Group| group.if_full == IfFull::HasRoom;
        if groups.iter().all(is_end) {
            return 0;
        }
        let begun = groups.iter().filter(|group| group.mark == Mark::Begin);
        let begun = begun.map(|group| &group.segment.id);
        let segments = self.open_marks.iter().map(|mark| &mark.segment);
        // Two batches of whole sectors at most: the next segment's header, and the mark with a sector.
        let sector = self.lap.header.sector_bytes as usize;
        let data_len = sector.max(SEGMENT_HEADER_LEN as usize);
        let batch_len = |segment| BATCH_HEADER_LEN + group_len_max(segment, data_len) + sector;
        segments.chain(begun).map(|id| 2 * batch_len(id)).sum()
    }

    fn acknowledge(&mut self, groups: Vec<Group>) {
        for group in groups {
            let segment = group.segment;
            match group.mark {
                Mark::None => {}
                Mark::Begin => self.open_marks.push(OpenMark {
                    segment: segment.id.clone(),
                    offset: group.offset - group.lead.len() as u64,
                    data: [group.lead.to_vec(), group.bytes.clone()].concat(),
                }),
                Mark::End { end } => {
                    self.open_marks.retain(|mark| mark.segment != segment.id);
                    segment.note_durable(end);
                    // The sector that the large group ends in isn't in the journal: the next
                    // group carries it, as if the lap were new.
                    self.lap.forget(&segment);
                    (group.done)(Ok(()));
                    continue;
                }
            }
            let is_empty = group.bytes.is_empty();
            if !is_empty && segment.push_durable(group.offset, group.bytes.into()) {
                self.shared.schedule(segment);
            }
            (group.done)(Ok(()));
        }
    }

    /// Goes on in the other lap, if that was checkpointed.
    fn begin_lap(&mut self) -> io::Result<bool> {
        if self.shared.durability == Durability::Relaxed {
            self.shared.flush()?;
        }
        let Some(next) = self.shared.take_spare()? else {
            return Ok(false);
        };
        self.shared.go_on_in(next.file.clone());
        self.left = Some(std::mem::replace(&mut self.lap, next));
        Ok(true)
    }
}

fn len_max(group: &Group) -> usize {
    group_len_max(&group.segment.id, group.lead.len() + group.bytes.len())
}

fn answer_all(groups: Vec<Group>, error: CommitError) {
    for group in groups {
        (group.done)(Err(error));
    }
}

impl Shared {
    /// Refuses all writes from now on.
    pub fn poison(&self, what: &str, error: &io::Error) {
        if self.set_failed() {
            error!(%error, "{what} failed: nothing more is acknowledged until a restart");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::fs::sim::{Crash, Op, SimMachine};
    use crate::journal::format::BATCHES_AT;
    use crate::journal::local::{LocalOptions, Parts, Resume, journal_dir};
    use crate::journal::redo::Plan;
    use crate::journal::scan::{Purpose, read_laps};
    use crate::log::lead::Lead;
    use crate::log::segment_file::{Incarnation, SegmentFile};
    use crate::model::Slug;

    const STORE: &str = "/store";
    const STORE_ID: u64 = 1;

    fn segment(machine: &SimMachine, name: &str) -> Arc<SegmentFile> {
        let id = SegmentId {
            slug: Slug::parse(name).unwrap(),
            incarnation: 1,
            first_sequence: 0,
            salt: 1,
        };
        let path = Path::new(STORE).join(format!("{name}.segment"));
        let disk = machine.host().disk;
        Arc::new(SegmentFile::new(disk, Incarnation::new(1), id, path))
    }

    fn group(segment: &Arc<SegmentFile>, offset: u64, mark: Mark) -> Group {
        Group {
            segment: segment.clone(),
            offset,
            lead: Lead::default(),
            bytes: vec![7; 1000],
            entry_count: 1,
            mark,
            if_full: IfFull::Waits,
            done: Box::new(|_| {}),
        }
    }

    fn parts(machine: &SimMachine, durability: Durability) -> Parts {
        let host = machine.host();
        host.disk.create_dir(Path::new(STORE)).unwrap();
        host.disk.sync_dir(Path::new("/")).unwrap();
        let options = LocalOptions {
            store_dir: PathBuf::from(STORE),
            store_id: STORE_ID,
            durability,
            lap_bytes_max: BATCHES_AT + 8000,
            free_bytes_min: 0,
        };
        Parts::open(&host, &options, Resume::default()).unwrap()
    }

    /// Checkpoints write more than is taken from the queue between them when there are many segments. What
    /// was put there once for each checkpoint was there ever more often, and kept rolled segments in memory.
    #[test]
    fn a_segment_waits_once_to_be_written_however_often_checkpoints_write_it() {
        let machine = SimMachine::new(1, 512);
        let parts = parts(&machine, Durability::Sync);
        let (mut committer, mut checkpointer) = (parts.committer, parts.checkpointer);
        let segments = ["a", "b"].map(|name| segment(&machine, name));
        let (mut offset, mut checkpoints) = (0, 0);
        while checkpoints < 5 {
            let groups = segments
                .iter()
                .map(|segment| group(segment, offset, Mark::None));
            assert!(committer.commit(groups.collect()).is_empty());
            offset += 1000;
            assert!(parts.shared.scheduled_count() <= segments.len());
            if !parts.shared.has_spare() {
                checkpointer.step();
                checkpoints += 1;
            }
        }
    }

    /// The thread of checkpoints may be through with the lap before when the first batch of a new one is
    /// still being written. Were the power to go then, nobody would know of a large group that has begun,
    /// and what there is of it in its file would count as entries.
    #[test]
    fn a_large_group_that_has_begun_is_known_whenever_the_power_goes_between_two_laps() {
        for (durability, call) in [
            (Durability::Sync, Op::Write),
            (Durability::Sync, Op::Sync),
            (Durability::Relaxed, Op::Write),
        ] {
            let machine = SimMachine::new(1, 512);
            let parts = parts(&machine, durability);
            let (mut committer, mut checkpointer) = (parts.committer, parts.checkpointer);
            let [large, other] = ["large", "other"].map(|name| segment(&machine, name));
            assert!(
                committer
                    .commit(vec![group(&large, 0, Mark::Begin)])
                    .is_empty()
            );
            parts.shared.flush().unwrap();
            let first = committer.lap.header.lap;
            let power = machine.clone();
            machine.meanwhile(call, "2.journal", move || {
                checkpointer.step();
                power.crash(Crash::LoseAll);
            });
            for n in 0.. {
                let _fails_at_last = committer.commit(vec![group(&other, n * 1000, Mark::None)]);
                if parts.shared.is_failed() {
                    break;
                }
            }
            assert_ne!(
                committer.lap.header.lap, first,
                "it went on in the other lap"
            );
            let dir = journal_dir(Path::new(STORE));
            let disk = machine.host().disk;
            let (laps, damages) = read_laps(&*disk, &dir, STORE_ID, Purpose::Recover).unwrap();
            let plan = Plan::read(&laps, &damages);
            let known = plan.segment(&large.id).expect("the journal speaks of it");
            assert_eq!(known.unfinished_from, Some(1000), "{durability:?} {call:?}");
        }
    }
}
