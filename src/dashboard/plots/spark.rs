//! A line without an axis, for a place among words.

use maud::{Markup, html};

use super::bar_path;

/// Bars at most.
const BARS_MAX: usize = 30;

/// Counts over time, from the left to now. Whoever can't see it is told `words`.
pub fn spark(counts: &[f64], words: &str) -> Markup {
    let per_bar = counts.len().div_ceil(BARS_MAX).max(1);
    let bars: Vec<f64> = counts
        .chunks(per_bar)
        .map(|part| part.iter().sum())
        .collect();
    let most = bars.iter().copied().fold(0.0, f64::max);
    html! {
        svg.spark viewBox=(format!("0 0 {} 24", bars.len().max(1) * 10)) preserveAspectRatio="none"
            role="img" aria-label=(words) {
            line.base x1="0" x2="100%" y1="23.5" y2="23.5" {}
            @if most > 0.0 { path d=(bar_path(&bars, most, 23.0, 0.9)) {} }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_put_together() {
        let bar_count =
            |counts: &[f64]| spark(counts, "so many").into_string().matches('M').count();
        assert_eq!(bar_count(&[1.0; 60]), 30);
        assert_eq!(bar_count(&[0.0, 1.0, 2.0]), 2);
        assert_eq!(bar_count(&[0.0; 60]), 0);
        assert_eq!(bar_count(&[]), 0);
    }
}
