//! From the requests that wait for a shard to the message that would do them, and to their answers.
//!
//! A plan holds for one position: it was checked against the logs as they are there, and its message is
//! published so that it can stand only right behind that position.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::ReplicaError;
use super::message::{Change, Message, What, entries_len_max, frame_len};
use super::planted::{Bug, is_planted};
use super::position::{MessageId, Position};
use crate::experiment::repeats::Known;
use crate::experiment::replicated::{Entries, PlacedDefinition, PlacedEntry, Plan, Planned};
use crate::experiment::{AppendError, Appended, BytePermit, ReadError, Store, StoreError};
use crate::log::ulid::IdGenerator;
use crate::model::{Definition, LogId, NewEntry, Slug};

/// Requests that make one message, at most.
const REQUESTS_MAX: usize = 4096;

/// What somebody waits for.
pub enum Request {
    /// Entries are to be appended.
    Append(AppendRequest),
    /// An experiment is to be made or changed. Says whether it is new.
    Define {
        /// The experiment.
        slug: Slug,
        /// What it is to be.
        definition: Box<Definition>,
        /// Where the answer goes.
        reply: Reply<bool>,
    },
    /// An experiment is to be deleted.
    Delete {
        /// The experiment.
        slug: Slug,
        /// Where the answer goes.
        reply: Reply<()>,
    },
}

/// Entries that are to be appended, all or none.
pub struct AppendRequest {
    /// To which experiment.
    pub slug: Slug,
    /// The entries.
    pub entries: Entries,
    /// The request's share of the in-flight budget, held until it is answered.
    pub permit: Arc<BytePermit>,
    /// It is told by then that nobody knows, and not begun afterwards.
    pub until: Instant,
    /// Where the answer goes.
    pub reply: Reply<Appended>,
}

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, ReplicaError>>;

/// A message that may be published, and those who wait for it.
pub struct Attempt {
    /// What it says.
    pub message: Message,
    /// Its bytes.
    pub bytes: Bytes,
    waiting: Vec<Waiting>,
}

/// A request in a message, with what it is told when that stands.
struct Waiting {
    request: Request,
    answer: Answer,
}

enum Answer {
    Appended { ids: Vec<LogId>, known: Vec<Known> },
    Defined { created: bool },
    Deleted,
}

/// What a plan is made with.
pub struct Planner<'a> {
    /// The logs as they are at `position`.
    pub store: &'a Arc<Store>,
    /// The node.
    pub node: u64,
    /// Behind which message the plan's one would stand.
    pub position: Position,
    /// The longest message.
    pub message_bytes_max: usize,
}

impl Request {
    /// Whether nobody waits for the answer any more.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Append(append) => append.reply.is_closed() || Instant::now() >= append.until,
            Self::Define { reply, .. } => reply.is_closed(),
            Self::Delete { reply, .. } => reply.is_closed(),
        }
    }

    /// Tells that it was not done.
    pub fn refuse(self, error: ReplicaError) {
        // Whoever has gone needs no answer.
        match self {
            Self::Append(append) => drop(append.reply.send(Err(error))),
            Self::Define { reply, .. } => drop(reply.send(Err(error))),
            Self::Delete { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

impl Attempt {
    /// Its message's id.
    pub fn id(&self) -> MessageId {
        self.message.id
    }

    /// Answers everybody: the message stands.
    pub fn answer(&mut self) {
        for Waiting { request, answer } in self.waiting.drain(..) {
            // Whoever has gone needs no answer.
            match (request, answer) {
                (Request::Append(append), Answer::Appended { ids, known }) => {
                    let appended = Appended::of(ids.into_iter(), &known);
                    drop(append.reply.send(Ok(appended)));
                }
                (Request::Define { reply, .. }, Answer::Defined { created }) => {
                    drop(reply.send(Ok(created)));
                }
                (Request::Delete { reply, .. }, Answer::Deleted) => drop(reply.send(Ok(()))),
                // No plan makes such a pair; who waits for it would learn that nothing is known.
                (request, _) => request.refuse(ReplicaError::Unsettled),
            }
        }
    }

    /// Tells everybody that it isn't known whether the message stands, or will.
    pub fn give_up(self) {
        for waiting in self.waiting {
            waiting.request.refuse(ReplicaError::Unsettled);
        }
    }

    /// Its requests go back in front of those that wait: the message stands nowhere, and never will.
    pub fn put_back(self, queue: &mut VecDeque<Request>) {
        for waiting in self.waiting.into_iter().rev() {
            queue.push_front(waiting.request);
        }
    }
}

impl Planner<'_> {
    /// Plans what waits, as much of it as fits into one message: either one definition or deletion, or all
    /// appends in front of the next one. Requests that can't be done, or were done before, are answered at
    /// once; `None` when no other ones are there.
    pub async fn plan(&self, queue: &mut VecDeque<Request>) -> Option<Attempt> {
        queue.retain(|request| !request.is_gone());
        let drawn = self
            .store
            .random()
            .and_then(|id| Ok((id, self.store.random()?)));
        let (id, seed) = match drawn {
            Ok((id, seed)) => (MessageId(id), seed as u64),
            Err(error) => {
                tracing::error!(%error, "drawing a message's id");
                for request in queue.drain(..) {
                    request.refuse(AppendError::StorageFailed.into());
                }
                return None;
            }
        };
        let (changes, waiting) = match queue.front()? {
            Request::Append(_) => self.plan_appends(queue, seed).await,
            Request::Define { .. } | Request::Delete { .. } => {
                let (change, waiting) = self.plan_one(queue.pop_front()?).await?;
                (vec![change], vec![waiting])
            }
        };
        if changes.is_empty() {
            return None;
        }
        let message = Message {
            node: self.node,
            id,
            previous: self.position,
            changes,
        };
        Some(Attempt {
            bytes: message.encode(),
            message,
            waiting,
        })
    }

    async fn plan_appends(
        &self,
        queue: &mut VecDeque<Request>,
        seed: u64,
    ) -> (Vec<Change>, Vec<Waiting>) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut by_slug: Vec<(Slug, Vec<AppendRequest>)> = Vec::new();
        let mut places: HashMap<Slug, usize> = HashMap::new();
        for append in self.take_appends(queue) {
            let place = *places.entry(append.slug.clone()).or_insert_with(|| {
                by_slug.push((append.slug.clone(), Vec::new()));
                by_slug.len() - 1
            });
            if let Some((_, appends)) = by_slug.get_mut(place) {
                appends.push(append);
            }
        }
        let plans = by_slug.iter().map(|(slug, appends)| {
            let entries = appends.iter().map(|append| append.entries.clone());
            self.store.plan(slug, entries.collect())
        });
        let plans = join_all(plans).await;
        let (mut changes, mut waiting, mut later) = (Vec::new(), Vec::new(), Vec::new());
        for ((slug, appends), plan) in by_slug.into_iter().zip(plans) {
            match plan {
                Ok(plan) => {
                    let ids = IdGenerator::new(planted_last_id(plan.last_id), random.u64(..));
                    let mut numbering = Numbering {
                        ids,
                        now_ms: self.store.now_ms(),
                        waiting: &mut waiting,
                        later: &mut later,
                    };
                    changes.extend(numbering.number(slug, appends, plan));
                }
                Err(error) => {
                    for append in appends {
                        Request::Append(append).refuse(error.clone().into());
                    }
                }
            }
        }
        for append in later.into_iter().rev() {
            queue.push_front(Request::Append(append));
        }
        (changes, waiting)
    }

    /// The appends in front of the queue that fit into one message.
    fn take_appends(&self, queue: &mut VecDeque<Request>) -> Vec<AppendRequest> {
        let bytes_max = self.message_bytes_max.saturating_sub(frame_len());
        let mut bytes = 0;
        let mut taken = Vec::new();
        while taken.len() < REQUESTS_MAX {
            let Some(Request::Append(next)) = queue.front() else {
                break;
            };
            let len = entries_len_max(next.entries.iter());
            if len <= bytes_max && bytes + len > bytes_max {
                break;
            }
            let Some(Request::Append(append)) = queue.pop_front() else {
                break;
            };
            if len > bytes_max {
                let error = too_large(len, bytes_max);
                Request::Append(append).refuse(error);
                continue;
            }
            bytes += len;
            taken.push(append);
        }
        taken
    }

    async fn plan_one(&self, request: Request) -> Option<(Change, Waiting)> {
        let planned = match &request {
            Request::Define {
                slug, definition, ..
            } => self.plan_definition(slug, definition).await,
            Request::Delete { slug, .. } => self.plan_deletion(slug).await,
            Request::Append(_) => return None,
        };
        match planned {
            Ok((change, answer)) => Some((change, Waiting { request, answer })),
            Err(error) => {
                request.refuse(error);
                None
            }
        }
    }

    async fn plan_definition(
        &self,
        slug: &Slug,
        definition: &Definition,
    ) -> Result<(Change, Answer), ReplicaError> {
        let json = serde_json::to_vec(definition).map_err(|error| {
            let why = format!("the definition can't be written as JSON: {error}");
            StoreError::BadDefinition(why)
        })?;
        let (bytes, bytes_max) = (json.len() + 256, self.message_bytes_max);
        if bytes > bytes_max {
            return Err(too_large(bytes, bytes_max));
        }
        let life = self.store.check_definition(slug, definition).await?;
        // Behind each position stands one message: so a later life has a greater number.
        let incarnation = life.unwrap_or(self.position.sequence + 1);
        let placed = PlacedDefinition {
            incarnation,
            created_at_ms: self.store.now_ms(),
            definition: definition.clone(),
        };
        let change = Change {
            slug: slug.clone(),
            incarnation,
            what: What::Definition(placed),
        };
        let created = life.is_none();
        Ok((change, Answer::Defined { created }))
    }

    async fn plan_deletion(&self, slug: &Slug) -> Result<(Change, Answer), ReplicaError> {
        let incarnation = self.store.incarnation_of(slug).await;
        let incarnation = incarnation.map_err(|error: ReadError| StoreError::from(error))?;
        let change = Change {
            slug: slug.clone(),
            incarnation,
            what: What::Deletion,
        };
        Ok((change, Answer::Deleted))
    }
}

/// Gives ids to what one experiment would get.
struct Numbering<'a> {
    ids: IdGenerator,
    now_ms: u64,
    /// Those whose entries are numbered.
    waiting: &'a mut Vec<Waiting>,
    /// Those that are to be planned again.
    later: &'a mut Vec<AppendRequest>,
}

impl Numbering<'_> {
    /// Gives ids to what would be appended, behind the log's last one.
    fn number(&mut self, slug: Slug, appends: Vec<AppendRequest>, plan: Plan) -> Option<Change> {
        let Plan {
            incarnation,
            last_id,
            outcomes,
        } = plan;
        let now_ms = self.now_ms;
        let mut entries = Vec::new();
        for (append, outcome) in appends.into_iter().zip(outcomes) {
            match outcome {
                Planned::New(known) => {
                    let first = entries.len();
                    let new = append.entries.iter().enumerate();
                    let new = new.filter(|(at, _)| !known.iter().any(|(known, _)| known == at));
                    entries.extend(new.map(|(_, entry)| PlacedEntry {
                        id: self.ids.next(now_ms),
                        received_at_ms: now_ms,
                        entry: planted_keyless(entry),
                    }));
                    let new = entries.get(first..).unwrap_or_default();
                    let ids = new.iter().map(|placed| placed.id).collect();
                    self.waiting.push(Waiting {
                        request: Request::Append(append),
                        answer: Answer::Appended { ids, known },
                    });
                }
                Planned::Repeated(appended) => drop(append.reply.send(Ok(appended))),
                Planned::Later => self.later.push(append),
                Planned::Refused(error) => Request::Append(append).refuse(error.into()),
            }
        }
        let what = What::Entries {
            after: last_id,
            entries,
        };
        let has_any = matches!(&what, What::Entries { entries, .. } if !entries.is_empty());
        has_any.then_some(Change {
            slug,
            incarnation,
            what,
        })
    }
}

fn too_large(bytes: usize, bytes_max: usize) -> ReplicaError {
    ReplicaError::TooLarge { bytes, bytes_max }
}

/// The entry; without its key, if that bug is planted.
fn planted_keyless(entry: &NewEntry) -> NewEntry {
    let mut entry = entry.clone();
    if is_planted(Bug::KeysForgotten) {
        entry.idempotency = None;
    }
    entry
}

/// The id behind which others are given; none, if that bug is planted.
fn planted_last_id(last_id: LogId) -> LogId {
    match is_planted(Bug::IdsNotRaised) {
        true => LogId::MIN,
        false => last_id,
    }
}
