//! Which nodes live, and which of them is preferred for a shard.
//!
//! Each node says now and then that it lives, and whether it takes requests; who hasn't been heard of for a while
//! is taken for dead. A shard's preferred node is the one that ranks highest for it (rendezvous hashing: Thaler and
//! Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking 6, 1998): all
//! that know of the same nodes prefer the same one, and when a node goes only its shards move.
//!
//! Nothing that must be right depends on it. Nodes that differ write to the same shard, and one of them plans anew.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// Others that are known at a time. Far more than there are: each node places all entries.
const OTHERS_MAX: usize = 256;

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Its run: drawn when it was started, and what it is spoken to by. So whatever is said to a node that has begun
    /// anew is heard by nobody, and so it is where a node's folder was copied and two have the same number.
    pub run: u64,
    /// The node's number, by which it is preferred: the same in each run.
    pub node: u64,
    /// Milliseconds since it was started, by its own clock.
    pub clock_ms: u64,
    /// How it is.
    pub state: State,
}

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It takes requests.
    Takes,
    /// It answers what it has taken, and is better asked for nothing more now.
    Lives,
    /// It is shutting down.
    Goes,
}

/// What one node knows of the others.
#[derive(Debug)]
pub struct Nodes {
    own: u64,
    takes: bool,
    lives_for: Duration,
    /// By their run.
    others: BTreeMap<u64, Other>,
}

#[derive(Debug)]
struct Other {
    node: u64,
    heard_at: Instant,
    clock_ms: u64,
    takes: bool,
}

impl Nodes {
    /// A node with this number knows of nobody else yet. Others live for so long after they were heard of.
    pub fn new(own: u64, lives_for: Duration) -> Self {
        Self {
            own,
            takes: false,
            lives_for,
            others: BTreeMap::new(),
        }
    }

    /// Whether this node takes requests itself.
    pub fn set_takes(&mut self, takes: bool) {
        self.takes = takes;
    }

    /// Another node was heard of.
    pub fn hear(&mut self, hello: &Hello, now: Instant) {
        self.others
            .retain(|_, other| now.duration_since(other.heard_at) < self.lives_for);
        let known = self.others.get(&hello.run);
        // What comes late says nothing new.
        let is_late = known.is_some_and(|known| known.clock_ms > hello.clock_ms);
        if is_late || known.is_none() && self.others.len() >= OTHERS_MAX {
            return;
        }
        let other = Other {
            node: hello.node,
            heard_at: now,
            clock_ms: hello.clock_ms,
            takes: hello.state == State::Takes,
        };
        self.others.insert(hello.run, other);
    }

    /// It isn't reached: nothing more is passed on to it until it is heard of again.
    pub fn miss(&mut self, run: u64) {
        if let Some(other) = self.others.get_mut(&run) {
            other.takes = false;
        }
    }

    /// The run of the node that is preferred for a shard, of those that take requests. None if it is this one, or
    /// there is none.
    pub fn preferred(&self, shard: u16, now: Instant) -> Option<u64> {
        let others = self.others.iter();
        let taking = others.filter(|(_, other)| other.takes && self.is_living(other, now));
        let taking = taking.map(|(run, other)| (other.node, Some(*run)));
        let own = self.takes.then_some((self.own, None));
        preferred(shard, taking.chain(own))?
    }

    /// The clock of a run, if it lives. It is no further than that node's own.
    pub fn clock_of(&self, run: u64, now: Instant) -> Option<u64> {
        let other = self.others.get(&run)?;
        let passed = now.duration_since(other.heard_at).as_millis() as u64;
        let clock_ms = other.clock_ms.saturating_add(passed);
        self.is_living(other, now).then_some(clock_ms)
    }

    fn is_living(&self, other: &Other, now: Instant) -> bool {
        now.duration_since(other.heard_at) < self.lives_for
    }
}

/// The run of that one of these nodes that ranks highest for a shard.
fn preferred<R: Copy + Ord>(shard: u16, nodes: impl Iterator<Item = (u64, R)>) -> Option<R> {
    let ranked = nodes.map(|(node, run)| (rank(node, shard), run));
    ranked.max().map(|(_, run)| run)
}

/// Every node says the same, in every version.
fn rank(node: u64, shard: u16) -> u64 {
    mix(node ^ mix(u64::from(shard)))
}

/// A bijection of which each bit depends on all bits: one step of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVES_FOR: Duration = Duration::from_secs(2);

    /// A node's run is its number and 100.
    fn hello(node: u64, clock_ms: u64, state: State) -> Hello {
        Hello {
            run: node + 100,
            node,
            clock_ms,
            state,
        }
    }

    /// The preferred node of each shard.
    fn all(nodes: &[u64]) -> Vec<u64> {
        let of = |shard| preferred(shard, nodes.iter().map(|node| (*node, *node)));
        (0..4096).map(|shard| of(shard).unwrap()).collect()
    }

    #[test]
    fn the_hash_is_pinned() {
        // The first number that SplitMix64 gives from 0: as published with it.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn shards_spread_over_the_nodes() {
        for nodes in [vec![1, 2], vec![7, 8, 9], vec![1 << 63, 5, 77, u64::MAX, 0]] {
            let preferred = all(&nodes);
            let fair = preferred.len() / nodes.len();
            for node in &nodes {
                let count = preferred.iter().filter(|at| *at == node).count();
                assert!(
                    count.abs_diff(fair) < fair / 8,
                    "{count} of {fair}: {nodes:?}"
                );
            }
        }
    }

    #[test]
    fn only_the_shards_of_the_node_that_goes_move() {
        let (before, after) = (all(&[11, 12, 13, 14]), all(&[11, 12, 14]));
        let mut gets = BTreeMap::new();
        for (before, after) in before.into_iter().zip(after) {
            match before {
                13 => *gets.entry(after).or_insert(0) += 1,
                before => assert_eq!(before, after),
            }
        }
        // And the others share them.
        assert!(gets.values().all(|count| *count > 250), "{gets:?}");
    }

    /// How many of 64 shards each run has; none is this node.
    fn shares(nodes: &Nodes) -> BTreeMap<Option<u64>, usize> {
        let mut shares = BTreeMap::new();
        for shard in 0..64 {
            let run = nodes.preferred(shard, Instant::now());
            *shares.entry(run).or_default() += 1;
        }
        shares
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_heard_of_is_dead() {
        let mut nodes = Nodes::new(1, LIVES_FOR);
        nodes.set_takes(true);
        assert_eq!(shares(&nodes)[&None], 64);
        nodes.hear(&hello(2, 0, State::Takes), Instant::now());
        let both = shares(&nodes);
        assert!(both[&None] > 20 && both[&Some(102)] > 20, "{both:?}");
        assert_eq!(nodes.clock_of(102, Instant::now()), Some(0));
        tokio::time::advance(LIVES_FOR - Duration::from_millis(1)).await;
        assert_eq!(shares(&nodes), both);
        assert_eq!(nodes.clock_of(102, Instant::now()), Some(1999));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(shares(&nodes)[&None], 64);
        assert_eq!(nodes.clock_of(102, Instant::now()), None);
        // In another run it gets the same ones.
        let again = Hello {
            run: 7,
            ..hello(2, 0, State::Takes)
        };
        nodes.hear(&again, Instant::now());
        assert_eq!(shares(&nodes)[&Some(7)], both[&Some(102)]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_lives_and_is_not_preferred() {
        let now = Instant::now();
        for state in [State::Lives, State::Goes] {
            let mut nodes = Nodes::new(1, LIVES_FOR);
            nodes.hear(&hello(2, 10, State::Takes), now);
            // This one takes nothing yet: all is the other's.
            assert_eq!(shares(&nodes)[&Some(102)], 64);
            nodes.hear(&hello(2, 20, state), now);
            assert_eq!(shares(&nodes)[&None], 64);
            assert!(nodes.clock_of(102, now).is_some());
            // What it said before that comes too late.
            nodes.hear(&hello(2, 10, State::Takes), now);
            assert_eq!(shares(&nodes)[&None], 64);
            nodes.hear(&hello(2, 30, State::Takes), now);
            assert_eq!(shares(&nodes)[&Some(102)], 64);
            nodes.miss(102);
            assert_eq!(shares(&nodes)[&None], 64);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_are_known() {
        let now = Instant::now();
        let mut nodes = Nodes::new(1, LIVES_FOR);
        for node in 0..10_000 {
            nodes.hear(&hello(node, 0, State::Takes), now);
        }
        assert_eq!(nodes.others.len(), OTHERS_MAX);
    }
}
