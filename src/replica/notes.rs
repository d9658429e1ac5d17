//! What a node remembers of the stream, in small files of its store: which stream it follows, and how far it
//! is on each shard.
//!
//! How far it is may lag behind what is in the logs: what is placed twice is passed over the second time. It
//! never leads: a note is written when what it counts is on stable storage.

use std::io;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::position::{MessageId, Position};
use crate::experiment::Store;
use crate::experiment::replicated::PlaceError;
use crate::json_file;

const FORMAT: u32 = 1;
const IDENTITY: &str = "identity.json";

/// Which stream a node follows, and who it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    format: u32,
    /// The stream's name.
    pub stream: String,
    /// How many shards it has.
    pub shard_count: u16,
    /// The node, 16 hexadecimal digits.
    node: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    format: u32,
    shard: u16,
    sequence: u64,
    message_id: String,
}

/// Why a node can't follow a stream with this store.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It follows another one.
    #[error(
        "this store follows the stream {stream:?} with {shard_count} shards: begin another one with an empty \
         folder"
    )]
    OtherStream {
        /// The one that it follows.
        stream: String,
        /// How many shards that has.
        shard_count: u16,
    },
    /// It has experiments of its own.
    #[error(
        "this store has experiments that no stream knows: begin with an empty folder, and send them there with \
         `trialog replay --to`"
    )]
    Local,
    /// Its notes can't be used.
    #[error("replica/{name} in the store's folder can't be used: {error}")]
    BadNote {
        /// The file.
        name: String,
        /// Why.
        error: String,
    },
    /// The disk failed.
    #[error("{what} failed: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the disk said.
        error: io::Error,
    },
    /// The store takes no writes.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

impl Identity {
    /// Who this node is. One that is new to a stream draws that, and remembers it.
    pub async fn of(store: &Store, stream: &str, shard_count: u16) -> Result<Self, StartError> {
        if let Some(known) = read::<Self>(store, IDENTITY).await? {
            if known.format != FORMAT || known.stream != stream || known.shard_count != shard_count
            {
                return Err(StartError::OtherStream {
                    stream: known.stream,
                    shard_count: known.shard_count,
                });
            }
            return Ok(known);
        }
        if !store.slugs(None, 1).is_empty() {
            return Err(StartError::Local);
        }
        let drawn = store.random().map_err(|error| StartError::Io {
            what: "drawing a node's number",
            error,
        })?;
        let identity = Self {
            format: FORMAT,
            stream: stream.to_owned(),
            shard_count,
            node: format!("{:016x}", drawn as u64),
        };
        store.write_note(IDENTITY, encode(&identity)?).await?;
        Ok(identity)
    }

    /// The node's number.
    pub fn node(&self) -> u64 {
        u64::from_str_radix(&self.node, 16).unwrap_or_default()
    }
}

/// How far this node is on a shard. Where that can't be read, it begins in front and passes over what is there.
pub async fn read_position(store: &Store, shard: u16) -> Result<Position, StartError> {
    let name = progress_name(shard);
    let progress = match read::<Progress>(store, &name).await {
        Err(StartError::BadNote { name, error }) => {
            warn!(
                name,
                error, "how far this node is can't be read: it follows from the beginning"
            );
            None
        }
        read => read?,
    };
    let known = progress.and_then(|progress| {
        let id = u128::from_str_radix(&progress.message_id, 16).ok()?;
        let is_ours = progress.format == FORMAT && progress.shard == shard;
        is_ours.then_some(Position {
            sequence: progress.sequence,
            id: MessageId(id),
        })
    });
    Ok(known.unwrap_or_default())
}

/// Remembers how far this node is.
pub async fn write_position(
    store: &Store,
    shard: u16,
    position: Position,
) -> Result<(), PlaceError> {
    let progress = Progress {
        format: FORMAT,
        shard,
        sequence: position.sequence,
        message_id: position.id.to_string(),
    };
    let bytes = json_file::encode(&progress).map_err(io::Error::other);
    let bytes = bytes.map_err(PlaceError::Io)?;
    store.write_note(&progress_name(shard), bytes).await
}

fn progress_name(shard: u16) -> String {
    format!("shard-{shard:04}.json")
}

fn encode(identity: &Identity) -> Result<Vec<u8>, StartError> {
    json_file::encode(identity).map_err(|error| bad(IDENTITY, &error))
}

async fn read<T: serde::de::DeserializeOwned>(
    store: &Store,
    name: &str,
) -> Result<Option<T>, StartError> {
    let read = store.read_note(name).await;
    let read = read.map_err(|error| StartError::Io {
        what: "reading what this node remembers of the stream",
        error,
    })?;
    let decoded = read.map(|bytes| json_file::decode(&bytes));
    decoded.transpose().map_err(|error| bad(name, &error))
}

fn bad(name: &str, error: &json_file::JsonFileError) -> StartError {
    StartError::BadNote {
        name: name.to_owned(),
        error: error.to_string(),
    }
}
