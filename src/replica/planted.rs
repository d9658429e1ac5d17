//! Bugs that the simulation plants in this code, to see that it catches them. Elsewhere there are none.

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The stream takes a message wherever its shard ends.
    #[cfg(test)]
    NoExpectation,
    /// Ids follow the node's clock, and not the log's last one.
    IdsNotRaised,
    /// A request is answered when its message is on its way.
    AnsweredBeforeAck,
    /// Messages carry no idempotency keys.
    KeysForgotten,
    /// A message whose answer was lost is sent again as another one.
    PublishedBlindly,
    /// How far the node is, is noted before it is there.
    ProgressLeads,
    /// The others are told how far the node has placed, and not how far it has noted.
    PlacedIsTold,
    /// Messages are dropped that another node still needs.
    OthersNotMinded,
    /// A shard's last message is dropped, too.
    LastIsDropped,
    /// Messages that are gone are passed over.
    GapPassedOver,
    /// What another node has done, perhaps, is appended here, also without idempotency keys.
    AppendedTwice,
    /// A bundle that comes twice is taken twice.
    BundleTakenTwice,
}

pub use switch::*;

#[cfg(not(test))]
mod switch {
    /// Whether this bug is planted.
    pub const fn is_planted(_: super::Bug) -> bool {
        false
    }
}

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    std::thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this bug is planted.
    pub fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Plants a bug in all that this thread does, in place of the one before.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }
}
