//! Uploads what is sealed, in the background of a server, on a thread of its own.
//!
//! A pass goes over the folders of the experiments: it wakes no actor, and takes no lock. What is to be sent
//! is what is there and not in the mark; the mark is compared with the archive's own list before it is
//! believed. So nothing has to be remembered between two passes, or over a kill.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::error::ArchiveError;
use super::known::{Known, file_name, names};
use super::layout::LogName;
use super::local_copies;
use super::mark::Seen;
use super::store::{Archive, Object};
use super::upload::{Local, There, examine, put_small};
use crate::experiment::Store;
use crate::experiment::archived::Archived;
use crate::experiment::definition::{DEFINITION_FILE, DefinitionFile};
use crate::experiment::folder::experiment_dir;
use crate::fs::{Access, Disk, read_up_to};
use crate::log::dropped::{DROPPED_FILE, DROPPED_LOCALLY_FILE};
use crate::log::footer::{TRAILER_LEN, checksums};
use crate::log::outline::Outline;
use crate::log::reader::{Listed, list_segments};
use crate::log::segment::{Owner, SegmentHeader};
use crate::model::Slug;

/// So often it is looked whether there is something to do.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// So often all experiments are passed over, whether something was sealed or not: a definition may be another.
const PASS_INTERVAL: Duration = Duration::from_secs(60);
/// So often all are compared with the archive's own list.
const COMPARE_INTERVAL: Duration = Duration::from_secs(3600);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// The thread that uploads.
pub struct Keeper {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Begins to archive a store's segments, and says in `archived` how far that is. Local copies of what is
    /// archived go while sealed segments have more than so many bytes here.
    pub fn start(
        archive: Archive,
        store: Arc<Store>,
        archived: Arc<Archived>,
        local_bytes_max: Option<u64>,
    ) -> Result<Self, ArchiveError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ArchiveError::Threads)?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("archive".into())
            .spawn(move || {
                let mut uploads = Uploads::new(archive, store, archived);
                uploads.local_bytes_max = local_bytes_max;
                runtime.block_on(async {
                    tokio::select! {
                        // What is on its way is broken off: it is no object then.
                        _ = stopped => {}
                        () = uploads.run() => {}
                    }
                });
            })
            .map_err(ArchiveError::Threads)?;
        Ok(Self { stop, thread })
    }

    /// Ends it. Blocks.
    pub fn stop(self) {
        // It may have ended.
        let _gone = self.stop.send(());
        if self.thread.join().is_err() {
            error!("the thread that archives had ended by itself");
        }
    }
}

struct Uploads {
    archive: Archive,
    store: Arc<Store>,
    archived: Arc<Archived>,
    logs: HashMap<Slug, Known>,
    /// Experiments whose failure was told.
    told: HashSet<Slug>,
    is_failing: bool,
    backoff: Duration,
    local_bytes_max: Option<u64>,
}

/// What a pass couldn't do.
#[derive(Default)]
struct Behind {
    segments: u64,
    bytes: u64,
    /// Local copies have to go.
    has_more: bool,
}

impl Uploads {
    fn new(archive: Archive, store: Arc<Store>, archived: Arc<Archived>) -> Self {
        Self {
            archive,
            store,
            archived,
            logs: HashMap::new(),
            told: HashSet::new(),
            is_failing: false,
            backoff: BACKOFF_MIN,
            local_bytes_max: None,
        }
    }

    /// Never ends by itself.
    async fn run(&mut self) {
        let mut passed: Option<(u64, Instant)> = None;
        let mut thorough_at: Option<Instant> = None;
        loop {
            let sealed_count = self.store.sealed_count();
            let is_due = passed
                .is_none_or(|(count, at)| count != sealed_count || at.elapsed() >= PASS_INTERVAL);
            if !is_due && !self.archived.is_any_asked_for() {
                tokio::time::sleep(LOOK_INTERVAL).await;
                continue;
            }
            let is_thorough = thorough_at.is_none_or(|at| at.elapsed() >= PASS_INTERVAL);
            match self.pass(is_thorough).await {
                Ok(behind) => {
                    if is_thorough {
                        thorough_at = Some(Instant::now());
                    }
                    self.succeeded();
                    // What waits for its footer is sealed in a moment.
                    passed = (behind.segments == 0 && !behind.has_more)
                        .then(|| (sealed_count, Instant::now()));
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
                Err(error) => {
                    self.failed(&error);
                    passed = None;
                    // Many servers may have lost the same storage at the same moment.
                    let part = 0.5 + fastrand::f64() / 2.0;
                    tokio::time::sleep(self.backoff.mul_f64(part)).await;
                    self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    fn succeeded(&mut self) {
        self.backoff = BACKOFF_MIN;
        if std::mem::take(&mut self.is_failing) {
            info!("the archive can be reached again");
        }
    }

    /// Told once: what follows is the same, and in the metrics.
    fn failed(&mut self, error: &ArchiveError) {
        self.archived.metrics.failures.add(1);
        if !std::mem::replace(&mut self.is_failing, true) {
            warn!(%error, "nothing can be archived now: it is tried again, and nothing is lost here");
        }
    }

    /// Archives what is sealed of all experiments; those whose files are the same as when all of them were
    /// archived are looked at only if it `is_thorough`. An error is one of the storage, which concerns all.
    async fn pass(&mut self, is_thorough: bool) -> Result<Behind, ArchiveError> {
        let slugs = self.store.slugs(None, usize::MAX);
        self.logs.retain(|slug, _| {
            let is_there = self.store.contains(slug);
            if !is_there {
                self.archived.forget(slug);
            }
            is_there
        });
        let mut behind = Behind::default();
        let mut failed = None;
        for slug in slugs {
            // Once it isn't, it is only looked at how much there is.
            let is_reachable = failed.is_none();
            let done = self.pass_one(&slug, &mut behind, is_reachable, is_thorough);
            match done.await {
                Ok(()) => {
                    self.told.remove(&slug);
                }
                Err(error) if error.is_of_one_log() => {
                    self.archived.metrics.failures.add(1);
                    if self.told.insert(slug.clone()) {
                        error!(experiment = %slug, %error, "not all of it is archived");
                    }
                }
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
            self.show(&behind);
        }
        if failed.is_none() {
            match self.let_go().await {
                Ok(has_more) => behind.has_more = has_more,
                Err(error) if error.is_of_one_log() => {
                    self.archived.metrics.failures.add(1);
                    error!(%error, "local copies are not let go");
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(behind), Err)
    }

    /// Lets local copies go, if there are too many bytes of them. Says whether more may have to.
    async fn let_go(&mut self) -> Result<bool, ArchiveError> {
        let copies: Vec<_> = self
            .logs
            .values()
            .flat_map(|log| log.local.clone())
            .collect();
        let mut bytes: u64 = copies.iter().map(|copy| copy.len).sum();
        let mut gone = HashSet::new();
        let mut done = Ok(());
        if let Some(max) = self.local_bytes_max.filter(|max| bytes > *max) {
            let (archive, store) = (&self.archive, &*self.store);
            done =
                local_copies::let_go(archive, store, &self.archived, &copies, max, &mut gone).await;
        }
        for log in self.logs.values_mut().filter(|_| !gone.is_empty()) {
            log.local.retain(|copy| {
                let stays = !gone.contains(&copy.path);
                bytes -= if stays { 0 } else { copy.len };
                stays
            });
        }
        self.archived.metrics.set_local(bytes);
        done.map(|()| gone.len() >= local_copies::GO_MAX)
    }

    fn show(&self, behind: &Behind) {
        let metrics = &self.archived.metrics;
        metrics.set_behind(behind.segments, behind.bytes);
    }

    async fn pass_one(
        &mut self,
        slug: &Slug,
        behind: &mut Behind,
        is_reachable: bool,
        is_thorough: bool,
    ) -> Result<(), ArchiveError> {
        let disk = self.store.disk();
        let dir = experiment_dir(self.store.dir(), slug);
        let names = names(&*disk, &dir);
        if !is_thorough
            && !self.archived.is_asked_for(slug)
            && self.archived.is_known(slug)
            && self
                .logs
                .get(slug)
                .is_some_and(|log| log.settled_with == names)
        {
            return Ok(());
        }
        let Some((name, segments)) = self.closed(&*disk, slug, &dir)? else {
            return Ok(());
        };
        if segments.is_empty() {
            return Ok(());
        }
        let mut log = match self.logs.remove(slug) {
            Some(log) if log.name == name => log,
            _ => Known::nothing(&*disk, &dir, name),
        };
        let result = match is_reachable {
            true => self.upload(&*disk, &dir, &segments, &mut log).await,
            false => Ok(()),
        };
        let is_settled = is_reachable && result.is_ok() && segments.iter().all(|one| log.has(one));
        log.local = log.local_copies(&segments, &self.archive.prefix);
        log.settled_with = if is_settled { names } else { BTreeSet::new() };
        for segment in segments.iter().filter(|segment| !log.has(segment)) {
            behind.segments += 1;
            behind.bytes += segment.len;
        }
        self.logs.insert(slug.clone(), log);
        result
    }

    /// The closed segments of an experiment's log; `None` when there is no such experiment any more.
    fn closed(
        &self,
        disk: &dyn Disk,
        slug: &Slug,
        dir: &FilePath,
    ) -> Result<Option<(LogName, Vec<Listed>)>, ArchiveError> {
        let definition = DefinitionFile::read(disk, dir);
        let incarnation = match definition.and_then(|file| file.incarnation()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| disk_error(dir, error))?,
        };
        let store_id = self.store.store_id();
        let owner = Owner {
            store_id: Some(store_id),
            slug: Some(slug),
            incarnation: Some(incarnation),
        };
        let listed = list_segments(disk, dir);
        let mut segments =
            listed.map_err(|error| disk_error(dir, io::Error::other(error.to_string())))?;
        // It is written to.
        segments.pop();
        segments.retain(|segment| {
            let header = segment.header.as_ref();
            header.is_ok_and(|header| owner.check(header).is_ok())
        });
        let name = LogName {
            store_id,
            slug: slug.clone(),
            incarnation,
        };
        Ok(Some((name, segments)))
    }

    async fn upload(
        &self,
        disk: &dyn Disk,
        dir: &FilePath,
        segments: &[Listed],
        log: &mut Known,
    ) -> Result<(), ArchiveError> {
        let (slug, folder) = (
            &log.name.slug.clone(),
            log.name.folder(&self.archive.prefix),
        );
        let all = HashSet::<String>::from_iter(segments.iter().map(file_name));
        let is_old = log.compared_at.elapsed() >= COMPARE_INTERVAL;
        let mut is_changed = false;
        if log.objects.is_empty() || is_old || self.archived.is_asked_for(slug) {
            let objects = self.archive.list(&folder).await?;
            let named = |object: Object| Some((object.path.filename()?.to_owned(), object));
            log.objects = objects.into_iter().filter_map(named).collect();
            log.compared_at = Instant::now();
            is_changed = log.mark.compare(&log.objects, |name| all.contains(name));
        }
        let mut result = Ok(());
        let mut number_end = None;
        for segment in segments {
            let number = segment.header.as_ref().map_or(0, |header| header.number);
            if log.has(segment) {
                continue;
            }
            let done = self.upload_one(disk, segment, log).await;
            is_changed |= matches!(done, Ok(true));
            match done {
                Ok(true) => {}
                Ok(false) => {
                    number_end.get_or_insert(number);
                }
                Err(error) => {
                    number_end.get_or_insert(number);
                    let is_of_one = error.is_of_one_log();
                    result = Err(error);
                    if !is_of_one {
                        break;
                    }
                }
            }
        }
        if is_changed {
            let written = log.mark.write(disk, dir);
            // Without it all is read again after a restart.
            if let Err(error) = written {
                warn!(experiment = %slug, %error, "what is archived could not be written down");
            }
        }
        result?;
        let (from, to) = (
            dir.join(DEFINITION_FILE),
            folder.clone().join(DEFINITION_FILE),
        );
        log.definition_crc = put_small(&self.archive, disk, &from, &to, log.definition_crc).await?;
        let (from, to) = (dir.join(DROPPED_FILE), folder.join(DROPPED_LOCALLY_FILE));
        log.dropped_crc = put_small(&self.archive, disk, &from, &to, log.dropped_crc).await?;
        // All of the listed ones: the one that is written to has the next number.
        let last = segments.last().and_then(|last| last.header.as_ref().ok());
        let all_end = last.map_or(0, |last| last.number + 1);
        let number_end = number_end.unwrap_or(all_end);
        self.archived.note(slug, log.name.incarnation, number_end);
        Ok(())
    }

    /// Has a segment in the archive; `false` if it isn't sealed yet.
    async fn upload_one(
        &self,
        disk: &dyn Disk,
        segment: &Listed,
        log: &mut Known,
    ) -> Result<bool, ArchiveError> {
        let Ok(header) = &segment.header else {
            return Ok(false);
        };
        if !segment.is_here {
            return self.check_there(disk, segment, log).await.map(|()| true);
        }
        let failed = |error| disk_error(&segment.path, error);
        let file = match disk.open(&segment.path, Access::Read) {
            // Dropped, or deleted with its experiment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened.map_err(failed)?,
        };
        let len = file.len().map_err(failed)?;
        let mut trailer = [0; TRAILER_LEN];
        let at = len.saturating_sub(TRAILER_LEN as u64);
        read_up_to(&*file, &mut trailer, at).map_err(failed)?;
        if checksums(&trailer, header.salt).is_none() {
            return Ok(false);
        }
        let name = file_name(segment);
        let to = log.name.folder(&self.archive.prefix).join(name.as_str());
        let local = Local {
            file: &*file,
            path: &segment.path,
            len,
            salt: header.salt,
        };
        let done = local
            .archive(&self.archive, &to, log.objects.get(&name))
            .await;
        let done = match done {
            Err(error) => {
                // What is there now isn't known.
                log.objects.clear();
                return Err(error);
            }
            Ok(done) => done,
        };
        log.mark.note(&name, seen(header, len, done.crc, &done.tag));
        let object = Object {
            path: to,
            len,
            tag: done.tag,
        };
        log.objects.insert(name, object);
        if done.sent_bytes > 0 {
            let metrics = &self.archived.metrics;
            metrics.segments.add(1);
            metrics.bytes.add(done.sent_bytes);
        }
        Ok(true)
    }

    /// Looks whether a segment whose local copy went is in the archive as it was.
    async fn check_there(
        &self,
        disk: &dyn Disk,
        segment: &Listed,
        log: &mut Known,
    ) -> Result<(), ArchiveError> {
        let outline = Outline::read(disk, &segment.path);
        let outline = outline.map_err(|error| disk_error(&segment.path, error))?;
        let name = file_name(segment);
        let there = match log.objects.get(&name) {
            Some(object) => Some((object, examine(&self.archive, object).await?)),
            None => None,
        };
        match there {
            Some((object, There::Whole(crc))) if crc == outline.crc => {
                log.mark
                    .note(&name, seen(&outline.header, outline.len, crc, &object.tag));
                Ok(())
            }
            _ => {
                let to = log.name.folder(&self.archive.prefix).join(name.as_str());
                let place = self.archive.place(&to);
                log.objects.clear();
                Err(ArchiveError::Gone { place })
            }
        }
    }
}

fn seen(header: &SegmentHeader, len: u64, crc: u32, tag: &Option<String>) -> Seen {
    Seen {
        salt: format!("{:016x}", header.salt),
        bytes: len,
        crc: format!("{crc:08x}"),
        tag: tag.clone(),
    }
}

fn disk_error(path: &FilePath, error: io::Error) -> ArchiveError {
    ArchiveError::Disk {
        path: path.display().to_string(),
        error,
    }
}
