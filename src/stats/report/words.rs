//! The report's sentences and figures, for people.

use super::build::Basis;
use super::{Adjustment, ComparisonReport, Report, Verdict};

/// Six significant digits at most.
pub fn figure(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e15).contains(&magnitude) {
        let text = format!("{value:.5e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", without_zeros(digits));
    }
    // How many digits stand in front of the point, once rounded.
    let exponent = format!("{value:.5e}");
    let exponent = exponent
        .split_once('e')
        .and_then(|(_, text)| text.parse().ok());
    let behind = (5 - exponent.unwrap_or(0_i32)).max(0) as usize;
    without_zeros(&format!("{value:.behind$}")).to_owned()
}

fn without_zeros(text: &str) -> &str {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        text
    }
}

/// A relative difference, with its sign.
pub fn percent(part: f64) -> String {
    let percent = part * 100.0;
    if percent.abs() >= 1000.0 {
        format!("{percent:+.0} %")
    } else {
        format!("{percent:+.1} %")
    }
}

pub(super) fn p_value(p_value: f64) -> String {
    if p_value < 0.0001 {
        "< 0.0001".to_owned()
    } else {
        format!("= {p_value:.4}")
    }
}

/// A name that a client made up, safe to print: no control characters, no turning of the line.
pub(super) fn plain(name: &str) -> String {
    let is_odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    name.chars()
        .map(|c| if is_odd(c) { '\u{fffd}' } else { c })
        .collect()
}

/// Which is ahead, for each comparison.
pub(super) fn sentences(report: &Report) -> Vec<String> {
    let Some(control) = &report.control else {
        return Vec::new();
    };
    let comparisons = report.comparisons.iter();
    comparisons
        .map(|comparison| sentence(report, control, comparison))
        .collect()
}

fn sentence(report: &Report, control: &str, one: &ComparisonReport) -> String {
    let (variant, control) = (plain(&one.variant), plain(control));
    let metric = plain(&one.metric);
    if one.difference == 0.0 {
        return format!("{variant} and {control} are equal on {metric}.");
    }
    // The variant is always the subject, since relative differences are relative to the control.
    let place = if one.difference < 0.0 {
        "behind"
    } else {
        "ahead of"
    };
    let lead = format!("{variant} is {place} {control} on {metric}{}", by(one));
    let entries = match one.power.more_entries_for_observed {
        Some(0) | None => String::new(),
        Some(more) => format!(
            " About {more} more entries would show a difference of this size, if there is one."
        ),
    };
    let adjusted = one.p_value_adjusted.map_or(String::new(), p_value);
    let reason = match one.verdict {
        Verdict::Sure => "it is sure, however often you looked.".to_owned(),
        Verdict::SureForOneLook => {
            let why = match one.always_valid {
                Some(_) => "while you keep looking, chance can still explain it".to_owned(),
                None => format!(
                    "there are too few {} yet to say so while you keep looking",
                    observations(report)
                ),
            };
            format!(
                "it is sure if this is your only look (adjusted p {adjusted}), and not sure yet otherwise: {why}."
            )
        }
        Verdict::NotSure => {
            format!("it is not sure yet: chance can explain it (adjusted p {adjusted}).{entries}")
        }
        Verdict::TooLittle => "too few values, or no variance among them, to say more.".to_owned(),
    };
    format!("{lead}; {reason}")
}

fn by(one: &ComparisonReport) -> String {
    let size = one.difference.abs();
    match one.relative {
        Some(relative) => {
            let percent = percent(relative.abs());
            format!(" by {} ({})", percent.trim_start_matches('+'), figure(size))
        }
        None => format!(" by {}", figure(size)),
    }
}

fn observations(report: &Report) -> &'static str {
    if report.unit.field.is_some() {
        "units"
    } else {
        "entries"
    }
}

/// How the figures are to be read.
pub(super) fn notes(basis: &Basis<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    match (&basis.definition.unit, basis.units) {
        (Some(unit), Some(_)) => notes.push(format!(
            "Entries with the same {} belong together: means are compared by units (cluster-robust), \
             and the sample ratio counts units. Quantiles have no interval then.",
            plain(unit)
        )),
        _ => notes.push(
            "No unit: each entry counts as its own. If entries of one user or session resemble each \
             other, these intervals are too narrow; name the field in the experiment's `unit`."
                .to_owned(),
        ),
    }
    notes.push(
        "\"Ahead\" is a higher mean. Where less is better, read it the other way.".to_owned(),
    );
    let adjustment = match basis.options.adjustment {
        Adjustment::Holm => "Holm",
        Adjustment::BenjaminiHochberg => "Benjamini–Hochberg",
    };
    notes.push(format!(
        "Differences: Welch's interval (proportions: Newcombe's), relative ones Fieller's; p-values \
         adjusted after {adjustment}. Both are for one look. The always-valid interval is an \
         asymptotic confidence sequence (Waudby-Smith et al. 2024): it holds at every look."
    ));
    notes
}
