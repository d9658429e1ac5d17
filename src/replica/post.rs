//! What nodes say to each other beside the stream: the trait, with NATS behind it in use
//! ([`nats_post`](super::nats_post)), and a simulated one in tests.

use bytes::Bytes;

/// How a node reaches the others. What is said may be lost, or come late; nobody is told. Nothing depends on it but
/// how soon a request is answered.
pub trait Post: Clone + Send + Sync + 'static {
    /// Says something. An error: it certainly isn't on its way.
    fn say(&self, to: To, words: Bytes) -> impl Future<Output = Result<(), NotSaid>> + Send;

    /// What was said to this node next. Asked for by one task alone.
    ///
    /// Cancellation: nothing is lost when the future is dropped.
    fn hear(&self) -> impl Future<Output = Heard> + Send;

    /// As many bytes as may be said at once.
    fn words_bytes_max(&self) -> usize;
}

/// To whom something is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// All nodes; who says it may hear it, too.
    All,
    /// A run of a node, which is asked for something.
    Run {
        /// The run.
        run: u64,
        /// The number of the asking, at the node that asks.
        number: u64,
    },
    /// The run that has asked.
    Asker {
        /// The run.
        run: u64,
        /// The number of its asking.
        number: u64,
    },
}

/// What a node hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// What another one said.
    Words(Bytes),
    /// What it has asked with this number was heard by nobody, and never will be.
    Nobody {
        /// The number.
        number: u64,
    },
}

/// It isn't on its way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it can't be said to another node: {0}")]
pub struct NotSaid(pub String);
