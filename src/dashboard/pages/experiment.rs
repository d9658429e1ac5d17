//! One experiment: what it comes to, and the plots that show it.

use maud::{Markup, html};

use crate::dashboard::layout::trail;
use crate::dashboard::plots::distribution::distribution;
use crate::dashboard::plots::forest::{forest, word};
use crate::dashboard::plots::means::means;
use crate::dashboard::plots::timeline::{Counts, timeline};
use crate::dashboard::{link, words};
use crate::model::{Description, Slug};
use crate::stats::report::{ComparisonReport, MetricReport, Report, SampleRatio, Verdict};
use crate::stats::{Series, Summary};

/// Metrics that are drawn on one page.
const METRICS_MAX: usize = 8;
/// Metrics of variants that are drawn on one page: each takes some 4 KB.
const ROWS_MAX: usize = 30;
/// Variants that are drawn.
const VARIANTS_MAX: usize = 20;
/// Sentences that stand on top.
const SENTENCES_MAX: usize = 6;
/// Sentences in all.
const ALL_SENTENCES_MAX: usize = 60;
/// Names of metrics that can be chosen on one page.
const NAMES_MAX: usize = 60;

/// What the page shows.
pub struct Experiment<'a> {
    /// Its definition and counts.
    pub description: &'a Description,
    /// The report on it; `None` where it is asked for by itself, since it takes long.
    pub report: Option<&'a Report>,
    /// What its log holds.
    pub summary: &'a Summary,
    /// Entries over time.
    pub counts: Counts<'a>,
    /// The metric that is wanted, if not all are.
    pub metric: Option<&'a str>,
    /// Which page of metrics, from 1.
    pub page: usize,
    /// How many damaged places were met.
    pub damage_count: usize,
    /// How many entries were refused since they named an unknown variant.
    pub unknown_variant_count: u64,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
    /// Whether the visitor may change it.
    pub is_admin: bool,
}

/// The page.
pub fn experiment(one: &Experiment<'_>) -> Markup {
    let description = one.description;
    let slug = &description.slug;
    html! {
        (trail(&[("Experiments", link::EXPERIMENTS)]))
        div.bar {
            h1 { (slug) }
            a.button href=(link::of_experiment(slug, "entries")) { "Entries" }
            @if one.is_admin {
                a.button.quiet href=(link::of_experiment(slug, "edit")) { "Edit" }
            }
        }
        @if let Some(about) = &description.definition.description {
            p.about { bdi { (about) } }
        }
        (notes(one))
        @match one.report {
            Some(report) => (verdict(report, slug)),
            None => (later(slug)),
        }
        section.card aria-labelledby="over-time" {
            h2 #over-time { "Entries over time" }
            (facts(description, one.now_ms))
            @if !one.counts.variants.is_empty() { (timeline(&one.counts)) }
        }
        @if let Some(report) = one.report { (metrics(report, one.summary, slug, one.metric, one.page)) }
    }
}

fn notes(one: &Experiment<'_>) -> Markup {
    html! {
        @if one.damage_count > 0 {
            p.warning-box {
                (words::of(one.damage_count as u64, "damaged place", "damaged places"))
                " in the log: what was there is in no figure below. " code { "trialog verify" }
                " says where."
            }
        }
        @if one.unknown_variant_count > 0 {
            p.warning-box {
                (words::of(one.unknown_variant_count, "request", "requests"))
                " since the server started named a variant that this experiment doesn't have, and "
                (if one.unknown_variant_count == 1 { "was" } else { "were" }) " refused."
            }
        }
    }
}

fn facts(description: &Description, now_ms: u64) -> Markup {
    html! {
        dl.facts {
            div { dt { "Entries" } dd { (words::count(description.count)) } }
            div {
                dt { "Last entry" }
                dd {
                    @match description.last_entry {
                        Some((_, at_ms)) => (words::ago(at_ms, now_ms)),
                        None => "none",
                    }
                }
            }
            div { dt { "On disk" } dd { (words::bytes(description.bytes_on_disk)) } }
            div { dt { "Created" } dd { (words::time(description.created_at_ms)) " UTC" } }
            @if description.dropped.entries > 0 {
                div {
                    dt { "Dropped by retention" }
                    dd { (words::of(description.dropped.entries, "entry", "entries")) }
                }
            }
        }
    }
}

/// Where the report takes long it comes by itself.
fn later(slug: &Slug) -> Markup {
    let path = link::of_experiment(slug, "report");
    html! {
        section.card data-part=(path) aria-live="polite" {
            h2 { "Report" }
            p.muted data-wait {
                "Its unit has all entries read, which takes a while. "
                a href=(path) { "Read the report" }
            }
        }
    }
}

/// The report's sentences, and what keeps it from being read as it is.
pub fn verdict(report: &Report, slug: &Slug) -> Markup {
    let mut sentences: Vec<_> = report.comparisons.iter().zip(&report.sentences).collect();
    sentences.sort_by_key(|(one, _)| rank(one.verdict));
    let rest = sentences.len().saturating_sub(SENTENCES_MAX);
    html! {
        section.card.answer aria-labelledby="answer" {
            h2 #answer { "What it comes to" }
            @for warning in &report.warnings { p.warning-box { bdi { (warning) } } }
            @if sentences.is_empty() {
                p { "Nothing can be compared yet: it takes two variants with a numeric metric in common." }
            }
            ul.sentences {
                @for (one, sentence) in sentences.iter().take(SENTENCES_MAX) { (said(one, sentence)) }
            }
            @if rest > 0 {
                details {
                    summary { (words::of(rest as u64, "more sentence", "more sentences")) }
                    ul.sentences {
                        @for (one, sentence) in sentences.iter().skip(SENTENCES_MAX)
                            .take(ALL_SENTENCES_MAX) {
                            (said(one, sentence))
                        }
                    }
                }
            }
            (ratio(report))
            details {
                summary { "How these figures are to be read" }
                ul { @for note in &report.notes { li { bdi { (note) } } } }
            }
            p.muted {
                a href=(link::of_experiment(slug, "report.txt")) { "The same as a table" }
            }
        }
    }
}

fn rank(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Sure => 0,
        Verdict::SureForOneLook => 1,
        Verdict::NotSure => 2,
        Verdict::TooLittle => 3,
    }
}

fn said(one: &ComparisonReport, sentence: &str) -> Markup {
    let class = match one.verdict {
        Verdict::Sure => "sure",
        Verdict::SureForOneLook => "one-look-only",
        Verdict::NotSure | Verdict::TooLittle => "unsure",
    };
    html! {
        li class=(class) {
            span.verdict { (word(one.verdict)) } " "
            bdi { (sentence) }
        }
    }
}

fn ratio(report: &Report) -> Markup {
    let SampleRatio {
        p_value,
        is_mismatch,
        unchecked_because,
        ..
    } = &report.sample_ratio;
    let share =
        |share: Option<f64>| share.map_or("–".into(), |share| format!("{:.1} %", share * 100.0));
    html! {
        h3 { "Sample ratio" }
        p data-plot="ratio" data-p=[*p_value] {
            @match (p_value, unchecked_because) {
                (Some(p_value), _) if *is_mismatch => {
                    span.warning { "mismatch" } " Entries are not shared out as planned (p "
                    (small(*p_value)) ")."
                },
                (Some(p_value), _) => { "As planned (p " (small(*p_value)) ")." },
                (None, Some(why)) => { "Not checked: " (why) "." },
                (None, None) => { "Not checked." },
            }
        }
        div.scroll tabindex="0" role="region" aria-label="Shares of the variants" {
            table.list {
                thead {
                    tr {
                        th scope="col" { "Variant" }
                        th.number scope="col" { "Entries" }
                        @if report.unit.field.is_some() { th.number scope="col" { "Units" } }
                        th.number scope="col" { "Share" }
                        th.number scope="col" { "Planned" }
                    }
                }
                tbody {
                    @for variant in report.variants.iter().take(VARIANTS_MAX) {
                        tr {
                            th scope="row" {
                                bdi { (variant.key) }
                                @if variant.is_control { " " span.tag { "control" } }
                            }
                            td.number { (words::count(variant.count)) }
                            @if let Some(units) = variant.unit_count {
                                td.number { (words::count(units)) }
                            }
                            td.number { (share(variant.share)) }
                            td.number { (share(variant.planned_share)) }
                        }
                    }
                }
            }
        }
    }
}

fn small(p_value: f64) -> String {
    match p_value < 0.0001 {
        true => "< 0.0001".into(),
        false => format!("= {p_value:.4}"),
    }
}

/// The plots of each metric.
pub fn metrics(
    report: &Report,
    summary: &Summary,
    slug: &Slug,
    wanted: Option<&str>,
    page: usize,
) -> Markup {
    let all: Vec<&str> = summary
        .metrics()
        .iter()
        .map(|metric| &*metric.name)
        .collect();
    let wanted = wanted.filter(|wanted| all.contains(wanted));
    let drawn = report.variants.len().clamp(1, VARIANTS_MAX);
    let per_page = (ROWS_MAX / drawn).clamp(1, METRICS_MAX);
    let begin = (page - 1).saturating_mul(per_page);
    let shown: Vec<&str> = match wanted {
        Some(wanted) => vec![wanted],
        None => all.iter().copied().skip(begin).take(per_page).collect(),
    };
    let path = link::experiment(slug);
    html! {
        @if all.len() > per_page || wanted.is_some() {
            nav.names aria-label="Metrics" {
                a href=(path) { "All metrics" }
                @for name in all.iter().take(NAMES_MAX) {
                    a href=(link::with(&path, &[("metric", name)]))
                        aria-current=[(wanted == Some(*name)).then_some("true")] { bdi { (name) } }
                }
            }
        }
        div.metrics {
            @for name in shown { (one_metric(report, summary, name)) }
        }
        @if wanted.is_none() && begin.saturating_add(per_page) < all.len() {
            nav.pager aria-label="Pages of metrics" {
                a rel="next" href=(link::with(&path, &[("page", &(page + 1).to_string())])) {
                    "Next metrics"
                }
            }
        }
    }
}

fn one_metric(report: &Report, summary: &Summary, name: &str) -> Markup {
    let of_variant = |metrics: &[MetricReport]| metrics.iter().position(|one| &*one.name == name);
    let variants = report.variants.iter();
    let rows: Vec<_> = variants
        .filter_map(|variant| {
            let metric = variant.metrics.get(of_variant(&variant.metrics)?)?;
            Some((&*variant.key, variant.is_control, metric))
        })
        .collect();
    let place = summary
        .metrics()
        .iter()
        .position(|metric| &*metric.name == name);
    let series: Vec<(&str, &Series)> = rows
        .iter()
        .filter_map(|(key, ..)| Some((*key, summary.variant(key)?.series(place?)?)))
        .take(VARIANTS_MAX)
        .collect();
    let comparisons: Vec<_> = report
        .comparisons
        .iter()
        .filter(|one| &*one.metric == name)
        .collect();
    let is_proportion = rows.iter().all(|(_, _, metric)| metric.is_proportion);
    let odd: u64 = rows
        .iter()
        .map(|(_, _, one)| one.non_numeric_count + one.not_finite_count)
        .sum();
    let (drawn, compared) = (
        rows.len().min(VARIANTS_MAX),
        comparisons.len().min(VARIANTS_MAX),
    );
    let control = report.control.as_deref().unwrap_or_default();
    html! {
        section.card aria-label={ "Metric " (name) } {
            h2 { bdi { (name) } }
            @if odd > 0 {
                p.muted { (words::of(odd, "value is no number", "values are no numbers")) " and in no figure." }
            }
            @if rows.len() > VARIANTS_MAX {
                p.muted { "The first " (VARIANTS_MAX) " of " (rows.len()) " variants." }
            }
            h3 { (if is_proportion { "Share" } else { "Mean" }) }
            (means(rows.get(..drawn).unwrap_or_default()))
            @if !comparisons.is_empty() {
                h3 { "Difference to " bdi { (control) } }
                (forest(comparisons.get(..compared).unwrap_or_default()))
            }
            @if !is_proportion && !series.is_empty() {
                h3 { "Distribution" }
                (distribution(name, &series))
            }
            p.legend {
                "Thick bar: " (format!("{:.0}", report.confidence * 100.0)) " % interval for one look. "
                "Thin line: the one that holds however often you look."
            }
        }
    }
}
