//! Seals closed segments, one after the other, on a thread of its own: nobody waits for it.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tracing::{debug, warn};

use crate::fs::Disk;
use crate::journal::checkpoint::is_full;
use crate::journal::{Group, Journal, Mark};
use crate::log::view::{ClosedSegment, Sealing};

/// Takes closed segments to be sealed.
pub struct Sealer {
    closed: Mutex<Option<Sender<Arc<ClosedSegment>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Sealer {
    /// Starts the thread.
    pub fn start(disk: Arc<dyn Disk>, journal: Arc<dyn Journal>) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new()
            .name("seal".into())
            .spawn(move || run(&disk, &*journal, &receiver))?;
        Ok(Self {
            closed: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Has `segment` sealed. The next segment's header must be durable: it says where this one
    /// ends, whatever becomes of the footer.
    pub fn seal(&self, segment: Arc<ClosedSegment>) {
        let sender = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*sender {
            // When the thread is gone, the next start seals.
            let _gone = sender.send(segment);
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

fn run(disk: &Arc<dyn Disk>, journal: &dyn Journal, closed: &Receiver<Arc<ClosedSegment>>) {
    while let Ok(segment) = closed.recv() {
        if journal.flush().is_err() {
            continue;
        }
        match segment.make_footer(disk, journal.sector_bytes()) {
            Ok(None) => {}
            Ok(Some(sealing)) => journal.submit(footer_group(segment, sealing)),
            Err(error) if is_full(&error) => journal.note_full(),
            // Writing out or syncing what was acknowledged failed.
            Err(error) => journal.poison("sealing a segment", &error),
        }
    }
}

fn footer_group(segment: Arc<ClosedSegment>, sealing: Sealing) -> Group {
    Group {
        segment: sealing.file,
        offset: sealing.offset,
        lead_len: sealing.lead_len,
        bytes: sealing.bytes,
        mark: Mark::None,
        done: Box::new(move |result| {
            if result.is_ok() {
                segment.note_sealed();
                debug!(segment = segment.header.first_sequence, "sealed");
            }
        }),
    }
}
