//! A report as text: a table for terminals, Markdown, JSON.

use super::words::{figure, p_value, percent, plain};
use super::{ComparisonReport, Interval, MetricReport, Report, VariantReport};

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Columns, for a terminal.
    #[default]
    Table,
    /// As in the API, on several lines.
    Json,
    /// For a page or a ticket.
    Markdown,
}

impl std::str::FromStr for Format {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            "markdown" => Ok(Self::Markdown),
            _ => Err("a format is table, json or markdown"),
        }
    }
}

impl Report {
    /// The report as text that ends with a line feed.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Json => {
                // Numbers, texts and lists always serialise.
                let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
                text.push('\n');
                text
            }
            Format::Table => self.written(false),
            Format::Markdown => self.written(true),
        }
    }

    fn written(&self, is_markdown: bool) -> String {
        let mut page = Page {
            text: String::new(),
            is_markdown,
        };
        page.heading(1, &self.title());
        page.list(
            &self
                .warnings
                .iter()
                .map(|warning| format!("WARNING: {warning}"))
                .collect::<Vec<_>>(),
        );
        page.list(&self.sentences);
        page.heading(2, "Variants");
        page.grid(&self.variant_grid());
        page.list(&[self.sample_ratio_line()]);
        if self
            .variants
            .iter()
            .any(|variant| !variant.metrics.is_empty())
        {
            page.heading(2, "Metrics");
            page.grid(&self.metric_grid());
        }
        if let Some(control) = self
            .control
            .as_ref()
            .filter(|_| !self.comparisons.is_empty())
        {
            page.heading(2, &format!("Against {}", plain(control)));
            page.grid(&self.comparison_grid());
            page.grid(&self.quantile_grid());
        }
        page.list(&self.notes);
        page.text
    }

    fn title(&self) -> String {
        let mut title = match &self.experiment {
            Some(experiment) => format!("Report on {}", plain(experiment)),
            None => "Report".to_owned(),
        };
        if let Some(part) = &self.part {
            title += &format!(", {}", plain(part));
        }
        let noun = if self.count == 1 { "entry" } else { "entries" };
        format!("{title}: {} {noun}", self.count)
    }

    fn sample_ratio_line(&self) -> String {
        let ratio = &self.sample_ratio;
        match (ratio.p_value, &ratio.unchecked_because) {
            (Some(p), _) if ratio.is_mismatch => {
                format!("Sample ratio: MISMATCH (chi-square, p {})", p_value(p))
            }
            (Some(p), _) => format!("Sample ratio: as planned (chi-square, p {})", p_value(p)),
            (None, Some(why)) => format!("Sample ratio: not checked, {why}"),
            (None, None) => "Sample ratio: not checked".to_owned(),
        }
    }

    fn variant_grid(&self) -> Grid {
        let mut grid = Grid::new(1, &["variant", "entries", "units", "share", "planned"]);
        for variant in &self.variants {
            let control = if variant.is_control { " (control)" } else { "" };
            let share = |part: f64| format!("{:.2} %", part * 100.0);
            grid.row([
                format!("{}{control}", plain(&variant.key)),
                variant.count.to_string(),
                or_dash(variant.unit_count.map(|count| count.to_string())),
                or_dash(variant.share.map(share)),
                or_dash(variant.planned_share.map(share)),
            ]);
        }
        grid
    }

    fn metric_grid(&self) -> Grid {
        let heads = [
            "metric",
            "variant",
            "count",
            "mean",
            "std error",
            "interval",
            "min",
            "p50",
            "p90",
            "p99",
            "max",
            "not numeric",
        ];
        let mut grid = Grid::new(2, &heads);
        let mut names: Vec<&str> = Vec::new();
        for metric in self.variants.iter().flat_map(|variant| &variant.metrics) {
            if !names.contains(&&*metric.name) {
                names.push(&metric.name);
            }
        }
        for name in names {
            for variant in &self.variants {
                let metric = variant.metrics.iter().find(|metric| &*metric.name == name);
                if let Some(metric) = metric {
                    grid.row(metric_row(variant, metric));
                }
            }
        }
        grid
    }

    fn comparison_grid(&self) -> Grid {
        let heads = [
            "metric",
            "variant",
            "difference",
            "interval",
            "relative",
            "interval",
            "p",
            "adjusted p",
            "always-valid interval",
            "always-valid p",
            "more entries",
        ];
        let mut grid = Grid::new(2, &heads);
        for comparison in &self.comparisons {
            grid.row(comparison_row(comparison));
        }
        grid
    }

    fn quantile_grid(&self) -> Grid {
        let heads = ["metric", "variant", "quantile", "difference", "interval"];
        let mut grid = Grid::new(2, &heads);
        // Quantiles of zeros and ones say nothing.
        let comparisons = self.comparisons.iter().filter(|one| !one.is_proportion);
        for comparison in comparisons {
            for quantile in &comparison.quantiles {
                grid.row([
                    plain(&comparison.metric),
                    plain(&comparison.variant),
                    format!("p{}", figure(quantile.q * 100.0)),
                    figure(quantile.value),
                    interval(quantile.interval),
                ]);
            }
        }
        grid
    }
}

fn metric_row(variant: &VariantReport, metric: &MetricReport) -> [String; 12] {
    let quantile = |q| {
        let found = metric.quantiles.iter().find(|quantile| quantile.q == q);
        number(found.map(|quantile| quantile.value))
    };
    let incomplete = if metric.is_incomplete {
        " (incomplete)"
    } else {
        ""
    };
    let others = metric.non_numeric_count + metric.not_finite_count;
    [
        format!("{}{incomplete}", plain(&metric.name)),
        plain(&variant.key),
        metric.count.to_string(),
        number(metric.mean),
        number(metric.standard_error),
        interval(metric.interval),
        number(metric.min),
        quantile(0.5),
        quantile(0.9),
        quantile(0.99),
        number(metric.max),
        others.to_string(),
    ]
}

fn comparison_row(comparison: &ComparisonReport) -> [String; 11] {
    let probability = |p: f64| p_value(p).trim_start_matches("= ").to_owned();
    let always = comparison.always_valid;
    [
        plain(&comparison.metric),
        plain(&comparison.variant),
        figure(comparison.difference),
        interval(comparison.interval),
        or_dash(comparison.relative.map(percent)),
        or_dash(
            comparison
                .relative_interval
                .map(|Interval(from, to)| format!("{} to {}", percent(from), percent(to))),
        ),
        or_dash(comparison.p_value.map(probability)),
        or_dash(comparison.p_value_adjusted.map(probability)),
        interval(always.map(|always| always.interval)),
        or_dash(always.map(|always| probability(always.p_value_adjusted))),
        or_dash(
            comparison
                .power
                .more_entries_for_effect
                .map(|more| format!("{more} for {} %", figure(100.0 * comparison.power.effect))),
        ),
    ]
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

fn number(value: Option<f64>) -> String {
    or_dash(value.map(figure))
}

fn interval(interval: Option<Interval>) -> String {
    or_dash(interval.map(|Interval(from, to)| format!("{} to {}", figure(from), figure(to))))
}

/// A table's rows, the first one its heads.
struct Grid {
    /// How many columns are names, and stand to the left. The others are figures.
    names: usize,
    rows: Vec<Vec<String>>,
}

impl Grid {
    fn new(names: usize, heads: &[&str]) -> Self {
        let heads = heads.iter().map(|&head| head.to_owned());
        Self {
            names,
            rows: vec![heads.collect()],
        }
    }

    fn row<const WIDTH: usize>(&mut self, cells: [String; WIDTH]) {
        self.rows.push(cells.into());
    }

    /// Without rows there is nothing to see.
    fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }
}

struct Page {
    text: String,
    is_markdown: bool,
}

impl Page {
    fn heading(&mut self, level: usize, text: &str) {
        if self.is_markdown {
            let marks = "#".repeat(level);
            self.text += &format!("{marks} {}\n\n", escaped(text));
        } else {
            self.text += &format!("{text}\n\n");
        }
    }

    fn list(&mut self, lines: &[String]) {
        for line in lines {
            if self.is_markdown {
                self.text += &format!("- {}\n", escaped(line));
            } else {
                self.text += &format!("{line}\n");
            }
        }
        if !lines.is_empty() {
            self.text.push('\n');
        }
    }

    fn grid(&mut self, grid: &Grid) {
        if grid.is_empty() {
            return;
        }
        let rows = &grid.rows;
        let columns = rows.first().map_or(0, Vec::len);
        let cell = |row: &Vec<String>, column: usize| {
            let text = row.get(column).map_or("", String::as_str);
            if self.is_markdown {
                escaped(text)
            } else {
                text.to_owned()
            }
        };
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                rows.iter()
                    .map(|row| cell(row, column).chars().count())
                    .max()
            })
            .map(Option::unwrap_or_default)
            .collect();
        let (between, edge) = if self.is_markdown {
            (" | ", "|")
        } else {
            ("  ", "")
        };
        let mut text = String::new();
        for (at, row) in rows.iter().enumerate() {
            let cells = widths.iter().enumerate().map(|(column, width)| {
                let text = cell(row, column);
                let space = " ".repeat(width.saturating_sub(text.chars().count()));
                if column < grid.names {
                    text + &space
                } else {
                    space + &text
                }
            });
            let line = cells.collect::<Vec<_>>().join(between);
            if self.is_markdown {
                text += &format!("{edge} {line} {edge}\n");
            } else {
                text += &format!("{}\n", line.trim_end());
            }
            if at == 0 && self.is_markdown {
                let rules = widths.iter().enumerate().map(|(column, width)| {
                    let rule = "-".repeat(width.saturating_sub(1).max(2));
                    if column < grid.names {
                        format!(":{rule}")
                    } else {
                        format!("{rule}:")
                    }
                });
                let line = rules.collect::<Vec<_>>().join(between);
                text += &format!("{edge} {line} {edge}\n");
            }
        }
        self.text += &text;
        self.text.push('\n');
    }
}

/// What Markdown and HTML would take for their own.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '&' => escaped += "&amp;",
            '|' | '*' | '_' | '[' | ']' | '\\' | '#' | '`' => {
                escaped.push('\\');
                escaped.push(c);
            }
            _ => escaped.push(c),
        }
    }
    escaped
}
