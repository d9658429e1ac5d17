//! A message's changes, placed in this node's store: all experiments at once, so that they share a sync.

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use super::message::{Change, Message, What};
use super::pace::Pace;
use super::shard::ended;
use crate::experiment::Store;
use crate::experiment::replicated::{PlaceError, Placing};
use crate::model::Slug;

/// An error of the disk is met so often before the shard stops.
const TRIES_MAX: u32 = 20;

/// Why a message can't be placed here.
pub enum NotPlaced {
    /// The store takes no writes until it is opened anew.
    Store(String),
    /// The files of one experiment can't be used, or the disk failed again and again for them.
    Files(Slug, String),
}

/// Places all changes; returns when they are durable here. What is there already is passed over.
///
/// A message is placed as a whole or holds up what comes behind it: a log with a hole would answer reads without
/// what is missing, and take a request again that repeats one in the hole.
pub async fn place(
    store: &Store,
    message: Message,
    pace: &Pace,
    is_ending: &mut watch::Receiver<bool>,
) -> Result<(), NotPlaced> {
    let changes = message.changes.into_iter();
    let placing = join_all(changes.map(|change| place_change(store, change, pace)));
    tokio::select! {
        biased;
        placed = placing => placed.into_iter().collect(),
        // Where a disk is full, nobody knows for how long.
        () = ended_after(is_ending, pace) => {
            Err(NotPlaced::Store("it ends while its disk is full".into()))
        }
    }
}

async fn ended_after(is_ending: &mut watch::Receiver<bool>, pace: &Pace) {
    ended(is_ending).await;
    sleep(pace.answer_within).await;
}

async fn place_change(store: &Store, change: Change, pace: &Pace) -> Result<(), NotPlaced> {
    let (mut pause, mut tries) = (pace.pause_min, 0);
    let slug = &change.slug;
    loop {
        match try_to_place(store, &change).await {
            Ok(()) => return Ok(()),
            Err(error @ PlaceError::Stopped) => return Err(NotPlaced::Store(error.to_string())),
            Err(PlaceError::Busy) => {}
            Err(PlaceError::Io(error)) if tries < TRIES_MAX => {
                tries += 1;
                warn!(experiment = %slug, %error, "placing what the stream says: trying again");
            }
            Err(error @ (PlaceError::Io(_) | PlaceError::Unreadable(_))) => {
                return Err(NotPlaced::Files(slug.clone(), error.to_string()));
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
