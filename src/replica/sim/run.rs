//! One schedule: nodes, clients, and what goes wrong.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::check;
use super::clients::{ClientTask, NAMES, Nodes, Told, definition, slug};
use super::stream::{BEGIN_MS, Cluster};
use crate::experiment::in_place;
use crate::experiment::simulated::{self, Crash, Failure, Fault, Op, SimMachine};
use crate::model::Durability;
use crate::replica::{Pace, Replica, ReplicaHealth, ReplicaOptions, Stopped};

/// All nodes must have followed by then.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
pub const PACE: Pace = Pace {
    answer_within: Duration::from_millis(600),
    pause_min: Duration::from_millis(2),
    pause_max: Duration::from_millis(60),
    look_every: Duration::from_millis(150),
    note_every: Duration::from_millis(40),
    tell_every: Duration::from_millis(30),
    drop_every: Duration::from_millis(50),
    hello_every: Duration::from_millis(30),
    lives_for: Duration::from_millis(120),
    pass_within: Duration::from_millis(200),
};
/// Who has told something within this time must be minded, however short messages are kept.
const HEARD_WITHIN_MIN: Duration = Duration::from_millis(150);

/// What a run came across.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Met {
    pub acknowledged: u64,
    pub repeated: u64,
    pub deleted: u64,
    pub messages: u64,
    pub conflicts: u64,
    pub answers_lost: u64,
    pub crashes: u64,
    pub cut_off: u64,
    pub disk_faults: u64,
    pub dropped: u64,
    pub left_behind: u64,
    pub copied: u64,
    /// Bundles that one node asked of another.
    pub bundles: u64,
    /// Bundles and answers that didn't arrive once and soon.
    pub astray: u64,
}

impl Met {
    pub fn add(&mut self, run: &Self) {
        self.acknowledged += run.acknowledged;
        self.repeated += run.repeated;
        self.deleted += run.deleted;
        self.messages += run.messages;
        self.conflicts += run.conflicts;
        self.answers_lost += run.answers_lost;
        self.crashes += run.crashes;
        self.cut_off += run.cut_off;
        self.disk_faults += run.disk_faults;
        self.dropped += run.dropped;
        self.left_behind += run.left_behind;
        self.copied += run.copied;
        self.bundles += run.bundles;
        self.astray += run.astray;
    }
}

/// Runs a schedule; says what it came across, or what is wrong.
pub fn run(seed: u64) -> Result<Met, String> {
    in_place::ask_for();
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(Run::new(seed).run())
}

struct Run {
    random: fastrand::Rng,
    machines: Vec<SimMachine>,
    /// How far the machines' clocks are ahead, in milliseconds.
    skews: Vec<u64>,
    began: Instant,
    nodes: Nodes,
    cluster: Cluster,
    shard_count: u16,
    durability: Durability,
    retention: Option<Duration>,
    pace: Pace,
    passes_on: bool,
    met: Met,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let node_count = random.usize(2..4);
        let shard_count = random.u16(1..4);
        let machines = (0..node_count).map(|_| SimMachine::new(random.u64(..), 512));
        let machines: Vec<_> = machines.collect();
        let skews = machines.iter().map(|_| random.u64(..5_000)).collect();
        let durability = match random.u8(..4) {
            0 => Durability::Relaxed,
            _ => Durability::Sync,
        };
        let retention = match random.u8(..4) {
            0 => None,
            1 => Some(Duration::from_millis(random.u64(100..400))),
            _ => Some(Duration::from_millis(random.u64(1..60))),
        };
        // Where notes come late, much is placed that isn't noted.
        let note_every = match random.bool() {
            true => PACE.note_every,
            false => Duration::from_millis(400),
        };
        let passes_on = random.u8(..4) > 0;
        Self {
            retention,
            pace: Pace { note_every, ..PACE },
            cluster: Cluster::new(random.u64(..), node_count, shard_count),
            nodes: Arc::new(Mutex::new(vec![None; node_count])),
            machines,
            skews,
            began: Instant::now(),
            shard_count,
            durability,
            passes_on,
            met: Met::default(),
            random,
        }
    }

    async fn run(mut self) -> Result<Met, String> {
        self.began = Instant::now();
        let heard_within = self.retention.unwrap_or_default().max(HEARD_WITHIN_MIN);
        self.cluster.mind(heard_within);
        for node in 0..self.machines.len() {
            self.start(node).await?;
        }
        let told = Arc::new(Mutex::new(Told::default()));
        self.define_all().await?;
        let mut clients = JoinSet::new();
        for number in 0..self.random.u64(2..5) {
            clients.spawn(
                ClientTask {
                    number,
                    nodes: self.nodes.clone(),
                    told: told.clone(),
                    random: fastrand::Rng::with_seed(self.random.u64(..)),
                    request_count: self.random.usize(4..16),
                }
                .run(),
            );
        }
        for _ in 0..self.random.usize(4..24) {
            sleep(Duration::from_millis(self.random.u64(1..60))).await;
            self.set_clocks();
            self.go_wrong().await;
        }
        self.cluster.calm();
        self.machines.iter().for_each(SimMachine::heal);
        for node in 0..self.machines.len() {
            self.restart_if_stopped(node).await?;
        }
        while let Some(ended) = clients.join_next().await {
            ended.map_err(|error| error.to_string())?;
        }
        self.settle().await?;
        let told = std::mem::take(&mut *told.lock().unwrap());
        self.check(told).await
    }

    /// The experiments are there before the clients are.
    async fn define_all(&mut self) -> Result<(), String> {
        for name in NAMES {
            let node = self.nodes.lock().unwrap()[0].clone();
            let node = node.ok_or("no node is up")?;
            for _ in 0..50 {
                if node.define(&slug(name), definition("first")).await.is_ok() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn set_clocks(&self) {
        let passed = self.began.elapsed().as_millis() as u64;
        for (machine, skew) in self.machines.iter().zip(&self.skews) {
            machine.set_now_ms(BEGIN_MS + skew + passed);
        }
    }

    async fn go_wrong(&mut self) {
        let node = self.random.usize(..self.machines.len());
        match self.random.u8(..16) {
            0..3 => self.crash(node).await,
            3..6 => {
                self.met.cut_off += 1;
                self.cluster.cut_off(node, true);
            }
            6..10 => {
                for node in 0..self.machines.len() {
                    self.cluster.cut_off(node, false);
                }
                self.cluster.set_quorum(true);
            }
            10 => self.cluster.set_quorum(false),
            11 | 12 => self.disk_fault(node),
            13 => self.machines[node].heal(),
            _ => {
                // It may not start, for want of a disk.
                let _started = self.restart_if_stopped(node).await;
            }
        }
    }

    fn disk_fault(&mut self, node: usize) {
        self.met.disk_faults += 1;
        let kinds = [
            (Op::Sync, ".journal", Failure::Io),
            (Op::Write, ".journal", Failure::Io),
            (Op::Write, ".segment", Failure::Full),
            (Op::Write, ".segment", Failure::Io),
            (Op::Write, ".tmp", Failure::Full),
            (Op::Sync, "experiment.tmp", Failure::Io),
            (Op::Sync, "shard-", Failure::Io),
            (Op::CreateDir, ".new-", Failure::Io),
            (Op::Rename, "shard-", Failure::Io),
            (Op::Open, ".segment", Failure::TooManyFiles),
        ];
        let (op, path, failure) = kinds[self.random.usize(..kinds.len())];
        self.machines[node].fail(Fault {
            op,
            path,
            after: self.random.u64(..4),
            failure,
            is_sticky: failure == Failure::Full && self.random.bool(),
        });
    }

    async fn start(&mut self, node: usize) -> Result<(), String> {
        self.set_clocks();
        let store = simulated::open(&self.machines[node], self.durability)?;
        let options = ReplicaOptions {
            stream: "sim".into(),
            shard_count: self.shard_count,
            retention: self.retention,
            pace: self.pace,
            passes_on: self.passes_on,
        };
        let replica = Replica::start(store, self.cluster.of_node(node), options).await;
        let replica = replica.map_err(|error| error.to_string())?;
        self.nodes.lock().unwrap()[node] = Some(Arc::new(replica));
        Ok(())
    }

    /// The process ends, or the power goes.
    async fn crash(&mut self, node: usize) {
        let up = self.nodes.lock().unwrap()[node].take();
        let Some(replica) = up else {
            return;
        };
        self.met.crashes += 1;
        if self.random.u8(..4) == 0 {
            // In good order, for once.
            replica.shutdown().await;
        }
        replica.abort().await;
        let machine = &self.machines[node];
        match self.random.u8(..4) {
            0 => machine.kill(),
            1 => machine.crash(Crash::LoseAll),
            2 => machine.crash(Crash::KeepAll),
            _ => machine.crash(Crash::RandomTorn),
        }
    }

    /// Starts a node that is down, or that can't go on.
    async fn restart_if_stopped(&mut self, node: usize) -> Result<(), String> {
        let up = self.nodes.lock().unwrap()[node].clone();
        let health = up.map(|replica| replica.health());
        match health {
            Some(ReplicaHealth::Stopped(Stopped::Disk { .. } | Stopped::Files { .. })) => {
                self.crash(node).await;
            }
            Some(ReplicaHealth::Stopped(Stopped::Behind {
                shard,
                placed,
                kept,
            })) => {
                if !self.cluster.was_away(node, shard, placed) {
                    return Err(format!(
                        "node {node} told where it was, and messages of shard {shard} behind {placed} were \
                         dropped, up to {kept}"
                    ));
                }
                self.met.left_behind += 1;
                return self.copy_to(node).await;
            }
            Some(ReplicaHealth::Stopped(stopped)) => return Err(stopped.to_string()),
            Some(_) => return Ok(()),
            None => {}
        }
        self.start(node).await
    }

    /// Replaces a node by a copy of another one that isn't stopped, where there is one now. The copy has the notes
    /// as they were before its files, as `trialog backup` does it.
    async fn copy_to(&mut self, node: usize) -> Result<(), String> {
        let is_well = |other: &usize| {
            let nodes = self.nodes.lock().unwrap();
            let replica = nodes[*other].as_ref().filter(|_| *other != node);
            replica.is_some_and(|replica| {
                let statuses = replica.statuses();
                statuses.iter().all(|status| status.stopped.is_none())
            })
        };
        let Some(other) = (0..self.machines.len()).find(is_well) else {
            return Ok(());
        };
        self.kill(node).await;
        self.cluster.begins_anew(node);
        let notes = simulated::notes(&self.machines[other])?;
        // The other one goes on meanwhile.
        sleep(Duration::from_millis(self.random.u64(..40))).await;
        self.kill(other).await;
        let copy = SimMachine::new(self.random.u64(..), 512);
        simulated::copy(&self.machines[other], notes, &copy)?;
        self.machines[node] = copy;
        self.met.copied += 1;
        self.start(other).await?;
        self.start(node).await
    }

    async fn kill(&self, node: usize) {
        let replica = self.nodes.lock().unwrap()[node].take();
        if let Some(replica) = replica {
            replica.abort().await;
        }
        self.machines[node].kill();
    }

    /// Waits until every node has placed all that the stream holds.
    async fn settle(&mut self) -> Result<(), String> {
        let until = Instant::now() + SETTLED_WITHIN;
        loop {
            // What arrives late must have arrived.
            sleep(Duration::from_millis(500)).await;
            self.set_clocks();
            let mut behind = None;
            for node in 0..self.machines.len() {
                self.restart_if_stopped(node).await?;
                let replica = self.nodes.lock().unwrap()[node].clone();
                let statuses = replica.map(|replica| replica.statuses());
                for (shard, status) in (0..).zip(statuses.unwrap_or_default()) {
                    let (is, should) = (status.position.sequence, self.cluster.last(shard));
                    if is != should || !status.is_caught_up {
                        behind = Some(format!(
                            "node {node} is at {is} of {should} on shard {shard}: {status:?}"
                        ));
                    }
                }
            }
            match behind {
                None => return Ok(()),
                Some(behind) if Instant::now() > until => return Err(behind),
                Some(_) => {}
            }
        }
    }

    async fn check(self, told: Told) -> Result<Met, String> {
        let stored = self.cluster.stored();
        let fold = check::fold(&stored)?;
        check::holds_all(&fold, &told)?;
        for node in 0..self.machines.len() {
            self.kill(node).await;
            let machine = &self.machines[node];
            check::is_fold(node, &simulated::held(machine)?, &fold.held)?;
        }
        let (conflicts, answers_lost) = self.cluster.met();
        let (bundles, astray) = {
            let inner = self.cluster.inner();
            (inner.posts.bundles, inner.posts.astray)
        };
        Ok(Met {
            acknowledged: told.acknowledged.len() as u64,
            repeated: told.repeated,
            deleted: told.deleted,
            dropped: self.cluster.dropped(),
            messages: stored.len() as u64,
            conflicts,
            answers_lost,
            bundles,
            astray,
            ..self.met
        })
    }
}
