//! A result in words for people, and as JSON from which all of it can be plotted.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::audit::Audited;
use super::machine::Machine;
use super::meter::{Latency, Measured, Round, SIGNIFICANT_DIGITS, Second};
use super::plan::Plan;
use super::run::Outcome;
use super::target::Account;
use super::verdict::Verdict;
use crate::entry_json::rfc3339_ms;

/// A run as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Json<'o> {
    version: &'static str,
    at: String,
    machine: &'o Machine,
    settings: &'o Plan,
    durability: &'o str,
    entry_bytes_mean: usize,
    results: Vec<Side<'o>>,
    /// What trialog took of the peer's rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<Ratio>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<&'o Verdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'o Account>,
}

/// An audit as JSON.
#[derive(Serialize)]
pub struct AuditJson<'o> {
    version: &'static str,
    at: String,
    machine: Machine,
    settings: &'o Plan,
    #[serde(flatten)]
    audited: &'o Audited,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Side<'o> {
    name: &'o str,
    entries: u64,
    requests: u64,
    seconds: f64,
    entries_per_second: f64,
    latency_us: Latency,
    errors: &'o BTreeMap<String, u64>,
    unsent: u64,
    rounds: &'o [Round],
    by_second: &'o [Second],
    histogram: Histogram,
}

/// The raw histogram: for each value that was met, how many requests took that long.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Histogram {
    unit: &'static str,
    significant_digits: u8,
    buckets: Vec<(u64, u64)>,
}

/// One target against the other, round by round.
#[derive(Debug, Clone, Serialize)]
pub struct Ratio {
    pub median: f64,
    pub rounds: Vec<f64>,
}

impl<'o> Json<'o> {
    pub fn of(plan: &'o Plan, outcome: &'o Outcome, now_ms: u64) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            at: rfc3339_ms(now_ms),
            machine: &outcome.machine,
            settings: plan,
            durability: &outcome.durability,
            entry_bytes_mean: outcome.entry_bytes_mean,
            results: outcome.measured.iter().map(Side::of).collect(),
            ratio: Ratio::of(&outcome.measured),
            check: outcome.verdict.as_ref(),
            peer: outcome.peer.as_ref(),
        }
    }
}

impl<'o> AuditJson<'o> {
    pub fn of(plan: &'o Plan, audited: &'o Audited, now_ms: u64) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            at: rfc3339_ms(now_ms),
            machine: Machine::this(&plan.dir),
            settings: plan,
            audited,
        }
    }
}

impl<'o> Side<'o> {
    fn of(measured: &'o Measured) -> Self {
        let recorded = measured.histogram.iter_recorded();
        Self {
            name: &measured.name,
            entries: measured.entries(),
            requests: measured.histogram.len(),
            seconds: measured.seconds(),
            entries_per_second: measured.entries_per_second(),
            latency_us: measured.latency(),
            errors: &measured.errors,
            unsent: measured.unsent,
            rounds: &measured.rounds,
            by_second: &measured.seconds,
            histogram: Histogram {
                unit: "ns",
                significant_digits: SIGNIFICANT_DIGITS,
                buckets: recorded
                    .map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value()))
                    .collect(),
            },
        }
    }
}

impl Ratio {
    /// Of the first target to the second, when there are two.
    fn of(measured: &[Measured]) -> Option<Self> {
        let [first, second] = measured else {
            return None;
        };
        let both = first.rounds.iter().zip(&second.rounds);
        let rounds: Vec<f64> = both
            .filter(|(_, peer)| peer.entries > 0)
            .map(|(ours, peer)| ours.entries_per_second() / peer.entries_per_second())
            .collect();
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let half = sorted.len() / 2;
        let upper = *sorted.get(half)?;
        let lower = *sorted.get(half - usize::from(sorted.len().is_multiple_of(2)))?;
        Some(Self {
            median: (lower + upper) / 2.0,
            rounds,
        })
    }
}

/// The table of a run.
pub fn table(plan: &Plan, outcome: &Outcome) -> String {
    let mut text = what_was_done(plan, outcome);
    let columns = [
        "",
        "entries/s",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
        "errors",
    ];
    line(&mut text, columns.map(String::from));
    for side in &outcome.measured {
        let latency = side.latency();
        line(
            &mut text,
            [
                side.name.clone(),
                grouped(side.entries_per_second().round() as u64),
                time(latency.p50),
                time(latency.p90),
                time(latency.p99),
                time(latency.p999),
                time(latency.max),
                grouped(side.error_count()),
            ],
        );
    }
    if let Some(ratio) = Ratio::of(&outcome.measured) {
        let rounds: Vec<_> = ratio
            .rounds
            .iter()
            .map(|ratio| format!("{ratio:.3}"))
            .collect();
        let _infallible = writeln!(
            text,
            "ratio {:.3}: the median of {}",
            ratio.median,
            rounds.join(" ")
        );
    }
    for side in &outcome.measured {
        words_on(&mut text, side);
    }
    if let Some(verdict) = &outcome.verdict {
        let _infallible = write!(text, "check: {}", verdict_words(verdict));
    }
    if let (Some(account), Some(peer)) = (&outcome.peer, plan.against) {
        let _infallible = writeln!(text, "{}: {}", peer.name(), account_words(account));
    }
    text
}

fn account_words(account: &Account) -> String {
    let server = &account.server;
    let Some(kept) = account.kept else {
        return server.clone();
    };
    let mut words = format!(
        "{server}; {} acknowledged, {} found, {} unknown",
        grouped(kept.acknowledged),
        grouped(kept.found),
        grouped(kept.unknown),
    );
    if !kept.is_good() {
        words.push_str(": that doesn't match");
    }
    words
}

/// The result of an audit.
pub fn audit_words(audited: &Audited) -> String {
    let (unknown, there) = (audited.verdict.unknown, audited.unknown_found);
    format!(
        "killed {} times with SIGKILL, {} of them while it started\n{}\
         of {} entries without an answer {} are there, whole\n",
        audited.kills,
        audited.kills_at_start,
        verdict_words(&audited.verdict),
        grouped(unknown),
        grouped(there),
    )
}

fn what_was_done(plan: &Plan, outcome: &Outcome) -> String {
    let entries = match plan.batch {
        None => "single entries".to_owned(),
        Some(count) => format!("batches of {count} entries"),
    };
    let pace = match plan.rate {
        None => "as fast as they are answered".to_owned(),
        Some(rate) => format!(
            "{} requests/s, latency from the time they were due",
            grouped(rate)
        ),
    };
    let spread = match plan.zipf {
        None => String::new(),
        Some(exponent) => format!(" (Zipf {exponent})"),
    };
    let seconds = outcome.measured.first().map_or(0.0, Measured::seconds);
    format!(
        "{} on {}, {}{spread}, {entries} of {} bytes, {pace}; {seconds:.1} s after {:.1} s to warm up; \
         durability {}\n",
        some(plan.clients, "client"),
        some(plan.connections, "connection"),
        some(plan.experiments.len(), "experiment"),
        grouped(outcome.entry_bytes_mean as u64),
        plan.warm_up.as_secs_f64(),
        outcome.durability,
    )
}

fn some(count: usize, what: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{} {what}{end}", grouped(count as u64))
}

/// What the table has no column for.
fn words_on(text: &mut String, side: &Measured) {
    for (code, count) in &side.errors {
        let _infallible = writeln!(
            text,
            "{}: {} requests failed: {code}",
            side.name,
            grouped(*count)
        );
    }
    if side.unsent > 0 {
        let _infallible = writeln!(
            text,
            "{}: {} requests were due by the end and not sent, all connections being busy: no latency \
             tells of them",
            side.name,
            grouped(side.unsent)
        );
    }
}

fn verdict_words(verdict: &Verdict) -> String {
    let mut text = format!(
        "{} acknowledged, {} found, {} lost, {} doubled, {} changed, {} unexpected, {} batches torn, \
         {} unknown\n",
        grouped(verdict.acknowledged),
        grouped(verdict.found),
        grouped(verdict.lost),
        grouped(verdict.doubled),
        grouped(verdict.changed),
        grouped(verdict.unexpected),
        grouped(verdict.torn),
        grouped(verdict.unknown),
    );
    for damage in &verdict.damage {
        let _infallible = writeln!(text, "damage: {damage}");
    }
    text
}

fn line(text: &mut String, [name, rate, latencies @ .., errors]: [String; 8]) {
    let _infallible = write!(text, "{name:<10} {rate:>11}");
    for latency in latencies {
        let _infallible = write!(text, " {latency:>9}");
    }
    let _infallible = writeln!(text, " {errors:>8}");
}

/// One line on a second that is over.
pub fn second_words(name: &str, second: &Second) -> String {
    let rate = second.entries as f64 / second.seconds.max(f64::MIN_POSITIVE);
    format!(
        "{name}: {:.0} s, {} entries/s, p50 {}, p99 {}, max {}, {} errors",
        second.at_seconds + second.seconds,
        grouped(rate.round() as u64),
        time(second.latency_us.p50),
        time(second.latency_us.p99),
        time(second.latency_us.max),
        grouped(second.errors),
    )
}

/// A time in microseconds, in the unit that reads best.
fn time(us: f64) -> String {
    if us < 1000.0 {
        format!("{us:.0} µs")
    } else if us < 100_000.0 {
        format!("{:.2} ms", us / 1000.0)
    } else {
        format!("{:.2} s", us / 1_000_000.0)
    }
}

/// A number with a comma before each three digits.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
