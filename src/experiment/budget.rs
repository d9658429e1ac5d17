//! The bytes of requests in flight, bounded over the whole process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound on bytes that are held for requests; shared by all that take from it.
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    used: AtomicUsize,
    limit: usize,
}

/// Bytes taken from a [`Budget`], given back when this is dropped. It travels with the message
/// that holds the bytes, so a client that goes away frees nothing that is still held.
pub struct BytePermit {
    budget: Budget,
    bytes: usize,
}

/// There is no room in the budget now; what is in flight will make some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many bytes in flight")]
pub struct OverBudget;

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        let used = AtomicUsize::new(0);
        Self(Arc::new(Shared { used, limit }))
    }

    /// Takes `bytes`, now or not at all.
    pub fn try_take(&self, bytes: usize) -> Result<BytePermit, OverBudget> {
        self.add(bytes)?;
        let budget = self.clone();
        Ok(BytePermit { budget, bytes })
    }

    /// A permit for nothing yet.
    pub fn none(&self) -> BytePermit {
        let budget = self.clone();
        BytePermit { budget, bytes: 0 }
    }

    /// Bytes taken at the moment.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) -> Result<(), OverBudget> {
        let before = self.0.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.0.limit {
            self.0.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(OverBudget);
        }
        Ok(())
    }
}

impl BytePermit {
    /// Takes `bytes` more into this permit, now or not at all.
    pub fn try_grow(&mut self, bytes: usize) -> Result<(), OverBudget> {
        self.budget.add(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Bytes that it stands for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back `bytes` of this permit.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.budget.0.used.fetch_sub(bytes, Ordering::Relaxed);
        self.bytes -= bytes;
    }
}

impl Drop for BytePermit {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
