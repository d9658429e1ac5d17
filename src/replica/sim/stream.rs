//! A stream whose refusals, delays and lost answers a seed decides.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::post::{NodePost, Posts};
use crate::replica::ageing::{NEEDS_NOTHING, Report, Told};
use crate::replica::announced::Announced;
use crate::replica::planted::{Bug, is_planted};
use crate::replica::position::MessageId;
use crate::replica::stream::{PublishError, Stream, Unreachable};

/// What the stream's clock begins with.
pub const BEGIN_MS: u64 = 1_764_000_000_000;
/// How long a node waits for an answer that doesn't come.
const TIMEOUT: Duration = Duration::from_millis(100);

/// The stream, as all nodes see it.
#[derive(Clone)]
pub struct Cluster(Arc<Mutex<Inner>>);

pub struct Inner {
    random: fastrand::Rng,
    /// What is stored, in order.
    stored: Vec<Stored>,
    ids: HashSet<MessageId>,
    /// Whether a message that comes twice is known by its id. (After a while JetStream forgets.)
    knows_ids: bool,
    /// Which nodes reach nobody.
    pub is_cut_off: Vec<bool>,
    has_quorum: bool,
    /// Nothing goes wrong any more.
    pub is_calm: bool,
    /// What nodes say to each other.
    pub posts: Posts,
    hints: Vec<Arc<[Notify]>>,
    conflicts: u64,
    answers_lost: u64,
    began: Option<Instant>,
    /// What was told, by number: when, and what.
    told: BTreeMap<u64, (u64, Report)>,
    /// The number that each node has now.
    numbers: Vec<Option<u64>>,
    /// A node that told something within this time must be minded.
    heard_within: Duration,
    /// Since when each node is what it is: it may have begun anew with another one's files.
    lives_since_ms: Vec<u64>,
    /// When each node asked last what was told, and which nodes had told something lately then.
    heard: Vec<(u64, Vec<bool>)>,
    /// The sequence of each shard's first message that is kept.
    kept_from: Vec<u64>,
    drops: Vec<Dropping>,
    dropped: u64,
}

/// Messages that were dropped at once: from which sequence on, and in front of which.
struct Dropping {
    shard: u16,
    from: u64,
    before: u64,
    /// When it was settled which nodes had to be minded, and which those were.
    heard: (u64, Vec<bool>),
}

/// One message of the stream.
#[derive(Clone)]
pub struct Stored {
    pub sequence: u64,
    pub shard: u16,
    pub at_ms: u64,
    pub message: Bytes,
}

/// The stream, as one node reaches it.
pub struct NodeStream {
    cluster: Cluster,
    node: usize,
    hints: Arc<[Notify]>,
}

/// What becomes of a message on its way.
enum Fate {
    Arrives,
    AnswerIsLost,
    IsLost,
    ArrivesLate(Duration),
    ArrivesTwice(Duration),
}

impl Cluster {
    pub fn new(seed: u64, node_count: usize, shard_count: u16) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let hints = || (0..shard_count).map(|_| Notify::new()).collect();
        Self(Arc::new(Mutex::new(Inner {
            stored: Vec::new(),
            ids: HashSet::new(),
            knows_ids: random.bool(),
            is_cut_off: vec![false; node_count],
            has_quorum: true,
            is_calm: false,
            posts: Posts::new(random.u64(..)),
            hints: (0..node_count).map(|_| hints()).collect(),
            conflicts: 0,
            answers_lost: 0,
            began: None,
            told: BTreeMap::new(),
            numbers: vec![None; node_count],
            heard_within: Duration::ZERO,
            lives_since_ms: vec![0; node_count],
            heard: vec![(0, Vec::new()); node_count],
            kept_from: vec![0; usize::from(shard_count)],
            drops: Vec::new(),
            dropped: 0,
            random,
        })))
    }

    pub fn of_node(&self, node: usize) -> Arc<NodeStream> {
        Arc::new(NodeStream {
            cluster: self.clone(),
            node,
            hints: self.inner().hints[node].clone(),
        })
    }

    pub fn cut_off(&self, node: usize, is_cut_off: bool) {
        self.inner().is_cut_off[node] = is_cut_off;
    }

    pub fn set_quorum(&self, has_quorum: bool) {
        self.inner().has_quorum = has_quorum;
    }

    /// Nothing goes wrong any more.
    pub fn calm(&self) {
        let mut inner = self.inner();
        inner.is_calm = true;
        inner.has_quorum = true;
        inner.is_cut_off.fill(false);
    }

    /// All that there ever was, also what was dropped.
    pub fn stored(&self) -> Vec<Stored> {
        self.inner().stored.clone()
    }

    /// Who told something within this time must be minded.
    pub fn mind(&self, heard_within: Duration) {
        self.inner().heard_within = heard_within;
    }

    /// A node begins anew, with what another one has now.
    pub fn begins_anew(&self, node: usize) {
        let mut inner = self.inner();
        inner.numbers[node] = None;
        inner.lives_since_ms[node] = inner.now_ms();
    }

    /// Whether a node that has placed so much of a shard, and finds that what comes next is gone, was not to be
    /// minded when that was dropped: it had told nothing for a while, or wasn't there.
    pub fn was_away(&self, node: usize, shard: u16, placed: u64) -> bool {
        let inner = self.inner();
        let missing = inner
            .stored
            .iter()
            .filter(|stored| stored.shard == shard && stored.sequence > placed);
        let missing: Vec<_> = missing.map(|stored| stored.sequence).collect();
        inner.drops.iter().any(|dropping| {
            let gone = dropping.from..dropping.before;
            let (at_ms, heard) = &dropping.heard;
            dropping.shard == shard
                && (!heard[node] || *at_ms <= inner.lives_since_ms[node])
                && missing.iter().any(|sequence| gone.contains(sequence))
        })
    }

    /// How many messages were dropped.
    pub fn dropped(&self) -> u64 {
        self.inner().dropped
    }

    /// The sequence of a shard's last message.
    pub fn last(&self, shard: u16) -> u64 {
        self.inner().last(shard)
    }

    /// How many messages were refused, and how many answers got lost.
    pub fn met(&self) -> (u64, u64) {
        let inner = self.inner();
        (inner.conflicts, inner.answers_lost)
    }

    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    fn apply(&self, shard: u16, expected: u64, id: MessageId, message: Bytes) -> Applied {
        let mut inner = self.inner();
        if inner.knows_ids && inner.ids.contains(&id) {
            return Err(PublishError::Unsettled("it has it already".into()));
        }
        if inner.last(shard) != expected && !is_planted(Bug::NoExpectation) {
            inner.conflicts += 1;
            return Err(PublishError::NotExpected);
        }
        let sequence = inner.stored.last().map_or(0, |last| last.sequence) + 1;
        inner.ids.insert(id);
        let at_ms = inner.now_ms();
        inner.stored.push(Stored {
            sequence,
            shard,
            at_ms,
            message,
        });
        for hints in &inner.hints {
            hints[usize::from(shard)].notify_one();
        }
        Ok(sequence)
    }
}

type Applied = Result<u64, PublishError>;

impl Inner {
    fn last(&self, shard: u16) -> u64 {
        let last = self.kept(shard).next_back();
        last.map_or(0, |stored| stored.sequence)
    }

    /// The messages of a shard that weren't dropped.
    fn kept(&self, shard: u16) -> impl DoubleEndedIterator<Item = &Stored> {
        let from = self.kept_from[usize::from(shard)];
        let stored = self.stored.iter();
        stored.filter(move |stored| stored.shard == shard && stored.sequence >= from)
    }

    fn now_ms(&mut self) -> u64 {
        let began = *self.began.get_or_insert_with(Instant::now);
        BEGIN_MS + began.elapsed().as_millis() as u64
    }

    fn drop_before(&mut self, shard: u16, before: u64, heard: (u64, Vec<bool>)) -> u64 {
        let from = self.kept_from[usize::from(shard)];
        let gone = self.kept(shard).filter(|stored| stored.sequence < before);
        let count = gone.count() as u64;
        if count > 0 {
            self.kept_from[usize::from(shard)] = before;
            self.dropped += count;
            self.drops.push(Dropping {
                shard,
                from,
                before,
                heard,
            });
        }
        count
    }

    fn delay(&mut self) -> Duration {
        match self.is_calm {
            true => Duration::from_millis(1),
            false => Duration::from_micros(self.random.u64(100..8_000)),
        }
    }

    fn fate(&mut self) -> Fate {
        if self.is_calm {
            return Fate::Arrives;
        }
        let late = Duration::from_millis(self.random.u64(1..400));
        match (self.has_quorum, self.random.u8(..100)) {
            (true, 0..76) => Fate::Arrives,
            (true, 76..84) => Fate::AnswerIsLost,
            (true, 84..90) => Fate::IsLost,
            // A leader may have taken it before it found that it is alone, too.
            (true, 90..96) | (false, 0..20) => Fate::ArrivesLate(late),
            (true, _) => Fate::ArrivesTwice(late),
            (false, _) => Fate::IsLost,
        }
    }
}

impl NodeStream {
    /// A delay, and whether anybody is reached.
    async fn reach(&self) -> bool {
        let (delay, is_cut_off) = {
            let mut inner = self.cluster.inner();
            (inner.delay(), inner.is_cut_off[self.node])
        };
        if is_cut_off {
            sleep(TIMEOUT).await;
            return false;
        }
        sleep(delay).await;
        true
    }

    fn apply_later(&self, after: Duration, shard: u16, expected: u64, id: MessageId, bytes: Bytes) {
        let cluster = self.cluster.clone();
        tokio::spawn(async move {
            sleep(after).await;
            // Nobody hears what came of it.
            let _applied = cluster.apply(shard, expected, id, bytes);
        });
    }
}

impl Stream for NodeStream {
    type Post = NodePost;

    async fn post(&self, run: u64) -> Result<NodePost, Unreachable> {
        Ok(NodePost::open(self.cluster.clone(), self.node, run))
    }

    async fn publish(
        &self,
        shard: u16,
        expected: u64,
        id: MessageId,
        message: Bytes,
    ) -> Result<u64, PublishError> {
        let unsettled = || PublishError::Unsettled("no answer in time".into());
        if !self.reach().await {
            return Err(unsettled());
        }
        let fate = self.cluster.inner().fate();
        match fate {
            Fate::Arrives => {}
            Fate::ArrivesTwice(after) => {
                self.apply_later(after, shard, expected, id, message.clone());
            }
            Fate::AnswerIsLost => {
                let _unheard = self.cluster.apply(shard, expected, id, message);
                self.cluster.inner().answers_lost += 1;
                sleep(TIMEOUT).await;
                return Err(unsettled());
            }
            Fate::IsLost => {
                sleep(TIMEOUT).await;
                return Err(unsettled());
            }
            Fate::ArrivesLate(after) => {
                self.apply_later(after, shard, expected, id, message);
                self.cluster.inner().answers_lost += 1;
                sleep(TIMEOUT).await;
                return Err(unsettled());
            }
        }
        let applied = self.cluster.apply(shard, expected, id, message);
        let delay = self.cluster.inner().delay();
        sleep(delay).await;
        applied
    }

    async fn next(&self, shard: u16, after: u64) -> Result<Option<(u64, Bytes)>, Unreachable> {
        if !self.reach().await {
            return Err(Unreachable("cut off".into()));
        }
        let mut inner = self.cluster.inner();
        // A server that is behind may answer.
        let behind = match !inner.is_calm && inner.random.u8(..8) == 0 {
            true => inner.random.u64(1..4),
            false => 0,
        };
        let end = inner.stored.last().map_or(0, |last| last.sequence);
        let visible = end.saturating_sub(behind);
        let mut kept = inner.kept(shard);
        let found = kept.find(|stored| stored.sequence > after && stored.sequence <= visible);
        Ok(found.map(|stored| (stored.sequence, stored.message.clone())))
    }

    async fn last(&self, shard: u16) -> Result<u64, Unreachable> {
        if !self.reach().await {
            return Err(Unreachable("cut off".into()));
        }
        let mut inner = self.cluster.inner();
        if !inner.is_calm && inner.random.u8(..16) == 0 {
            // One that was the leader before.
            let mut before = inner.stored.iter().rev().skip(3);
            let before = before.find(|stored| stored.shard == shard);
            return Ok(before.map_or(0, |stored| stored.sequence));
        }
        Ok(inner.last(shard))
    }

    fn announced(&self, shard: u16, after: u64) -> Announced {
        let mut inner = self.cluster.inner();
        if inner.is_cut_off[self.node] {
            return Announced::Nothing;
        }
        let mut stored = inner.stored.iter();
        let next = stored.find(|stored| stored.shard == shard && stored.sequence > after);
        // Who wasn't there when it was told can have what was dropped since from nowhere.
        let next = next.filter(|next| next.sequence >= inner.kept_from[usize::from(shard)]);
        let next = next.map(|next| (next.sequence, next.message.clone()));
        match (next, inner.random.u8(..4)) {
            (Some((sequence, message)), 0..2) => Announced::Next(sequence, message),
            (Some(_), 2) => Announced::Gap,
            _ => Announced::Nothing,
        }
    }

    async fn changed(&self, shard: u16) {
        self.hints[usize::from(shard)].notified().await;
    }

    fn message_bytes_max(&self) -> usize {
        16 << 10
    }

    async fn tell(&self, node: u64, report: &Report) -> Result<(), Unreachable> {
        let unreachable = || Unreachable("no answer in time".into());
        if !self.reach().await {
            return Err(unreachable());
        }
        let cluster = self.cluster.clone();
        let fate = {
            let mut inner = cluster.inner();
            inner.numbers[self.node] = Some(node);
            inner.fate()
        };
        let report = report.clone();
        let store = move || {
            let mut inner = cluster.inner();
            let at_ms = inner.now_ms();
            inner.told.insert(node, (at_ms, report));
        };
        match fate {
            Fate::Arrives | Fate::ArrivesTwice(_) => {
                store();
                let delay = self.cluster.inner().delay();
                sleep(delay).await;
                return Ok(());
            }
            Fate::AnswerIsLost => store(),
            Fate::IsLost => {}
            Fate::ArrivesLate(after) => {
                tokio::spawn(async move {
                    sleep(after).await;
                    store();
                });
            }
        }
        sleep(TIMEOUT).await;
        Err(unreachable())
    }

    async fn told(&self) -> Result<Vec<Told>, Unreachable> {
        if !self.reach().await {
            return Err(Unreachable("cut off".into()));
        }
        let mut inner = self.cluster.inner();
        let (now_ms, within) = (inner.now_ms(), inner.heard_within.as_millis() as u64);
        let numbers = inner.numbers.iter();
        let heard = numbers.map(|number| {
            let told = number.and_then(|number| inner.told.get(&number));
            told.is_some_and(|(at_ms, report)| {
                now_ms - at_ms <= within && !report.noted.contains(&NEEDS_NOTHING)
            })
        });
        let heard = heard.collect();
        inner.heard[self.node] = (now_ms, heard);
        let told = inner.told.iter().map(|(node, (at_ms, report))| Told {
            node: *node,
            at_ms: *at_ms,
            report: Some(report.clone()),
        });
        Ok(told.collect())
    }

    async fn first_since(&self, shard: u16, time_ms: u64) -> Result<Option<u64>, Unreachable> {
        if !self.reach().await {
            return Err(Unreachable("cut off".into()));
        }
        let inner = self.cluster.inner();
        let first = inner.kept(shard).find(|stored| stored.at_ms >= time_ms);
        Ok(first.map(|stored| stored.sequence))
    }

    async fn drop_before(&self, shard: u16, sequence: u64) -> Result<u64, Unreachable> {
        let unreachable = || Unreachable("no answer in time".into());
        if !self.reach().await {
            return Err(unreachable());
        }
        let (fate, heard) = {
            let mut inner = self.cluster.inner();
            (inner.fate(), inner.heard[self.node].clone())
        };
        let cluster = self.cluster.clone();
        let purge = move || cluster.inner().drop_before(shard, sequence, heard);
        match fate {
            Fate::Arrives | Fate::ArrivesTwice(_) => return Ok(purge()),
            Fate::AnswerIsLost => drop(purge()),
            Fate::IsLost => {}
            Fate::ArrivesLate(after) => {
                tokio::spawn(async move {
                    sleep(after).await;
                    purge();
                });
            }
        }
        sleep(TIMEOUT).await;
        Err(unreachable())
    }

    fn can_drop(&self) -> bool {
        true
    }
}
