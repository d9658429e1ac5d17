//! What the test takes in hand instead of the machine's schedulers.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::experiment::sealer::SEALING_THREAD;
use crate::journal::CommitError;
use crate::journal::checkpoint;
use crate::model::{Idempotency, IdempotencyKey, Variant};

/// A runtime that polls one task at a time, whose clock stands still, and whose blocking work is
/// done in order.
pub fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .event_interval(1)
        .max_blocking_threads(1)
        .build()
        .unwrap()
}

/// A journal whose steps the test takes.
pub struct Stepped {
    pub shared: Arc<checkpoint::Shared>,
    pub sector_bytes: usize,
    pub waiting: Mutex<Vec<Group>>,
    pub is_ending: AtomicBool,
    pub is_closed: AtomicBool,
}

impl Stepped {
    /// Keeps groups that wait for a lap in front of all others; refuses them where a journal that ends
    /// is stuck.
    pub fn put_back(&self, mut groups: Vec<Group>) {
        let mut waiting = self.waiting.lock().unwrap();
        groups.append(&mut waiting);
        let is_stuck = self.shared.health() != JournalHealth::Ready;
        if !groups.is_empty() && self.is_ending.load(Ordering::Acquire) && is_stuck {
            self.is_closed.store(true, Ordering::Release);
            drop(waiting);
            for group in groups {
                (group.done)(Err(CommitError::Closed));
            }
            return;
        }
        *waiting = groups;
    }
}

impl Journal for Stepped {
    fn submit(&self, group: Group) {
        if self.is_closed.load(Ordering::Acquire) {
            return (group.done)(Err(CommitError::Refused));
        }
        self.waiting.lock().unwrap().push(group);
    }

    fn flush(&self) -> Result<(), CommitError> {
        // The sealing thread comes when it likes, with a footer that nobody drew: it leaves a segment that was
        // ended for want of room as it is.
        if std::thread::current().name() == Some(SEALING_THREAD) {
            return Err(CommitError::Refused);
        }
        self.shared.flush().map_err(|_| CommitError::Failed)
    }

    fn poison(&self, what: &str, error: &io::Error) {
        self.shared.poison(what, error);
    }

    fn note_full(&self) {
        self.shared.note_full();
    }

    fn health(&self) -> JournalHealth {
        self.shared.health()
    }

    fn sector_bytes(&self) -> usize {
        self.sector_bytes
    }

    fn begin_shutdown(&self) {
        self.is_ending.store(true, Ordering::Release);
    }

    fn shutdown(&self) {
        self.is_closed.store(true, Ordering::Release);
    }
}

/// What one client asked for.
pub struct Client {
    pub future: Pin<Box<dyn Future<Output = Answer>>>,
    pub woken: Arc<Flag>,
    /// Of an append: where to, and the bodies.
    pub append: Option<(usize, Vec<Bytes>)>,
}

/// What it is told.
pub enum Answer {
    Append(Result<Vec<LogId>, AppendError>),
    Other,
}

/// Whether its future was woken since it was polled.
pub struct Flag(pub AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// Holds the runtime's one blocking thread until it is dropped.
#[derive(Default)]
pub struct Gate(#[allow(dead_code)] Option<mpsc::Sender<()>>);

impl Gate {
    /// Opens `before`; returns when everything that waited behind it is done.
    pub fn close(runtime: &Runtime, before: Self) -> Self {
        drop(before);
        let (gate, opened) = mpsc::channel::<()>();
        let (reached, reach) = mpsc::channel();
        runtime.spawn_blocking(move || {
            let _waiting = reached.send(());
            // An error: it was dropped.
            let _opened = opened.recv();
        });
        reach.recv().unwrap();
        Self(Some(gate))
    }
}

/// Polls a client's future, within the runtime.
pub fn poll(runtime: &Runtime, client: &mut Client) -> Poll<Answer> {
    client.woken.0.store(false, Ordering::Release);
    let waker = Waker::from(client.woken.clone());
    let _entered = runtime.enter();
    client
        .future
        .as_mut()
        .poll(&mut Context::from_waker(&waker))
}

/// One of a few keys, for this body.
pub fn idempotency(key: u8, body: &[u8]) -> Box<Idempotency> {
    let key = [b'a' + key];
    let key = IdempotencyKey::parse(&key).unwrap();
    Box::new(Idempotency::new(key, body))
}

/// Of an experiment with one variant.
pub fn definition() -> Definition {
    let variant = Variant {
        key: "A".into(),
        weight: None,
        control: false,
    };
    Definition {
        variants: vec![variant],
        ..Definition::default()
    }
}
