//! What a node remembers of the stream, in small files of its store: which stream it follows, and how far it
//! is on each shard.
//!
//! How far it is may lag behind what is in the logs: what is placed twice is passed over the second time. It
//! never leads: a note is written when what it counts is on stable storage.
//!
//! The node's number is in a file of its own, which `trialog backup` leaves out: so a copy that is started
//! elsewhere is a new node. Where a folder was copied with it, two nodes have one number. Nothing that is stored
//! depends on it, since a message is known by its 128 random bits; but the other nodes hear of the two as of one,
//! and may drop what the one that is behind still needs: it stops then ([`Stopped::Behind`](super::Stopped)).

use std::io;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::position::{MessageId, Position};
use crate::experiment::Store;
use crate::experiment::folder::NODE_FILE;
use crate::experiment::replicated::PlaceError;
use crate::json_file;

const FORMAT: u32 = 1;
const IDENTITY: &str = "identity.json";

/// Which stream a node follows, and who it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The stream's name.
    pub stream: String,
    /// How many shards it has.
    pub shard_count: u16,
    node: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Followed {
    format: u32,
    stream: String,
    shard_count: u16,
}

#[derive(Serialize, Deserialize)]
struct Number {
    format: u32,
    /// 16 hexadecimal digits.
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
    /// Who this node is. One that is new to a stream, or a copy of another one, draws that, and remembers it.
    pub async fn of(store: &Store, stream: &str, shard_count: u16) -> Result<Self, StartError> {
        match read::<Followed>(store, IDENTITY).await? {
            Some(known)
                if known.format != FORMAT
                    || known.stream != stream
                    || known.shard_count != shard_count =>
            {
                return Err(StartError::OtherStream {
                    stream: known.stream,
                    shard_count: known.shard_count,
                });
            }
            Some(_) => {}
            None if !store.slugs(None, 1).is_empty() => return Err(StartError::Local),
            None => {
                let followed = Followed {
                    format: FORMAT,
                    stream: stream.to_owned(),
                    shard_count,
                };
                let bytes = encode(IDENTITY, &followed)?;
                store.write_note(IDENTITY, bytes).await?;
            }
        }
        Ok(Self {
            stream: stream.to_owned(),
            shard_count,
            node: number(store).await?,
        })
    }

    /// The node's number.
    pub fn node(&self) -> u64 {
        self.node
    }
}

async fn number(store: &Store) -> Result<u64, StartError> {
    if let Some(known) = read::<Number>(store, NODE_FILE).await? {
        let node = u64::from_str_radix(&known.node, 16);
        return node.map_err(|error| StartError::BadNote {
            name: NODE_FILE.into(),
            error: error.to_string(),
        });
    }
    let drawn = store.random().map_err(|error| StartError::Io {
        what: "drawing a node's number",
        error,
    })?;
    let node = drawn as u64;
    let number = Number {
        format: FORMAT,
        node: format!("{node:016x}"),
    };
    store
        .write_note(NODE_FILE, encode(NODE_FILE, &number)?)
        .await?;
    Ok(node)
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

fn encode(name: &str, note: &impl Serialize) -> Result<Vec<u8>, StartError> {
    json_file::encode(note).map_err(|error| bad(name, &error))
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
