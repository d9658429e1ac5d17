//! The front end's bounds.

use std::time::Duration;

use super::json::NESTING_MAX;

/// What a client may ask for, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest body of one entry, in bytes.
    pub body_bytes_max: usize,
    /// The largest body of a batch, in bytes.
    pub batch_bytes_max: usize,
    /// How deep an entry may be nested, its own object included; [`NESTING_MAX`] at most.
    pub nesting_max: usize,
    /// The longest path with its query, in bytes.
    pub url_bytes_max: usize,
    /// Names and values of all headers, in bytes.
    pub header_bytes_max: usize,
    /// Connections at the same time; further ones wait to be accepted.
    pub connections_max: usize,
    /// Connections of one peer address at the same time; further ones are ended.
    pub peer_connections_max: usize,
    /// Requests that are worked on at the same time; further ones are refused.
    pub requests_max: u64,
    /// Requests of one key in a second; any number, if this is zero.
    pub key_rate: u32,
    /// Attempts in a minute of one peer address that fail since their key is none of ours; further
    /// ones are told to wait. Any number, if this is zero.
    pub failures_max: u32,
    /// How long the first request of a connection may take to come; at most twice as long.
    pub head_max: Duration,
    /// How long a connection may be without a request between two, or in the middle of a later
    /// head; at most [`Self::head_max`] longer.
    pub quiet_max: Duration,
    /// How long a client may be silent in the middle of a body.
    pub body_silence_max: Duration,
    /// How long a whole body may take to come.
    pub body_time_max: Duration,
    /// Those who follow an experiment, at the same time; further ones are refused.
    pub tails_max: usize,
    /// How long such a one hears nothing, at most; then also its key is looked at again.
    pub tail_beat: Duration,
    /// How long the handshake of TLS may take.
    pub handshake_max: Duration,
    /// A request that takes longer until it is answered is told in the log; none, if this is zero.
    pub slow_request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 1 << 20,
            batch_bytes_max: 64 << 20,
            nesting_max: NESTING_MAX,
            url_bytes_max: 8 << 10,
            header_bytes_max: 32 << 10,
            connections_max: 10_000,
            peer_connections_max: 9_000,
            requests_max: 20_000,
            key_rate: 0,
            failures_max: 1000,
            head_max: Duration::from_secs(30),
            quiet_max: Duration::from_secs(75),
            body_silence_max: Duration::from_secs(30),
            body_time_max: Duration::from_secs(600),
            tails_max: 1000,
            tail_beat: Duration::from_secs(15),
            handshake_max: Duration::from_secs(10),
            slow_request: Duration::from_secs(1),
        }
    }
}
