//! Bugs that a test plants in this code, to see that they are caught. Without the feature `planted`,
//! which only `tests/planted.rs` asks for, there are none.

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A frame's checksums don't cover its length.
    CrcWithoutLength,
    /// A frame's checksums don't cover its ordinal.
    CrcWithoutOrdinal,
    /// Of two frames with the same ordinal both are taken.
    LastOfTwoWins,
    /// A footer is believed without its checksums.
    IndexTrusted,
}

#[cfg(not(feature = "planted"))]
mod switch {
    /// Whether this bug is planted.
    pub const fn is_planted(_: super::Bug) -> bool {
        false
    }
}

#[cfg(feature = "planted")]
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

pub use switch::*;
