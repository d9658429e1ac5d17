//! The list of experiments.

use maud::{Markup, html};

use crate::dashboard::plots::spark::spark;
use crate::dashboard::{link, words};
use crate::model::{Description, Slug};

/// How many a page has.
pub const PAGE_LEN: usize = 50;
/// Characters of a description that are shown.
const DESCRIPTION_CHARS: usize = 120;

/// One page of the list.
pub struct List<'a> {
    /// What slugs are to hold; empty for all.
    pub search: &'a str,
    /// Which page, from 1.
    pub page: usize,
    /// How many experiments were found.
    pub found_count: usize,
    /// How many there are.
    pub count: usize,
    /// Those of the page.
    pub rows: Vec<Row>,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
    /// Whether the visitor may make one.
    pub is_admin: bool,
}

/// One experiment; only its name if it could not be read.
pub struct Row {
    /// Its name.
    pub slug: Slug,
    /// What was seen of it, or why nothing was.
    pub seen: Result<Seen, String>,
}

/// What was seen of an experiment.
pub struct Seen {
    /// Its definition and counts.
    pub description: Description,
    /// Entries in each minute of the last hour.
    pub minutes: Vec<f64>,
    /// What is wrong with it.
    pub warnings: Vec<String>,
    /// Whether nobody has checked its sample ratio: it has a unit, and no report yet.
    pub is_ratio_unchecked: bool,
}

/// The page.
pub fn experiments(list: &List<'_>) -> Markup {
    html! {
        div.bar {
            h1 { "Experiments" }
            form.search method="get" role="search" action=(link::EXPERIMENTS) {
                label.hidden for="q" { "Part of a name" }
                input #q type="search" name="q" value=(list.search) placeholder="Part of a name"
                    maxlength="64" autocomplete="off" spellcheck="false";
                button.quiet type="submit" { "Search" }
            }
            @if list.is_admin {
                a.button href=(link::NEW_EXPERIMENT) { "New experiment" }
            }
        }
        @if list.rows.is_empty() {
            p.empty {
                @if list.count == 0 { "There is no experiment yet." }
                @else { "No experiment's name has " bdi { "“" (list.search) "”" } " in it." }
            }
        } @else {
            (table(list))
            (pager(list))
        }
    }
}

fn table(list: &List<'_>) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="The experiments" {
            table.list {
                thead {
                    tr {
                        th scope="col" { "Experiment" }
                        th.number scope="col" { "Entries" }
                        th scope="col" { "Last hour" }
                        th scope="col" { "Last entry" }
                        th.number scope="col" { "Size" }
                        th scope="col" { "Warnings" }
                    }
                }
                tbody {
                    @for row in &list.rows {
                        tr { (cells(row, list.now_ms)) }
                    }
                }
            }
        }
    }
}

fn cells(row: &Row, now_ms: u64) -> Markup {
    let name = html! { a href=(link::experiment(&row.slug)) { (row.slug) } };
    let seen = match &row.seen {
        Ok(seen) => seen,
        Err(why) => {
            return html! {
                th scope="row" { (name) }
                td colspan="5" { span.warning { (why) } }
            };
        }
    };
    let description = &seen.description;
    let hour: f64 = seen.minutes.iter().sum();
    let hour = words::of(
        hour.round() as u64,
        "entry in the last hour",
        "entries in the last hour",
    );
    html! {
        th scope="row" {
            (name)
            @if let Some(about) = &description.definition.description {
                div.about { bdi { (cut(about)) } }
            }
        }
        td.number { (words::count(description.count)) }
        td { (spark(&seen.minutes, &hour)) }
        td {
            @match description.last_entry {
                Some((_, at_ms)) => span title={ (words::time(at_ms)) " UTC" } {
                    (words::ago(at_ms, now_ms))
                },
                None => span.muted { "none" },
            }
        }
        td.number { (words::bytes(description.bytes_on_disk)) }
        td {
            @for warning in &seen.warnings { span.warning { (warning) } }
            @if seen.is_ratio_unchecked {
                span.muted { "sample ratio by unit: not checked until its report is read" }
            } @else if seen.warnings.is_empty() { span.muted { "none" } }
        }
    }
}

fn cut(text: &str) -> String {
    let mut shown: String = text.chars().take(DESCRIPTION_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

fn pager(list: &List<'_>) -> Markup {
    let first = (list.page - 1) * PAGE_LEN + 1;
    let last = first + list.rows.len() - 1;
    let to = |page: usize| {
        let page = page.to_string();
        let page = if page == "1" { "" } else { &page };
        link::with(link::EXPERIMENTS, &[("q", list.search), ("page", page)])
    };
    html! {
        nav.pager aria-label="Pages of the list" {
            span {
                (words::count(first as u64)) "–" (words::count(last as u64)) " of "
                (words::count(list.found_count as u64))
            }
            @if list.page > 1 { a rel="prev" href=(to(list.page - 1)) { "Previous" } }
            @if last < list.found_count { a rel="next" href=(to(list.page + 1)) { "Next" } }
        }
    }
}
