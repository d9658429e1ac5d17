//! Two variants' answers to the same input, side by side.

use maud::{Markup, html};

use crate::dashboard::json::{Budget, Members, metrics, tree};
use crate::dashboard::layout::trail;
use crate::dashboard::{link, words};
use crate::model::{Entry, LogId, Slug};

/// Metrics that are put side by side.
const METRICS_MAX: usize = 64;

/// Text that is shown of the input, and of each output, in KiB.
const SHOWN_KIB: usize = 32;

/// What the page shows.
pub struct Compared<'a> {
    /// The experiment.
    pub slug: &'a Slug,
    /// The entry on the left.
    pub left: &'a Entry,
    /// The one on the right, if one was found.
    pub right: Option<&'a Entry>,
    /// Entries of further variants with the same input.
    pub others: Vec<(LogId, Box<str>)>,
    /// How many bytes of the log were looked through.
    pub read_bytes: u64,
    /// Whether that was all of it.
    pub is_all: bool,
}

/// The page.
pub fn compare(one: &Compared<'_>) -> Markup {
    let experiment = link::experiment(one.slug);
    let places = [
        ("Experiments", link::EXPERIMENTS),
        (one.slug.as_str(), &*experiment),
    ];
    let left = Members::of(&one.left.body);
    html! {
        (trail(&places))
        h1 { "Side by side" }
        section.card aria-labelledby="input" {
            h2 #input { "Input" }
            @if let Some(input) = left.get("input") { (tree(input, &mut Budget::of_kib(SHOWN_KIB))) }
            @else { p.muted { "This entry has no input." } }
        }
        (others(one))
        @match one.right {
            Some(right) => (both(one.slug, one.left, right)),
            None => p.empty {
                "No entry of another variant with this input was found in the "
                (words::bytes(one.read_bytes)) " around it"
                (if one.is_all { ", which is all there is." } else { "." })
            },
        }
    }
}

fn others(one: &Compared<'_>) -> Markup {
    let left = one.left.id.to_string();
    let path = link::of_experiment(one.slug, "compare");
    let right = one.right.map(|right| right.id);
    html! {
        @if !one.others.is_empty() {
            nav.names aria-label="Variants to compare with" {
                span.muted { "Compare with" }
                @for (id, key) in &one.others {
                    @let id_text = id.to_string();
                    a href=(link::with(&path, &[("left", &left), ("right", &id_text)]))
                        aria-current=[(right == Some(*id)).then_some("true")] { bdi { (key) } }
                }
            }
        }
    }
}

fn both(slug: &Slug, left: &Entry, right: &Entry) -> Markup {
    let is_same = |name| {
        let value = |entry: &Entry| {
            Members::of(&entry.body)
                .get(name)
                .map(|raw| raw.get().to_owned())
        };
        value(left) == value(right)
    };
    html! {
        @if !is_same("input") {
            p.warning-box { "The inputs of these two entries differ." }
        }
        div.sides { (side(slug, left)) (side(slug, right)) }
        (side_by_side(left, right))
    }
}

fn side(slug: &Slug, entry: &Entry) -> Markup {
    let members = Members::of(&entry.body);
    html! {
        section.card aria-label={ "Variant " (entry.variant_key) } {
            h2 { bdi { (entry.variant_key) } }
            p.muted {
                a href=(link::entry(slug, entry.id)) { (words::time(entry.received_at_ms)) " UTC" }
            }
            @match members.get("output") {
                Some(output) => (tree(output, &mut Budget::of_kib(SHOWN_KIB))),
                None => p.muted { "No output." },
            }
        }
    }
}

fn side_by_side(left: &Entry, right: &Entry) -> Markup {
    let (of_left, of_right) = (Members::of(&left.body), Members::of(&right.body));
    let (of_left, of_right) = (metrics(&of_left), metrics(&of_right));
    let mut names: Vec<_> = of_left.iter().map(|(name, _)| name).collect();
    names.extend(
        of_right
            .iter()
            .map(|(name, _)| name)
            .filter(|name| !of_left.iter().any(|(known, _)| known == *name)),
    );
    let value = |of: &[(std::borrow::Cow<'_, str>, &str)], name: &str| {
        let found = of.iter().find(|(known, _)| known == name);
        found.map_or("–".to_owned(), |(_, text)| {
            text.chars().take(40).collect()
        })
    };
    html! {
        @if !names.is_empty() {
            section.card aria-labelledby="metrics" {
                h2 #metrics { "Metrics" }
                div.scroll tabindex="0" role="region" aria-label="Metrics of both" {
                    table.list {
                        thead {
                            tr {
                                th scope="col" { "Metric" }
                                th.number scope="col" { bdi { (left.variant_key) } }
                                th.number scope="col" { bdi { (right.variant_key) } }
                            }
                        }
                        tbody {
                            @for name in names.into_iter().take(METRICS_MAX) {
                                tr {
                                    th scope="row" { bdi { (name) } }
                                    td.number { (value(&of_left, name)) }
                                    td.number { (value(&of_right, name)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
