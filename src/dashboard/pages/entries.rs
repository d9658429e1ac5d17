//! Entries: those of the log, the newest first, and on top of them those that come.

use maud::{Markup, html};

use crate::dashboard::json::{self, Members};
use crate::dashboard::layout::trail;
use crate::dashboard::{link, words};
use crate::model::{LogId, Slug};

/// How many a page has.
pub const PAGE_LEN: usize = 50;
/// Metrics of an entry that a row tells.
const METRICS_MAX: usize = 4;
/// Variants that can be chosen.
const VARIANTS_MAX: usize = 200;

/// A page of entries.
pub struct Entries<'a> {
    /// The experiment.
    pub slug: &'a Slug,
    /// The variants that can be chosen.
    pub variants: Vec<&'a str>,
    /// What is chosen, as it was written.
    pub filter: Filter<'a>,
    /// The entries, the newest first.
    pub rows: Vec<Row>,
    /// In front of which entry the next page begins.
    pub next: Option<LogId>,
    /// Damage that was met on the way.
    pub lost_count: usize,
    /// Where entries come from that aren't in the page yet.
    pub tail: Option<LogId>,
}

/// What is chosen. Empty is everything.
#[derive(Clone, Copy, Default)]
pub struct Filter<'a> {
    /// One variant.
    pub variant: &'a str,
    /// Received at this time or later.
    pub since: &'a str,
    /// Received before this time.
    pub until: &'a str,
    /// In front of this entry.
    pub before: &'a str,
}

/// An entry in the list.
pub struct Row {
    /// What identifies it.
    pub id: LogId,
    /// When it arrived, in milliseconds since 1970.
    pub received_at_ms: u64,
    /// Its variant.
    pub variant: Box<str>,
    /// What it is about.
    pub excerpt: String,
    /// Some of its metrics.
    pub metrics: Vec<(String, String)>,
}

impl Row {
    /// The row of an entry.
    pub fn new(id: LogId, received_at_ms: u64, variant: Box<str>, body: &[u8]) -> Self {
        let members = Members::of(body);
        let metrics = json::metrics(&members).into_iter().take(METRICS_MAX);
        Self {
            id,
            received_at_ms,
            variant,
            excerpt: json::excerpt(&members),
            metrics: metrics
                .map(|(name, text)| (name.chars().take(40).collect(), short(text)))
                .collect(),
        }
    }
}

/// A number in a list: the entry's page has all of its digits.
fn short(text: &str) -> String {
    match text.parse::<f64>() {
        Ok(number) if text.len() > 8 && number.is_finite() => words::figure(number),
        _ => text.chars().take(24).collect(),
    }
}

/// The page.
pub fn entries(page: &Entries<'_>) -> Markup {
    let path = link::of_experiment(page.slug, "entries");
    let experiment = link::experiment(page.slug);
    let places = [
        ("Experiments", link::EXPERIMENTS),
        (page.slug.as_str(), &*experiment),
    ];
    let filter = page.filter;
    let is_live = filter.until.is_empty() && filter.before.is_empty();
    html! {
        (trail(&places))
        div.bar {
            h1 { "Entries" }
            @if is_live { (live(page)) }
        }
        (form(page, &path))
        @if page.lost_count > 0 {
            p.warning-box { "Damage in the log has cost entries here: what is whole is shown." }
        }
        ol.entries #entries aria-label="Entries, the newest first" {
            @for row in &page.rows { (row_of(page.slug, row)) }
        }
        @if page.rows.is_empty() {
            p.empty #no-entries {
                @if is_live { "No entries yet. They will appear here as they become durable." }
                @else { "No entries were found." }
            }
        }
        @if let Some(next) = page.next {
            @let before = next.to_string();
            nav.pager aria-label="Pages of entries" {
                @if !filter.before.is_empty() {
                    a href=(link::with(&path, &[("variant", filter.variant), ("since", filter.since),
                        ("until", filter.until)])) { "Newest" }
                }
                a rel="next" href=(link::with(&path, &[("variant", filter.variant),
                    ("since", filter.since), ("until", filter.until), ("before", &before)])) { "Older" }
            }
        }
    }
}

/// What the script makes a live tail of.
fn live(page: &Entries<'_>) -> Markup {
    let after = page.tail.map(|id| id.to_string()).unwrap_or_default();
    let parameters = [("variant", page.filter.variant), ("after", &after)];
    let tail = link::with(&link::of_experiment(page.slug, "tail"), &parameters);
    let entry = format!("{}/", link::of_experiment(page.slug, "entry"));
    html! {
        span.live #tail data-tail=(tail) data-entry=(entry) {
            span.state role="status" { "not live" }
            button.quiet type="button" hidden aria-pressed="false" { "Pause" }
        }
    }
}

fn form(page: &Entries<'_>, path: &str) -> Markup {
    let filter = page.filter;
    let is_known = page.variants.contains(&filter.variant);
    html! {
        form.filter method="get" action=(path) {
            div {
                label for="variant" { "Variant" }
                select #variant name="variant" {
                    option value="" { "all" }
                    @if !is_known && !filter.variant.is_empty() {
                        option value=(filter.variant) selected { (filter.variant) }
                    }
                    @for key in page.variants.iter().take(VARIANTS_MAX) {
                        option value=(key) selected[*key == filter.variant] { (key) }
                    }
                }
            }
            (time("since", "From (UTC)", filter.since))
            (time("until", "Until (UTC)", filter.until))
            button.quiet type="submit" { "Filter" }
        }
    }
}

fn time(name: &str, label: &str, value: &str) -> Markup {
    html! {
        div {
            label for=(name) { (label) }
            input id=(name) name=(name) type="datetime-local" step="1" value=(value);
        }
    }
}

fn row_of(slug: &Slug, row: &Row) -> Markup {
    html! {
        li {
            a href=(link::entry(slug, row.id)) {
                time title=(row.id) { (words::time(row.received_at_ms)) }
                " " bdi.key { (row.variant) }
            }
            bdi.excerpt { (row.excerpt) }
            @if !row.metrics.is_empty() {
                span.metrics {
                    @for (name, text) in &row.metrics {
                        span { bdi { (name) } " " (text) } " "
                    }
                }
            }
        }
    }
}
