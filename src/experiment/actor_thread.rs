//! The thread on which a store's actors and its journal take turns.
//!
//! While a batch is written and synced, messages gather in the mailboxes; then every actor that has
//! some makes one group of them, and all groups make the next batch. So no actor waits behind the
//! connections, no group waits for a timer, and a batch is as full as the load makes it. What
//! costs more than that (checking JSON, reading) is done by others.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;
use tracing::error;

use crate::journal::Journal;
use crate::journal::local::{LocalJournal, Parts};

/// Threads for what actors ask of the disk.
const BLOCKING_THREADS_MAX: usize = 16;

/// Actors that make their groups before a batch is written.
const ACTORS_IN_A_TURN: u32 = 1024;

/// The thread. When this is dropped, the thread ends, and the actors with it.
pub struct ActorThread {
    actors: Handle,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl ActorThread {
    /// Starts a journal and the thread that drives it.
    pub fn start(parts: Parts) -> io::Result<(Self, Arc<LocalJournal>)> {
        let runtime = Builder::new_current_thread()
            .enable_time()
            // All actors that have messages, and not 61 of them, before the next batch.
            .event_interval(ACTORS_IN_A_TURN)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()?;
        let waiting = Arc::new(Notify::new());
        let wake = waiting.clone();
        let journal = Arc::new(LocalJournal::start(parts, move || wake.notify_one())?);
        let actors = runtime.handle().clone();
        let stop = Arc::new(Notify::new());
        let (driven, stopped) = (journal.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("actors".into())
            .spawn(move || take_turns(&runtime, &driven, &waiting, &stopped))?;
        let thread = Some(thread);
        Ok((
            Self {
                actors,
                stop,
                thread,
            },
            journal,
        ))
    }

    /// Where actors are spawned.
    pub fn actors(&self) -> Handle {
        self.actors.clone()
    }
}

impl Drop for ActorThread {
    fn drop(&mut self) {
        self.stop.notify_one();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            error!("the actors' thread panicked: the next start recovers from the journal");
        }
    }
}

fn take_turns(runtime: &Runtime, journal: &LocalJournal, waiting: &Notify, stopped: &Notify) {
    let _poisons = PoisonOnPanic(journal);
    runtime.block_on(async {
        loop {
            tokio::select! {
                () = waiting.notified() => {}
                () = stopped.notified() => return,
            }
            // On a busy machine whoever is about to send a message goes first: fuller batches.
            std::thread::yield_now();
            // Then all other actors that have messages.
            tokio::task::yield_now().await;
            journal.commit_waiting();
        }
    });
}

struct PoisonOnPanic<'a>(&'a LocalJournal);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What was being written may or may not be in the journal: only a restart can tell.
            let error = io::Error::other("a bug: the actors' thread panicked");
            self.0.poison("the journal", &error);
        }
    }
}
