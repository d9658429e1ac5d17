//! Writers that send entries to all nodes and never give one up: whoever doesn't answer well is left for the
//! next node, with the same idempotency key. Each fourth entry has none, and is sent once: nobody could tell a second
//! time from the first.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::demo::KEY;
use crate::server::{Client, PATIENCE};

/// Who has no answer by then asks the next node. One that is stopped says nothing.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);
const WRITERS: usize = 6;

/// An entry that was acknowledged.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    pub slug: String,
    pub id: String,
}

#[derive(Default)]
struct State {
    ends: AtomicBool,
    next: AtomicU64,
    acknowledged: Mutex<(BTreeMap<u64, Acknowledged>, Option<Instant>, Duration)>,
    more: Condvar,
}

/// The load.
pub struct Load {
    state: Arc<State>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts writers that send to these experiments, by these nodes. Entries have numbers from `first` on.
    pub fn start(nodes: &[SocketAddr], slugs: &[&str], first: u64) -> Self {
        let state = Arc::new(State {
            next: first.into(),
            ..State::default()
        });
        let writers = (0..WRITERS).map(|writer| {
            let state = state.clone();
            let nodes = nodes.to_vec();
            let slugs: Vec<String> = slugs.iter().map(|slug| (*slug).to_owned()).collect();
            std::thread::spawn(move || state.write(&nodes, &slugs, writer))
        });
        let writers = writers.collect();
        Self { state, writers }
    }

    /// Waits until so many more entries are acknowledged.
    pub fn wait_for(&self, more: usize) {
        let acknowledged = self.state.acknowledged.lock().unwrap();
        let wanted = acknowledged.0.len() + more;
        let waited = self
            .state
            .more
            .wait_timeout_while(acknowledged, PATIENCE, |(all, ..)| all.len() < wanted);
        let (acknowledged, timed_out) = waited.unwrap();
        assert!(
            !timed_out.timed_out(),
            "{} entries are acknowledged, and no more come",
            acknowledged.0.len()
        );
    }

    /// The longest time without an acknowledgement since this was last asked.
    pub fn longest_pause(&self) -> Duration {
        std::mem::take(&mut self.state.acknowledged.lock().unwrap().2)
    }

    /// Ends when each entry that was begun is acknowledged, or had no key; gives them back by their number.
    pub fn end(self) -> BTreeMap<u64, Acknowledged> {
        self.state.ends.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.join().expect("a writer");
        }
        std::mem::take(&mut self.state.acknowledged.lock().unwrap().0)
    }
}

impl State {
    fn write(&self, nodes: &[SocketAddr], slugs: &[String], writer: usize) {
        let mut at = writer;
        let mut client = None;
        while !self.ends.load(Ordering::Relaxed) {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let slug = &slugs[n as usize % slugs.len()];
            let begun = Instant::now();
            let id = loop {
                assert!(begun.elapsed() < PATIENCE * 2, "entry {n} is never taken");
                let id = send(&mut client, nodes[at % nodes.len()], slug, n);
                if id.is_none() {
                    (client, at) = (None, at + 1);
                }
                if id.is_some() || !has_key(n) {
                    break id;
                }
            };
            let Some(id) = id else {
                continue;
            };
            // All nodes get some.
            if n.is_multiple_of(10) {
                (client, at) = (None, at + 1);
            }
            let mut acknowledged = self.acknowledged.lock().unwrap();
            let (slug, now) = (slug.clone(), Instant::now());
            acknowledged.0.insert(n, Acknowledged { slug, id });
            let before = acknowledged.1.replace(now).unwrap_or(now);
            acknowledged.2 = acknowledged.2.max(now - before);
            self.more.notify_all();
        }
    }
}

fn has_key(n: u64) -> bool {
    !n.is_multiple_of(4)
}

/// The id that an entry gets, if the node acknowledges it.
fn send(client: &mut Option<Client>, node: SocketAddr, slug: &str, n: u64) -> Option<String> {
    if client.is_none() {
        *client = Client::connect_for(node, ANSWER_WITHIN).ok();
    }
    let (path, key) = (format!("/experiment/{slug}/log"), format!("n-{n}"));
    let headers = [
        ("x-api-key", KEY),
        ("content-type", "application/json"),
        ("idempotency-key", &key),
    ];
    let headers = &headers[..if has_key(n) { 3 } else { 2 }];
    let body = format!(r#"{{"variantKey":"A","input":{{"n":{n}}}}}"#);
    let answer = client
        .as_mut()?
        .send("POST", &path, headers, body.as_bytes());
    let answer = answer.ok().filter(|answer| answer.status == 200)?;
    Some(answer.json()["logId"].as_str()?.to_owned())
}
