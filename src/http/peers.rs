//! What each peer address does: its connections, and its attempts with a key that is none.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Addresses whose failures are remembered.
const FAILING_MAX: usize = 10_000;
const MINUTE: Duration = Duration::from_secs(60);
/// How often those are forgotten that failed long ago, when there is no room.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// All peer addresses that are known.
#[derive(Default)]
pub struct Peers {
    /// As many as there are connections, at most.
    connected: Mutex<HashMap<IpAddr, usize>>,
    failing: Mutex<Failing>,
}

#[derive(Default)]
struct Failing {
    /// When all attempts of an address will be forgotten, since the process began.
    clear_at: HashMap<IpAddr, Duration>,
    forgotten_at: Duration,
}

/// A connection of a peer; its place is free again when this is dropped.
pub struct Peer {
    peers: Arc<Peers>,
    address: IpAddr,
}

impl Peers {
    /// A place for one more connection of this address, if it has fewer than `connections_max`.
    pub fn enter(self: &Arc<Self>, address: IpAddr, connections_max: usize) -> Option<Peer> {
        let address = network(address);
        let mut connected = lock(&self.connected);
        let count = connected.get(&address).copied().unwrap_or(0);
        if count >= connections_max {
            return None;
        }
        connected.insert(address, count + 1);
        let peers = self.clone();
        Some(Peer { peers, address })
    }

    /// Takes note of an attempt that failed at `now`. If there were `per_minute` of this address
    /// in a minute already, says how long it has to wait.
    pub fn fail(&self, address: IpAddr, now: Duration, per_minute: u32) -> Option<Duration> {
        // Each takes a share of a minute, which comes back as time passes.
        let share = MINUTE.checked_div(per_minute)?;
        let mut failing = lock(&self.failing);
        let failing = &mut *failing;
        let is_known = failing.clear_at.contains_key(&address);
        if !is_known && failing.clear_at.len() >= FAILING_MAX {
            if now >= failing.forgotten_at + FORGET_EVERY {
                failing.forgotten_at = now;
                failing.clear_at.retain(|_, clear_at| *clear_at > now);
            }
            if failing.clear_at.len() >= FAILING_MAX {
                return None;
            }
        }
        let clear_at = failing.clear_at.entry(address).or_default();
        let used = clear_at.saturating_sub(now);
        if used + share > MINUTE {
            return Some(used + share - MINUTE);
        }
        *clear_at = now + used + share;
        None
    }
}

impl Peer {
    /// Its address; of one of IPv6 the network, since a machine has all of that.
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut connected = lock(&self.peers.connected);
        if let Some(count) = connected.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                connected.remove(&self.address);
            }
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address => address,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn places_are_counted_by_address_and_given_back() {
        let peers = Arc::new(Peers::default());
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(address);
        let first = peers.enter(one, 1).unwrap();
        assert!(peers.enter(one, 1).is_none());
        assert!(peers.enter(address("::ffff:192.0.2.1"), 1).is_none());
        let second = peers.enter(other, 1).unwrap();
        drop(first);
        assert!(peers.enter(one, 1).is_some());
        drop(second);
        assert!(lock(&peers.connected).is_empty());
    }

    #[test]
    fn one_machine_has_a_whole_network_of_ipv6() {
        let peers = Arc::new(Peers::default());
        let _first = peers.enter(address("2001:db8::1"), 1).unwrap();
        assert!(peers.enter(address("2001:db8::ffff:2"), 1).is_none());
        assert!(peers.enter(address("2001:db8:0:1::1"), 1).is_some());
    }

    #[test]
    fn failures_are_counted_over_a_minute() {
        let peers = Peers::default();
        let one = address("192.0.2.1");
        let at = Duration::from_secs;
        for _ in 0..3 {
            assert_eq!(peers.fail(one, at(100), 3), None);
        }
        assert_eq!(peers.fail(one, at(100), 3), Some(at(20)));
        assert_eq!(peers.fail(address("192.0.2.2"), at(100), 3), None);
        assert_eq!(peers.fail(one, at(119), 3), Some(at(1)));
        assert_eq!(peers.fail(one, at(120), 3), None);
        assert_eq!(peers.fail(one, at(120), 3), Some(at(20)));
        assert_eq!(peers.fail(one, at(120), 0), None, "no limit");
    }

    #[test]
    fn so_many_addresses_are_remembered_and_no_more() {
        let peers = Peers::default();
        let nth = |n: usize| IpAddr::V6(Ipv6Addr::from_bits((n as u128) << 64));
        let at = Duration::from_secs;
        for n in 0..FAILING_MAX + 10 {
            assert_eq!(peers.fail(nth(n), at(100), 1), None);
        }
        assert_eq!(lock(&peers.failing).clear_at.len(), FAILING_MAX);
        assert!(peers.fail(nth(0), at(101), 1).is_some());
        assert_eq!(peers.fail(nth(FAILING_MAX), at(161), 1), None);
        assert_eq!(
            lock(&peers.failing).clear_at.len(),
            1,
            "the others are clear"
        );
    }
}
