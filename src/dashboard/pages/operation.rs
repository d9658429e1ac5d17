//! How the server is, live.

use maud::{Markup, html};
use serde::Serialize;

use crate::dashboard::{link, words};

/// The figures of one moment. Counters count since the process began.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// When it is, in milliseconds since 1970.
    pub at_ms: u64,
    /// How long the process runs.
    pub uptime_ms: u64,
    /// Entries that became durable.
    pub entry_count: u64,
    /// Requests for single entries, by how long they took.
    pub append_us: Buckets,
    /// Syncs of the journal, by how long they took.
    pub sync_us: Buckets,
    /// Requests that wait in mailboxes.
    pub waiting_count: usize,
    /// Requests that are worked on.
    pub in_flight_count: u64,
    /// Bytes of requests in flight.
    pub in_flight_bytes: usize,
    /// Memory in use.
    pub resident_bytes: u64,
    /// Time on processors.
    pub cpu_seconds: f64,
    /// Free on the disk; `None` when it doesn't say.
    pub free_bytes: Option<u64>,
    /// Connections that are open.
    pub connection_count: usize,
    /// Readers of tails.
    pub tail_count: usize,
    /// Experiments.
    pub experiment_count: usize,
    /// Those that are in memory.
    pub in_use_count: usize,
    /// Requests that failed.
    pub failed_count: u64,
}

/// How many values were how large.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Buckets {
    /// Bounds in microseconds, each with the number of values up to it.
    pub up_to: Vec<(u64, u64)>,
    /// All values.
    pub count: u64,
}

impl Buckets {
    /// About the `q`-quantile, in microseconds: the values of a bucket are taken as evenly spread. That of
    /// the largest bound when it is beyond.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = q * self.count as f64;
        let mut before = (0, 0);
        for (bound, count) in &self.up_to {
            if *count as f64 >= rank && *count > before.1 {
                let part = (rank - before.1 as f64) / (count - before.1) as f64;
                return Some(before.0 as f64 + part * (bound - before.0) as f64);
            }
            before = (*bound, *count);
        }
        (self.count > 0).then_some(before.0 as f64)
    }
}

/// The page.
pub fn operation(figures: &Figures, durability: &str) -> Markup {
    let seconds = figures.uptime_ms.max(1) as f64 / 1000.0;
    let per_second = figures.entry_count as f64 / seconds;
    let ms = |us: Option<f64>| us.map_or("–".into(), |us| format!("{:.2} ms", us / 1000.0));
    let (append, sync) = (&figures.append_us, &figures.sync_us);
    html! {
        div.bar {
            h1 { "Operation" }
            span.live #operation data-figures=(link::FIGURES) {
                span.state role="status" { "since the server started" }
                button.quiet type="button" hidden aria-pressed="false" { "Pause" }
            }
        }
        div.tiles {
            (tile("throughput", "Throughput", &format!("{} entries/s", words::rate(per_second)),
                &format!("{} in all", words::of(figures.entry_count, "entry", "entries"))))
            (tile("latency", "Latency of an entry", &ms(append.quantile(0.5)),
                &format!("99 %: {}", ms(append.quantile(0.99)))))
            (tile("sync", "Sync of the journal", &ms(sync.quantile(0.5)),
                &format!("99 %: {} · durability {durability}", ms(sync.quantile(0.99)))))
            (tile("queue", "Queue", &words::of(figures.waiting_count as u64, "request", "requests"),
                &format!("{} worked on, {}", words::count(figures.in_flight_count),
                    words::bytes(figures.in_flight_bytes as u64))))
            (tile("memory", "Memory", &words::bytes(figures.resident_bytes),
                &format!("{} of {} in use", words::count(figures.in_use_count as u64),
                    words::of(figures.experiment_count as u64, "experiment", "experiments"))))
            (tile("disk", "Free on the disk", &figures.free_bytes.map_or("–".into(), words::bytes), ""))
            (tile("processor", "Processors", &format!("{:.0} %", figures.cpu_seconds / seconds * 100.0),
                "100 % is one of them"))
            (tile("connections", "Connections", &words::count(figures.connection_count as u64),
                &words::of(figures.tail_count as u64, "reader of tails", "readers of tails")))
            (tile("failures", "Failed requests", &words::count(figures.failed_count),
                "answers of 500 and above"))
        }
        p.muted {
            "Latency is from a request's head to its answer's, taken from the buckets of "
            code { "/metrics" } ": so it is about."
        }
    }
}

fn tile(name: &str, title: &str, value: &str, more: &str) -> Markup {
    html! {
        section.card.tile data-tile=(name) aria-label=(title) {
            h2 { (title) }
            p.value { (value) }
            svg.trace viewBox="0 0 60 24" preserveAspectRatio="none" aria-hidden="true" {}
            p.muted.more { (more) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let up_to = vec![(100, 0), (200, 50), (400, 90), (1000, 90)];
        let buckets = Buckets { up_to, count: 100 };
        assert_eq!(buckets.quantile(0.25), Some(150.0));
        assert_eq!(buckets.quantile(0.5), Some(200.0));
        assert_eq!(buckets.quantile(0.7), Some(300.0));
        assert_eq!(
            buckets.quantile(0.99),
            Some(1000.0),
            "beyond the last bound"
        );
        let none = Buckets {
            up_to: vec![(100, 0)],
            count: 0,
        };
        assert_eq!(none.quantile(0.5), None);
    }
}
