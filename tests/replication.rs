//! Three nodes on a cluster of three real NATS servers: servers are killed under load, and a quorum goes and comes
//! back. Needs the feature `nats`; where no `nats-server` is installed, these tests say `NOT RUN`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "replication/cluster.rs"]
mod cluster;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::{Cluster, SERVERS};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use trialog::experiment::{Appended, Store, StoreOptions};
use trialog::fs::real;
use trialog::model::{Definition, Idempotency, IdempotencyKey, LogId, NewEntry, Slug};
use trialog::offline::Source;
use trialog::offline::replay::{Selection, replay};
use trialog::replica::{
    JetStream, JetStreamOptions, Pace, Replica, ReplicaError, ReplicaHealth, ReplicaOptions, Status,
};

const STREAM: &str = "trialog";
const SHARDS: u16 = 8;
const EXPERIMENTS: usize = 6;
const CLIENTS: usize = 12;
const PATIENCE: Duration = Duration::from_secs(60);

/// One cluster at a time: they are timed.
static ALONE: Mutex<()> = Mutex::new(());

/// Nodes of one process, each with a store of its own.
struct Nodes {
    dirs: Vec<tempfile::TempDir>,
    replicas: Vec<Arc<Replica>>,
}

/// An acknowledged entry.
type Acknowledged = (Slug, LogId, Bytes);

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn slug(number: usize) -> Slug {
    Slug::parse(&format!("experiment-{number}")).unwrap()
}

fn entry(key: &str) -> NewEntry {
    let body = Bytes::from(format!(r#"{{"variantKey":"A","input":"{key}"}}"#));
    let parsed = IdempotencyKey::parse(key.as_bytes()).unwrap();
    NewEntry {
        variant_key: "A".into(),
        idempotency: Some(Box::new(Idempotency::new(parsed, &body))),
        body,
    }
}

impl Nodes {
    async fn start(cluster: &Cluster, answer_within: Duration) -> Self {
        let pace = Pace {
            answer_within,
            ..Pace::default()
        };
        Self::start_with(cluster, STREAM, pace, true).await
    }

    async fn start_with(cluster: &Cluster, name: &str, pace: Pace, passes_on: bool) -> Self {
        let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut replicas = Vec::new();
        for dir in &dirs {
            let store = StoreOptions {
                dir: dir.path().join("store"),
                journal_bytes: 8 << 20,
                free_bytes_min: 0,
                ..StoreOptions::default()
            };
            let store = Arc::new(Store::open(store, real::host()).unwrap());
            let stream = JetStream::connect(JetStreamOptions {
                servers: cluster.addresses(),
                stream: name.into(),
                shard_count: SHARDS,
                request_timeout: Duration::from_secs(1).max(pace.answer_within / 4),
                ..JetStreamOptions::default()
            });
            let options = ReplicaOptions {
                stream: name.into(),
                shard_count: SHARDS,
                retention: None,
                pace,
                passes_on,
            };
            let stream = Arc::new(stream.await.unwrap());
            let replica = Replica::start(store, stream, options).await.unwrap();
            replicas.push(Arc::new(replica));
        }
        let nodes = Self { dirs, replicas };
        for number in 0..EXPERIMENTS {
            let definition = Definition {
                open_variants: true,
                ..Definition::default()
            };
            let slug = slug(number);
            let defined = nodes.replicas[number % 3].define(&slug, definition).await;
            assert!(defined.unwrap().created);
        }
        nodes.are_equally_far().await;
        nodes
    }

    async fn append(
        &self,
        node: usize,
        slug: &Slug,
        entry: NewEntry,
    ) -> Result<Appended, ReplicaError> {
        let replica = &self.replicas[node % self.replicas.len()];
        let permit = replica.store().reserve(entry.body.len()).unwrap();
        replica.append(slug, vec![entry], permit).await
    }

    /// Returns once there is one node for each experiment to which all others pass its entries on, and that has been
    /// so for many hellos: one that nobody has heard of yet would get some of them.
    async fn are_agreed(&self) {
        let until = Instant::now() + PATIENCE;
        let preferring = |slug: &Slug| {
            let replicas = self.replicas.iter();
            replicas
                .filter(|replica| replica.is_preferred(slug))
                .count()
        };
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_secs(3) {
            if (0..EXPERIMENTS).any(|number| preferring(&slug(number)) != 1) {
                since = Instant::now();
            }
            assert!(Instant::now() < until, "they don't agree");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Messages that each node has published on each shard, and conflicts, of all.
    fn counts(&self) -> (Vec<Vec<u64>>, u64) {
        let statuses: Vec<_> = self
            .replicas
            .iter()
            .map(|replica| replica.statuses())
            .collect();
        let of_node = |statuses: &Vec<Status>| statuses.iter().map(|of| of.published).collect();
        let conflicts = statuses.iter().flatten().map(|of| of.conflicts);
        (statuses.iter().map(of_node).collect(), conflicts.sum())
    }

    /// Returns once all nodes are at the same place on each shard, and nothing more comes.
    async fn are_equally_far(&self) {
        let positions = |replica: &Arc<Replica>| -> Vec<_> {
            let statuses = replica.statuses().into_iter();
            statuses.map(|status| status.position).collect()
        };
        let until = Instant::now() + PATIENCE;
        loop {
            let first = positions(&self.replicas[0]);
            let ready = |replica: &Arc<Replica>| replica.health() == ReplicaHealth::Ready;
            let mut others = self.replicas.iter();
            if others.all(|replica| ready(replica) && positions(replica) == first) {
                return;
            }
            let healths: Vec<_> = self
                .replicas
                .iter()
                .map(|replica| replica.health())
                .collect();
            assert!(Instant::now() < until, "not equally far: {healths:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends all; what each node's files hold, by experiment.
    async fn end(self) -> Vec<BTreeMap<Slug, Vec<(LogId, Bytes)>>> {
        for replica in &self.replicas {
            replica.shutdown().await;
            replica.store().shutdown().await;
        }
        let dirs = self.dirs.iter();
        dirs.map(|dir| held(&dir.path().join("store"))).collect()
    }
}

fn held(dir: &Path) -> BTreeMap<Slug, Vec<(LogId, Bytes)>> {
    let mut held: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let source = Source::open(real::host().disk, dir).unwrap();
    replay(&source, &Selection::default(), |entry| {
        let entries = held.entry(entry.slug.clone()).or_default();
        entries.push((entry.id, Bytes::copy_from_slice(entry.body)));
        Ok(())
    })
    .unwrap();
    held
}

/// All nodes hold the same, each entry once, with rising ids, and all that was acknowledged.
fn must_hold(nodes: &[BTreeMap<Slug, Vec<(LogId, Bytes)>>], acknowledged: &[Acknowledged]) {
    for node in &nodes[1..] {
        assert_eq!(nodes[0], *node, "the nodes' files are the same");
    }
    let mut by_body: HashMap<&Bytes, (&Slug, LogId)> = HashMap::new();
    for (slug, entries) in &nodes[0] {
        assert!(entries.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (id, body) in entries {
            let before = by_body.insert(body, (slug, *id));
            assert_eq!(before, None, "{body:?} is there once");
        }
    }
    for (slug, id, body) in acknowledged {
        assert_eq!(by_body.get(body), Some(&(slug, *id)), "{body:?} is there");
    }
}

/// The look for what wasn't told comes once an hour here: it would hide that nothing is told.
#[test]
fn nodes_follow_by_what_the_stream_tells() {
    let _alone = ALONE.lock();
    let Some(cluster) = Cluster::start() else {
        return;
    };
    runtime().block_on(async move {
        let pace = Pace {
            look_every: Duration::from_secs(3600),
            ..Pace::default()
        };
        let nodes = Nodes::start_with(&cluster, STREAM, pace, false).await;
        let mut acknowledged = Vec::new();
        for number in 0..10 * EXPERIMENTS {
            let slug = slug(number % EXPERIMENTS);
            let entry = entry(&format!("told-{number}"));
            let body = entry.body.clone();
            let appended = nodes.append(number / EXPERIMENTS, &slug, entry).await;
            acknowledged.push((slug, appended.unwrap().ids[0], body));
        }
        nodes.are_equally_far().await;
        must_hold(&nodes.end().await, &acknowledged);
    });
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_when_the_leader_is_killed() {
    let _alone = ALONE.lock();
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    runtime().block_on(async move {
        let nodes = Arc::new(Nodes::start(&cluster, Duration::from_secs(5)).await);
        let (ends, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (nodes, ends) = (nodes.clone(), ends.clone());
            clients.spawn(load(client, nodes, ends, Arc::clone(&acknowledged)));
        }
        for _ in 0..2 {
            let before = has_more(&acknowledged, 200).await;
            let leader = cluster.leader(STREAM).await;
            cluster.kill(leader);
            let killed = Instant::now();
            // What was on its way may be acknowledged still: only what comes behind shows that it goes on.
            let on_their_way = CLIENTS * 4;
            let there = acknowledged_count(&acknowledged);
            while acknowledged_count(&acknowledged) < there + on_their_way {
                assert!(killed.elapsed() < PATIENCE, "it isn't back");
                sleep(Duration::from_millis(10)).await;
            }
            eprintln!(
                "server {leader} killed after {before} entries: back after {:?}",
                killed.elapsed()
            );
            cluster.start_server(leader);
        }
        has_more(&acknowledged, 200).await;
        ends.store(true, Ordering::Release);
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        nodes.are_equally_far().await;
        let nodes = Arc::into_inner(nodes).unwrap();
        let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
        eprintln!("{} entries acknowledged", acknowledged.len());
        must_hold(&nodes.end().await, &acknowledged);
    });
}

/// Sends entries one after the other, each until it is acknowledged, to any node.
async fn load(
    client: usize,
    nodes: Arc<Nodes>,
    ends: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
) {
    for n in 0.. {
        let slug = slug((client + n) % EXPERIMENTS);
        let entry = entry(&format!("c{client}-{n}"));
        for attempt in 0.. {
            match nodes.append(client + attempt, &slug, entry.clone()).await {
                Ok(appended) => {
                    let told = (slug, appended.ids[0], entry.body);
                    acknowledged.lock().unwrap().push(told);
                    break;
                }
                Err(ReplicaError::Unsettled | ReplicaError::Overloaded) => {}
                Err(error) => panic!("{error}"),
            }
        }
        if ends.load(Ordering::Acquire) {
            return;
        }
    }
}

fn acknowledged_count(acknowledged: &Arc<Mutex<Vec<Acknowledged>>>) -> usize {
    acknowledged.lock().unwrap().len()
}

/// Waits for so many more.
async fn has_more(acknowledged: &Arc<Mutex<Vec<Acknowledged>>>, count: usize) -> usize {
    let before = acknowledged_count(acknowledged);
    let until = Instant::now() + PATIENCE;
    while acknowledged_count(acknowledged) < before + count {
        assert!(Instant::now() < until, "nothing is acknowledged");
        sleep(Duration::from_millis(10)).await;
    }
    before
}

#[test]
fn without_a_quorum_nothing_is_acknowledged_and_then_it_goes_on() {
    let _alone = ALONE.lock();
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    runtime().block_on(async move {
        let nodes = Nodes::start(&cluster, Duration::from_secs(2)).await;
        let mut acknowledged = Vec::new();
        let appended = nodes.append(0, &slug(0), entry("before")).await.unwrap();
        acknowledged.push((slug(0), appended.ids[0], entry("before").body));
        let left = cluster.leader(STREAM).await;
        let others: Vec<_> = (0..SERVERS).filter(|number| *number != left).collect();
        for number in &others {
            cluster.kill(*number);
        }
        for n in 0..6 {
            let (experiment, entry) = (slug(n % 2), entry(&format!("alone-{n}")));
            let answered = nodes.append(n, &experiment, entry).await;
            let is_refused = matches!(answered, Err(ReplicaError::Unsettled));
            assert!(is_refused, "one server of three: {answered:?}");
        }
        for number in others {
            cluster.start_server(number);
        }
        // The same entries again, elsewhere: each is stored once.
        for n in 0..6 {
            let (experiment, entry) = (slug(n % 2), entry(&format!("alone-{n}")));
            let id = timeout(PATIENCE, async {
                loop {
                    match nodes.append(n + 1, &experiment, entry.clone()).await {
                        Ok(appended) => return appended.ids[0],
                        Err(ReplicaError::Unsettled) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
            let id = id.await.unwrap();
            acknowledged.push((experiment, id, entry.body));
        }
        nodes.are_equally_far().await;
        must_hold(&nodes.end().await, &acknowledged);
    });
}

#[test]
fn while_the_preferred_node_lives_no_other_one_publishes() {
    let _alone = ALONE.lock();
    let Some(cluster) = Cluster::start() else {
        return;
    };
    runtime().block_on(async move {
        // A machine that is busy makes nobody seem dead.
        let pace = Pace {
            answer_within: Duration::from_secs(40),
            hello_every: Duration::from_millis(50),
            lives_for: Duration::from_secs(20),
            pass_within: Duration::from_secs(20),
            ..Pace::default()
        };
        for passes_on in [false, true] {
            let name = format!("passes-on-{passes_on}");
            let nodes = Nodes::start_with(&cluster, &name, pace, passes_on).await;
            if passes_on {
                nodes.are_agreed().await;
            }
            let nodes = Arc::new(nodes);
            let (before, conflicts_before) = nodes.counts();
            let (ends, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::default());
            let mut clients = JoinSet::new();
            for client in 0..CLIENTS {
                let (nodes, ends) = (nodes.clone(), ends.clone());
                clients.spawn(load(client, nodes, ends, Arc::clone(&acknowledged)));
            }
            has_more(&acknowledged, 1000).await;
            ends.store(true, Ordering::Release);
            while let Some(ended) = clients.join_next().await {
                ended.unwrap();
            }
            nodes.are_equally_far().await;
            let (after, conflicts) = nodes.counts();
            let conflicts = conflicts - conflicts_before;
            let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
            let count = acknowledged.len();
            eprintln!("passes on: {passes_on}: {count} entries, {conflicts} conflicts");
            for shard in 0..usize::from(SHARDS) {
                let published = |node: &usize| after[*node][shard] > before[*node][shard];
                let publishing = (0..3).filter(published).count();
                assert!(!passes_on || publishing <= 1, "{before:?} {after:?}");
            }
            assert_eq!(conflicts == 0, passes_on, "{conflicts} conflicts");
            let nodes = Arc::into_inner(nodes).unwrap();
            must_hold(&nodes.end().await, &acknowledged);
        }
    });
}
