//! A line without an axis, for a place among words.

use maud::{Markup, html};

/// Points at most.
const POINTS_MAX: usize = 30;

/// Counts over time, from the left to now. Whoever can't see it is told `words`.
pub fn spark(counts: &[f64], words: &str) -> Markup {
    let per_point = counts.len().div_ceil(POINTS_MAX).max(1);
    let points: Vec<f64> = counts
        .chunks(per_point)
        .map(|part| part.iter().sum())
        .collect();
    let most = points.iter().copied().fold(0.0, f64::max);
    html! {
        svg.spark viewBox=(format!("0 0 {} 24", points.len().max(1) * 4)) preserveAspectRatio="none"
            role="img" aria-label=(words) {
            line.base x1="0" x2="100%" y1="23.5" y2="23.5" {}
            @for (at, point) in points.iter().enumerate() {
                @if *point > 0.0 {
                    @let height = (point / most * 22.0).max(1.5);
                    rect x=(at * 4) y=(tenths(23.0 - height)) width="3" height=(tenths(height)) {}
                }
            }
        }
    }
}

fn tenths(value: f64) -> String {
    format!("{value:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_as_high_as_it_gets() {
        let drawn = spark(&[0.0, 1.0, 2.0], "three").into_string();
        assert_eq!(drawn.matches("<rect").count(), 2);
        assert!(
            drawn.contains(r#"y="1.0" width="3" height="22.0""#),
            "{drawn}"
        );
        assert_eq!(
            spark(&[0.0; 60], "none")
                .into_string()
                .matches("<rect")
                .count(),
            0
        );
        assert_eq!(
            spark(&[1.0; 60], "all")
                .into_string()
                .matches("<rect")
                .count(),
            30
        );
    }
}
