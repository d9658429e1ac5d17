//! What a replica counts on: what is placed twice is there once, and given ids win over guessed ones.

use super::*;
use crate::experiment::in_place;
use crate::experiment::simulated::{Failure, Fault, Op, SimMachine, held, open};
use crate::model::Durability;

fn slug() -> Slug {
    Slug::parse("one").unwrap()
}

fn placed(id: u128) -> PlacedEntry {
    PlacedEntry {
        id: LogId::from_u128(id),
        received_at_ms: 7,
        entry: NewEntry {
            variant_key: "A".into(),
            body: format!(r#"{{"variantKey":"A","n":{id}}}"#).into(),
            idempotency: None,
        },
    }
}

async fn place(store: &Store, after: u128, ids: &[u128]) -> Result<(), PlaceError> {
    let placing = Placing {
        after: LogId::from_u128(after),
        entries: ids.iter().map(|id| placed(*id)).collect(),
    };
    store.place(&slug(), 1, placing).await
}

async fn define(store: &Store, incarnation: u64, text: &str) {
    let placed = PlacedDefinition {
        incarnation,
        created_at_ms: 5,
        definition: Definition {
            open_variants: true,
            description: Some(text.into()),
            ..Definition::default()
        },
    };
    store.place_definition(&slug(), placed).await.unwrap();
}

fn reopen(machine: &SimMachine, store: Arc<Store>) -> Arc<Store> {
    drop(store);
    machine.kill();
    open(machine, Durability::Sync).unwrap()
}

fn ids(machine: &SimMachine) -> Vec<u128> {
    let held = held(machine).unwrap();
    held[0].3.iter().map(|kept| kept.0.as_u128()).collect()
}

async fn begin() -> (SimMachine, Arc<Store>) {
    in_place::ask_for();
    let machine = SimMachine::new(1, 512);
    let store = open(&machine, Durability::Sync).unwrap();
    define(&store, 1, "first").await;
    (machine, store)
}

#[tokio::test]
async fn what_is_placed_again_is_there_once() {
    let (machine, store) = begin().await;
    place(&store, 0, &[10, 11]).await.unwrap();
    place(&store, 0, &[10, 11]).await.unwrap();
    let store = reopen(&machine, store);
    define(&store, 1, "first").await;
    place(&store, 0, &[10, 11]).await.unwrap();
    // Also where a part is there.
    place(&store, 10, &[11, 12]).await.unwrap();
    drop(store);
    machine.kill();
    assert_eq!(ids(&machine), [10, 11, 12]);
}

#[tokio::test]
async fn what_belongs_to_a_life_that_has_ended_is_passed_over() {
    let (machine, store) = begin().await;
    place(&store, 0, &[10]).await.unwrap();
    store.place_deletion(&slug(), 1).await.unwrap();
    place(&store, 10, &[11]).await.unwrap();
    define(&store, 2, "second").await;
    // All of it again, as after a crash.
    define(&store, 1, "first").await;
    place(&store, 0, &[10]).await.unwrap();
    store.place_deletion(&slug(), 1).await.unwrap();
    assert_eq!(store.incarnation_of(&slug()).await.unwrap(), 2);
    let description = store.describe(&slug()).await.unwrap();
    assert_eq!(
        description.definition.description.as_deref(),
        Some("second")
    );
    drop(store);
    machine.kill();
    assert!(ids(&machine).is_empty());
}

#[tokio::test]
async fn an_id_that_opening_guesses_gives_way_to_given_ones() {
    let (machine, store) = begin().await;
    place(&store, 0, &[10, 11]).await.unwrap();
    // Once more, so that the journal has nothing to bring it up to date with.
    let store = reopen(&machine, store);
    drop(store);
    machine.kill();
    let files = machine.files();
    let segment = files
        .iter()
        .find(|path| path.extension() == Some("segment".as_ref()));
    let path = segment.unwrap();
    let mut bytes = machine.read(path).unwrap();
    // From behind the first entry's body on: also the second one's header, which has its id.
    let first = b"\"n\":10}";
    let at = bytes
        .windows(first.len())
        .rposition(|window| window == first);
    bytes[at.unwrap() + first.len()..].fill(0xee);
    machine.overwrite(path, &bytes).unwrap();
    let store = open(&machine, Durability::Sync).unwrap();
    // Which ids were given behind 10 this node doesn't know: it may not give any.
    let plan = store
        .plan(&slug(), vec![Arc::new(vec![placed(0).entry])])
        .await;
    let outcomes = plan.unwrap().outcomes;
    assert!(matches!(
        outcomes[..],
        [Planned::Refused(AppendError::StorageFailed)]
    ));
    // What others gave lies before any id of today's clock, and is there, and found.
    place(&store, 11, &[12]).await.unwrap();
    let found = store.get(&slug(), LogId::from_u128(12)).await.unwrap();
    assert_eq!(found.unwrap().received_at_ms, 7);
    let store = reopen(&machine, store);
    place(&store, 12, &[13]).await.unwrap();
    for id in [10, 12, 13] {
        let found = store.get(&slug(), LogId::from_u128(id)).await.unwrap();
        assert!(found.is_some(), "{id}");
    }
}

#[tokio::test]
async fn what_a_full_disk_refused_is_placed_later_with_its_ids() {
    let (machine, store) = begin().await;
    place(&store, 0, &[10]).await.unwrap();
    machine.fail(Fault {
        op: Op::Write,
        path: ".segment",
        after: 0,
        failure: Failure::Full,
        is_sticky: true,
    });
    // Around the journal, and so into the segment at once.
    let large = || {
        let mut large = placed(11);
        large.entry.body = format!(r#"{{"variantKey":"A","p":"{:3000}"}}"#, "").into();
        Placing {
            after: LogId::from_u128(10),
            entries: vec![large],
        }
    };
    let refused = store.place(&slug(), 1, large()).await;
    assert!(matches!(refused, Err(PlaceError::Busy)), "{refused:?}");
    machine.heal();
    let store = reopen(&machine, store);
    store.place(&slug(), 1, large()).await.unwrap();
    drop(store);
    machine.kill();
    assert_eq!(ids(&machine), [10, 11]);
}
