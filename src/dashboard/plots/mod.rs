//! Plots as SVG, drawn on the server.
//!
//! A plot is rows: a label, a drawing, and the figures as text. Drawings have no labels of their own but
//! those of the axis, and all places in them are percents, so they fill any width without being
//! stretched. What is drawn is in `data-` attributes, too, as it was computed.

pub mod distribution;
pub mod forest;
pub mod means;
pub mod scale;
pub mod spark;
pub mod timeline;

use std::fmt::Write;

use maud::{Markup, html};

use scale::Scale;

/// Bars beside each other, each ten wide and at most `height` high, as one path. Values of `seen` and more
/// are never too low to be seen.
fn bar_path(values: &[f64], most: f64, height: f64, seen: f64) -> String {
    let mut path = String::new();
    for (at, value) in values.iter().enumerate() {
        if *value > 0.0 {
            let least = if *value >= seen { 1.0 } else { 0.0 };
            let top = height - (value / most * height).clamp(least, height);
            let _infallible = write!(path, "M{} {height}V{top:.1}h9V{height}z", at * 10);
        }
    }
    path
}

/// The axis below the rows of a plot.
pub fn axis(scale: &Scale, label: impl Fn(f64) -> String) -> Markup {
    html! {
        div.row.axis aria-hidden="true" {
            span.label {}
            svg width="100%" height="22" {
                @for tick in scale.ticks() {
                    @let at = scale.percent(tick);
                    line.tick x1=(at) x2=(at) y1="0" y2="5" {}
                    text x=(at) y="18" text-anchor=(anchor(scale, tick)) { (label(tick)) }
                }
            }
            span.figures {}
        }
    }
}

/// So that the text stays inside.
fn anchor(scale: &Scale, tick: f64) -> &'static str {
    match scale.part(tick) {
        low if low < 0.06 => "start",
        high if high > 0.94 => "end",
        _ => "middle",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_bar_is_as_high_as_it_gets() {
        let values = [0.0, 1.0, 2.0, 1e-9];
        let path = "M10 20V10.0h9V20zM20 20V0.0h9V20zM30 20V";
        assert_eq!(
            bar_path(&values, 2.0, 20.0, 0.0),
            format!("{path}19.0h9V20z")
        );
        assert_eq!(
            bar_path(&values, 2.0, 20.0, 1.0),
            format!("{path}20.0h9V20z")
        );
        assert_eq!(bar_path(&[0.0; 60], 1.0, 20.0, 0.0), "");
    }
}
