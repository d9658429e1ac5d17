//! What was acknowledged, held against what is there.

use serde::Serialize;

/// Counts of entries. All but the first three should be zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Were answered with success.
    pub acknowledged: u64,
    /// Were sent, and nobody heard what became of them: each may be there or not.
    pub unknown: u64,
    /// Are there.
    pub found: u64,
    /// Were acknowledged, and are not there.
    pub lost: u64,
    /// Are there again, or out of order.
    pub doubled: u64,
    /// Are there, but not as they were sent, or under another id than was acknowledged.
    pub changed: u64,
    /// Are there, though they were refused, or weren't there at an earlier look, or nobody sent them.
    pub unexpected: u64,
    /// Batches that are there in part.
    pub torn: u64,
    /// What `verify` found, each in a sentence.
    pub damage: Vec<String>,
}

impl Verdict {
    /// Takes in the verdict on another store.
    pub fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.found += other.found;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.changed += other.changed;
        self.unexpected += other.unexpected;
        self.torn += other.torn;
        self.damage.extend(other.damage);
    }

    pub fn is_good(&self) -> bool {
        let bad = [
            self.lost,
            self.doubled,
            self.changed,
            self.unexpected,
            self.torn,
        ];
        bad == [0; 5] && self.damage.is_empty()
    }
}
