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

use maud::{Markup, html};

use scale::Scale;

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
