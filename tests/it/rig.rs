//! A store without threads or a runtime, on a simulated machine: the test decides what happens
//! when. Beside it, a [`Model`] of each experiment.

#[path = "rig/large.rs"]
mod large;
#[path = "rig/reading.rs"]
mod reading;
#[path = "rig/retaining.rs"]
mod retaining;
#[path = "rig/sending.rs"]
mod sending;

pub use reading::{figures_of, folded, replayed};
pub use sending::Request;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex};

use trialog::experiment::budget::Budget;
use trialog::experiment::definition::DefinitionFile;
use trialog::experiment::figures;
use trialog::experiment::folder::{self, Folder};
use trialog::experiment::log_figures::LogFigures;
use trialog::experiment::repeats::Repeats;
use trialog::fs::sim::{Crash, Op, SimMachine};
use trialog::fs::{Host, is_full, is_out_of_descriptors};
use trialog::journal::checkpoint::Checkpointer;
use trialog::journal::committer::Committer;
use trialog::journal::local::{LocalOptions, Parts};
use trialog::journal::{CommitError, Group, IfFull, Mark};
use trialog::log::open::OpenedLog;
use trialog::log::segment_file::{Incarnation, Trouble};
use trialog::log::view::ClosedSegment;
use trialog::log::writer::{Begin, LogOptions, Staged};
use trialog::model::{Definition, Durability, Idempotency, IdempotencyKey, LogId, NewEntry, Slug};

use crate::lies::{self, Lie};
use crate::misopen::{self, Cuts};
use crate::model::{Model, Presence};

pub const STORE: &str = "/store";
pub const SECTOR: usize = 512;

pub fn slug(name: &str) -> Slug {
    Slug::parse(name).unwrap()
}

pub fn entry(variant: &str, n: u64, padding: usize) -> NewEntry {
    let padding = "x".repeat(padding);
    // The number in front, in the sector of the frame's header: where a sector of two entries differed in
    // it alone, a torn batch could look like a wrong bit.
    let body = format!(
        r#"{{"variantKey":"{variant}","metrics":{{"n":{n}}},"input":{{"p":"{padding}"}}}}"#
    );
    NewEntry {
        variant_key: variant.into(),
        body: body.into_bytes().into(),
        idempotency: None,
    }
}

/// The entry with an idempotency key.
pub fn keyed(mut entry: NewEntry, key: &str) -> NewEntry {
    let key = IdempotencyKey::parse(key.as_bytes()).unwrap();
    entry.idempotency = Some(Box::new(Idempotency::new(key, &entry.body)));
    entry
}

/// The entries as a batch with one idempotency key.
pub fn keyed_batch(mut entries: Vec<NewEntry>, key: &str) -> Vec<NewEntry> {
    let key = IdempotencyKey::parse(key.as_bytes()).unwrap();
    let count = entries.len();
    for (number, entry) in (1..).zip(&mut entries) {
        let idempotency = Idempotency::in_batch(key, number, count, &entry.body);
        entry.idempotency = Some(Box::new(idempotency));
    }
    entries
}

/// What a life of the process holds in memory.
pub struct Life {
    host: Host,
    /// Where recovery has cut logs, if [`Lie::WriteInPlaceAfterCut`] is planted.
    cuts: Cuts,
    folder: Folder,
    pub parts: Parts,
    pub logs: BTreeMap<Slug, OpenedLog>,
    repeats: BTreeMap<Slug, Repeats>,
    repeats_memory: Budget,
    incarnations: BTreeMap<Slug, Arc<Incarnation>>,
    closed: Vec<(Arc<ClosedSegment>, Arc<Incarnation>)>,
    /// What is kept of the metrics of logs that were asked.
    figures: BTreeMap<Slug, LogFigures>,
}

pub struct Rig {
    pub machine: SimMachine,
    pub life: Option<Life>,
    pub models: BTreeMap<Slug, Model>,
    pub segment_bytes: u64,
    pub journal_bytes: u64,
    pub durability: Durability,
    /// At which call of each commit the background work does a round, as a thread of its own may.
    pub background_at: Option<Op>,
    /// A bug that is planted between the store and its machine.
    pub lie: Option<Lie>,
    /// How often a segment was closed since it was full.
    pub rolls: u64,
    /// How often a group could have no lap since the journal was stuck.
    times_stuck: u64,
    /// How many groups were taken back.
    pub taken_back: u64,
    /// How many segments were dropped.
    pub dropped: u64,
    /// What was found wrong while the store was used.
    pub wrong: Option<String>,
}

impl Rig {
    pub fn new(seed: u64) -> Self {
        Self {
            machine: SimMachine::new(seed, SECTOR),
            life: None,
            models: BTreeMap::new(),
            segment_bytes: 4096,
            journal_bytes: 32 << 10,
            durability: Durability::Sync,
            background_at: None,
            lie: None,
            rolls: 0,
            times_stuck: 0,
            taken_back: 0,
            dropped: 0,
            wrong: None,
        }
    }

    /// A rig whose store has this one experiment.
    pub fn with(name: &str) -> Self {
        let mut rig = Self::new(1);
        rig.start().unwrap();
        rig.create(name);
        rig
    }

    /// Another machine in the same state, with no life on it.
    pub fn fork(&self) -> Self {
        Self {
            machine: self.machine.fork(),
            life: None,
            models: self.models.clone(),
            wrong: None,
            ..*self
        }
    }

    /// The machine as the store sees it.
    fn host(&self) -> Host {
        match &self.life {
            Some(life) => life.host.clone(),
            None => lies::host(&self.machine, self.lie),
        }
    }

    /// Opens the store as `Store::open` does: folder, recovery, journal.
    pub fn start(&mut self) -> Result<(), String> {
        assert!(self.life.is_none(), "one life at a time");
        let dir = Path::new(STORE);
        let recovering = lies::recovering_host(&self.machine, self.lie);
        let folder = Folder::open(&recovering, dir).map_err(|e| e.to_string())?;
        let resume = folder.recover(&recovering).map_err(|e| e.to_string())?;
        let cuts = misopen::take_cuts(&self.machine, self.lie);
        misopen::freshen(&self.machine, self.lie);
        folder.experiments(&recovering).map_err(|e| e.to_string())?;
        let host = self.host();
        let options = LocalOptions {
            store_dir: dir.into(),
            store_id: folder.store_id,
            durability: self.durability,
            lap_bytes_max: self.journal_bytes,
            free_bytes_min: 0,
        };
        let salts = lies::with_salts(&host, self.lie == Some(Lie::NoJournalSalt));
        let parts = Parts::open(&salts, &options, resume).map_err(|e| e.to_string())?;
        self.life = Some(Life {
            host,
            cuts,
            folder,
            parts,
            logs: BTreeMap::new(),
            repeats: BTreeMap::new(),
            repeats_memory: Budget::new(usize::MAX),
            incarnations: BTreeMap::new(),
            closed: Vec::new(),
            figures: BTreeMap::new(),
        });
        Ok(())
    }

    /// Makes an experiment, if a request for that would be heard.
    pub fn create(&mut self, name: &str) {
        let (name, host) = (slug(name), self.host());
        let is_failed = |life: &Life| life.parts.shared.is_failed();
        if self.models.contains_key(&name) || self.life.as_ref().is_some_and(is_failed) {
            return;
        }
        let definition = Definition {
            open_variants: true,
            ..Definition::default()
        };
        let made = folder::create_experiment(&host, Path::new(STORE), &name, definition);
        let model = Model {
            presence: match made {
                Ok(()) => Presence::There,
                Err(_) => Presence::MaybeMade,
            },
            ..Model::default()
        };
        self.models.insert(name, model);
    }

    /// Deletes an experiment, as `Store::delete` does.
    pub fn delete(&mut self, name: &str) {
        let name = slug(name);
        let host = self.host();
        let Some(model) = self.models.get_mut(&name) else {
            return;
        };
        if model.presence != Presence::There {
            return;
        }
        let life = self.life.as_mut().expect("alive");
        life.logs.remove(&name);
        life.figures.remove(&name);
        life.repeats.remove(&name);
        let incarnation = life.incarnations.remove(&name);
        let removed =
            folder::remove_experiment(&host, Path::new(STORE), &name, incarnation.as_deref());
        match removed {
            Ok(()) => drop(self.models.remove(&name)),
            Err(trouble) => {
                model.presence = Presence::MaybeGone;
                if let Trouble::Sync(error) = trouble {
                    life.parts.shared.poison("deleting an experiment", &error);
                }
            }
        }
    }

    fn log(&mut self, name: &Slug) -> Result<&mut OpenedLog, String> {
        let is_there = |model: &Model| model.presence == Presence::There;
        if !self.models.get(name).is_some_and(is_there) {
            return Err("a request for it would not be heard".into());
        }
        let life = self.life.as_mut().expect("alive");
        let host = &life.host;
        if !life.logs.contains_key(name) {
            let dir = folder::experiment_dir(Path::new(STORE), name);
            let file = DefinitionFile::read(&*host.disk, &dir).map_err(|e| e.to_string())?;
            let number = file.incarnation().map_err(|e| e.to_string())?;
            let incarnation = life.incarnations.entry(name.clone());
            let incarnation = incarnation
                .or_insert_with(|| Incarnation::new(number))
                .clone();
            let options = LogOptions {
                store_id: life.folder.store_id,
                slug: name.clone(),
                incarnation: incarnation.clone(),
                dir,
                segment_bytes: self.segment_bytes,
                sector_bytes: life.parts.sector_bytes,
            };
            let salts = lies::with_salts(host, self.lie == Some(Lie::NoSegmentSalt));
            let opened = misopen::open_with(options, salts, &life.cuts, self.lie);
            let mut opened = opened.map_err(|e| e.to_string())?;
            if !opened.damages.is_empty() || !opened.unreadable.is_empty() {
                let (damages, unreadable) = (&opened.damages, &opened.unreadable);
                self.wrong = Some(format!("opened with damage: {damages:?}, {unreadable:?}"));
            }
            for closed in opened.unsealed.drain(..) {
                life.queue(closed, name);
            }
            life.logs.insert(name.clone(), opened);
        }
        Ok(life.logs.get_mut(name).expect("just put there"))
    }

    /// Appends a group to each of these experiments and commits all of them at once.
    pub fn append(&mut self, groups: &[(&str, Vec<NewEntry>)]) -> Result<(), CommitError> {
        let mut to_commit = Vec::new();
        let mut outcomes = Vec::new();
        let mut all = Ok(());
        for (name, entries) in groups {
            let name = slug(name);
            let Ok(log) = self.log(&name) else {
                all = Err(CommitError::Refused);
                continue;
            };
            let staged = log.writer.stage(entries).expect("staging is in memory");
            let outcome = Arc::new(Mutex::new(Err(CommitError::Refused)));
            let ids = staged.ids.clone();
            let told = outcome.clone();
            let closed = staged.closed.clone();
            self.rolls += u64::from(closed.is_some());
            if self.lie == Some(Lie::ReadBeyondDurable) {
                staged.segment.file.note_durable(staged.end());
            }
            let begin = staged.begin();
            to_commit.push(group(staged, move |result| *told.lock().unwrap() = result));
            outcomes.push((name, ids, entries.clone(), outcome, closed, begin));
        }
        for (name, ids, ..) in &outcomes {
            if let Some(first) = ids.first() {
                self.must_not_be_read(name, *first);
            }
        }
        self.commit(to_commit);
        for (name, ids, entries, outcome, closed, begin) in outcomes {
            let result = *outcome.lock().unwrap();
            if is_taken_back(result) {
                self.take_back(&name, begin);
            } else {
                self.note(&name, &ids, &entries, result);
            }
            if let (Ok(()), Some(closed)) = (result, closed) {
                self.life.as_mut().expect("alive").queue(closed, &name);
            }
            all = all.and(result);
        }
        all
    }

    fn commit_one(&mut self, mut group: Group) -> Result<(), CommitError> {
        let outcome = Arc::new(Mutex::new(Err(CommitError::Refused)));
        let told = outcome.clone();
        group.done = Box::new(move |result| *told.lock().unwrap() = result);
        self.commit(vec![group]);
        *outcome.lock().unwrap()
    }

    /// Commits groups. Every second time that the journal is stuck those that can are taken back, and
    /// all others wait until there is room again.
    fn commit(&mut self, groups: Vec<Group>) {
        let is_stuck = !self.has_room_soon();
        self.times_stuck += u64::from(is_stuck);
        if is_stuck && self.times_stuck.is_multiple_of(2) {
            self.make_room();
        }
        let mut waiting = groups;
        loop {
            waiting = match self.background_at {
                Some(op) => self.commit_beside_background(waiting, op),
                None => self.committer().commit(waiting),
            };
            if waiting.is_empty() {
                return;
            }
            self.make_room();
        }
    }

    fn committer(&mut self) -> &mut Committer {
        &mut self.life.as_mut().expect("alive").parts.committer
    }

    fn commit_beside_background(&mut self, groups: Vec<Group>, op: Op) -> Vec<Group> {
        let parts = &mut self.life.as_mut().expect("alive").parts;
        let absent = Checkpointer::new(parts.shared.clone());
        let checkpointer = std::mem::replace(&mut parts.checkpointer, absent);
        let checkpointer = Arc::new(Mutex::new(checkpointer));
        let beside = checkpointer.clone();
        let step = move || beside.lock().unwrap().step();
        self.machine.meanwhile(op, ".journal", step);
        let left = self.committer().commit(groups);
        self.machine.nothing_meanwhile();
        let checkpointer = Arc::into_inner(checkpointer).expect("nobody else has it any more");
        let parts = &mut self.life.as_mut().expect("alive").parts;
        parts.checkpointer = checkpointer.into_inner().unwrap();
        left
    }

    /// What the journal has refused since it is stuck is as if it had never been staged.
    fn take_back(&mut self, name: &Slug, begin: Begin) {
        let life = self.life.as_mut().expect("alive");
        let log = life.logs.get_mut(name).expect("staged there");
        log.writer.take_back(begin);
        life.repeats.remove(name);
        self.taken_back += 1;
    }

    fn note(
        &mut self,
        name: &Slug,
        ids: &[LogId],
        entries: &[NewEntry],
        result: Result<(), CommitError>,
    ) {
        let with_ids = ids.iter().zip(entries);
        let group = with_ids
            .map(|(id, entry)| (*id, entry.body.to_vec()))
            .collect::<Vec<_>>();
        let Some(model) = self.models.get_mut(name) else {
            return;
        };
        let last = model.acked.last().map(|(id, _)| *id);
        let last = last.max(model.dropped_through);
        if group.first().map(|(id, _)| *id) <= last && !group.is_empty() {
            self.wrong = Some(format!("{name}: an id behind {last:?} doesn't rise"));
        }
        match result {
            Ok(()) => model.acked.extend(group),
            Err(_) => model.unsure.push(group),
        }
        if result.is_ok() {
            self.remember(name, ids, entries);
        }
    }

    /// Whether the next round of the background work is a checkpoint.
    pub fn needs_checkpoint(&self) -> bool {
        let life = self.life.as_ref().expect("alive");
        !life.parts.shared.has_spare()
    }

    /// One round of the background work: a checkpoint if a lap is full, else writing out.
    pub fn background(&mut self) {
        self.life.as_mut().expect("alive").parts.checkpointer.step();
    }

    /// Seals what was closed.
    pub fn seal(&mut self) {
        let life = self.life.as_mut().expect("alive");
        let (disk, shared) = (life.host.disk.clone(), life.parts.shared.clone());
        let closed = std::mem::take(&mut life.closed);
        if life.parts.shared.flush().is_err() {
            return;
        }
        for (closed, incarnation) in closed {
            let metrics = &mut figures::Sealed::default();
            let sealing = match closed.make_footer(&disk, &incarnation, SECTOR, metrics) {
                Ok(Some(sealing)) => sealing,
                Err(error) if is_out_of_descriptors(&error) => {
                    let life = self.life.as_mut().expect("alive");
                    life.closed.push((closed, incarnation));
                    continue;
                }
                // The folder goes with its experiment.
                Err(error) if !is_full(&error) && error.kind() != ErrorKind::NotFound => {
                    shared.poison("sealing a segment", &error);
                    continue;
                }
                Ok(None) | Err(_) => {
                    closed.note_done();
                    continue;
                }
            };
            let _next_life_seals = self.commit_one(Group {
                segment: sealing.file,
                offset: sealing.offset,
                lead: sealing.lead,
                bytes: sealing.bytes,
                entry_count: 0,
                mark: Mark::None,
                if_full: IfFull::Waits,
                done: Box::new(|_| {}),
            });
            closed.note_done();
        }
    }

    /// Forgets an experiment's actor, as when it leaves for being idle.
    pub fn idle(&mut self, name: &str) {
        let life = self.life.as_mut().expect("alive");
        let settled = |log: &OpenedLog| log.writer.view().is_settled();
        let flushed = life.parts.shared.flush();
        if flushed.is_err()
            || life.parts.shared.is_failed()
            || !life.logs.get(&slug(name)).is_some_and(settled)
        {
            return;
        }
        life.figures.remove(&slug(name));
        if let Some(log) = life.logs.remove(&slug(name))
            && let Some(active) = log.writer.active()
            && active.file.write_out(u64::MAX).is_err()
        {
            life.logs.insert(slug(name), log);
            return;
        }
        life.repeats.remove(&slug(name));
    }

    /// A clean end: everything is made durable in the segments.
    pub fn stop(&mut self) {
        let life = self.life.take().expect("alive");
        let mut checkpointer = life.parts.checkpointer;
        if let Some(lap) = life.parts.committer.into_lap() {
            let _dead = checkpointer.finish(lap);
        }
    }

    pub fn crash(&mut self, crash: Crash) {
        self.machine.crash(crash);
        self.life = None;
    }

    pub fn kill(&mut self) {
        self.machine.kill();
        self.life = None;
    }

    /// Works in the background until the journal has a lap to go on with; `false` when it is stuck.
    fn has_room_soon(&mut self) -> bool {
        let life = self.life.as_mut().expect("alive");
        let shared = life.parts.shared.clone();
        let has_room = || shared.has_spare() || shared.is_failed();
        for _ in 0..3 {
            if has_room() {
                return true;
            }
            life.parts.checkpointer.step();
        }
        has_room()
    }

    /// As [`Self::has_room_soon`]; a disk that is full gets room, since nobody else could make some.
    fn make_room(&mut self) {
        if self.has_room_soon() {
            return;
        }
        self.machine.heal();
        let life = self.life.as_mut().expect("alive");
        let shared = life.parts.shared.clone();
        while !shared.has_spare() && !shared.is_failed() {
            life.parts.checkpointer.step();
        }
    }
}

impl Life {
    fn queue(&mut self, closed: Arc<ClosedSegment>, name: &Slug) {
        closed.note_queued();
        let incarnation = self.incarnations.get(name).expect("opened before").clone();
        self.closed.push((closed, incarnation));
    }
}

pub fn group(staged: Staged, done: impl FnOnce(Result<(), CommitError>) + Send + 'static) -> Group {
    Group {
        segment: staged.segment.file.clone(),
        offset: staged.offset,
        lead: staged.lead,
        bytes: staged.bytes,
        entry_count: 0,
        mark: Mark::None,
        if_full: IfFull::IsTakenBack,
        done: Box::new(done),
    }
}

/// Whether a group was refused since the journal is stuck.
fn is_taken_back(result: Result<(), CommitError>) -> bool {
    matches!(
        result,
        Err(CommitError::Full | CommitError::OutOfDescriptors)
    )
}
