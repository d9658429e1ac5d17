//! What the front end counts: requests, how long they took, and what was refused.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;

use super::error::{ApiError, Code};
use super::router::{ACTIONS, Action};
use crate::metrics::text::{Text, Unit};
use crate::metrics::{Counter, Histogram};

/// Microseconds of a request.
const REQUEST_US: [u64; 12] = [
    250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
];
/// Classes of statuses: those from 100 to 500.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident $word:literal,)*) => {
        /// A limit of the server's, where no error's code says that it alone was met.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Limit { $($(#[$doc])* $name,)* }

        impl Limit {
            /// Every one, with its name in the metrics.
            const ALL: &'static [(Limit, &'static str)] = &[$((Limit::$name, $word),)*];
        }
    };
}

limits! {
    /// Bytes of requests in flight.
    InflightBytes "inflight_bytes",
    /// Requests in flight.
    InflightRequests "inflight_requests",
    /// Requests that wait for one experiment.
    Mailbox "mailbox",
    /// Readers of tails.
    Tails "tails",
    /// Segments that are downloaded at the same time.
    Downloads "downloads",
    /// Descriptors, and what else the machine is short of.
    Machine "machine",
    /// Connections of one peer address.
    PeerConnections "peer_connections",
    /// The size of a head, where the parser refused it.
    Head "head",
    /// How long the first request of a connection may take.
    SlowHead "slow_head",
    /// How long a connection may be quiet.
    Quiet "quiet_connection",
    /// How long a handshake of TLS may take.
    Handshake "handshake",
    /// Variants of an experiment.
    Variants "variants",
    /// Metrics that are kept of an experiment: an answer lacks some.
    Metrics "metrics",
}

/// The front end's figures.
pub struct HttpMetrics {
    started_at: SystemTime,
    begun: AtomicU64,
    ended: AtomicU64,
    /// By action; the last is of requests that came to none.
    routes: Vec<Route>,
    refusals: Vec<Counter>,
    limits: Vec<Counter>,
    /// Connections that were accepted.
    pub accepted: Counter,
}

struct Route {
    method: &'static str,
    path: &'static str,
    by_class: [Counter; CLASSES.len()],
    duration_us: Histogram,
}

impl HttpMetrics {
    /// All at zero.
    pub fn new() -> Self {
        let none = ("none", "none");
        let known = ACTIONS.iter().map(|(_, method, path)| (*method, *path));
        let route = |(method, path)| Route {
            method,
            path,
            by_class: Default::default(),
            duration_us: Histogram::new(&REQUEST_US),
        };
        let counters = |count| (0..count).map(|_| Counter::default()).collect();
        Self {
            started_at: SystemTime::now(),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            routes: known.chain([none]).map(route).collect(),
            refusals: counters(Code::ALL.len()),
            limits: counters(Limit::ALL.len()),
            accepted: Counter::default(),
        }
    }

    /// Takes note that a request has begun.
    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes note that a request is no longer worked on.
    pub fn end(&self) {
        self.ended.fetch_add(1, Ordering::Release);
    }

    /// Requests that are worked on. One that ends in between doesn't make it negative.
    pub fn in_flight(&self) -> u64 {
        let ended = self.ended.load(Ordering::Acquire);
        self.begun.load(Ordering::Relaxed).saturating_sub(ended)
    }

    /// Takes note of an answer's head.
    pub fn answered(&self, action: Option<Action>, status: StatusCode, duration: Duration) {
        let place = action.map_or(ACTIONS.len(), |action| action as usize);
        let Some(route) = self.routes.get(place) else {
            return;
        };
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(counter) = route.by_class.get(class) {
            counter.add(1);
        }
        route.duration_us.observe_us(duration);
    }

    /// Takes note of a refusal.
    pub fn refused(&self, refused: &ApiError) {
        if let Some(counter) = self.refusals.get(refused.code as usize) {
            counter.add(1);
        }
        if let Some(limit) = refused.limit {
            self.met(limit, 1);
        }
    }

    /// Takes note that a limit was met.
    pub fn met(&self, limit: Limit, times: u64) {
        if let Some(counter) = self.limits.get(limit as usize) {
            counter.add(times);
        }
    }

    /// How long requests for single entries took.
    pub fn appends(&self) -> Option<&Histogram> {
        let route = self.routes.get(Action::Append as usize)?;
        Some(&route.duration_us)
    }

    /// Answers of 500 and above.
    pub fn failed_count(&self) -> u64 {
        let failed = self.routes.iter().filter_map(|route| route.by_class.last());
        failed.map(Counter::get).sum()
    }

    /// Adds them to the text.
    pub fn write(&self, text: &mut Text) {
        let mut family = text.counter(
            "trialog_http_requests_total",
            "Requests answered, by what they asked for and the class of their status.",
        );
        for route in &self.routes {
            for (class, counter) in CLASSES.iter().zip(&route.by_class).skip(1) {
                let labels = [
                    ("method", route.method),
                    ("route", route.path),
                    ("status", class),
                ];
                family.sample(&labels, counter.get());
            }
        }
        let mut family = text.histogram(
            "trialog_http_request_duration_seconds",
            "From the head of a request to the head of its answer.",
        );
        for route in &self.routes {
            let labels = [("method", route.method), ("route", route.path)];
            family.buckets(&labels, &route.duration_us, Unit::Seconds);
        }
        let mut family = text.counter(
            "trialog_http_refusals_total",
            "Errors answered, by their code.",
        );
        for (code, counter) in Code::ALL.iter().zip(&self.refusals) {
            family.sample(&[("code", code.as_str())], counter.get());
        }
        let mut family = text.counter(
            "trialog_limits_met_total",
            "How often a limit was met that has no error, or none with a code of its own.",
        );
        for ((_, word), counter) in Limit::ALL.iter().zip(&self.limits) {
            family.sample(&[("limit", word)], counter.get());
        }
        let help = "Requests that are worked on.";
        text.gauge("trialog_http_requests_in_flight", help)
            .value(self.in_flight());
        let help = "Connections accepted.";
        let mut family = text.counter("trialog_http_connections_accepted_total", help);
        family.value(self.accepted.get());
        let since = self.started_at.duration_since(UNIX_EPOCH);
        let help = "When the process started, in seconds since 1970.";
        let mut family = text.gauge("process_start_time_seconds", help);
        family.value(since.unwrap_or_default().as_secs_f64());
    }
}

impl Default for HttpMetrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_limits_stand_at_their_places() {
        for (place, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, place);
        }
        for (place, (limit, _)) in Limit::ALL.iter().enumerate() {
            assert_eq!(*limit as usize, place);
        }
    }
}
