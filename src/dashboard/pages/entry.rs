//! One entry in full.

use maud::{Markup, html};

use crate::dashboard::json::{Budget, Members, tree};
use crate::dashboard::layout::trail;
use crate::dashboard::{link, words};
use crate::model::{Entry, Slug};

/// Text of an entry that is shown, in KiB.
const SHOWN_KIB: usize = 96;
/// Members of an entry that are shown.
const MEMBERS_MAX: usize = 60;

/// The page.
pub fn entry(slug: &Slug, entry: &Entry) -> Markup {
    let members = Members::of(&entry.body);
    let mut budget = Budget::of_kib(SHOWN_KIB);
    let (experiment, entries) = (link::experiment(slug), link::of_experiment(slug, "entries"));
    let places = [
        ("Experiments", link::EXPERIMENTS),
        (slug.as_str(), &*experiment),
        ("Entries", &*entries),
    ];
    let id = entry.id.to_string();
    let compare = link::with(&link::of_experiment(slug, "compare"), &[("left", &id)]);
    html! {
        (trail(&places))
        div.bar {
            h1 { "Entry" }
            @if members.get("input").is_some() {
                a.button href=(compare) { "The same input in another variant" }
            }
        }
        dl.facts {
            div { dt { "Log id" } dd { code { (id) } } }
            div { dt { "Variant" } dd { bdi { (entry.variant_key) } } }
            div { dt { "Received" } dd { (words::time(entry.received_at_ms)) " UTC" } }
            div { dt { "Size" } dd { (words::bytes(entry.body.len() as u64)) } }
        }
        @if members.0.len() > MEMBERS_MAX {
            p.muted { "The first " (MEMBERS_MAX) " of " (words::count(members.0.len() as u64)) " members." }
        }
        @for (name, value) in members.0.iter().take(MEMBERS_MAX).filter(|(name, _)| name != "variantKey") {
            section.card aria-label=(name) {
                h2 { bdi { (name) } }
                (tree(value, &mut budget))
            }
        }
    }
}
