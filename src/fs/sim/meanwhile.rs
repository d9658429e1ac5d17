//! What another thread would do in the middle of a call, done there by the test.

use std::sync::{Arc, Mutex, PoisonError};

use super::Op;

/// Work that is done once, before a call of this kind on such a path takes effect.
#[derive(Clone, Default)]
pub struct Meanwhile(Arc<Mutex<Option<Planned>>>);

struct Planned {
    op: Op,
    path: &'static str,
    work: Box<dyn FnOnce() + Send>,
}

impl Meanwhile {
    pub fn plan(&self, op: Op, path: &'static str, work: Box<dyn FnOnce() + Send>) {
        self.replace(Some(Planned { op, path, work }));
    }

    pub fn forget(&self) {
        self.replace(None);
    }

    /// Does the work if this is the call. It calls the disk itself, so nobody may hold its lock.
    pub fn happen(&self, op: Op, path: &str) {
        let mut planned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |planned: &mut Planned| planned.op == op && path.contains(planned.path);
        let due = planned.take_if(is_due);
        drop(planned);
        if let Some(due) = due {
            (due.work)();
        }
    }

    fn replace(&self, by: Option<Planned>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = by;
    }
}
