//! The differences to the control on a metric, with zero marked. What is sure is filled and in the
//! accent's colour, what isn't is hollow and grey; the words beside it say the same.

use maud::{Markup, html};

use super::axis;
use super::means::bars;
use super::scale::Scale;
use crate::dashboard::words::{figure, interval, of, percent, signed};
use crate::stats::report::{ComparisonReport, Interval, Verdict};

/// The rows and their axis.
pub fn forest(comparisons: &[&ComparisonReport]) -> Markup {
    let ends = comparisons.iter().flat_map(|one| {
        let intervals = [one.interval, one.always_valid.map(|always| always.interval)];
        let ends = intervals.into_iter().flatten();
        ends.flat_map(|Interval(low, high)| [low, high])
            .chain([one.difference, 0.0])
    });
    let scale = Scale::of(ends.collect::<Vec<_>>());
    let zero = scale.percent(0.0);
    html! {
        div.plot {
            @for one in comparisons {
                @let always = one.always_valid.map(|always| always.interval);
                div class={ "row " (class(one.verdict)) } data-plot="difference" data-variant=(one.variant)
                    data-metric=(one.metric) data-difference=(one.difference)
                    data-low=[one.interval.map(|one| one.0)]
                    data-high=[one.interval.map(|one| one.1)]
                    data-always-low=[always.map(|one| one.0)]
                    data-always-high=[always.map(|one| one.1)] {
                    span.label {
                        bdi { (one.variant) }
                        " " span.verdict { (word(one.verdict)) }
                    }
                    svg width="100%" height="28" aria-hidden="true" {
                        line.zero x1=(zero) x2=(zero) y1="0" y2="28" {}
                        (bars(&scale, one.interval, always))
                        circle.dot cx=(scale.percent(one.difference)) cy="14" r="4.5" {}
                    }
                    span.figures { (figures(one)) }
                }
            }
            (axis(&scale, |tick| if tick == 0.0 { "0".into() } else { signed(tick) }))
        }
    }
}

fn figures(one: &ComparisonReport) -> Markup {
    html! {
        strong { (signed(one.difference)) }
        @if let Some(relative) = one.relative { " (" (percent(relative)) ")" }
        @if let Some(one_look) = one.interval { " " (interval(one_look)) }
        @if let Some(always) = one.always_valid {
            br; span.muted { "at any time " (interval(always.interval)) }
        }
        @if let Some(p_value) = one.p_value_adjusted {
            br; span.muted {
                "adjusted p " (p(p_value))
                @if let Some(always) = one.always_valid {
                    ", at any time " (p(always.p_value_adjusted))
                }
            }
        }
        @if let (Verdict::NotSure, Some(more)) = (one.verdict, one.power.more_entries_for_observed)
            && more > 0 {
            br; span.muted {
                "about " (of(more, "more entry", "more entries")) " needed for a difference of this size"
            }
        }
    }
}

fn p(p_value: f64) -> String {
    match p_value < 0.0001 {
        true => "< 0.0001".into(),
        false => figure((p_value * 1e4).round() / 1e4),
    }
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Sure => "sure",
        Verdict::SureForOneLook => "one-look-only",
        Verdict::NotSure | Verdict::TooLittle => "unsure",
    }
}

/// What a comparison comes to, in a few words.
pub fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Sure => "sure",
        Verdict::SureForOneLook => "sure for one look",
        Verdict::NotSure => "not sure",
        Verdict::TooLittle => "too little",
    }
}
