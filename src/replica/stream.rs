//! What a replica needs of the stream that orders its messages: the trait, with JetStream behind it in use
//! ([`jetstream`](super::jetstream)), and a simulated one in tests.

use bytes::Bytes;

use super::ageing::{Report, Told};
use super::announced::Announced;
use super::position::MessageId;
use super::post::Post;

/// A stream with one subject for each shard. Messages of a subject are never changed, are taken away only from
/// the front and only where a node asks for it ([`ageing`](super::ageing)), have rising sequences, and each is
/// stored by a quorum before anybody is told of it.
pub trait Stream: Send + Sync + 'static {
    /// How nodes speak with each other beside it.
    type Post: Post;

    /// Begins to hear what other nodes say to this run of this one.
    fn post(&self, run: u64) -> impl Future<Output = Result<Self::Post, Unreachable>> + Send;

    /// Appends a message to a shard, if the shard's last message has the sequence `expected` (0: there is
    /// none). Says its sequence once a quorum has stored it.
    fn publish(
        &self,
        shard: u16,
        expected: u64,
        id: MessageId,
        message: Bytes,
    ) -> impl Future<Output = Result<u64, PublishError>> + Send;

    /// The first message of a shard behind the sequence `after`, with its own. May be asked of a server that
    /// is behind: that there is one is certain, that there is none isn't.
    fn next(
        &self,
        shard: u16,
        after: u64,
    ) -> impl Future<Output = Result<Option<(u64, Bytes)>, Unreachable>> + Send;

    /// The sequence of a shard's last message (0: there is none), as the stream's leader knows it.
    fn last(&self, shard: u16) -> impl Future<Output = Result<u64, Unreachable>> + Send;

    /// What the stream has told by itself of what stands right behind the sequence `after` on a shard.
    fn announced(&self, shard: u16, after: u64) -> Announced;

    /// Returns when something was told of a shard since. It may be missing, and may be what is known already.
    ///
    /// Cancellation: nothing is lost when the future is dropped.
    fn changed(&self, shard: u16) -> impl Future<Output = ()> + Send;

    /// The longest message that it takes.
    fn message_bytes_max(&self) -> usize;

    /// Tells the other nodes how far this one has noted to be, in place of what it told before.
    fn tell(
        &self,
        node: u64,
        report: &Report,
    ) -> impl Future<Output = Result<(), Unreachable>> + Send;

    /// What each node has told last, as the leader knows it.
    fn told(&self) -> impl Future<Output = Result<Vec<Told>, Unreachable>> + Send;

    /// The sequence of a shard's first message that came at this time or later, by the stream's clock, in
    /// milliseconds since 1970; `None` when all came before.
    fn first_since(
        &self,
        shard: u16,
        time_ms: u64,
    ) -> impl Future<Output = Result<Option<u64>, Unreachable>> + Send;

    /// Drops a shard's messages in front of this sequence, for all nodes and for ever; says how many. Without an
    /// answer it may have been done, or may be done later.
    fn drop_before(
        &self,
        shard: u16,
        sequence: u64,
    ) -> impl Future<Output = Result<u64, Unreachable>> + Send;

    /// Whether it lets messages be dropped at all.
    fn can_drop(&self) -> bool;
}

/// Why a message wasn't acknowledged. Whether it is in the stream, only the stream can say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The shard's last message is another one than was expected: or this very message, sent before.
    #[error("the shard's last message is another one")]
    NotExpected,
    /// No answer came, or one that settles nothing.
    #[error("no acknowledgement came: {0}")]
    Unsettled(String),
}

/// The stream doesn't answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stream doesn't answer: {0}")]
pub struct Unreachable(pub String);
