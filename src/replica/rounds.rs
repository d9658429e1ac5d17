//! When a node's shards publish: together, as a journal's group commit is for all experiments.
//!
//! A server that stores many messages at once does so in one step for all of them (one entry of its Raft log, one
//! sync), and their answers let this node place all of them with one sync of its own. What is ready while a round is
//! out waits for its end, and its requests become more while it waits. Nothing waits where nothing is out, and nothing
//! waits for a shard in trouble for longer than [`WAIT_MAX`].

use std::mem::take;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// A shard waits no longer than this for a round to end: an answer of the stream may take a second, or an experiment
/// its time to open. Some times what a round takes on servers at their limit.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// The rounds of one node.
pub struct Rounds {
    state: Mutex<State>,
    /// The last round that has begun.
    begun: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// The last round that has begun.
    begun: u64,
    /// How many of its shards are still out.
    out: usize,
    /// How many wait for the next one.
    waiting: usize,
}

/// A shard's place in a round, until it is dropped.
pub struct Turn<'a> {
    rounds: &'a Rounds,
    round: u64,
}

impl Rounds {
    /// Before the first round.
    pub fn new() -> Self {
        Self {
            state: Mutex::default(),
            begun: watch::Sender::new(0),
        }
    }

    /// Returns when the next round begins; `None` when that takes too long: who gets that goes out alone.
    ///
    /// Cancellation: nobody waits for it any more.
    pub async fn enter(&self) -> Option<Turn<'_>> {
        let turn = self.join();
        let mut begun = self.begun.subscribe();
        let is_begun = begun.wait_for(|begun| *begun >= turn.round);
        let entered = timeout(WAIT_MAX, is_begun).await.is_ok();
        entered.then_some(turn)
    }

    fn join(&self) -> Turn<'_> {
        let mut state = self.state();
        let round = state.begun + 1;
        state.waiting += 1;
        if state.out == 0 {
            self.begin(&mut state);
        }
        Turn {
            rounds: self,
            round,
        }
    }

    fn begin(&self, state: &mut State) {
        state.begun += 1;
        state.out = take(&mut state.waiting);
        self.begun.send_replace(state.begun);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.rounds.state();
        if self.round > state.begun {
            state.waiting -= 1;
            return;
        }
        state.out -= 1;
        if state.out == 0 && state.waiting > 0 {
            self.rounds.begin(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_a_round_is_out_goes_together_when_all_of_it_are_back() {
        let rounds = Rounds::new();
        let first = rounds.enter().now_or_never().flatten();
        assert!(first.is_some(), "nothing is out, so nothing is waited for");
        let mut second = Box::pin(join_all([rounds.enter(), rounds.enter()]));
        assert!(second.as_mut().now_or_never().is_none());
        // Who goes away while it waits holds up nobody.
        assert!(rounds.enter().now_or_never().is_none());
        drop(first);
        let mut second = second.as_mut().now_or_never().expect("both at once");
        let mut third = Box::pin(rounds.enter());
        drop(second.pop());
        assert!(third.as_mut().now_or_never().is_none(), "one is still out");
        drop(second);
        assert!(third.as_mut().now_or_never().flatten().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_shard_in_trouble_for_long() {
        let rounds = Rounds::new();
        let stuck = rounds.enter().await;
        let begun = Instant::now();
        assert!(rounds.enter().await.is_none());
        assert_eq!(begun.elapsed(), WAIT_MAX);
        drop(stuck);
        assert!(rounds.enter().now_or_never().flatten().is_some());
    }
}
