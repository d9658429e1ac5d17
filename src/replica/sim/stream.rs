//! A stream whose refusals, delays and lost answers a seed decides.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::post::{NodePost, Posts};
use crate::replica::planted::{Bug, is_planted};
use crate::replica::position::MessageId;
use crate::replica::stream::{PublishError, Stream, Unreachable};

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
}

/// One message of the stream.
#[derive(Clone)]
pub struct Stored {
    pub sequence: u64,
    pub shard: u16,
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

    pub fn stored(&self) -> Vec<Stored> {
        self.inner().stored.clone()
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
        inner.stored.push(Stored {
            sequence,
            shard,
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
        let mut last = self.stored.iter().rev();
        let last = last.find(|stored| stored.shard == shard);
        last.map_or(0, |stored| stored.sequence)
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
        let mut stored = inner.stored.iter();
        let found = stored.find(|stored| {
            stored.shard == shard && stored.sequence > after && stored.sequence <= visible
        });
        Ok(found.map(|stored| (stored.sequence, stored.message.clone())))
    }

    async fn last(&self, shard: u16) -> Result<u64, Unreachable> {
        if !self.reach().await {
            return Err(Unreachable("cut off".into()));
        }
        let mut inner = self.cluster.inner();
        if !inner.is_calm && inner.random.u8(..16) == 0 {
            // One that was the leader before.
            let stored = inner.stored.iter().rev().skip(3);
            let before = stored.map(|stored| (stored.shard, stored.sequence));
            let mut before = before.filter(|(of, _)| *of == shard);
            return Ok(before.next().map_or(0, |(_, sequence)| sequence));
        }
        Ok(inner.last(shard))
    }

    async fn changed(&self, shard: u16) {
        self.hints[usize::from(shard)].notified().await;
    }

    fn message_bytes_max(&self) -> usize {
        16 << 10
    }
}
