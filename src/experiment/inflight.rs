//! Which groups an actor has handed to the journal: how many are not answered yet, and which were
//! refused.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::error::AppendError;
use crate::log::writer::Begin;

/// Counts groups in flight.
#[derive(Default)]
pub struct InFlight {
    count: AtomicUsize,
    has_failed: AtomicBool,
    left: Notify,
    /// Whether there is a `refusal`: cheaper to ask, for each group.
    is_refused: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
}

/// Groups that the journal, which is stuck, has refused: all from one on.
pub struct Refusal {
    /// Where the first of them was staged.
    pub begin: Begin,
    /// What their requests were told.
    pub error: AppendError,
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

    /// Whether something was refused, and is still to be taken back.
    pub fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Acquire)
    }

    /// What was refused since this was last asked. The actor takes it back before it stages more.
    pub fn take_refusal(&self) -> Option<Refusal> {
        if !self.is_refused.swap(false, Ordering::AcqRel) {
            return None;
        }
        let refusal = self.refusal.lock();
        refusal.unwrap_or_else(PoisonError::into_inner).take()
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
    /// Notes that the journal refused this group, which was staged at `begin`.
    pub fn note_refused(&self, begin: Begin, error: AppendError) {
        let Self(in_flight) = self;
        let refusal = in_flight.refusal.lock();
        let mut refusal = refusal.unwrap_or_else(PoisonError::into_inner);
        refusal.get_or_insert(Refusal { begin, error });
        in_flight.is_refused.store(true, Ordering::Release);
    }

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
