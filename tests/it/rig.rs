//! A store without threads or a runtime, on a simulated machine: the test decides what happens
//! when. Beside it, the plainest model of what must be there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use trialog::experiment::definition::DefinitionFile;
use trialog::experiment::folder::{self, Folder};
use trialog::fs::sim::{Crash, SimMachine};
use trialog::journal::local::{LocalOptions, Parts};
use trialog::journal::{CommitError, Group, Mark};
use trialog::log::open::{OpenedLog, open};
use trialog::log::segment_file::Incarnation;
use trialog::log::view::ClosedSegment;
use trialog::log::writer::{LogOptions, Staged};
use trialog::model::{Definition, Durability, LogId, NewEntry, Slug};
use trialog::offline::Source;
use trialog::offline::replay::{Selection, replay};
use trialog::offline::verify::verify;

pub const STORE: &str = "/store";
pub const SECTOR: usize = 512;

pub fn slug(name: &str) -> Slug {
    Slug::parse(name).unwrap()
}

pub fn entry(variant: &str, n: u64, padding: usize) -> NewEntry {
    let padding = "x".repeat(padding);
    let body = format!(r#"{{"variantKey":"{variant}","input":{{"n":{n},"p":"{padding}"}}}}"#);
    NewEntry {
        variant_key: variant.into(),
        body: body.into_bytes().into(),
    }
}

/// What a life of the process holds in memory.
pub struct Life {
    folder: Folder,
    pub parts: Parts,
    pub logs: BTreeMap<Slug, OpenedLog>,
    incarnations: BTreeMap<Slug, Arc<Incarnation>>,
    closed: Vec<(Arc<ClosedSegment>, Arc<Incarnation>)>,
}

/// What must be there.
#[derive(Default, Clone, Debug)]
pub struct Model {
    /// Acknowledged entries, in order.
    pub acked: Vec<(LogId, Vec<u8>)>,
    /// Groups that were not acknowledged: each is there whole or not at all.
    pub unsure: Vec<Vec<(LogId, Vec<u8>)>>,
}

pub struct Rig {
    pub machine: SimMachine,
    pub life: Option<Life>,
    pub models: BTreeMap<Slug, Model>,
    pub segment_bytes: u64,
    pub journal_bytes: u64,
    pub durability: Durability,
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
            ..*self
        }
    }

    /// Opens the store as `Store::open` does: folder, recovery, journal.
    pub fn start(&mut self) -> Result<(), String> {
        assert!(self.life.is_none(), "one life at a time");
        let host = self.machine.host();
        let dir = Path::new(STORE);
        let folder = Folder::open(&host, dir).map_err(|e| e.to_string())?;
        let resume = folder.recover(&host).map_err(|e| e.to_string())?;
        folder.experiments(&host).map_err(|e| e.to_string())?;
        let options = LocalOptions {
            store_dir: dir.into(),
            store_id: folder.store_id,
            durability: self.durability,
            lap_bytes_max: self.journal_bytes,
            free_bytes_min: 0,
        };
        let parts = Parts::open(&host, &options, resume).map_err(|e| e.to_string())?;
        self.life = Some(Life {
            folder,
            parts,
            logs: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            closed: Vec::new(),
        });
        Ok(())
    }

    pub fn create(&mut self, name: &str) {
        let host = self.machine.host();
        let definition = Definition {
            open_variants: true,
            ..Definition::default()
        };
        let made = folder::create_experiment(&host, Path::new(STORE), &slug(name), definition);
        if made.is_ok() {
            self.models.entry(slug(name)).or_default();
        }
    }

    pub fn delete(&mut self, name: &str) {
        let life = self.life.as_mut().expect("alive");
        life.logs.remove(&slug(name));
        if let Some(incarnation) = life.incarnations.remove(&slug(name)) {
            incarnation.end();
        }
        let host = self.machine.host();
        // When the power goes here, whether it is gone is the crash's choice.
        let _dead = folder::remove_experiment(&host, Path::new(STORE), &slug(name));
        self.models.remove(&slug(name));
    }

    fn log(&mut self, name: &Slug) -> Result<&mut OpenedLog, String> {
        let host = self.machine.host();
        let life = self.life.as_mut().expect("alive");
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
            let mut opened = open(options, host).map_err(|e| e.to_string())?;
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
        for (name, entries) in groups {
            let name = slug(name);
            let Ok(log) = self.log(&name) else {
                return Err(CommitError::Refused);
            };
            let staged = log.writer.stage(entries).expect("staging is in memory");
            let outcome = Arc::new(Mutex::new(Err(CommitError::Refused)));
            let ids = staged.ids.clone();
            let told = outcome.clone();
            let closed = staged.closed.clone();
            to_commit.push(group(staged, move |result| *told.lock().unwrap() = result));
            outcomes.push((name, ids, entries.clone(), outcome, closed));
        }
        let life = self.life.as_mut().expect("alive");
        life.make_room();
        life.parts.committer.commit(to_commit);
        let mut all = Ok(());
        for (name, ids, entries, outcome, closed) in outcomes {
            let result = *outcome.lock().unwrap();
            self.note(&name, &ids, &entries, result);
            if let (Ok(()), Some(closed)) = (result, closed) {
                self.life.as_mut().expect("alive").queue(closed, &name);
            }
            all = all.and(result);
        }
        all
    }

    /// Appends a group around the journal, as the actor does with a large one.
    pub fn append_around(&mut self, name: &str, entries: Vec<NewEntry>) -> Result<(), CommitError> {
        let name = slug(name);
        let Ok(log) = self.log(&name) else {
            return Err(CommitError::Refused);
        };
        let mut staged = log.writer.stage(&entries).expect("staging is in memory");
        let ids = staged.ids.clone();
        let (begin, end) = (staged.entries_begin(), staged.end());
        let (seam_offset, seam) = staged.seam(SECTOR);
        let body = staged.bytes.split_off(staged.head_len);
        let segment = staged.segment.file.clone();
        let closed = staged.closed.clone();
        let mut head = group(staged, |_| {});
        head.mark = Mark::Begin;
        let mut result = self.commit_one(head);
        if result.is_ok() {
            let life = self.life.as_mut().expect("alive");
            if let Some(closed) = closed {
                life.queue(closed, &name);
            }
            let flushed = life.parts.shared.flush();
            result = match flushed
                .map_err(|_| ())
                .and_then(|()| segment.write_around(begin, &body).map_err(|_| ()))
            {
                Ok(()) => self.commit_one(Group {
                    segment,
                    offset: seam_offset,
                    lead_len: 0,
                    bytes: seam,
                    mark: Mark::End { end },
                    done: Box::new(|_| {}),
                }),
                Err(()) => Err(CommitError::Failed),
            };
        }
        self.note(&name, &ids, &entries, result);
        result
    }

    fn commit_one(&mut self, mut group: Group) -> Result<(), CommitError> {
        let outcome = Arc::new(Mutex::new(Err(CommitError::Refused)));
        let told = outcome.clone();
        group.done = Box::new(move |result| *told.lock().unwrap() = result);
        let life = self.life.as_mut().expect("alive");
        life.make_room();
        life.parts.committer.commit(vec![group]);
        *outcome.lock().unwrap()
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
        match result {
            Ok(()) => model.acked.extend(group),
            Err(_) => model.unsure.push(group),
        }
    }

    /// One round of the background work: a checkpoint if a lap is full, else writing out.
    pub fn background(&mut self) {
        self.life.as_mut().expect("alive").parts.checkpointer.step();
    }

    /// Seals what was closed.
    pub fn seal(&mut self) {
        let host = self.machine.host();
        let life = self.life.as_mut().expect("alive");
        let closed = std::mem::take(&mut life.closed);
        if life.parts.shared.flush().is_err() {
            return;
        }
        for (closed, incarnation) in closed {
            // On a dead disk it fails; the next life seals.
            let Ok(Some(sealing)) = closed.make_footer(&host.disk, &incarnation, SECTOR) else {
                closed.note_done();
                continue;
            };
            let _dead = self.commit_one(Group {
                segment: sealing.file,
                offset: sealing.offset,
                lead_len: sealing.lead_len,
                bytes: sealing.bytes,
                mark: Mark::None,
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
        if let Some(log) = life.logs.remove(&slug(name))
            && let Some(active) = log.writer.active()
            && active.file.write_out(u64::MAX).is_err()
        {
            life.logs.insert(slug(name), log);
        }
    }

    /// A clean end: everything is made durable in the segments.
    pub fn stop(&mut self) {
        let life = self.life.take().expect("alive");
        let mut checkpointer = life.parts.checkpointer;
        let _dead = checkpointer.finish(life.parts.committer.into_lap());
    }

    pub fn crash(&mut self, crash: Crash) {
        self.machine.crash(crash);
        self.life = None;
    }

    pub fn kill(&mut self) {
        self.machine.kill();
        self.life = None;
    }

    /// What an offline reader sees of an experiment now.
    pub fn replayed(&self, name: &Slug) -> Vec<(LogId, Vec<u8>)> {
        let source = Source::open(self.machine.host().disk, Path::new(STORE)).unwrap();
        let selection = Selection {
            experiments: vec![name.clone()],
            ..Selection::default()
        };
        let mut entries = Vec::new();
        let outcome = replay(&source, &selection, |entry| {
            entries.push((entry.id, entry.body.to_vec()));
            Ok(())
        })
        .unwrap();
        assert!(outcome.damages.is_empty(), "{:?}", outcome.damages);
        assert!(outcome.unreadable.is_empty(), "{:?}", outcome.unreadable);
        entries
    }

    /// Checks every promise: acknowledged entries are there, equal, in order; others whole or not
    /// at all; ids rise; nothing is called damaged. What was unsure is settled from then on.
    pub fn check(&mut self) {
        let report = verify(self.machine.host().disk, Path::new(STORE)).unwrap();
        assert!(report.findings.is_empty(), "{:#?}", report.findings);
        let names: Vec<Slug> = self.models.keys().cloned().collect();
        for name in names {
            let found = self.replayed(&name);
            assert!(
                found.windows(2).all(|pair| pair[0].0 < pair[1].0),
                "ids rise"
            );
            let model = self.models.get_mut(&name).expect("a key");
            let mut settled = model.acked.clone();
            for group in model.unsure.drain(..) {
                let there = group.iter().filter(|entry| found.contains(entry)).count();
                assert!(
                    there == 0 || there == group.len(),
                    "a group is there in part"
                );
                if there > 0 {
                    settled.extend(group);
                }
            }
            settled.sort_by_key(|(id, _)| *id);
            let ids =
                |entries: &[(LogId, Vec<u8>)]| entries.iter().map(|e| e.0).collect::<Vec<_>>();
            assert_eq!(ids(&found), ids(&settled), "{name}");
            assert_eq!(found, settled, "{name}");
            model.acked = settled;
        }
    }
}

impl Rig {
    /// With relaxed durability: of each log's acknowledged entries, those behind the last one that
    /// is left may be lost.
    pub fn forget_lost_ends(&mut self) {
        let names: Vec<Slug> = self.models.keys().cloned().collect();
        for name in names {
            let last = self.replayed(&name).last().map(|(id, _)| *id);
            let model = self.models.get_mut(&name).expect("a key");
            model.acked.retain(|(id, _)| Some(*id) <= last);
        }
    }
}

impl Life {
    fn queue(&mut self, closed: Arc<ClosedSegment>, name: &Slug) {
        closed.note_queued();
        let incarnation = self.incarnations.get(name).expect("opened before").clone();
        self.closed.push((closed, incarnation));
    }

    fn make_room(&mut self) {
        while !self.parts.shared.has_spare() && !self.parts.shared.is_failed() {
            self.parts.checkpointer.step();
        }
    }
}

pub fn group(staged: Staged, done: impl FnOnce(Result<(), CommitError>) + Send + 'static) -> Group {
    Group {
        segment: staged.segment.file.clone(),
        offset: staged.offset,
        lead_len: staged.lead_len,
        bytes: staged.bytes,
        mark: Mark::None,
        done: Box::new(done),
    }
}
