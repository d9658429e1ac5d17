//! A store whose entries are ordered elsewhere: the seam for [`replica`](crate::replica).
//!
//! A replica asks what would become of requests ([`Store::plan`], [`Store::check_definition`]), has the
//! answer ordered among those of all nodes, and places what came out ([`Store::place`] and its like). Each
//! experiment's actor stays the only writer of its log. What is placed twice is passed over the second time,
//! so that a replica may place again what it isn't sure of.

use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::info;

use super::actor::Message;
use super::batch::Appended;
use super::blocking::blocking;
use super::definition::{self, DefinitionFile};
use super::error::{AppendError, ReadError, StoreError};
use super::folder::{self, NOTES_DIR, STORE_FORMAT};
use super::repeats::Known;
use super::store::{Store, StoreHealth};
use crate::fs::{parent, read_small, replace_file};
use crate::journal::JournalHealth;
use crate::log::segment_file::Trouble;
use crate::model::{Definition, LogId, NewEntry, Slug, VARIANTS_MAX};

const NOTE_LEN_MAX: u64 = 4096;

/// The entries of one request. Shared, since they are planned anew when another node was first.
pub type Entries = Arc<Vec<NewEntry>>;

/// What an actor is asked for by a replica.
pub enum Ask {
    /// What would become of requests.
    Plan(Vec<Entries>, oneshot::Sender<Plan>),
    /// Append entries with the ids that they have.
    Place(Placing, oneshot::Sender<Result<(), AppendError>>),
    /// Whether the definition may become this one.
    CheckDefinition(Definition, oneshot::Sender<Result<(), StoreError>>),
    /// Make this the definition, unchecked.
    PlaceDefinition(Definition, oneshot::Sender<Result<(), StoreError>>),
}

/// What would become of requests to one experiment.
pub struct Plan {
    /// Which life of the experiment it is for.
    pub incarnation: u64,
    /// The last id in its log.
    pub last_id: LogId,
    /// For each request.
    pub outcomes: Vec<Planned>,
}

/// What would become of a request.
pub enum Planned {
    /// Its entries would be appended, but for those that were appended before.
    New(Vec<Known>),
    /// All of them were appended before.
    Repeated(Appended),
    /// It repeats a request in front of it: ask again when that one is placed.
    Later,
    /// It can't be appended.
    Refused(AppendError),
}

/// Entries to be placed behind each other.
pub struct Placing {
    /// The experiment's last id in front of them.
    pub after: LogId,
    /// The entries, whose ids rise.
    pub entries: Vec<PlacedEntry>,
}

/// An entry with what it was given elsewhere.
#[derive(Debug, Clone)]
pub struct PlacedEntry {
    /// What identifies it.
    pub id: LogId,
    /// When it was received, in milliseconds since 1970.
    pub received_at_ms: u64,
    /// The entry.
    pub entry: NewEntry,
}

/// A definition to be placed.
#[derive(Debug, Clone)]
pub struct PlacedDefinition {
    /// Which life of the experiment. A later one has a greater number.
    pub incarnation: u64,
    /// When that life began, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// What it is.
    pub definition: Definition,
}

/// Why something was not placed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Something is short here: it can be placed later.
    #[error("this node's disk is full, or too much waits here")]
    Busy,
    /// The disk failed; the same may go well the next time.
    #[error("this node's disk failed: {0}")]
    Io(io::Error),
    /// This experiment's files can't be used here. Others' can.
    #[error("this node's files of the experiment can't be used: {0}")]
    Unreadable(String),
    /// The store takes no writes until it is opened anew.
    #[error("this node's store takes no writes until it is restarted")]
    Stopped,
}

impl Store {
    /// What would become of these requests, if they were appended to the log as it is now.
    pub async fn plan(&self, slug: &Slug, requests: Vec<Entries>) -> Result<Plan, AppendError> {
        let ask = |reply| Message::Replica(Box::new(Ask::Plan(requests, reply)));
        let plan = self.ask(slug, ask).await?;
        for outcome in &plan.outcomes {
            if let Planned::Refused(AppendError::UnknownVariant { .. }) = outcome {
                self.registry.note_unknown_variant(slug);
            }
        }
        Ok(plan)
    }

    /// Appends entries that were ordered elsewhere; returns when they are durable here. Those of another
    /// life of the experiment, which has ended, are passed over.
    pub async fn place(
        &self,
        slug: &Slug,
        incarnation: u64,
        placing: Placing,
    ) -> Result<(), PlaceError> {
        if self.life_of(slug).await? != Some(incarnation) {
            return Ok(());
        }
        let ask = |reply| Message::Replica(Box::new(Ask::Place(placing, reply)));
        let placed = self.ask(slug, ask).await;
        placed
            .map_err(|error| self.trouble(error))?
            .map_err(|error| match error {
                AppendError::StorageFull | AppendError::Overloaded | AppendError::MailboxFull => {
                    PlaceError::Busy
                }
                _ => PlaceError::Stopped,
            })
    }

    /// Whether an experiment's definition may become this one, and in which life the experiment is now.
    pub async fn check_definition(
        &self,
        slug: &Slug,
        new: &Definition,
    ) -> Result<Option<u64>, StoreError> {
        definition::check(new, VARIANTS_MAX)?;
        if self.contains(slug) {
            let incarnation = self.incarnation_of(slug).await?;
            let definition = new.clone();
            let ask = |reply| Message::Replica(Box::new(Ask::CheckDefinition(definition, reply)));
            self.ask(slug, ask).await??;
            return Ok(Some(incarnation));
        }
        definition::check(new, self.options.variants_max)?;
        if self.registry.len() >= self.options.experiments_max {
            return Err(StoreError::TooManyExperiments);
        }
        match self.shared.journal.health() {
            JournalHealth::Ready => Ok(None),
            JournalHealth::OutOfDescriptors => Err(ReadError::Overloaded.into()),
            JournalHealth::Full => Err(StoreError::StorageFull),
            JournalHealth::Failed => Err(StoreError::StorageFailed),
        }
    }

    /// Makes an experiment, or changes its definition. Where a later life has begun nothing is done.
    pub async fn place_definition(
        &self,
        slug: &Slug,
        placed: PlacedDefinition,
    ) -> Result<(), PlaceError> {
        let catalogue = self.catalogue.clone().lock_owned().await;
        match self.life_of(slug).await? {
            Some(life) if life == placed.incarnation => {
                let definition = placed.definition;
                let ask =
                    |reply| Message::Replica(Box::new(Ask::PlaceDefinition(definition, reply)));
                let written = self.ask(slug, ask).await;
                let written = written.map_err(|error| self.trouble(error))?;
                written.map_err(|error| self.trouble_of(error))?;
                self.registry.note_change(slug);
                return Ok(());
            }
            Some(_) => return Ok(()),
            None => {}
        }
        let file = DefinitionFile {
            format: STORE_FORMAT,
            slug: slug.clone(),
            incarnation: format!("{:016x}", placed.incarnation),
            created_at_ms: placed.created_at_ms,
            definition: placed.definition,
        };
        let (shared, registry) = (self.shared.clone(), self.registry.clone());
        let dir = self.dir().to_path_buf();
        let made = blocking(move || {
            let made = folder::create_from(&shared.host, &dir, &file);
            if let Err(Trouble::Sync(error)) = &made {
                let journal = &shared.journal;
                journal.poison("syncing the folder of the experiments", error);
            }
            if made.is_ok() {
                info!(experiment = %file.slug, "experiment created");
                registry.insert(file.slug);
            }
            Ok::<_, io::Error>((made, catalogue))
        });
        let (made, _catalogue) = made.await.map_err(PlaceError::Io)?;
        made.map_err(|trouble| match trouble {
            Trouble::Write(error) => self.trouble(error.into()),
            Trouble::Sync(_) => PlaceError::Stopped,
        })
    }

    /// Deletes an experiment, if it is in this life.
    pub async fn place_deletion(&self, slug: &Slug, incarnation: u64) -> Result<(), PlaceError> {
        if self.life_of(slug).await? != Some(incarnation) {
            return Ok(());
        }
        self.delete(slug)
            .await
            .map_err(|error| self.trouble_of(error))
    }

    /// In which life an experiment is.
    pub async fn incarnation_of(&self, slug: &Slug) -> Result<u64, ReadError> {
        let incarnation = self.handle(slug).await?.incarnation();
        let incarnation = incarnation.ok_or(ReadError::UnknownExperiment)?;
        Ok(incarnation.number)
    }

    /// Replaces a note of the replica's, a small file beside the experiments. What was placed before is on
    /// stable storage before the note is, also where durability is relaxed.
    pub async fn write_note(&self, name: &str, bytes: Vec<u8>) -> Result<(), PlaceError> {
        let (journal, disk) = (self.shared.journal.clone(), self.shared.host.disk.clone());
        let dir = self.dir().join(NOTES_DIR);
        let path = dir.join(name);
        let written = blocking(move || {
            if journal.flush().is_err() {
                return Ok(Err(PlaceError::Stopped));
            }
            match disk.create_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    made?;
                    disk.sync_dir(&parent(&dir))?;
                }
            }
            replace_file(&*disk, &path, &bytes)?;
            Ok(Ok(()))
        });
        written.await.map_err(PlaceError::Io)?
    }

    /// A note of the replica's, if there is one.
    pub async fn read_note(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let disk = self.shared.host.disk.clone();
        let path = self.dir().join(NOTES_DIR).join(name);
        let read = blocking(move || read_small(&*disk, &path, NOTE_LEN_MAX)).await;
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    /// 128 random bits.
    pub fn random(&self) -> io::Result<u128> {
        let entropy = &self.shared.host.entropy;
        Ok(u128::from(entropy.next_u64()?) << 64 | u128::from(entropy.next_u64()?))
    }

    async fn life_of(&self, slug: &Slug) -> Result<Option<u64>, PlaceError> {
        match self.incarnation_of(slug).await {
            Ok(incarnation) => Ok(Some(incarnation)),
            Err(ReadError::UnknownExperiment) => Ok(None),
            Err(error) => Err(self.trouble(error)),
        }
    }

    fn trouble(&self, error: ReadError) -> PlaceError {
        if let StoreHealth::StorageFailed | StoreHealth::ShuttingDown = self.health() {
            return PlaceError::Stopped;
        }
        match error {
            ReadError::Overloaded => PlaceError::Busy,
            ReadError::ShuttingDown => PlaceError::Stopped,
            ReadError::Io(error) if crate::fs::is_full(&error) => PlaceError::Busy,
            ReadError::Io(error) => match error.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::NotFound => {
                    PlaceError::Unreadable(error.to_string())
                }
                _ => PlaceError::Io(error),
            },
            ReadError::ArchiveUnavailable(_) => PlaceError::Io(io::Error::other(error)),
            ReadError::UnknownExperiment | ReadError::Damaged(_) => {
                PlaceError::Unreadable(error.to_string())
            }
        }
    }

    fn trouble_of(&self, error: StoreError) -> PlaceError {
        match error {
            StoreError::StorageFull => PlaceError::Busy,
            StoreError::Read(error) => self.trouble(error),
            StoreError::Io(error) => self.trouble(ReadError::Io(error)),
            StoreError::StorageFailed => PlaceError::Stopped,
            other => PlaceError::Unreadable(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
