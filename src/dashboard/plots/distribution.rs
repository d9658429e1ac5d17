//! How a metric's values are distributed, one row for each variant: a histogram from its sketch, with the
//! median and other quantiles marked.

use maud::{Markup, html};

use super::scale::Scale;
use super::{axis, bar_path};
use crate::dashboard::words::figure;
use crate::stats::Series;
use crate::stats::sketch::RELATIVE_ERROR;

const BINS: usize = 48;
/// Of a drawing, in its own units.
const WIDTH: usize = BINS * 10;
/// What is drawn lies between these quantiles; what is beyond is in the bins at the ends.
const DRAWN: (f64, f64) = (0.005, 0.995);
/// The quantiles that are told.
pub const TOLD: [(f64, &str); 4] = [
    (0.1, "10 %"),
    (0.5, "median"),
    (0.9, "90 %"),
    (0.99, "99 %"),
];

/// The rows and their axis.
pub fn distribution(metric: &str, rows: &[(&str, &Series)]) -> Markup {
    let quantiles = |q| {
        rows.iter()
            .filter_map(move |(_, series)| series.quantile(q))
    };
    let low = quantiles(DRAWN.0).fold(f64::INFINITY, f64::min);
    let high = quantiles(DRAWN.1).fold(f64::NEG_INFINITY, f64::max);
    let scale = match low < high {
        true => Scale::between(low, high),
        false => Scale::of([low, high]),
    };
    let histograms: Vec<_> = rows
        .iter()
        .map(|(_, series)| bins(series, &scale))
        .collect();
    let most = histograms
        .iter()
        .flatten()
        .copied()
        .fold(0.0, f64::max)
        .max(1e-12);
    html! {
        div.plot {
            @for ((key, series), bins) in rows.iter().zip(&histograms) {
                div.row data-plot="distribution" data-variant=(key) data-metric=(metric)
                    data-median=[series.quantile(0.5)] data-p90=[series.quantile(0.9)]
                    data-p99=[series.quantile(0.99)] {
                    span.label { bdi { (key) } }
                    svg.bins viewBox=(format!("0 0 {WIDTH} 44")) preserveAspectRatio="none"
                        height="44" width="100%" aria-hidden="true" {
                        path d=(bar_path(bins, most, 44.0, 0.0)) {}
                        @for (q, _) in TOLD {
                            @if let Some(value) = series.quantile(q) {
                                @let at = format!("{:.1}", scale.part(value) * WIDTH as f64);
                                line.quantile.median[q == 0.5] x1=(at) x2=(at) y1="0" y2="44" {}
                            }
                        }
                    }
                    span.figures {
                        @for (at, (q, name)) in TOLD.iter().enumerate() {
                            @if at > 0 { " · " }
                            span.muted { (name) " " }
                            (series.quantile(*q).map_or("–".into(), figure))
                        }
                    }
                }
            }
            (axis(&scale, figure))
        }
    }
}

/// The share of the values in each bin. A bucket of the sketch is spread over its width, unless it holds
/// one value only.
fn bins(series: &Series, scale: &Scale) -> Vec<f64> {
    let sketch = series.sketch();
    let mut bins = vec![0.0; BINS];
    let total = sketch.count().max(1) as f64;
    let width = match sketch.is_exact() {
        true => 0.0,
        false => RELATIVE_ERROR,
    };
    let bin_len = (scale.high() - scale.low()) / BINS as f64;
    let place = |value: f64| (scale.part(value) * BINS as f64).min(BINS as f64 - 1e-9);
    for (value, count) in sketch.values() {
        // What shares a bucket is nearer to zero than all that is kept.
        let Some(value) = value else { continue };
        let share = count as f64 / total;
        let end = value + value * width;
        let (from, to) = (place(value.min(end)), place(value.max(end)));
        if to - from < 1e-9 || (end - value).abs() < bin_len * 0.02 {
            if let Some(bin) = bins.get_mut(from as usize) {
                *bin += share;
            }
            continue;
        }
        for at in from as usize..=to as usize {
            let part = (to.min(at as f64 + 1.0) - from.max(at as f64)).max(0.0);
            if let Some(bin) = bins.get_mut(at) {
                *bin += share * part / (to - from);
            }
        }
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::extract::Value;

    #[test]
    fn all_values_are_in_some_bin() {
        let mut series = Series::default();
        for n in 0..10_000 {
            series.add(Value::Number(1000.0 + f64::from(n % 977) / 7.0));
        }
        let bins = bins(&series, &Scale::between(1010.0, 1130.0));
        let sum: f64 = bins.iter().sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
        assert!(bins.iter().all(|bin| *bin > 0.0), "{bins:?}");
    }
}
