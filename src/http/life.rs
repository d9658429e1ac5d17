//! The lives of connections: which of them are quiet, and how all of them end.
//!
//! One sweep looks at all connections now and then, instead of a timer for each: a connection
//! that is polled for every request pays for one load.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};

use hyper_util::server::graceful::GracefulConnection;

const FINISHES: u8 = 1;
const ENDS: u8 = 2;

/// All connections that are open.
#[derive(Default)]
pub struct Lives {
    open: Mutex<HashMap<u64, Arc<Life>>>,
    count: AtomicU64,
}

/// How many connections a sweep ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Those that never had a request.
    pub without_request: u64,
    /// Those that had none for long.
    pub quiet: u64,
}

/// What a connection does, as far as it must be known to end it.
#[derive(Default)]
pub struct Life {
    begun: AtomicU64,
    ended: AtomicU64,
    /// How many requests had begun at the last sweep, if none was worked on then.
    quiet_at: AtomicU64,
    /// At how many sweeps in a row it was quiet, and had been at the one before.
    quiet_sweeps: AtomicU64,
    verdict: AtomicU8,
    /// Of the connection's own task, which stays the same.
    waker: OnceLock<Waker>,
}

/// A request that is worked on.
pub struct Working(Arc<Life>);

/// Shows that a connection makes progress, also when no request is worked on any more.
pub struct Pulse(Arc<Life>);

/// [`Life::quiet_at`] of a connection that wasn't quiet.
const NOT_QUIET: u64 = u64::MAX;

impl Lives {
    /// Leads a connection to its end; on the way it may be told to finish or to end. It counts as
    /// open from this call on.
    pub fn lead<C: GracefulConnection>(
        self: &Arc<Self>,
        life: Arc<Life>,
        connection: C,
    ) -> impl Future<Output = Result<(), C::Error>> + use<C> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        self.open().insert(number, life.clone());
        let leaves = Leaves(self.clone(), number);
        async move {
            let _leaves = leaves;
            let mut connection = pin!(connection);
            let mut finishes = false;
            poll_fn(|context| {
                life.waker.get_or_init(|| context.waker().clone());
                match life.verdict.load(Ordering::Acquire) {
                    ENDS => return Poll::Ready(Ok(())),
                    FINISHES if !finishes => {
                        finishes = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    _ => {}
                }
                connection.as_mut().poll(context)
            })
            .await
        }
    }

    /// Ends the connections that never had a request and are there for the second time, and those
    /// that have been quiet for so many times between two sweeps.
    pub fn sweep(&self, quiet_max: u128) -> Ended {
        let mut ended = Ended::default();
        for life in self.open().values() {
            let quiet = u128::from(life.look());
            let is_new = life.begun.load(Ordering::Relaxed) == 0;
            if quiet < if is_new { 1 } else { quiet_max.max(1) } {
                continue;
            }
            life.judge(ENDS);
            match is_new {
                true => ended.without_request += 1,
                false => ended.quiet += 1,
            }
        }
        ended
    }

    /// Has every connection end when its requests are answered.
    pub fn finish(&self) {
        for life in self.open().values() {
            life.judge(FINISHES);
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Life>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Leaves(Arc<Lives>, u64);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.open().remove(&self.1);
    }
}

impl Life {
    /// The life of a connection that has just been accepted.
    pub fn new() -> Arc<Self> {
        let quiet_at = AtomicU64::new(NOT_QUIET);
        Arc::new(Self {
            quiet_at,
            ..Self::default()
        })
    }

    /// Takes note that a request has begun.
    pub fn begin(self: &Arc<Self>) -> Working {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Working(self.clone())
    }

    fn look(&self) -> u64 {
        match self.is_quiet_again() {
            true => 1 + self.quiet_sweeps.fetch_add(1, Ordering::Relaxed),
            false => {
                self.quiet_sweeps.store(0, Ordering::Relaxed);
                0
            }
        }
    }

    fn is_quiet_again(&self) -> bool {
        let begun = self.begun.load(Ordering::Relaxed);
        let is_quiet = self.ended.load(Ordering::Relaxed) == begun;
        let now = if is_quiet { begun } else { NOT_QUIET };
        let before = self.quiet_at.swap(now, Ordering::Relaxed);
        is_quiet && before == begun
    }

    fn judge(&self, verdict: u8) {
        self.verdict.fetch_max(verdict, Ordering::AcqRel);
        // Before its first poll it has no waker; the first poll looks.
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

impl Working {
    /// For an answer that is still being sent when the work is done.
    pub fn pulse(&self) -> Pulse {
        Pulse(self.0.clone())
    }
}

impl Pulse {
    /// It has: it isn't quiet until the sweep after the next one.
    pub fn beat(&self) {
        drop(self.0.begin());
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::*;

    #[test]
    fn a_connection_is_quiet_only_while_nothing_is_worked_on() {
        let life = Life::new();
        let working = life.begin();
        assert!(!life.is_quiet_again() && !life.is_quiet_again());
        drop(working);
        assert!(!life.is_quiet_again(), "it may have ended just now");
        assert!(life.is_quiet_again());
    }

    #[test]
    fn a_connection_that_had_a_request_may_be_quiet_for_longer() {
        let lives = Lives::default();
        let life = Life::new();
        lives.open().insert(0, life.clone());
        drop(life.begin());
        for _ in 0..3 {
            assert_eq!(lives.sweep(3), Ended::default());
        }
        drop(life.begin());
        for _ in 0..3 {
            assert_eq!(lives.sweep(3), Ended::default());
        }
        assert_eq!(lives.sweep(3).quiet, 1);
    }

    #[test]
    fn a_stream_is_quiet_when_nobody_takes_what_it_sends() {
        let life = Life::new();
        let pulse = life.begin().pulse();
        for _ in 0..3 {
            pulse.beat();
            assert!(!life.is_quiet_again());
        }
        assert!(life.is_quiet_again());
    }

    #[test]
    fn a_new_connection_and_one_with_a_request_now_and_then_are_kept() {
        let life = Life::new();
        assert!(!life.is_quiet_again(), "just accepted");
        for _ in 0..3 {
            drop(life.begin());
            assert!(!life.is_quiet_again());
        }
        assert!(life.is_quiet_again());
    }

    /// A connection that serves nothing yet, and the client's end of it.
    fn connection(lives: &Arc<Lives>) -> (tokio::task::JoinHandle<()>, tokio::io::DuplexStream) {
        let (client, server) = tokio::io::duplex(1024);
        let service = hyper::service::service_fn(|_| async {
            Ok::<_, std::convert::Infallible>(hyper::Response::new(String::new()))
        });
        let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection(TokioIo::new(server), service);
        let led = lives.lead(Life::new(), connection.into_owned());
        let task = tokio::spawn(async move {
            let _either_way = led.await;
        });
        (task, client)
    }

    #[tokio::test]
    async fn the_second_quiet_sweep_ends_a_connection_and_it_is_forgotten() {
        let lives = Arc::new(Lives::default());
        let (task, _client) = connection(&lives);
        tokio::task::yield_now().await;
        assert_eq!(lives.sweep(5), Ended::default());
        tokio::task::yield_now().await;
        assert!(!task.is_finished() && lives.open().len() == 1);
        assert_eq!(lives.sweep(5).without_request, 1);
        task.await.unwrap();
        assert!(lives.open().is_empty());
    }

    #[tokio::test]
    async fn all_finish_also_those_that_were_never_polled() {
        let lives = Arc::new(Lives::default());
        let (polled, _client) = connection(&lives);
        tokio::task::yield_now().await;
        let (new, _other) = connection(&lives);
        lives.finish();
        polled.await.unwrap();
        new.await.unwrap();
        assert!(lives.open().is_empty());
    }
}
