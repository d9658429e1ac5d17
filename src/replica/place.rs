//! A message's changes, placed in this node's store: all experiments at once, so that they share a sync.

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, warn};

use super::message::{Change, Message, What};
use super::shard::{Pace, ended};
use crate::experiment::Store;
use crate::experiment::replicated::{PlaceError, Placing};

/// An error of the disk is met so often before the experiment is passed over.
const TRIES_MAX: u32 = 20;

/// Places all changes; returns when they are durable here. What is there already is passed over, and so is an
/// experiment whose files can't be used: that holds up no other one. Says why the node's store can't go on, if
/// that is so.
pub async fn place(
    store: &Store,
    message: Message,
    pace: &Pace,
    is_ending: &mut watch::Receiver<bool>,
) -> Result<(), String> {
    let changes = message.changes.into_iter();
    let placing = join_all(changes.map(|change| place_change(store, change, pace)));
    tokio::select! {
        biased;
        placed = placing => placed.into_iter().collect(),
        // Where a disk is full, nobody knows for how long.
        () = ended_after(is_ending, pace) => Err("it ends while its disk is full".into()),
    }
}

async fn ended_after(is_ending: &mut watch::Receiver<bool>, pace: &Pace) {
    ended(is_ending).await;
    sleep(pace.answer_within).await;
}

async fn place_change(store: &Store, change: Change, pace: &Pace) -> Result<(), String> {
    let (mut pause, mut tries) = (pace.pause_min, 0);
    let slug = &change.slug;
    loop {
        match try_to_place(store, &change).await {
            Ok(()) => return Ok(()),
            Err(error @ PlaceError::Stopped) => return Err(error.to_string()),
            Err(PlaceError::Busy) => {}
            Err(PlaceError::Io(error)) if tries < TRIES_MAX => {
                tries += 1;
                warn!(experiment = %slug, %error, "placing what the stream says: trying again");
            }
            Err(error @ (PlaceError::Io(_) | PlaceError::Unreadable(_))) => {
                error!(
                    experiment = %slug, %error,
                    "what the stream says of it is passed over on this node; replace this node's files"
                );
                return Ok(());
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(pace.pause_max);
    }
}

async fn try_to_place(store: &Store, change: &Change) -> Result<(), PlaceError> {
    let Change {
        slug, incarnation, ..
    } = change;
    match &change.what {
        What::Entries { after, entries } => {
            let placing = Placing {
                after: *after,
                entries: entries.clone(),
            };
            store.place(slug, *incarnation, placing).await
        }
        What::Definition(definition) => store.place_definition(slug, definition.clone()).await,
        What::Deletion => store.place_deletion(slug, *incarnation).await,
    }
}
