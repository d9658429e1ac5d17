//! Seals closed segments, one after the other, on a thread of its own: nobody waits for it.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use tracing::{debug, warn};

use super::figures;
use crate::fs::{Disk, is_full, is_out_of_descriptors};
use crate::journal::checkpoint::WRITE_OUT_INTERVAL;
use crate::journal::{Group, IfFull, Journal, Mark};
use crate::log::segment_file::Incarnation;
use crate::log::view::{ClosedSegment, Sealing};
use crate::metrics::Counter;

/// The thread's name.
pub(super) const SEALING_THREAD: &str = "seal";

struct Job {
    segment: Arc<ClosedSegment>,
    incarnation: Arc<Incarnation>,
}

/// Takes closed segments to be sealed.
pub struct Sealer {
    closed: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    sealed: Arc<Counter>,
}

impl Sealer {
    /// Starts the thread.
    pub fn start(disk: Arc<dyn Disk>, journal: Arc<dyn Journal>) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let sealed = Arc::new(Counter::default());
        let counted = sealed.clone();
        let thread = std::thread::Builder::new()
            .name(SEALING_THREAD.into())
            .spawn(move || run(&disk, &*journal, &receiver, &counted))?;
        Ok(Self {
            closed: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            sealed,
        })
    }

    /// How many segments were sealed.
    pub fn sealed_count(&self) -> u64 {
        self.sealed.get()
    }

    /// Has `segment` sealed. The next segment's header must be durable: it says where this one
    /// ends, whatever becomes of the footer.
    pub fn seal(&self, segment: Arc<ClosedSegment>, incarnation: Arc<Incarnation>) {
        let sender = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*sender {
            segment.note_queued();
            // When the thread is gone, the next start seals.
            let _gone = sender.send(Job {
                segment,
                incarnation,
            });
        }
    }

    /// Ends once what was asked for is sealed. Blocks.
    pub fn shutdown(&self) {
        drop(
            self.closed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            warn!("the sealing thread panicked: the next start seals what is left");
        }
    }
}

fn run(disk: &Arc<dyn Disk>, journal: &dyn Journal, closed: &Receiver<Job>, sealed: &Arc<Counter>) {
    let mut waiting = Waiting {
        postponed: Vec::new(),
        to_be_released: Vec::new(),
        release_at: Instant::now(),
    };
    while let Some(job) = waiting.next_job(closed) {
        let segment = job.segment;
        if journal.flush().is_err() {
            continue;
        }
        let to_be_released = Arc::downgrade(&segment);
        match segment.make_footer(
            disk,
            &job.incarnation,
            journal.sector_bytes(),
            &mut figures::Sealed::default(),
        ) {
            Ok(None) => segment.note_done(),
            Ok(Some(sealing)) => journal.submit(footer_group(segment, sealing, sealed.clone())),
            Err(error) if is_full(&error) => {
                segment.note_done();
                journal.note_full();
            }
            Err(error) if is_out_of_descriptors(&error) => {
                waiting.postponed.push(Job { segment, ..job });
                continue;
            }
            // The folder went with the experiment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => segment.note_done(),
            // Writing out or syncing what was acknowledged failed.
            Err(error) => journal.poison("sealing a segment", &error),
        }
        waiting.to_be_released.push(to_be_released);
    }
}

/// What waits for something else.
struct Waiting {
    /// For a descriptor.
    postponed: Vec<Job>,
    /// For their footers to be in their files: until then their indexes stay in memory.
    to_be_released: Vec<Weak<ClosedSegment>>,
    /// When it is next looked whether they are.
    release_at: Instant,
}

impl Waiting {
    /// The next new job; when none comes for a while, one that was postponed. `None` when no new ones
    /// will come: what is postponed is sealed by the next start.
    fn next_job(&mut self, closed: &Receiver<Job>) -> Option<Job> {
        loop {
            if self.postponed.is_empty() && self.to_be_released.is_empty() {
                return closed.recv().ok();
            }
            let now = Instant::now();
            if now >= self.release_at {
                self.release_at = now + WRITE_OUT_INTERVAL;
                self.release();
            }
            match closed.recv_timeout(WRITE_OUT_INTERVAL) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            if let Some(job) = self.postponed.pop() {
                return Some(job);
            }
        }
    }

    /// Lets the indexes go whose footers are written. Whoever looks at a log does so, too, and an idle log
    /// is looked at by nobody.
    fn release(&mut self) {
        let is_held = |segment: &Weak<ClosedSegment>| {
            segment.upgrade().is_some_and(|segment| !segment.release())
        };
        self.to_be_released.retain(is_held);
    }
}

fn footer_group(segment: Arc<ClosedSegment>, sealing: Sealing, sealed: Arc<Counter>) -> Group {
    Group {
        segment: sealing.file,
        offset: sealing.offset,
        lead: sealing.lead,
        bytes: sealing.bytes,
        entry_count: 0,
        mark: Mark::None,
        // Nobody waits for it.
        if_full: IfFull::Waits,
        done: Box::new(move |result| {
            if result.is_ok() {
                segment.note_done();
                sealed.add(1);
                debug!(segment = segment.header.first_sequence, "sealed");
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::experiment::{Store, StoreOptions};
    use crate::fs::sim::SimMachine;
    use crate::log::listing::SegmentRef;
    use crate::model::{Definition, NewEntry, Slug};

    #[tokio::test]
    async fn an_index_leaves_memory_once_its_footer_is_written_though_nobody_looks() {
        let machine = SimMachine::new(1, 512);
        let options = StoreOptions {
            dir: "/store".into(),
            segment_bytes: 4096,
            free_bytes_min: 0,
            ..StoreOptions::default()
        };
        let store = Store::open(options, machine.host()).unwrap();
        let one = Slug::parse("one").unwrap();
        let definition = Definition {
            open_variants: true,
            ..Definition::default()
        };
        store.define(&one, definition).await.unwrap();
        let view = store.handle(&one).await.unwrap().view;
        for _ in 0..30 {
            let entry = NewEntry {
                variant_key: "A".into(),
                body: format!(r#"{{"variantKey":"A","input":"{}"}}"#, "x".repeat(600)).into(),
                idempotency: None,
            };
            let permit = store.reserve(1000).unwrap();
            store.append(&one, entry, permit).await.unwrap();
        }
        let closed = view
            .segments(0)
            .into_iter()
            .filter_map(|segment| match segment {
                SegmentRef::Closed(closed) => Some(closed),
                SegmentRef::Active(_) => None,
            });
        let closed: Vec<Arc<ClosedSegment>> = closed.collect();
        assert!(closed.len() > 2, "several were closed");
        let deadline = Instant::now() + Duration::from_secs(60);
        while closed.iter().any(|segment| segment.is_held()) {
            assert!(Instant::now() < deadline, "their indexes stay");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        store.shutdown().await;
    }
}
