//! What nodes say to each other, and what becomes of it on its way, as a seed decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::sleep;

use super::stream::Cluster;
use crate::replica::post::{Heard, NotSaid, Post, To};

/// Where what is said to each run goes.
pub struct Posts {
    random: fastrand::Rng,
    /// With the node that it is a run of.
    boxes: BTreeMap<u64, (usize, UnboundedSender<Heard>)>,
    /// Bundles that were said.
    pub bundles: u64,
    /// Bundles and answers that were lost, came late or twice, or were heard by nobody.
    pub astray: u64,
}

/// As one run of a node speaks and hears.
#[derive(Clone)]
pub struct NodePost {
    cluster: Cluster,
    node: usize,
    run: u64,
    heard: Arc<Mutex<UnboundedReceiver<Heard>>>,
}

impl Posts {
    pub fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            boxes: BTreeMap::new(),
            bundles: 0,
            astray: 0,
        }
    }

    fn delay(&mut self, is_calm: bool) -> Duration {
        match is_calm {
            true => Duration::from_millis(1),
            false => Duration::from_micros(self.random.u64(100..8_000)),
        }
    }

    /// When it arrives, as often as it does.
    fn arrivals(&mut self, is_calm: bool) -> Vec<Duration> {
        let soon = self.delay(is_calm);
        if is_calm {
            return vec![soon];
        }
        let late = Duration::from_millis(self.random.u64(1..400));
        match self.random.u8(..100) {
            0..80 => vec![soon],
            80..88 => Vec::new(),
            88..94 => vec![late],
            // NATS promises that this doesn't happen.
            _ => vec![soon, late],
        }
    }
}

impl NodePost {
    pub fn open(cluster: Cluster, node: usize, run: u64) -> Self {
        let (sender, heard) = unbounded_channel();
        cluster.inner().posts.boxes.insert(run, (node, sender));
        Self {
            cluster,
            node,
            run,
            heard: Arc::new(Mutex::new(heard)),
        }
    }

    fn send(&self, run: u64, heard: &Heard) {
        let mut inner = self.cluster.inner();
        let is_calm = inner.is_calm;
        let Some((node, to)) = inner.posts.boxes.get(&run).cloned() else {
            return;
        };
        let arrivals = match inner.is_cut_off[self.node] || inner.is_cut_off[node] {
            true => Vec::new(),
            false => inner.posts.arrivals(is_calm),
        };
        inner.posts.astray += u64::from(arrivals.len() != 1);
        for after in arrivals {
            let (to, heard) = (to.clone(), heard.clone());
            tokio::spawn(async move {
                sleep(after).await;
                // Nobody, perhaps.
                let _nobody = to.send(heard);
            });
        }
    }

    /// The server may say that nobody is there, or seem to have forgotten it.
    fn hear_of_nobody(&self, number: u64) {
        let mut inner = self.cluster.inner();
        let is_calm = inner.is_calm;
        inner.posts.astray += 1;
        if !is_calm && (inner.is_cut_off[self.node] || inner.posts.random.u8(..4) == 0) {
            return;
        }
        let after = inner.posts.delay(is_calm);
        let own = inner.posts.boxes.get(&self.run).cloned();
        tokio::spawn(async move {
            sleep(after).await;
            if let Some((_, own)) = own {
                let _ended = own.send(Heard::Nobody { number });
            }
        });
    }
}

impl Post for NodePost {
    async fn say(&self, to: To, words: Bytes) -> Result<(), NotSaid> {
        let others: Vec<u64> = {
            let mut inner = self.cluster.inner();
            if !inner.is_calm && inner.posts.random.u8(..64) == 0 {
                return Err(NotSaid("no server is reached".into()));
            }
            let open = inner.posts.boxes.iter();
            let open = open.filter(|(_, (_, sender))| !sender.is_closed());
            open.map(|(run, _)| *run).collect()
        };
        let heard = Heard::Words(words);
        match to {
            To::All => {
                for run in others {
                    self.send(run, &heard);
                }
            }
            To::Run { run, number } => {
                self.cluster.inner().posts.bundles += 1;
                match others.contains(&run) {
                    true => self.send(run, &heard),
                    false => self.hear_of_nobody(number),
                }
            }
            To::Asker { run, .. } => self.send(run, &heard),
        }
        Ok(())
    }

    async fn hear(&self) -> Heard {
        match self.heard.lock().await.recv().await {
            Some(heard) => heard,
            None => std::future::pending().await,
        }
    }

    fn words_bytes_max(&self) -> usize {
        16 << 10
    }
}
