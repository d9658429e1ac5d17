//! A node whose files can't take what the stream says.

use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Builder;
use tokio::time::sleep;

use super::check;
use super::clients::{definition, slug};
use super::run::PACE;
use super::stream::Cluster;
use crate::experiment::in_place;
use crate::experiment::simulated::{self, Failure, Fault, Op, SimMachine};
use crate::model::{Durability, NewEntry, Slug};
use crate::replica::position::shard_of;
use crate::replica::{Replica, ReplicaHealth, ReplicaOptions, Stopped};

const SHARDS: u16 = 2;

async fn start(machine: &SimMachine, cluster: &Cluster, node: usize) -> Arc<Replica> {
    let store = simulated::open(machine, Durability::Sync).unwrap();
    let options = ReplicaOptions {
        stream: "sim".into(),
        shard_count: SHARDS,
        retention: None,
        pace: PACE,
        passes_on: false,
    };
    let replica = Replica::start(store, cluster.of_node(node), options);
    Arc::new(replica.await.unwrap())
}

async fn append(node: &Replica, to: &Slug) {
    let entry = NewEntry {
        variant_key: "A".into(),
        body: Bytes::from_static(br#"{"variantKey":"A"}"#),
        idempotency: None,
    };
    let permit = node.store().reserve(entry.body.len()).unwrap();
    node.append(to, vec![entry], permit).await.unwrap();
}

async fn until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        sleep(PACE.pause_max).await;
    }
    panic!("not in a minute");
}

/// Were what can't be placed passed over, a node would answer without it for ever, and take a request again
/// that it hasn't got.
#[test]
fn a_node_that_cannot_place_stops_that_shard_and_has_all_once_it_can() {
    in_place::ask_for();
    let names = ["one", "two", "three", "four"].map(slug);
    let on = |shard| names.iter().find(|name| shard_of(name, SHARDS) == shard);
    let (failing, other) = (on(0).unwrap(), on(1).unwrap());
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let machines = [1, 2].map(|seed| SimMachine::new(seed, 512));
        let cluster = Cluster::new(1, machines.len(), SHARDS);
        cluster.calm();
        let well = start(&machines[0], &cluster, 0).await;
        let ill = start(&machines[1], &cluster, 1).await;
        machines[1].fail(Fault {
            op: Op::CreateDir,
            path: ".new-",
            after: 0,
            failure: Failure::Io,
            is_sticky: true,
        });
        well.define(failing, definition("first")).await.unwrap();
        append(&well, failing).await;
        let is_stopped = |health| match health {
            ReplicaHealth::Stopped(Stopped::Files { experiment, .. }) => experiment == *failing,
            _ => false,
        };
        until(|| is_stopped(ill.health())).await;
        machines[1].heal();
        // The other shard goes on.
        well.define(other, definition("first")).await.unwrap();
        append(&well, other).await;
        until(|| ill.statuses()[1].position.sequence == cluster.last(1)).await;
        ill.abort().await;
        drop(ill);
        machines[1].kill();

        let again = start(&machines[1], &cluster, 1).await;
        until(|| again.health() == ReplicaHealth::Ready).await;
        again.abort().await;
        well.abort().await;
        let fold = check::fold(&cluster.stored()).unwrap();
        for (node, machine) in machines.iter().enumerate() {
            machine.kill();
            let held = simulated::held(machine).unwrap();
            check::is_fold(node, &held, &fold.held).unwrap();
        }
        assert_eq!(fold.ever.len(), 2);
    });
}
