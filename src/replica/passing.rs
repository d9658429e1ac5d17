//! Passing requests on to the node that is preferred for their shard, and doing what others pass on to this one.
//!
//! Only appends are passed on, once: what is passed on is appended where it arrives, or not at all. Who passed it on
//! learns one of three things ([`Outcome`]):
//!
//! - It is done, with its ids.
//! - It certainly isn't, and won't be: nobody heard it, or the other node refused it. Then it is appended here, which
//!   also makes the error, if there is one: another node may know less than this one, or have less room.
//! - Nobody knows: the other node has gone silent with it, or didn't answer in time. Where all entries have
//!   idempotency keys they are appended here, and are stored once. Where some have none the client is told that
//!   nobody knows, just as where the stream doesn't answer.
//!
//! How long is waited, and what that costs: as soon as the other node hasn't been heard of for [`Pace::lives_for`]
//! nothing more is waited for. A killed node doesn't answer; one that comes back would, and a request
//! without keys that it did is then answered as unknown. While it is heard of, requests with keys wait for
//! [`Pace::pass_within`]: after that to do it again costs a message, and no more. Requests without keys wait as
//! long as any request does, since all that can be said instead is that nobody knows.
//!
//! A request says until when it may be begun, by the clock of the node that is asked, as far as the asking node has
//! heard of it: so a bundle that lay in some buffer meanwhile is refused.
//!
//! An answer doesn't wait until this node has placed the entries, too: who asks it for such an id is made to wait
//! ([`Replica::await_id`]), and what names no id shows them a moment later.
//!
//! [`Pace::lives_for`]: super::Pace::lives_for
//! [`Pace::pass_within`]: super::Pace::pass_within
//! [`Replica::await_id`]: super::node::Replica::await_id

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, error};

use super::bundles::{Ask, Bundles};
use super::error::ReplicaError;
use super::message::{MESSAGE_BYTES_MAX, entries_len_max, is_readable};
use super::metrics::ReplicaMetrics;
use super::node::{ReplicaHealth, Shards, lock};
use super::nodes::{Hello, Nodes, State};
use super::pace::Pace;
use super::planted::{Bug, is_planted};
use super::position::shard_of;
use super::post::{Heard, Post, To};
use super::shard::ended;
use super::words::{Answers, Asked, Bundle, Outcome, Words};
use crate::experiment::replicated::Entries;
use crate::experiment::{AppendError, Appended, BytePermit, Store, StoreHealth};
use crate::model::Slug;

/// Requests that wait to be looked at.
const ASKS_MAX: usize = 8192;
/// Answers that go together.
const ANSWERS_MAX: usize = 512;
/// Nodes whose bundles are remembered.
const SENDERS_MAX: usize = 256;
/// A node that ends answers what it has taken within this time.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// The way to the other nodes.
pub(super) struct Passing {
    shard_count: u16,
    pace: Pace,
    nodes: Arc<Mutex<Nodes>>,
    metrics: Arc<ReplicaMetrics>,
    asks: mpsc::Sender<Ask>,
}

impl Passing {
    /// Asks the node that is preferred for this experiment's shard to append entries, if that is another one; else
    /// it isn't done. `until` is when the client is answered.
    pub async fn append(
        &self,
        slug: &Slug,
        entries: &Entries,
        permit: &Arc<BytePermit>,
        until: Instant,
    ) -> Outcome {
        let now = Instant::now();
        let Some(to) = self
            .preferred(slug)
            .filter(|_| entries.iter().all(is_readable))
        else {
            return Outcome::NotDone;
        };
        let until = match all_have_keys(entries) {
            true => now + self.pace.pass_within.min(self.pace.answer_within / 2),
            false => until,
        };
        let (reply, answer) = oneshot::channel();
        let ask = Ask {
            to,
            slug: slug.clone(),
            entries: entries.clone(),
            permit: permit.clone(),
            until,
            reply,
        };
        // An error: too many wait, or the node ends.
        if self.asks.try_send(ask).is_err() {
            return Outcome::NotDone;
        }
        let outcome = match timeout_at(until, answer).await {
            Ok(Ok(Outcome::Done(appended))) if appended.ids.len() != entries.len() => {
                Outcome::Unknown
            }
            Ok(Ok(outcome)) => outcome,
            // A task that was dropped with it, or no answer in time.
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        };
        self.metrics.note_passed(&outcome);
        outcome
    }

    /// The run of the node that is preferred for this experiment's shard, if that is another one.
    pub fn preferred(&self, slug: &Slug) -> Option<u64> {
        let shard = shard_of(slug, self.shard_count);
        lock(&self.nodes).preferred(shard, Instant::now())
    }
}

/// Whether to append them twice is to append them once.
pub fn all_have_keys(entries: &Entries) -> bool {
    entries.iter().all(|entry| entry.idempotency.is_some())
}

/// The task that speaks with the other nodes.
pub(super) struct Exchange<P> {
    post: P,
    store: Arc<Store>,
    shards: Arc<Shards>,
    pace: Pace,
    run: u64,
    node: u64,
    began: Instant,
    nodes: Arc<Mutex<Nodes>>,
    asks: mpsc::Receiver<Ask>,
    bundles: Bundles,
    senders: BTreeMap<u64, Taken>,
    answering: JoinSet<()>,
    is_ending: watch::Receiver<bool>,
}

impl<P: Post> Exchange<P> {
    /// The task, to be run, and the way to the others that it makes: of a random run of a node.
    pub fn new(
        post: P,
        run: u64,
        node: u64,
        store: Arc<Store>,
        shards: Arc<Shards>,
        is_ending: watch::Receiver<bool>,
    ) -> (Self, Passing) {
        let (sender, asks) = mpsc::channel(ASKS_MAX);
        let pace = shards.pace;
        let nodes = Arc::new(Mutex::new(Nodes::new(node, pace.lives_for)));
        let passing = Passing {
            shard_count: shards.count(),
            pace,
            nodes: nodes.clone(),
            metrics: shards.metrics.clone(),
            asks: sender,
        };
        let bytes_max = post.words_bytes_max().min(MESSAGE_BYTES_MAX);
        let exchange = Self {
            bundles: Bundles::new(run, bytes_max),
            post,
            store,
            shards,
            pace,
            run,
            node,
            began: Instant::now(),
            nodes,
            asks,
            senders: BTreeMap::new(),
            answering: JoinSet::new(),
            is_ending,
        };
        (exchange, passing)
    }

    /// Works until the node ends.
    ///
    /// Cancellation: may be dropped at any time, as by a crash.
    pub async fn run(mut self) {
        let mut next_hello = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = ended(&mut self.is_ending) => break,
                () = sleep_until(next_hello) => {
                    let takes = self.takes();
                    lock(&self.nodes).set_takes(takes);
                    self.say_hello(if takes { State::Takes } else { State::Lives }).await;
                    self.sweep();
                    next_hello = Instant::now() + self.pace.hello_every;
                }
                heard = self.post.hear() => self.take_heard(heard),
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.bundles.take(ask),
                    None => break,
                },
                Some(answered) = self.answering.join_next() => note_end(answered),
            }
            // Also where there is always something to hear.
            while let Ok(ask) = self.asks.try_recv() {
                self.bundles.take(ask);
            }
            while let Some(answered) = self.answering.try_join_next() {
                note_end(answered);
            }
            self.send_bundles().await;
        }
        self.end().await;
    }

    /// Says so, and answers what was taken: the shards end, too, and refuse it.
    async fn end(mut self) {
        self.say_hello(State::Goes).await;
        self.asks.close();
        while let Some(ask) = self.asks.recv().await {
            self.bundles.take(ask);
        }
        self.bundles.give_back();
        let until = Instant::now() + ENDS_WITHIN;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(until) => return,
                heard = self.post.hear() => self.take_heard(heard),
                answered = self.answering.join_next() => match answered {
                    Some(answered) => note_end(answered),
                    None => return,
                },
            }
        }
    }

    /// Whether it is good to ask this node for something.
    fn takes(&self) -> bool {
        self.shards.health() == ReplicaHealth::Ready && self.store.health() == StoreHealth::Ready
    }

    async fn say_hello(&self, state: State) {
        let hello = Words::Hello(Hello {
            run: self.run,
            node: self.node,
            clock_ms: self.began.elapsed().as_millis() as u64,
            state,
        });
        if let Err(error) = self.post.say(To::All, hello.encode()).await {
            debug!(%error, "the other nodes don't hear of this one");
        }
    }

    fn sweep(&mut self) {
        let nodes = lock(&self.nodes);
        self.bundles
            .sweep(&nodes, Instant::now(), self.pace.hello_every);
    }

    async fn send_bundles(&mut self) {
        loop {
            let next = {
                let nodes = lock(&self.nodes);
                self.bundles.next(&nodes, Instant::now())
            };
            let Some((run, bundle)) = next else {
                return;
            };
            let number = bundle.number;
            let words = Words::Bundle(bundle).encode();
            if let Err(error) = self.post.say(To::Run { run, number }, words).await {
                debug!(%error, "a bundle of requests is kept");
                self.take_unheard(number);
            }
        }
    }

    fn take_unheard(&mut self, number: u64) {
        if let Some(run) = self.bundles.unheard(number) {
            lock(&self.nodes).miss(run);
        }
    }

    fn take_heard(&mut self, heard: Heard) {
        let words = match heard {
            Heard::Nobody { number } => return self.take_unheard(number),
            Heard::Words(words) => Words::decode(&words),
        };
        match words {
            // It hears itself, too.
            Ok(Words::Hello(hello)) if hello.run == self.run => {}
            Ok(Words::Hello(hello)) => lock(&self.nodes).hear(&hello, Instant::now()),
            Ok(Words::Answers(answers)) => self.bundles.answered(answers),
            Ok(Words::Bundle(bundle)) => self.take_bundle(bundle),
            Err(error) => debug!(%error, "another node's words can't be read"),
        }
    }

    /// Begins what another node has passed on. All at once: what can't be begun now is refused.
    fn take_bundle(&mut self, bundle: Bundle) {
        let (asker, number) = (bundle.from, bundle.number);
        if !self.is_first_time(asker, number) {
            return;
        }
        let now = Instant::now();
        let (mut refused, appends) = (Vec::new(), FuturesUnordered::new());
        for (at, asked) in (0..).zip(bundle.asked) {
            match self.admit(&asked, now) {
                Some((permit, until)) => {
                    self.shards.metrics.taken.add(1);
                    let shards = self.shards.clone();
                    appends.push(async move {
                        let Asked { slug, entries, .. } = asked;
                        let appended = shards.append(&slug, entries, permit, until).await;
                        (at, outcome(appended))
                    });
                }
                None => refused.push((at, Outcome::NotDone)),
            }
        }
        let teller = Teller {
            post: self.post.clone(),
            run: self.run,
            asker,
            number,
        };
        self.answering.spawn(async move {
            if !refused.is_empty() {
                teller.tell(refused).await;
            }
            let mut ready = pin!(appends.ready_chunks(ANSWERS_MAX));
            while let Some(outcomes) = ready.next().await {
                teller.tell(outcomes).await;
            }
        });
    }

    /// What bounds a request's bytes and its time here, if it may be begun.
    fn admit(&self, asked: &Asked, now: Instant) -> Option<(Arc<BytePermit>, Instant)> {
        let said = Duration::from_millis(asked.until_ms);
        let until = until(self.began, said, now, self.pace.answer_within)?;
        let bytes = entries_len_max(asked.entries.iter());
        let permit = self.store.reserve(bytes).ok()?;
        Some((Arc::new(permit), until))
    }

    /// Whether a bundle is a new one. None should come twice; what did would be stored twice.
    fn is_first_time(&mut self, from: u64, number: u64) -> bool {
        if !self.senders.contains_key(&from) && self.senders.len() >= SENDERS_MAX {
            let nodes = lock(&self.nodes);
            let now = Instant::now();
            self.senders
                .retain(|run, _| nodes.clock_of(*run, now).is_some());
        }
        let taken = self.senders.entry(from).or_default();
        taken.is_first_time(number) || is_planted(Bug::BundleTakenTwice)
    }
}

/// Until when a request may be begun that is to be begun within so much of a run's time, if that isn't over.
fn until(began: Instant, said: Duration, now: Instant, most: Duration) -> Option<Instant> {
    let until = began.checked_add(said)?.min(now + most);
    (until > now).then_some(until)
}

/// Tells a node what became of its bundle.
struct Teller<P> {
    post: P,
    run: u64,
    asker: u64,
    number: u64,
}

impl<P: Post> Teller<P> {
    async fn tell(&self, outcomes: Vec<(u32, Outcome)>) {
        let answers = Words::Answers(Answers {
            from: self.run,
            number: self.number,
            outcomes,
        });
        let to = To::Asker {
            run: self.asker,
            number: self.number,
        };
        if let Err(error) = self.post.say(to, answers.encode()).await {
            debug!(%error, "another node isn't answered");
        }
    }
}

/// Which bundles of a run were taken: the newest, and which of those before it.
#[derive(Default)]
struct Taken {
    newest: u64,
    /// Bit n: the one n before the newest.
    before: u128,
}

impl Taken {
    fn is_first_time(&mut self, number: u64) -> bool {
        if number > self.newest {
            let steps = u32::try_from(number - self.newest).unwrap_or(u32::MAX);
            self.before = self.before.checked_shl(steps).unwrap_or_default() | 1;
            self.newest = number;
            return true;
        }
        let steps = u32::try_from(self.newest - number).unwrap_or(u32::MAX);
        // Those that are too old to be known were taken, perhaps.
        let bit = 1_u128.checked_shl(steps).unwrap_or_default();
        let is_first = bit != 0 && self.before & bit == 0;
        self.before |= bit;
        is_first
    }
}

/// What the node that has passed it on may know for certain.
fn outcome(appended: Result<Appended, ReplicaError>) -> Outcome {
    match appended {
        Ok(appended) => Outcome::Done(appended),
        Err(
            ReplicaError::Unsettled
            | ReplicaError::Store(_)
            | ReplicaError::Append(AppendError::Failed),
        ) => Outcome::Unknown,
        Err(
            ReplicaError::Append(_)
            | ReplicaError::Overloaded
            | ReplicaError::TooLarge { .. }
            | ReplicaError::Stopped(_)
            | ReplicaError::ShuttingDown,
        ) => Outcome::NotDone,
    }
}

fn note_end(answered: Result<(), JoinError>) {
    if let Err(error) = answered {
        error!(%error, "answering another node ended by a bug: that node is told nothing");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_is_not_called_undone() {
        let outcomes = [
            (ReplicaError::Unsettled, Outcome::Unknown),
            (AppendError::Failed.into(), Outcome::Unknown),
            (AppendError::UnknownExperiment.into(), Outcome::NotDone),
            (AppendError::StorageFailed.into(), Outcome::NotDone),
            (ReplicaError::Overloaded, Outcome::NotDone),
            (ReplicaError::ShuttingDown, Outcome::NotDone),
        ];
        for (error, expected) in outcomes {
            assert_eq!(outcome(Err(error)), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_late_is_not_begun() {
        let (began, most) = (Instant::now(), Duration::from_secs(10));
        let ms = Duration::from_millis;
        tokio::time::advance(ms(5000)).await;
        let now = Instant::now();
        for (said, left) in [
            (ms(0), None),
            (ms(5000), None),
            (ms(5001), Some(ms(1))),
            (ms(14_000), Some(ms(9000))),
            // As long as this node's own requests, at most.
            (ms(3_600_000), Some(most)),
        ] {
            let until = until(began, said, now, most);
            assert_eq!(until.map(|until| until - now), left, "{said:?}");
        }
        // Whatever another one says.
        let _none_or_most = until(began, ms(u64::MAX), now, most);
    }

    #[test]
    fn a_bundle_is_taken_once() {
        let mut taken = Taken::default();
        for (number, is_first) in [
            (0, true),
            (0, false),
            (1000, true),
            (1000, false),
            (1001, true),
            (1001, false),
            (1005, true),
            (1003, true),
            (1003, false),
            (1000, false),
            (999, true),
            (999, false),
            (1004, true),
            (2000, true),
            // Too old.
            (1006, false),
            (1999, true),
            (1873, true),
            (1872, false),
            (u64::MAX, true),
            (2000, false),
        ] {
            assert_eq!(taken.is_first_time(number), is_first, "{number}");
        }
    }
}
