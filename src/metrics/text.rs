//! Prometheus' text format, version 0.0.4.
//!
//! Names and labels are our own words, and slugs: nothing of them has to be escaped.

use std::fmt::{self, Display, Write as _};

use super::Histogram;

/// The media type of the text.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text as it is written: one family after the other.
#[derive(Debug, Default)]
pub struct Text(String);

/// A family of series, whose samples follow.
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

/// In which unit a histogram's values are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// As they are.
    Plain,
    /// As seconds; they were counted in microseconds.
    Seconds,
}

/// Labels of a sample, in their order.
type Labels<'a> = &'a [(&'static str, &'a str)];

impl Text {
    /// Begins a counter. By custom its name ends in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.begin(name, "counter", help)
    }

    /// Begins a gauge.
    pub fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.begin(name, "gauge", help)
    }

    /// Begins a histogram.
    pub fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.begin(name, "histogram", help)
    }

    /// All of it.
    pub fn into_string(self) -> String {
        self.0
    }

    fn begin(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        push(
            &mut self.0,
            format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
        );
        let text = &mut self.0;
        Family { text, name }
    }
}

impl Family<'_> {
    /// One sample without labels.
    pub fn value(&mut self, value: impl Display) {
        self.sample(&[], value);
    }

    /// One sample.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line("", labels, None, value);
    }

    /// All samples of one histogram.
    pub fn buckets(&mut self, labels: Labels<'_>, histogram: &Histogram, unit: Unit) {
        let (up_to, count, sum) = histogram.read();
        for (bound, count) in up_to {
            self.line("_bucket", labels, Some(&unit.show(bound)), count);
        }
        self.line("_bucket", labels, Some("+Inf"), count);
        self.line("_sum", labels, None, unit.show(sum));
        self.line("_count", labels, None, count);
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: impl Display) {
        push(self.text, format_args!("{}{suffix}", self.name));
        let le = le.map(|bound| ("le", bound));
        let mut separator = '{';
        for (name, value) in labels.iter().copied().chain(le) {
            push(self.text, format_args!("{separator}{name}=\"{value}\""));
            separator = ',';
        }
        let end = if separator == ',' { "}" } else { "" };
        push(self.text, format_args!("{end} {value}\n"));
    }
}

impl Unit {
    fn show(self, value: u64) -> String {
        match self {
            Self::Plain => value.to_string(),
            Self::Seconds => (value as f64 / 1e6).to_string(),
        }
    }
}

fn push(text: &mut String, words: fmt::Arguments<'_>) {
    let written = text.write_fmt(words);
    debug_assert!(written.is_ok(), "a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_their_samples() {
        let mut text = Text::default();
        let mut family = text.counter("a_total", "What a is.");
        family.sample(&[("x", "1"), ("y", "2")], 7);
        text.gauge("b", "What b is.").value(0.5);
        let histogram = Histogram::new(&[100, 2_500_000]);
        histogram.observe(100);
        histogram.observe(3_000_000);
        let mut family = text.histogram("c_seconds", "What c is.");
        family.buckets(&[("x", "1")], &histogram, Unit::Seconds);
        let expected = "# HELP a_total What a is.\n# TYPE a_total counter\na_total{x=\"1\",y=\"2\"} 7\n\
            # HELP b What b is.\n# TYPE b gauge\nb 0.5\n\
            # HELP c_seconds What c is.\n# TYPE c_seconds histogram\n\
            c_seconds_bucket{x=\"1\",le=\"0.0001\"} 1\nc_seconds_bucket{x=\"1\",le=\"2.5\"} 1\n\
            c_seconds_bucket{x=\"1\",le=\"+Inf\"} 2\n\
            c_seconds_sum{x=\"1\"} 3.0001\nc_seconds_count{x=\"1\"} 2\n";
        assert_eq!(text.into_string(), expected);
    }
}
