//! A store on several nodes: its entries are ordered and kept by a replicated stream, and every node has them
//! all in files of its own.
//!
//! # The protocol
//!
//! Experiments hash to *shards* (64 by default); a shard is one subject of one stream. What stands on a shard is
//! a chain of [messages](message::Message). Each holds what some experiments of that shard get: entries with
//! their ids and times, a definition, a deletion. So the stream says what happens in which order, and a node's
//! files are what comes of placing its messages one after the other.
//!
//! Any node takes any request. Each shard has one task on each node ([`shard`]), which does this in turn:
//!
//! 1. **Plan** ([`plan`]). What waits is checked against the logs as they are *at this position*: variants,
//!    idempotency keys, definitions. What can be done gets ids behind each log's last one, and makes one message.
//!    Nothing is staged.
//! 2. **Publish**, all shards of a node together (`rounds`). The message names the shard's last message, as this node knows it, and the stream takes it only
//!    if that is still the last one (`Nats-Expected-Last-Subject-Sequence`). When a quorum has it, it stands.
//! 3. **Settle**. Without a clear acknowledgement (a refusal, a timeout, a connection that broke) the task looks
//!    what stands right behind its position. Its own message: that one was acknowledged. Another one: its own
//!    stands nowhere and never will, since the place is taken; that one is placed, and the requests are planned
//!    anew. Nothing: the very same message is sent again, with the same id and for the same place, so that it
//!    can stand but once.
//! 4. **Place** ([`place()`](place::place)). Each experiment's actor, the only writer of its log, stages the
//!    entries with the ids that they have, and commits them by the local journal. Then the requests are answered.
//! 5. **Follow**. What other nodes have published is placed in the same way: as the stream tells it by itself
//!    (`announced`), or asked for where that has a gap, and now and then. Requests of this node are planned before
//!    that, or constant traffic of others would keep them waiting.
//!
//! After a crash a node goes on from a note of how far it is ([`notes`]). The note may lag, so messages are placed
//! again: entries with ids that the log has already are passed over, and so is what belongs to a life of an
//! experiment that has ended.
//!
//! The stream ages ([`ageing`]): nodes tell each other how far they have noted to be, and any of them drops
//! what is old and what all that were heard of have noted. A node that was away for longer, or an empty one, finds a
//! gap behind its position and stops; it begins anew with a copy of another node's folder.
//!
//! Any node may do this for any shard, but two that do it for the same one plan many messages anew. So for each shard
//! one of the living nodes is *preferred* ([`nodes`]), and the others pass entries on to it while it answers
//! ([`passing`]): one hop, over plain NATS. Where it doesn't answer, or says no, the entries are appended where they
//! came in. Nothing above knows of it, and nothing below depends on it.
//!
//! # What holds, and who sees to it
//!
//! | invariant | owner |
//! | --- | --- |
//! | at most one message stands behind another | the stream's expected sequence; [`shard`] publishes nothing else until a message is settled |
//! | what is acknowledged is with a quorum | [`stream::Stream::publish`] says so first; only [`shard`] answers |
//! | no request is stored twice | [`shard`] settles before it plans anew; keys are looked up at the position that is published for; [`passing`] appends what another node may have done only where all entries have keys, and takes no bundle twice |
//! | ids rise in the stream's order | [`plan`] gives them behind the log's last one at that position |
//! | a node's files are the fold of the stream | [`place()`](place::place), in order, and the experiment's actor, which passes over what is there |
//! | a note of how far a node is never leads | [`notes`]: it is written when what it counts is on stable storage |
//! | a stream that lost what it acknowledged is noticed | each message names the one before it by its sequence *and* its id; the shard stops ([`error::Stopped::Diverged`]) |
//! | a node whose files have a hole answers nothing from behind it | what can't be placed stops its shard there ([`error::Stopped::Files`]); other shards go on |
//! | what is dropped from the stream is on the disk of every node that was heard of | [`ageing`] tells what is noted, never what is placed, and drops what all have told |
//! | a shard's last message is never dropped | [`ageing`]: nobody could name what the next one stands behind |
//! | who needs what was dropped never passes over it | the chain again: [`error::Stopped::Behind`] |
//! | everything is bounded | requests by each shard's channel and the budget of bytes in flight, those that are passed on by the budgets of both nodes, a message by what the stream takes |
//!
//! API keys are no part of the chain: they are one value that nodes change in turns ([`keys`]).
//!
//! The stream itself is a trait ([`stream`]), and so is what carries words between nodes ([`post`]): JetStream and NATS
//! in use ([`jetstream`], [`nats_post`]), and in tests simulated ones that refuse, delay, forget to answer and are cut
//! off, as a seed says (`sim`).

pub mod ageing;
mod announced;
pub mod bundles;
pub mod error;
pub mod jetstream;
pub mod keys;
pub mod message;
pub mod metrics;
pub mod nats_post;
pub mod node;
pub mod nodes;
pub mod notes;
mod pace;
pub mod passing;
pub mod place;
pub mod plan;
pub mod planted;
pub mod position;
pub mod post;
mod rounds;
pub mod shard;
#[cfg(test)]
mod sim;
mod status;
pub mod stream;
pub mod words;

pub use error::{ReplicaError, Stopped};
pub use jetstream::{JetStream, JetStreamOptions};
pub use keys::KeyBucket;
pub use node::{Replica, ReplicaHealth, ReplicaOptions};
pub use notes::StartError;
pub use pace::Pace;
pub use status::Status;
