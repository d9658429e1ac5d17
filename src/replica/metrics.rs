//! What a node counts of its work with the others, since it was started.

use std::time::Duration;

use tokio::time::Instant;

use super::status::Status;
use super::words::Outcome;
use crate::metrics::text::{Text, Unit};
use crate::metrics::{Counter, Histogram};

/// Entries of one message.
const ENTRIES: [u64; 10] = [1, 2, 4, 8, 16, 64, 256, 1024, 4096, 16_384];
/// Microseconds from a message's first try to when it is known to stand.
const PUBLISH_US: [u64; 10] = [
    500, 1000, 2000, 5000, 10_000, 25_000, 100_000, 500_000, 2_000_000, 10_000_000,
];

/// The figures, but for those that each shard [tells](Status).
#[derive(Debug)]
pub struct ReplicaMetrics {
    /// How many entries each message of this node has that stands.
    pub message_entries: Histogram,
    /// How long each of them took.
    pub publish_us: Histogram,
    /// Messages that this node has dropped from the stream.
    pub dropped: Counter,
    /// Requests that other nodes passed on to this one, and that it has begun.
    pub taken: Counter,
    passed: Passed,
}

/// Requests that were passed on, by what is known of them.
#[derive(Debug, Default)]
struct Passed {
    done: Counter,
    not_done: Counter,
    unknown: Counter,
}

impl Default for ReplicaMetrics {
    fn default() -> Self {
        Self {
            message_entries: Histogram::new(&ENTRIES),
            publish_us: Histogram::new(&PUBLISH_US),
            dropped: Counter::default(),
            taken: Counter::default(),
            passed: Passed::default(),
        }
    }
}

impl ReplicaMetrics {
    /// Takes note of what became of a request that was passed on.
    pub(super) fn note_passed(&self, outcome: &Outcome) {
        let passed = match outcome {
            Outcome::Done(_) => &self.passed.done,
            Outcome::NotDone => &self.passed.not_done,
            Outcome::Unknown => &self.passed.unknown,
        };
        passed.add(1);
    }

    /// Writes them, and what the shards tell.
    pub(super) fn write(&self, shards: &[Status], text: &mut Text) {
        write_shards(shards, text);
        let sum = |count: fn(&Status) -> u64| shards.iter().map(count).sum::<u64>();
        let help = "Messages of this node that stand in the stream.";
        text.counter("trialog_replica_published_messages_total", help)
            .value(sum(|shard| shard.published));
        let help =
            "Messages placed here that other nodes have published, or this one before its start.";
        text.counter("trialog_replica_followed_messages_total", help)
            .value(sum(|shard| shard.followed));
        let help = "Messages that were planned anew, since another node's came first.";
        text.counter("trialog_replica_conflicts_total", help)
            .value(sum(|shard| shard.conflicts));
        let help = "Messages that this node has dropped from the stream.";
        text.counter("trialog_replica_dropped_messages_total", help)
            .value(self.dropped.get());
        let help = "Entries in each message of this node.";
        let mut family = text.histogram("trialog_replica_message_entries", help);
        family.buckets(&[], &self.message_entries, Unit::Plain);
        let help = "From a message's first try until it is known to stand in the stream.";
        let mut family = text.histogram("trialog_replica_publish_seconds", help);
        family.buckets(&[], &self.publish_us, Unit::Seconds);
        let help = "Requests passed on to the node that is preferred for their shard, by what is known of them.";
        let mut family = text.counter("trialog_replica_passed_requests_total", help);
        for (outcome, counter) in [
            ("done", &self.passed.done),
            ("not_done", &self.passed.not_done),
            ("unknown", &self.passed.unknown),
        ] {
            family.sample(&[("outcome", outcome)], counter.get());
        }
        let help = "Requests that other nodes have passed on to this one.";
        text.counter("trialog_replica_taken_requests_total", help)
            .value(self.taken.get());
    }
}

fn write_shards(shards: &[Status], text: &mut Text) {
    let help = "Shards of the stream, by how this node follows them.";
    let mut family = text.gauge("trialog_replica_shards", help);
    for state in ["ready", "catching_up", "unreachable", "stopped"] {
        let count = shards.iter().filter(|shard| state_of(shard) == state);
        family.sample(&[("state", state)], count.count());
    }
    let now = Instant::now();
    let silent = shards.iter().filter_map(silent_since).min();
    let silent = silent.map_or(Duration::ZERO, |since| now - since);
    let help = "Since when the stream gives no answer, or acknowledges nothing, for some shard; 0 where it does.";
    text.gauge("trialog_replica_silent_seconds", help)
        .value(format_args!("{:.3}", silent.as_secs_f64()));
}

fn state_of(shard: &Status) -> &'static str {
    if shard.stopped.is_some() {
        "stopped"
    } else if silent_since(shard).is_some() {
        "unreachable"
    } else if !shard.is_caught_up {
        "catching_up"
    } else {
        "ready"
    }
}

/// Not of a shard that has stopped: it asks no more.
fn silent_since(shard: &Status) -> Option<Instant> {
    let since = shard.unreachable_since.into_iter();
    let since = since.chain(shard.unacknowledged_since).min();
    since.filter(|_| shard.stopped.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_shard_is_in_one_state_and_the_longest_silence_counts() {
        let ready = Status {
            is_caught_up: true,
            published: 3,
            ..Status::default()
        };
        let begun = Instant::now();
        tokio::time::advance(Duration::from_millis(1500)).await;
        let late = Status {
            unreachable_since: Some(Instant::now()),
            unacknowledged_since: Some(begun),
            published: 4,
            ..ready.clone()
        };
        let mut text = Text::default();
        ReplicaMetrics::default().write(&[ready, Status::default(), late], &mut text);
        let text = text.into_string();
        for line in [
            "trialog_replica_shards{state=\"ready\"} 1",
            "trialog_replica_shards{state=\"catching_up\"} 1",
            "trialog_replica_shards{state=\"unreachable\"} 1",
            "trialog_replica_shards{state=\"stopped\"} 0",
            "trialog_replica_silent_seconds 1.500",
            "trialog_replica_published_messages_total 7",
        ] {
            assert!(text.lines().any(|there| there == line), "{line}: {text}");
        }
    }
}
