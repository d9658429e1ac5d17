//! What a shard's task tells of itself.

use tokio::time::Instant;

use super::error::Stopped;
use super::position::Position;

/// What is seen of a shard from outside.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// How far it is placed here.
    pub position: Position,
    /// The sequence up to which that is noted: a crash takes this node back to there, and no further.
    pub noted: u64,
    /// Whether it has reached what the stream held when it was started.
    pub is_caught_up: bool,
    /// Since when the stream hasn't answered, if it doesn't.
    pub unreachable_since: Option<Instant>,
    /// Since when the stream hasn't acknowledged what is published, if it doesn't.
    pub unacknowledged_since: Option<Instant>,
    /// Why it takes and places nothing more.
    pub stopped: Option<Stopped>,
    /// Messages of this node that stand, since it was started.
    pub published: u64,
    /// Other messages that were placed here, since then.
    pub followed: u64,
    /// Messages that were planned anew since another node was first, since then.
    pub conflicts: u64,
}
