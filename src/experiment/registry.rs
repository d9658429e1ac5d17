//! Which experiments there are, and the one live actor of each that is in use.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use super::actor::{Actor, Ended, Message, Shared, Stop, Told};
use super::blocking::{blocking, spawned};
use super::definition::{self, DefinitionFile};
use super::error::ReadError;
use super::glance::{Glance, Glances};
use super::log_figures::LogFigures;
use super::news::{Listener, News};
use super::retention::KnownLimits;
use crate::log::open::open;
use crate::log::segment_file::{Incarnation, Trouble};
use crate::log::view::LogView;
use crate::log::writer::LogOptions;
use crate::model::Slug;

/// All experiments of a store.
pub struct Registry {
    slots: RwLock<Slots>,
    mailbox_len: usize,
}

/// Looked up for every request, so by hash; listed in order now and then.
#[derive(Default)]
struct Slots {
    by_slug: HashMap<Slug, Arc<Slot>>,
    in_order: BTreeSet<Slug>,
}

/// A live actor, as its users see it.
#[derive(Clone)]
pub struct Handle {
    /// Takes messages. When it is closed, the actor is leaving.
    pub mailbox: mpsc::Sender<Message>,
    /// What readers see of the log.
    pub view: Arc<LogView>,
    /// What is kept of its metrics.
    pub figures: Arc<Mutex<LogFigures>>,
    slot: Arc<Slot>,
}

/// An experiment until it is deleted, whichever actors it has.
pub struct Life(Arc<Slot>);

/// The place of an experiment that was forgotten.
pub struct Removed(Arc<Slot>);

/// An actor that is there.
struct Live {
    mailbox: mpsc::Sender<Message>,
    view: Arc<LogView>,
    figures: Arc<Mutex<LogFigures>>,
}

/// One experiment's place in the registry.
#[derive(Default)]
struct Slot {
    live: RwLock<Option<Live>>,
    /// Held while an actor starts, and by an actor that leaves until it has: so there is at most
    /// one at any time.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// What those who follow the experiment are told.
    news: Arc<News>,
    /// How much of its log it keeps.
    limits: Arc<KnownLimits>,
    /// What was seen of it when it was looked at last.
    glances: Glances,
    /// The experiment's life, shared by all that ever wrote for it in this process.
    incarnation: OnceLock<Arc<Incarnation>>,
}

impl Registry {
    /// A registry of these experiments, none of them live.
    pub fn new(slugs: Vec<Slug>, mailbox_len: usize) -> Self {
        let mut slots = Slots::default();
        for slug in slugs {
            slots.insert(slug);
        }
        Self {
            slots: RwLock::new(slots),
            mailbox_len,
        }
    }

    /// How many experiments there are.
    pub fn len(&self) -> usize {
        self.slots().by_slug.len()
    }

    /// Whether there is this one.
    pub fn contains(&self, slug: &Slug) -> bool {
        self.slots().by_slug.contains_key(slug)
    }

    /// The slugs behind `after`, in order, at most `limit` of them.
    pub fn slugs(&self, after: Option<&Slug>, limit: usize) -> Vec<Slug> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let slots = self.slots();
        let behind = slots.in_order.range::<Slug, _>((from, Bound::Unbounded));
        behind.take(limit).cloned().collect()
    }

    /// Adds an experiment.
    pub fn insert(&self, slug: Slug) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.insert(slug);
    }

    /// Forgets an experiment; nobody new reaches its actor.
    pub fn remove(&self, slug: &Slug) -> Option<Removed> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.in_order.remove(slug);
        slots.by_slug.remove(slug).map(Removed)
    }

    /// Knows an experiment again, with its actor.
    pub fn restore(&self, slug: Slug, removed: Removed) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.in_order.insert(slug.clone());
        removed.0.news.tell();
        slots.by_slug.insert(slug, removed.0);
    }

    /// The handles of all live actors, in the order of their slugs: a test's seed repeats its run.
    pub fn live(&self) -> Vec<Handle> {
        let slots = self.slots();
        let in_order = slots.in_order.iter();
        in_order
            .filter_map(|slug| slots.by_slug.get(slug)?.handle())
            .collect()
    }

    /// How many actors there are, and how many messages wait for all of them.
    pub fn load(&self) -> (usize, usize) {
        let slots = self.slots();
        let live = slots
            .by_slug
            .values()
            .filter_map(|slot| slot.waiting_count());
        live.fold((0, 0), |(actors, waiting), count| {
            (actors + 1, waiting + count)
        })
    }

    /// Gives a message to an experiment's actor. It comes back when the actor isn't there or when
    /// its mailbox is full.
    pub fn try_send(&self, slug: &Slug, message: Message) -> Result<(), TrySendError<Message>> {
        match self.slots().by_slug.get(slug) {
            Some(slot) => slot.try_send(message),
            None => Err(TrySendError::Closed(message)),
        }
    }

    /// How much of its log an experiment keeps, as far as that is known; `None` when it isn't there.
    pub fn limits(&self, slug: &Slug) -> Option<Arc<KnownLimits>> {
        let slots = self.slots();
        slots.by_slug.get(slug).map(|slot| slot.limits.clone())
    }

    /// What was seen of an experiment that is not in use, and hasn't changed since.
    pub fn glance(&self, slug: &Slug) -> Option<Arc<Glance>> {
        let slot = self.slots().by_slug.get(slug)?.clone();
        match slot.handle() {
            Some(_) => None,
            None => slot.glances.get(),
        }
    }

    /// Takes note that an experiment's definition was changed.
    pub fn note_change(&self, slug: &Slug) {
        if let Some(slot) = self.slots().by_slug.get(slug) {
            slot.glances.change();
        }
    }

    /// Takes note of an entry whose variant isn't one of the experiment's.
    pub fn note_unknown_variant(&self, slug: &Slug) {
        if let Some(slot) = self.slots().by_slug.get(slug) {
            slot.glances.unknown_variants.add(1);
        }
    }

    /// How many requests named a variant that isn't one of the experiment's, since the process began.
    pub fn unknown_variant_count(&self, slug: &Slug) -> u64 {
        let slots = self.slots();
        let slot = slots.by_slug.get(slug);
        slot.map_or(0, |slot| slot.glances.unknown_variants.get())
    }

    /// What `look` finds in what is kept of an experiment's last look, if there is such an experiment.
    pub fn with_glances<T>(&self, slug: &Slug, look: impl FnOnce(&Glances) -> T) -> Option<T> {
        Some(look(&self.slots().by_slug.get(slug)?.glances))
    }

    /// The handle of an experiment's actor, if it is there.
    pub fn live_handle(&self, slug: &Slug) -> Option<Handle> {
        self.slots().by_slug.get(slug)?.handle()
    }

    /// The handle of an experiment's actor, which is started when it isn't there.
    pub async fn handle(
        &self,
        slug: &Slug,
        shared: &Arc<Shared>,
        options: impl FnOnce(Arc<Incarnation>) -> LogOptions,
        dir: PathBuf,
    ) -> Result<Handle, ReadError> {
        let slot = self.slots().by_slug.get(slug).cloned();
        let slot = slot.ok_or(ReadError::UnknownExperiment)?;
        let _turn = slot.turn.lock().await;
        if let Some(handle) = slot.handle() {
            return Ok(handle);
        }
        // It may have been deleted while we waited.
        if !self.contains(slug) {
            return Err(ReadError::UnknownExperiment);
        }
        let disk = shared.host.disk.clone();
        let file = blocking(move || DefinitionFile::read(&*disk, &dir)).await?;
        let options = options(slot.incarnation(file.incarnation()?));
        let (host, log_options) = (shared.host.clone(), options.clone());
        let opened = blocking(move || Ok::<_, ReadError>(open(log_options, host)?)).await?;
        slot.limits.set(definition::limits(&file.definition));
        let told = Told {
            news: slot.news.clone(),
            limits: slot.limits.clone(),
        };
        let actor = Actor::new(shared.clone(), told, file, options, opened);
        let handle = slot.start(actor, self.mailbox_len, &shared.actors);
        if handle.mailbox.is_closed() {
            // Its thread has ended, so it has already gone.
            return Err(ReadError::ShuttingDown);
        }
        Ok(handle)
    }

    fn slots(&self) -> RwLockReadGuard<'_, Slots> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn insert(&mut self, slug: Slug) {
        self.in_order.insert(slug.clone());
        self.by_slug.insert(slug, Arc::default());
    }
}

impl Handle {
    /// Stops the actor, or waits until it has stopped by itself.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        let stop = Stop {
            removal: None,
            done,
        };
        if self.mailbox.send(Message::Stop(stop)).await.is_ok() {
            // What is not written is in the journal. Dropped unanswered when the actor ended by
            // itself.
            let _ended = stopped.await;
        }
        drop(self.slot.turn.lock().await);
    }

    /// What was seen of the experiment.
    pub fn glances(&self) -> &Glances {
        &self.slot.glances
    }

    /// The experiment, until it is deleted.
    pub fn life(&self) -> Life {
        Life(self.slot.clone())
    }

    /// The life of the experiment that the actor writes for.
    pub fn incarnation(&self) -> Option<Arc<Incarnation>> {
        self.slot.incarnation.get().cloned()
    }
}

impl Life {
    /// Hears of what becomes durable from now on.
    pub fn listen(&self) -> Listener {
        self.0.news.listen()
    }

    /// Whether `handle` is of this experiment, and not of another of its name.
    pub fn is_of(&self, handle: &Handle) -> bool {
        Arc::ptr_eq(&self.0, &handle.slot)
    }
}

impl Removed {
    /// Tells those who follow the experiment that it has gone.
    pub fn end(&self) {
        self.0.news.end();
    }
}

impl Live {
    fn new(mailbox: mpsc::Sender<Message>, view: &Arc<LogView>) -> Self {
        Self {
            mailbox,
            view: view.clone(),
            figures: Arc::default(),
        }
    }

    fn handle(&self, slot: &Arc<Slot>) -> Handle {
        Handle {
            mailbox: self.mailbox.clone(),
            view: self.view.clone(),
            figures: self.figures.clone(),
            slot: slot.clone(),
        }
    }
}

impl Slot {
    fn try_send(&self, message: Message) -> Result<(), TrySendError<Message>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        match &*live {
            Some(live) => live.mailbox.try_send(message),
            None => Err(TrySendError::Closed(message)),
        }
    }

    /// Messages in its actor's mailbox, if there is one.
    fn waiting_count(&self) -> Option<usize> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let mailbox = &live.as_ref()?.mailbox;
        Some(mailbox.max_capacity() - mailbox.capacity())
    }

    fn handle(self: &Arc<Self>) -> Option<Handle> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let live = live.as_ref()?;
        (!live.mailbox.is_closed()).then(|| live.handle(self))
    }

    /// Starts the actor's task. Whoever calls has the turn.
    fn start(self: &Arc<Self>, actor: Actor, mailbox_len: usize, actors: &Runtime) -> Handle {
        let (sender, mailbox) = mpsc::channel(mailbox_len);
        let live = Live::new(sender, actor.view());
        let handle = live.handle(self);
        self.set_live(Some(live));
        actors.spawn(run(self.clone(), actor, mailbox));
        handle
    }

    fn incarnation(&self, number: u64) -> Arc<Incarnation> {
        let made = || Incarnation::new(number);
        self.incarnation.get_or_init(made).clone()
    }

    fn set_live(&self, live: Option<Live>) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
    }
}

/// An actor's life. When it leaves, it closes its mailbox, handles what is in it still, and writes
/// out what is durable, or removes it all; only then may another start. A message that comes too
/// late goes back to its sender, who asks the registry again.
async fn run(slot: Arc<Slot>, mut actor: Actor, mut mailbox: mpsc::Receiver<Message>) {
    loop {
        let ended = actor.run(&mut mailbox).await;
        let turn = slot.turn.clone().lock_owned().await;
        mailbox.close();
        let late_stop = actor.drain(&mut mailbox).await;
        let stop = match ended {
            Ended::Stopped(stop) => Some(stop),
            Ended::Idle => late_stop,
        };
        let (removal, done) = stop.map_or((None, None), |stop| (stop.removal, Some(stop.done)));
        let is_for_good = done.is_some() && removal.is_none();
        let result = match removal {
            Some(removal) => spawned(removal)
                .await
                .unwrap_or_else(|panic| Err(Trouble::Sync(panic))),
            None => actor.write_out().await.map_err(Trouble::Write),
        };
        if let Err(Trouble::Write(error)) = &result
            && !is_for_good
        {
            // What is durable is in the journal and in this actor's memory. Another actor would
            // not find it, so this one stays.
            warn!(%error, "an experiment can't leave memory");
            let (sender, reopened) = mpsc::channel(mailbox.max_capacity());
            mailbox = reopened;
            slot.set_live(Some(Live::new(sender, actor.view())));
            tell(done, result);
            drop(turn);
            continue;
        }
        slot.glances.leave(actor.view().state());
        slot.set_live(None);
        debug!("actor left");
        drop(actor);
        tell(done, result);
        return;
    }
}

fn tell(done: Option<oneshot::Sender<Result<(), Trouble>>>, result: Result<(), Trouble>) {
    if let Some(done) = done {
        let _gone = done.send(result);
    }
}
