//! How many groups an actor has handed to the journal that are not answered yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts groups in flight.
#[derive(Default)]
pub struct InFlight {
    count: AtomicUsize,
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

impl Drop for Ticket {
    fn drop(&mut self) {
        let Self(in_flight) = self;
        in_flight.count.fetch_sub(1, Ordering::AcqRel);
        // Keeps one permit when nobody waits yet: only the actor ever waits.
        in_flight.left.notify_one();
    }
}
