//! How the stream ages: every node tells the others how far it has noted to be, and drops messages that are old
//! and that no node needs any more.
//!
//! A message is dropped when it is *both* older than the retention *and* behind what every node has noted that was
//! heard of within the retention. Noted, and not placed: a crash takes a node back to its note, and what
//! comes behind that it reads again. Without a leader: any node may drop at any time, and dropping twice is
//! dropping once.
//!
//! - A shard's last message stays: its sequence is what the next one is expected behind.
//! - Who drops has told its own place just before, has reached the end of every shard since it started, and is
//!   stopped on none. So of two nodes that don't hear each other, each past what the other one has, at most one
//!   drops; and there is always a node that has all, of which a copy can be made.
//! - A node tells before it reads for the first time. Should it join just while others drop what it needs, it finds
//!   a gap behind its position and stops; it never reads on behind the gap.
//! - One that is behind what is kept tells that it needs nothing: nothing that is kept for it would help it.
//!
//! Times are the stream's own: when it stored a message, and when it stored what a node told. "Now" is when it stored
//! what this node has just told, or what this node's clock says, whichever is earlier. So a wrong clock keeps more, and
//! two that are wrong in the same way forget nodes too early: even then only what this node has itself is dropped.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::error::Stopped;
use super::metrics::ReplicaMetrics;
use super::pace::Pace;
use super::planted::{Bug, is_planted};
use super::shard::ended;
use super::status::Status;
use super::stream::{Stream, Unreachable};
use crate::experiment::Store;

const FORMAT: u32 = 1;
/// What a node tells of a shard where it needs nothing more.
pub const NEEDS_NOTHING: u64 = u64::MAX;
/// So many times in a row a node may fail to tell and is still heard of, however short the retention.
const UNTOLD_MAX: u64 = 5;

/// What a node tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    format: u32,
    /// How often it tells, in milliseconds.
    pub tells_every_ms: u64,
    /// Of each shard, the sequence up to which all is on its disk; or [`NEEDS_NOTHING`].
    pub noted: Vec<u64>,
}

/// What a node told last.
#[derive(Debug, Clone)]
pub struct Told {
    /// The node.
    pub node: u64,
    /// When the stream stored that, in milliseconds since 1970.
    pub at_ms: u64,
    /// What it said; `None` where that can't be read.
    pub report: Option<Report>,
}

/// Whether the other nodes know what this one needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joining {
    /// They are about to be told.
    Begun,
    /// They could not be told yet.
    NotTold(Unreachable),
    /// They know.
    Told,
}

/// The task's state.
pub struct Ageing<S> {
    /// Whose it is.
    pub node: u64,
    /// Whose clock is asked.
    pub store: Arc<Store>,
    /// What ages.
    pub stream: Arc<S>,
    /// How often is told and dropped.
    pub pace: Pace,
    /// How long messages are kept at least; `None`: for ever.
    pub retention: Option<Duration>,
    /// What is counted.
    pub metrics: Arc<ReplicaMetrics>,
    /// How each shard is.
    pub shards: Vec<watch::Receiver<Status>>,
    /// What each shard waits for.
    pub joining: Vec<watch::Sender<Joining>>,
    /// Whether it is to end.
    pub is_ending: watch::Receiver<bool>,
    /// Of each shard, in front of which sequence this node has seen all dropped.
    pub dropped: Vec<u64>,
}

impl Report {
    /// What a node tells that has noted so much.
    pub fn new(tells_every: Duration, noted: Vec<u64>) -> Self {
        Self {
            format: FORMAT,
            tells_every_ms: millis(tells_every),
            noted,
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        // Numbers alone: it can't fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads one; `None` where a later program wrote it, or nobody knows who.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let report: Self = serde_json::from_slice(bytes).ok()?;
        (report.format == FORMAT).then_some(report)
    }
}

impl Told {
    /// Whether the node counts as one that may come back.
    fn is_heard(&self, now_ms: u64, retention: Duration) -> bool {
        let report = self.report.as_ref();
        let forgiven = report.map_or(0, |report| report.tells_every_ms.saturating_mul(UNTOLD_MAX));
        let until = self.at_ms.saturating_add(millis(retention).max(forgiven));
        now_ms <= until
    }
}

impl<S: Stream> Ageing<S> {
    /// Tells, and drops, until the node ends.
    ///
    /// Cancellation: may be dropped at any time, as by a crash.
    pub async fn run(mut self) {
        if self.retention.is_some() && !self.stream.can_drop() {
            warn!(
                "the stream was made so that no message can be dropped (deny_purge), which can't be changed: it \
                 keeps everything"
            );
            self.retention = None;
        }
        let mut is_told = self.join().await;
        let mut drops_at = Instant::now() + self.until_next_drop();
        while is_told && !*self.is_ending.borrow() {
            tokio::select! {
                biased;
                () = ended(&mut self.is_ending) => break,
                () = sleep(self.pace.tell_every) => {}
            }
            if Instant::now() < drops_at {
                // It is told again soon, and others wait for a while before they forget this node.
                if let Err(error) = self.tell().await {
                    debug!(%error, "telling other nodes how far this one is");
                }
                continue;
            }
            match self.drop_aged().await {
                Ok(0) => {}
                Ok(count) => info!(
                    count,
                    "messages that all nodes have were dropped from the stream"
                ),
                Err(error) => debug!(%error, "dropping what all nodes have"),
            }
            drops_at = Instant::now() + self.until_next_drop();
        }
        // The shards note how far they are before they end.
        for shard in &mut self.shards {
            while shard.changed().await.is_ok() {}
        }
        if is_told {
            is_told = self.tell().await.is_ok();
        }
        debug!(is_told, "how far this node is, as it ends");
    }

    /// Tells for the first time; says whether it did before the node is to end.
    async fn join(&mut self) -> bool {
        let mut pause = self.pace.pause_min;
        loop {
            match self.tell().await {
                Ok(()) => {
                    self.say(&Joining::Told);
                    return true;
                }
                Err(error) => self.say(&Joining::NotTold(error)),
            }
            tokio::select! {
                biased;
                () = ended(&mut self.is_ending) => return false,
                () = sleep(pause) => pause = (pause * 2).min(self.pace.pause_max),
            }
        }
    }

    fn say(&self, joining: &Joining) {
        for shard in &self.joining {
            shard.send_replace(joining.clone());
        }
    }

    /// Different on each node, and each time: so that seldom two do the same work.
    fn until_next_drop(&self) -> Duration {
        let mean_ms = millis(self.pace.drop_every).max(1);
        let drawn = self.store.random().map_or(0, |drawn| drawn as u64);
        Duration::from_millis(mean_ms / 2 + drawn % mean_ms)
    }

    fn noted(&self) -> Vec<u64> {
        let noted = |shard: &watch::Receiver<Status>| {
            let status = shard.borrow();
            match is_planted(Bug::PlacedIsTold) {
                true => status.position.sequence,
                false => status.noted,
            }
        };
        self.shards.iter().map(noted).collect()
    }

    fn is_behind(&self) -> bool {
        let is_behind = |shard: &watch::Receiver<Status>| {
            matches!(shard.borrow().stopped, Some(Stopped::Behind { .. }))
        };
        self.shards.iter().any(is_behind)
    }

    fn has_all(&self) -> bool {
        let has_all = |shard: &watch::Receiver<Status>| {
            let status = shard.borrow();
            status.is_caught_up && status.stopped.is_none()
        };
        self.shards.iter().all(has_all)
    }

    async fn tell(&self) -> Result<(), Unreachable> {
        let noted = match self.is_behind() {
            true => vec![NEEDS_NOTHING; self.shards.len()],
            false => self.noted(),
        };
        let report = Report::new(self.pace.tell_every, noted);
        self.stream.tell(self.node, &report).await
    }

    /// Drops what may be; says how many messages that was.
    async fn drop_aged(&mut self) -> Result<u64, Unreachable> {
        self.tell().await?;
        let Some(retention) = self.retention.filter(|_| self.has_all()) else {
            return Ok(0);
        };
        let told = self.stream.told().await?;
        let Some(own) = told.iter().find(|told| told.node == self.node) else {
            return Ok(0);
        };
        let now_ms = own.at_ms.min(self.store.now_ms());
        let Some(needed) = needed_from(&told, self.noted(), now_ms, retention) else {
            debug!("another node tells what this one can't read: nothing is dropped");
            return Ok(0);
        };
        let since_ms = now_ms.saturating_sub(millis(retention));
        let mut count = 0;
        for (shard, needed) in (0..).zip(needed) {
            if *self.is_ending.borrow() {
                break;
            }
            count += self.drop_of(shard, needed, since_ms).await?;
        }
        Ok(count)
    }

    async fn drop_of(
        &mut self,
        shard: u16,
        needed: u64,
        since_ms: u64,
    ) -> Result<u64, Unreachable> {
        let Some(dropped) = self.dropped.get_mut(usize::from(shard)) else {
            return Ok(0);
        };
        if needed <= *dropped {
            return Ok(0);
        }
        let first_kept = self.stream.first_since(shard, since_ms).await?;
        let mut end = needed.min(first_kept.unwrap_or(needed));
        if end <= *dropped {
            return Ok(0);
        }
        // What all have noted is no later than the last one, or the stream isn't the one that they have followed.
        let last = self.stream.last(shard).await?;
        if needed > last {
            return Ok(0);
        }
        if is_planted(Bug::LastIsDropped) {
            end += 1;
        }
        let count = self.stream.drop_before(shard, end).await?;
        *dropped = end;
        self.metrics.dropped.add(count);
        Ok(count)
    }
}

/// From which sequence of each shard on somebody needs the messages: what all have noted stays there as the last
/// one. `None` where what a node needs can't be said.
fn needed_from(told: &[Told], own: Vec<u64>, now_ms: u64, retention: Duration) -> Option<Vec<u64>> {
    let mut needed = own;
    if is_planted(Bug::OthersNotMinded) {
        return Some(needed);
    }
    for told in told.iter().filter(|told| told.is_heard(now_ms, retention)) {
        let noted = &told.report.as_ref()?.noted;
        for (at, needed) in needed.iter_mut().enumerate() {
            let noted = noted.get(at).copied().unwrap_or(0);
            *needed = noted.min(*needed);
        }
    }
    Some(needed)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn told(node: u64, at_ms: u64, noted: &[u64]) -> Told {
        let bytes = Report::new(SECOND, noted.into()).encode();
        Told {
            node,
            at_ms,
            report: Report::decode(&bytes),
        }
    }

    #[test]
    fn what_every_node_that_was_heard_of_has_noted_may_go() {
        let all = [
            told(1, 100_000, &[9, 9, 9]),
            told(2, 95_000, &[7, 9]),
            told(3, 40_000, &[1, 1, 1]),
        ];
        let needed = |now_ms, seconds| {
            let retention = Duration::from_secs(seconds);
            needed_from(&all, vec![9, 8, 9], now_ms, retention)
        };
        // The third one is forgotten; of a shard that isn't told of nothing is known to be noted.
        assert_eq!(needed(100_000, 10), Some(vec![7, 8, 0]));
        assert_eq!(needed(100_000, 60), Some(vec![1, 1, 0]));
        // However short the retention, a node may be late a few times.
        assert_eq!(needed(100_000, 1), Some(vec![7, 8, 0]));
        assert_eq!(needed(100_001, 1), Some(vec![9, 8, 9]));
    }

    #[test]
    fn nothing_goes_while_a_node_tells_what_cannot_be_read() {
        let newer = br#"{"format":2,"tellsEveryMs":1,"noted":"elsewhere"}"#;
        let mut all = [told(1, 9_000, &[5]), told(2, 9_000, &[5])];
        all[1].report = Report::decode(newer);
        assert_eq!(all[1].report, None);
        assert_eq!(needed_from(&all, vec![5], 9_000, SECOND), None);
        assert_eq!(needed_from(&all, vec![5], 10_001, SECOND), Some(vec![5]));
    }
}
