//! Entries over time, one row for each variant, all on the same scale.

use maud::{Markup, html};

use super::bar_path;
use crate::dashboard::words;

/// Counts in equal steps of a time.
pub struct Counts<'a> {
    /// Where it begins, in milliseconds since 1970.
    pub begin_ms: u64,
    /// How long each step is.
    pub step_ms: u64,
    /// The variants' keys, each with its counts and how many entries it has in all.
    pub variants: Vec<(&'a str, &'a [f64], u64)>,
}

/// The rows and their axis.
pub fn timeline(counts: &Counts<'_>) -> Markup {
    let all = counts
        .variants
        .iter()
        .flat_map(|(_, counts, _)| counts.iter());
    let most = all.copied().fold(0.0, f64::max).max(1e-9);
    let steps = counts
        .variants
        .first()
        .map_or(1, |(_, counts, _)| counts.len())
        .max(1);
    let end_ms = counts.begin_ms + counts.step_ms * steps as u64;
    html! {
        div.plot {
            @for (key, counts, entry_count) in &counts.variants {
                div.row data-plot="timeline" data-variant=(key) data-count=(entry_count) {
                    span.label { bdi { (key) } }
                    svg.area viewBox=(format!("0 0 {} 40", steps * 10)) preserveAspectRatio="none"
                        height="40" width="100%" aria-hidden="true" {
                        path d=(bar_path(counts, most, 39.0, 0.9)) {}
                    }
                    span.figures { (words::of(*entry_count, "entry", "entries")) }
                }
            }
            div.row.axis {
                span.label {}
                span.ends {
                    span { (words::time(counts.begin_ms)) }
                    span { (words::time(end_ms)) " UTC" }
                }
                span.figures {}
            }
        }
    }
}
