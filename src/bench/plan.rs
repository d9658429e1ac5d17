//! What is to be measured.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::api::Server;
use crate::model::Slug;

/// The settings of a run. They are good ones: whoever makes a plan has checked them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub clients: usize,
    pub connections: usize,
    pub experiments: Vec<Slug>,
    /// The exponent, when some experiments get more entries than others.
    pub zipf: Option<f64>,
    /// Entries in each request; none for single ones.
    pub batch: Option<usize>,
    /// Requests a second in an open loop; none for a closed one.
    pub rate: Option<u64>,
    #[serde(serialize_with = "seconds", rename = "durationSeconds")]
    pub duration: Duration,
    #[serde(serialize_with = "seconds", rename = "warmUpSeconds")]
    pub warm_up: Duration,
    /// The file with the entries; the built-in mix without one.
    pub entry: Option<PathBuf>,
    pub seed: u64,
    pub against: Option<Peer>,
    /// Where the peer is, when it is a server of its own. It may have a password.
    #[serde(skip)]
    #[cfg_attr(not(feature = "peers"), allow(dead_code))]
    pub peer_url: Option<String>,
    pub check: bool,
    /// Flags for a server of our own.
    #[serde(skip)]
    pub serve_flags: Vec<OsString>,
    /// Where a store of our own is made.
    #[serde(skip)]
    pub dir: PathBuf,
    /// The server, when it is not ours.
    #[serde(skip)]
    pub server: Option<Server>,
    /// Whether experiments may be made on it.
    #[serde(skip)]
    pub may_create: bool,
}

/// What the same work is given to for comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Peer {
    /// A server that stores nothing.
    Noop,
    /// One sync after the other on the same disk, without a server.
    Fdatasync,
    Redis,
    Nats,
    Postgres,
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Fdatasync => "fdatasync",
            Self::Redis => "redis",
            Self::Nats => "nats",
            Self::Postgres => "postgres",
        }
    }

    /// Whether it is a server that somebody else has started.
    pub fn is_foreign(self) -> bool {
        matches!(self, Self::Redis | Self::Nats | Self::Postgres)
    }
}

impl Plan {
    pub fn entries_per_request(&self) -> usize {
        self.batch.unwrap_or(1)
    }
}

fn seconds<S: serde::Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64())
}
