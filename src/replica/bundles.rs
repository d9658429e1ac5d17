//! What this node passes on: requests that wait for another node, and bundles of them that were sent and aren't
//! answered yet.
//!
//! While a node has some bundles that it hasn't begun to answer, what comes for it waits and makes the next one: so
//! the fuller the load, the fewer the bundles.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::message::entries_len_max;
use super::nodes::Nodes;
use super::words::{Answers, Asked, BUNDLE_LEN, Bundle, Outcome};
use crate::experiment::BytePermit;
use crate::experiment::replicated::Entries;
use crate::model::Slug;

/// Bundles to one node that it hasn't begun to answer.
const UNANSWERED_MAX: usize = 4;
/// Requests in a bundle.
const ASKED_MAX: usize = 512;
/// Bytes of a bundle. A request that has more goes alone.
const BUNDLE_BYTES_MAX: usize = 256 << 10;
/// Requests that wait for one node.
const WAITING_MAX: usize = 8192;

/// A request that is to be passed on.
pub struct Ask {
    /// To which node's run.
    pub to: u64,
    /// The experiment.
    pub slug: Slug,
    /// What is to be appended.
    pub entries: Entries,
    /// Their share of the budget, held as long as they are.
    pub permit: Arc<BytePermit>,
    /// Until when the answer is waited for.
    pub until: Instant,
    /// Where it goes.
    pub reply: oneshot::Sender<Outcome>,
}

/// All of them.
pub struct Bundles {
    own: u64,
    next_number: u64,
    bytes_max: usize,
    lanes: BTreeMap<u64, Lane>,
    sent: BTreeMap<u64, Sent>,
}

/// What goes to one node.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<Ask>,
    unanswered: usize,
}

/// A bundle that was sent.
struct Sent {
    to: u64,
    at: Instant,
    is_unanswered: bool,
    replies: Vec<Option<oneshot::Sender<Outcome>>>,
}

impl Bundles {
    /// None yet of this run, whose bundles have as many bytes at most.
    pub fn new(own: u64, bytes_max: usize) -> Self {
        Self {
            own,
            next_number: 0,
            bytes_max,
            lanes: BTreeMap::new(),
            sent: BTreeMap::new(),
        }
    }

    /// Takes a request.
    pub fn take(&mut self, ask: Ask) {
        let bytes = BUNDLE_LEN + entries_len_max(ask.entries.iter());
        let lane = self.lanes.entry(ask.to).or_default();
        match lane.waiting.len() < WAITING_MAX && bytes <= self.bytes_max {
            true => lane.waiting.push_back(ask),
            false => tell(ask.reply, Outcome::NotDone),
        }
    }

    /// The next bundle that may be sent, and to whom. Requests to nodes that don't live are given back.
    pub fn next(&mut self, nodes: &Nodes, now: Instant) -> Option<(u64, Bundle)> {
        let (bytes_max, number) = (self.bytes_max.min(BUNDLE_BYTES_MAX), self.next_number);
        self.lanes
            .retain(|_, lane| !lane.waiting.is_empty() || lane.unanswered > 0);
        for (to, lane) in &mut self.lanes {
            let Some(clock_ms) = nodes.clock_of(*to, now) else {
                for ask in lane.waiting.drain(..) {
                    tell(ask.reply, Outcome::NotDone);
                }
                continue;
            };
            if lane.unanswered >= UNANSWERED_MAX {
                continue;
            }
            let (asked, replies) = lane.take(bytes_max, now, clock_ms);
            if asked.is_empty() {
                continue;
            }
            lane.unanswered += 1;
            self.next_number += 1;
            let sent = Sent {
                to: *to,
                at: now,
                is_unanswered: true,
                replies,
            };
            self.sent.insert(number, sent);
            let bundle = Bundle {
                from: self.own,
                number,
                asked,
            };
            return Some((*to, bundle));
        }
        None
    }

    /// Some requests of a bundle are answered.
    pub fn answered(&mut self, answers: Answers) {
        let Some(sent) = self.sent.get_mut(&answers.number) else {
            return;
        };
        if sent.to != answers.from {
            return;
        }
        sent.begin(&mut self.lanes);
        for (at, outcome) in answers.outcomes {
            let reply = sent.replies.get_mut(at as usize).and_then(Option::take);
            if let Some(reply) = reply {
                tell(reply, outcome);
            }
        }
        if sent.replies.iter().all(Option::is_none) {
            self.sent.remove(&answers.number);
        }
    }

    /// A bundle was heard by nobody. Says to whom it was sent.
    pub fn unheard(&mut self, number: u64) -> Option<u64> {
        let sent = self.remove(number)?;
        let to = sent.to;
        sent.answer(&Outcome::NotDone);
        Some(to)
    }

    /// Gives up bundles to nodes that don't live any more, and those that nobody waits for. How long a bundle may
    /// hold up others without an answer is `patience`: it may be lost.
    pub fn sweep(&mut self, nodes: &Nodes, now: Instant, patience: Duration) {
        let mut lost = Vec::new();
        for (number, sent) in &mut self.sent {
            let mut left = sent.replies.iter().flatten();
            let is_waited_for = left.any(|reply| !reply.is_closed());
            if nodes.clock_of(sent.to, now).is_none() || !is_waited_for {
                lost.push(*number);
            } else if now.duration_since(sent.at) >= patience {
                sent.begin(&mut self.lanes);
            }
        }
        for number in lost {
            if let Some(sent) = self.remove(number) {
                sent.answer(&Outcome::Unknown);
            }
        }
        for lane in self.lanes.values_mut() {
            lane.waiting.retain(|ask| !ask.reply.is_closed());
        }
    }

    /// Gives back what was not sent.
    pub fn give_back(&mut self) {
        for (_, lane) in std::mem::take(&mut self.lanes) {
            for ask in lane.waiting {
                tell(ask.reply, Outcome::NotDone);
            }
        }
    }

    fn remove(&mut self, number: u64) -> Option<Sent> {
        let mut sent = self.sent.remove(&number)?;
        sent.begin(&mut self.lanes);
        Some(sent)
    }
}

impl Lane {
    /// As many requests as make one bundle. Those that are too late are given back.
    fn take(
        &mut self,
        bytes_max: usize,
        now: Instant,
        clock_ms: u64,
    ) -> (Vec<Asked>, Vec<Option<oneshot::Sender<Outcome>>>) {
        let (mut asked, mut replies) = (Vec::new(), Vec::new());
        let mut bytes = BUNDLE_LEN;
        while asked.len() < ASKED_MAX
            && let Some(next) = self.waiting.front()
        {
            bytes += entries_len_max(next.entries.iter());
            if bytes > bytes_max && !asked.is_empty() {
                break;
            }
            let Some(ask) = self.waiting.pop_front() else {
                break;
            };
            let left = ask.until.saturating_duration_since(now).as_millis() as u64;
            if left == 0 || ask.reply.is_closed() {
                tell(ask.reply, Outcome::NotDone);
                continue;
            }
            asked.push(Asked {
                until_ms: clock_ms.saturating_add(left),
                slug: ask.slug,
                entries: ask.entries,
            });
            replies.push(Some(ask.reply));
        }
        (asked, replies)
    }
}

impl Sent {
    /// It holds up no others any more.
    fn begin(&mut self, lanes: &mut BTreeMap<u64, Lane>) {
        if std::mem::take(&mut self.is_unanswered)
            && let Some(lane) = lanes.get_mut(&self.to)
        {
            lane.unanswered = lane.unanswered.saturating_sub(1);
        }
    }

    fn answer(self, outcome: &Outcome) {
        for reply in self.replies.into_iter().flatten() {
            tell(reply, outcome.clone());
        }
    }
}

fn tell(reply: oneshot::Sender<Outcome>, outcome: Outcome) {
    // Whoever has gone needs no answer.
    let _gone = reply.send(outcome);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::oneshot::Receiver;

    use super::*;
    use crate::experiment::Appended;
    use crate::experiment::budget::Budget;
    use crate::model::NewEntry;
    use crate::replica::nodes::{Hello, State};

    const OTHER: u64 = 9;

    struct Bench {
        bundles: Bundles,
        nodes: Nodes,
        permit: Arc<BytePermit>,
    }

    impl Bench {
        fn new() -> Self {
            let mut nodes = Nodes::new(1, Duration::from_secs(2));
            nodes.set_takes(true);
            let mut bench = Self {
                bundles: Bundles::new(5, 1 << 20),
                permit: Arc::new(Budget::new(0).none()),
                nodes,
            };
            bench.hear(1000);
            bench
        }

        fn hear(&mut self, clock_ms: u64) {
            let hello = Hello {
                run: OTHER,
                node: 2,
                clock_ms,
                state: State::Takes,
            };
            self.nodes.hear(&hello, Instant::now());
        }

        fn ask(&mut self, body_len: usize) -> Receiver<Outcome> {
            let (reply, answer) = oneshot::channel();
            let entry = NewEntry {
                variant_key: "A".into(),
                body: Bytes::from(vec![b' '; body_len]),
                idempotency: None,
            };
            self.bundles.take(Ask {
                to: OTHER,
                slug: Slug::parse("search").unwrap(),
                entries: vec![entry].into(),
                permit: self.permit.clone(),
                until: Instant::now() + Duration::from_secs(3),
                reply,
            });
            answer
        }

        fn next(&mut self) -> Option<Bundle> {
            let next = self.bundles.next(&self.nodes, Instant::now());
            next.map(|(_, bundle)| bundle)
        }

        fn sweep(&mut self) {
            let patience = Duration::from_millis(500);
            self.bundles.sweep(&self.nodes, Instant::now(), patience);
        }
    }

    fn answers(number: u64, outcomes: Vec<(u32, Outcome)>) -> Answers {
        Answers {
            from: OTHER,
            number,
            outcomes,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_goes_together_and_each_is_answered_by_itself() {
        let mut bench = Bench::new();
        let mut asked: Vec<_> = (0..3).map(|_| bench.ask(10)).collect();
        tokio::time::advance(Duration::from_millis(250)).await;
        let bundle = bench.next().unwrap();
        assert_eq!(bundle.asked.len(), 3);
        // By the other's clock, with what is left of the time.
        assert!(bundle.asked.iter().all(|asked| asked.until_ms == 4000));
        assert!(bench.next().is_none());
        let done = Outcome::Done(Appended {
            ids: Vec::new(),
            repeated: 0,
        });
        let stranger = Answers {
            from: 77,
            ..answers(bundle.number, vec![(0, done.clone())])
        };
        bench.bundles.answered(stranger);
        let said = vec![(1, done.clone()), (7, done.clone())];
        bench.bundles.answered(answers(bundle.number, said));
        assert_eq!(asked[1].try_recv(), Ok(done.clone()));
        assert!(asked[0].try_recv().is_err() && asked[2].try_recv().is_err());
        let said = vec![(0, Outcome::NotDone), (2, done.clone())];
        bench.bundles.answered(answers(bundle.number, said));
        assert_eq!(asked[0].try_recv(), Ok(Outcome::NotDone));
        assert_eq!(asked[2].try_recv(), Ok(done));
        assert!(bench.bundles.sent.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn bundles_have_a_size_and_few_are_on_their_way() {
        let mut bench = Bench::new();
        let _large: Vec<_> = (0..5).map(|_| bench.ask(100 << 10)).collect();
        assert_eq!(bench.next().unwrap().asked.len(), 2);
        assert_eq!(bench.next().unwrap().asked.len(), 2);
        assert_eq!(bench.next().unwrap().asked.len(), 1);
        let alone = bench.ask(600 << 10);
        let last = bench.next().unwrap();
        assert_eq!(last.asked.len(), 1);
        drop(alone);
        assert_eq!(bench.ask(2 << 20).try_recv(), Ok(Outcome::NotDone));
        // Four are on their way: what comes waits.
        let _many: Vec<_> = (0..600).map(|_| bench.ask(1)).collect();
        assert!(bench.next().is_none());
        bench.bundles.answered(answers(last.number, vec![]));
        assert_eq!(bench.next().unwrap().asked.len(), ASKED_MAX);
        assert!(bench.next().is_none());
        // Those that aren't answered hold up the others for a while only.
        tokio::time::advance(Duration::from_millis(500)).await;
        bench.sweep();
        assert_eq!(bench.next().unwrap().asked.len(), 600 - ASKED_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_heard_it_means_that_it_is_not_done() {
        let mut bench = Bench::new();
        let mut asked = bench.ask(10);
        let number = bench.next().unwrap().number;
        assert_eq!(bench.bundles.unheard(number), Some(OTHER));
        assert_eq!(asked.try_recv(), Ok(Outcome::NotDone));
        assert_eq!(bench.bundles.unheard(number), None);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_knows_what_a_dead_node_has_done() {
        let mut bench = Bench::new();
        let mut sent = bench.ask(10);
        bench.next().unwrap();
        tokio::time::advance(Duration::from_millis(1999)).await;
        bench.sweep();
        assert!(sent.try_recv().is_err());
        let mut waits = bench.ask(10);
        tokio::time::advance(Duration::from_millis(1)).await;
        bench.sweep();
        assert_eq!(sent.try_recv(), Ok(Outcome::Unknown));
        // What was not sent certainly isn't done.
        assert!(bench.next().is_none());
        assert_eq!(waits.try_recv(), Ok(Outcome::NotDone));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_late_is_not_sent() {
        let mut bench = Bench::new();
        let (mut late, gone) = (bench.ask(10), bench.ask(10));
        drop(gone);
        tokio::time::advance(Duration::from_secs(3)).await;
        bench.hear(4000);
        assert!(bench.next().is_none());
        assert_eq!(late.try_recv(), Ok(Outcome::NotDone));
    }
}
