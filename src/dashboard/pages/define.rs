//! Making an experiment, and changing one.

use maud::{Markup, html};

use crate::dashboard::layout::{trail, wrong};
use crate::dashboard::link;

/// Lines for further variants.
const EMPTY_LINES: usize = 3;
/// More variants than these stand in one field, a line each: a field for each part would make a large page.
const FIELDS_MAX: usize = 100;
/// What a line says of the control, behind its key and weight.
pub const CONTROL: &str = "control";

/// What the form holds, as it was written.
#[derive(Debug, Default)]
pub struct Fields {
    /// The experiment's name.
    pub slug: String,
    /// Words for people.
    pub description: String,
    /// The field that says who was assigned.
    pub unit: String,
    /// The variants: key and weight.
    pub variants: Vec<(String, String)>,
    /// Which of them is the control.
    pub control: Option<usize>,
    /// Whether entries may name others.
    pub open_variants: bool,
    /// How long entries are kept.
    pub max_age: String,
    /// How many bytes are kept.
    pub max_bytes: String,
}

/// The page; `slug` is that of the experiment that is changed.
pub fn define(fields: &Fields, slug: Option<&str>, message: Option<&str>) -> Markup {
    let action = match slug {
        Some(slug) => format!("/ui/experiment/{slug}/edit"),
        None => link::NEW_EXPERIMENT.to_owned(),
    };
    let experiment = slug.map(|slug| (slug, format!("/ui/experiment/{slug}")));
    let mut places = vec![("Experiments", link::EXPERIMENTS)];
    places.extend(experiment.as_ref().map(|(slug, path)| (*slug, &**path)));
    html! {
        (trail(&places))
        h1 { (if slug.is_some() { "Edit the experiment" } else { "New experiment" }) }
        (wrong(message))
        form.card.form method="post" action=(action) {
            @if slug.is_none() {
                label for="slug" { "Name" }
                input #slug name="slug" value=(fields.slug) required maxlength="64" autocomplete="off"
                    spellcheck="false" pattern="[a-z0-9][a-z0-9_\\-]*" aria-describedby="slug-hint";
                p.hint #slug-hint { "Letters a–z, digits, - and _. It stands in addresses, and stays." }
            }
            label for="description" { "Description" }
            textarea #description name="description" rows="2" maxlength="4000" { (fields.description) }
            @if fields.variants.len() > FIELDS_MAX { (variant_lines(fields)) }
            @else { (variants(fields)) }
            p.check {
                input #open type="checkbox" name="open" value="yes" checked[fields.open_variants];
                label for="open" { "Entries may name other variants, too" }
            }
            label for="unit" { "Unit" }
            input #unit name="unit" value=(fields.unit) maxlength="4000" autocomplete="off"
                spellcheck="false" placeholder="context.session_id" aria-describedby="unit-hint";
            p.hint #unit-hint {
                "The field that says which entries belong together. Empty: each counts as its own."
            }
            fieldset {
                legend { "Retention" }
                label for="max-age" { "Keep entries for" }
                input #max-age name="max_age" value=(fields.max_age) placeholder="90d"
                    autocomplete="off" aria-describedby="age-hint";
                p.hint #age-hint { "A number and s, m, h, d or w. Empty: for ever." }
                label for="max-bytes" { "Keep at most so many bytes" }
                input #max-bytes name="max_bytes" value=(fields.max_bytes) inputmode="numeric"
                    autocomplete="off";
            }
            button type="submit" { (if slug.is_some() { "Save" } else { "Create" }) }
        }
    }
}

fn variant_lines(fields: &Fields) -> Markup {
    let mut lines = String::new();
    for (at, (key, weight)) in fields.variants.iter().enumerate() {
        lines.push_str(key);
        let is_control = fields.control == Some(at);
        for part in [&**weight, if is_control { CONTROL } else { "" }] {
            lines.push('\t');
            lines.push_str(part);
        }
        lines.truncate(lines.trim_end_matches('\t').len());
        lines.push('\n');
    }
    html! {
        label for="lines" { "Variants" }
        textarea #lines name="variants" rows="20" autocomplete="off" spellcheck="false"
            aria-describedby="lines-hint" { "\n" (lines) }
        p.hint #lines-hint {
            "One a line: the key, which is what entries name; behind a tab its weight, if all have one; "
            "behind another tab the word control for the one that the others are compared with. A variant "
            "that has entries can't be removed."
        }
    }
}

fn variants(fields: &Fields) -> Markup {
    let line_count = fields.variants.len() + EMPTY_LINES;
    let none = (String::new(), String::new());
    let lines = fields
        .variants
        .iter()
        .chain(std::iter::repeat(&none))
        .take(line_count);
    html! {
        fieldset #variants {
            legend { "Variants" }
            p.hint {
                "The key is what entries name; the weight its planned share beside the others' (all or "
                "none). A variant that has entries can't be removed."
            }
            @for (at, (key, weight)) in lines.enumerate() {
                div.variant {
                    input name="key" value=(key) aria-label={ "Key of variant " (at + 1) }
                        maxlength="128" autocomplete="off" spellcheck="false" placeholder="key";
                    input name="weight" value=(weight) aria-label={ "Weight of variant " (at + 1) }
                        inputmode="decimal" autocomplete="off" placeholder="weight";
                    label {
                        input type="radio" name="control" value=(at) checked[fields.control == Some(at)]
                            aria-label={ "Variant " (at + 1) " is the control" };
                        " control"
                    }
                }
            }
            button.quiet type="button" data-more="variant" hidden { "One more variant" }
        }
    }
}
