//! Seals closed segments, one after the other, on a thread of its own: nobody waits for it.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tracing::{debug, warn};

use super::figures;
use crate::fs::{Disk, is_full, is_out_of_descriptors};
use crate::journal::checkpoint::WRITE_OUT_INTERVAL;
use crate::journal::{Group, IfFull, Journal, Mark};
use crate::log::segment_file::Incarnation;
use crate::log::view::{ClosedSegment, Sealing};
use crate::metrics::Counter;

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
            .name("seal".into())
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
    let mut postponed = Vec::new();
    while let Some(job) = next_job(closed, &mut postponed) {
        let segment = job.segment;
        if journal.flush().is_err() {
            continue;
        }
        match segment.make_footer(
            disk,
            &job.incarnation,
            journal.sector_bytes(),
            &figures::section,
        ) {
            Ok(None) => segment.note_done(),
            Ok(Some(sealing)) => journal.submit(footer_group(segment, sealing, sealed.clone())),
            Err(error) if is_full(&error) => {
                segment.note_done();
                journal.note_full();
            }
            Err(error) if is_out_of_descriptors(&error) => postponed.push(Job { segment, ..job }),
            // The folder went with the experiment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => segment.note_done(),
            // Writing out or syncing what was acknowledged failed.
            Err(error) => journal.poison("sealing a segment", &error),
        }
    }
}

/// The next new job; when none comes for a while, one that was postponed. `None` when no new ones
/// will come: what is postponed is sealed by the next start.
fn next_job(closed: &Receiver<Job>, postponed: &mut Vec<Job>) -> Option<Job> {
    if postponed.is_empty() {
        return closed.recv().ok();
    }
    match closed.recv_timeout(WRITE_OUT_INTERVAL) {
        Ok(job) => Some(job),
        Err(RecvTimeoutError::Timeout) => postponed.pop(),
        Err(RecvTimeoutError::Disconnected) => None,
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
