//! How many groups an actor has handed to the journal that are not answered yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts groups in flight.
#[derive(Default)]
pub struct InFlight {
    count: AtomicUsize,
    has_failed: AtomicBool,
    left: Notify,
}

/// One group in flight; dropped when it is answered.
pub struct Ticket(Arc<InFlight>);

impl InFlight {
    /// Counts one more group.
    pub fn enter(self: &Arc<Self>) -> Ticket {
        self.count.fetch_add(1, Ordering::AcqRel);
        Ticket(self.clone())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether any group so far did not become durable.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Returns once there are fewer than `limit`.
    pub async fn wait_below(&self, limit: usize) {
        while self.count() >= limit {
            let left = self.left.notified();
            if self.count() < limit {
                return;
            }
            left.await;
        }
    }
}

impl Ticket {
    /// Takes note that the group did not become durable.
    pub fn note_failed(&self) {
        self.0.has_failed.store(true, Ordering::Release);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Self(in_flight) = self;
        in_flight.count.fetch_sub(1, Ordering::AcqRel);
        // Keeps one permit when nobody waits yet: only the actor ever waits.
        in_flight.left.notify_one();
    }
}
