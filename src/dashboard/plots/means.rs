//! The variants' means of a metric, each with its interval for one look and the one for all times.

use maud::{Markup, html};

use super::axis;
use super::scale::Scale;
use crate::dashboard::words::{figure, interval};
use crate::stats::report::{Interval, MetricReport};

/// The rows and their axis: variants' keys, whether each is the control, and the metric.
pub fn means(rows: &[(&str, bool, &MetricReport)]) -> Markup {
    let ends = rows.iter().flat_map(|(_, _, metric)| {
        let intervals = [metric.interval, metric.always_valid_interval];
        let ends = intervals.into_iter().flatten();
        ends.flat_map(|Interval(low, high)| [low, high])
            .chain(metric.mean)
    });
    let scale = Scale::of(ends.collect::<Vec<_>>());
    html! {
        div.plot {
            @for (key, is_control, metric) in rows {
                div.row data-plot="mean" data-variant=(key) data-metric=(metric.name)
                    data-mean=[metric.mean] data-low=[metric.interval.map(|one| one.0)]
                    data-high=[metric.interval.map(|one| one.1)]
                    data-always-low=[metric.always_valid_interval.map(|one| one.0)]
                    data-always-high=[metric.always_valid_interval.map(|one| one.1)] {
                    span.label {
                        bdi { (key) }
                        @if *is_control { " " span.tag { "control" } }
                    }
                    svg width="100%" height="28" aria-hidden="true" {
                        (bars(&scale, metric.interval, metric.always_valid_interval))
                        @if let Some(mean) = metric.mean {
                            circle.dot cx=(scale.percent(mean)) cy="14" r="4.5" {}
                        }
                    }
                    span.figures {
                        @if let Some(mean) = metric.mean { strong { (figure(mean)) } }
                        @if let Some(one) = metric.interval { " " (interval(one)) }
                        @if let Some(always) = metric.always_valid_interval {
                            br; span.muted { "at any time " (interval(always)) }
                        }
                    }
                }
            }
            (axis(&scale, figure))
        }
    }
}

/// A thick bar for one look, within a thin one for all times.
pub fn bars(scale: &Scale, one_look: Option<Interval>, always: Option<Interval>) -> Markup {
    html! {
        @if let Some(Interval(low, high)) = always {
            @let (low, high) = (scale.percent(low), scale.percent(high));
            line.always x1=(low) x2=(high) y1="14" y2="14" {}
            line.always x1=(low) x2=(low) y1="9" y2="19" {}
            line.always x1=(high) x2=(high) y1="9" y2="19" {}
        }
        @if let Some(Interval(low, high)) = one_look {
            line.one-look x1=(scale.percent(low)) x2=(scale.percent(high)) y1="14" y2="14" {}
        }
    }
}
