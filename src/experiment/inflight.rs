//! What an actor has handed to the journal and what is not answered yet: groups, and the requests
//! in them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts groups in flight.
#[derive(Default)]
pub struct InFlight {
    count: AtomicUsize,
    requests: AtomicUsize,
    left: Notify,
}

/// One group in flight; dropped when it is answered.
pub struct Ticket {
    in_flight: Arc<InFlight>,
    requests: usize,
}

impl InFlight {
    /// Counts one more group, with this many requests.
    pub fn enter(self: &Arc<Self>, requests: usize) -> Ticket {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.requests.fetch_add(requests, Ordering::AcqRel);
        Ticket {
            in_flight: self.clone(),
            requests,
        }
    }

    /// How many requests there are in all groups.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Acquire)
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
        let in_flight = &self.in_flight;
        in_flight
            .requests
            .fetch_sub(self.requests, Ordering::AcqRel);
        in_flight.count.fetch_sub(1, Ordering::AcqRel);
        // Keeps one permit when nobody waits yet: only the actor ever waits.
        in_flight.left.notify_one();
    }
}
