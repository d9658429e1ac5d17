//! How long a node waits, and how often it does what.

use std::time::Duration;

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// A request is answered within this time, if only that nobody knows.
    pub answer_within: Duration,
    /// Between tries: at first,
    pub pause_min: Duration,
    /// and at most.
    pub pause_max: Duration,
    /// Between looks for what others have published and the stream hasn't told of.
    pub look_every: Duration,
    /// Between two notes of how far this node is.
    pub note_every: Duration,
    /// Between two times that it tells the other nodes.
    pub tell_every: Duration,
    /// Between two looks for messages that no node needs any more, about.
    pub drop_every: Duration,
    /// How often a node says that it lives.
    pub hello_every: Duration,
    /// A node counts as living for so long after it was heard of.
    pub lives_for: Duration,
    /// Another node has so long for requests that may be appended here after all.
    pub pass_within: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            answer_within: Duration::from_secs(10),
            pause_min: Duration::from_millis(2),
            pause_max: Duration::from_millis(300),
            look_every: Duration::from_secs(1),
            note_every: Duration::from_secs(10),
            tell_every: Duration::from_secs(60),
            drop_every: Duration::from_secs(300),
            hello_every: Duration::from_millis(500),
            lives_for: Duration::from_secs(2),
            pass_within: Duration::from_secs(3),
        }
    }
}

impl Pace {
    /// Where messages are kept for a short time only, what is needed for that comes more often.
    pub fn for_retention(mut self, retention: Duration) -> Self {
        let often = (retention / 8).max(self.pause_max);
        self.note_every = self.note_every.min(often);
        self.tell_every = self.tell_every.min(often);
        self.drop_every = self.drop_every.min(often * 2);
        self
    }
}
