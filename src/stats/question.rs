//! What a report is asked for, and its answer from a log: the same one for the server and for files.

use serde::Serialize;

use super::extract::FieldPath;
use super::report::{Format, Report, ReportOptions};
use super::summary::{Limits, Summary};
use super::units::{BYTES_MAX, UnitScan, Units};
use crate::model::Definition;

/// How many names an error gives.
const NAMED_MAX: usize = 20;
/// Into how many parts a report may be split.
pub const PARTS_MAX: usize = 64;

/// What takes an entry: its variant, its time of receipt, and its whole JSON object.
pub type Take<'a> = dyn FnMut(&str, u64, &[u8]) + 'a;

/// A log whose entries stay the same from one scan to the next.
pub trait Entries {
    /// Why it can't be read.
    type Error;
    /// The summary of all of it, which keeps so much: its segments' summaries, each with all that a
    /// footer keeps, merged in the order of the log.
    fn summary(&mut self, limits: Limits) -> Result<Summary, Self::Error>;
    /// Gives every entry, in the order of the log.
    fn scan(&mut self, take: &mut Take<'_>) -> Result<(), Self::Error>;
}

/// A report that is wanted.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// The experiment's definition; it names the unit. See [`Self::about`].
    pub definition: Definition,
    /// The field by whose values the report is split.
    pub by: Option<FieldPath>,
    /// How much is kept of the log's metrics.
    pub limits: Limits,
    /// Everything else.
    pub options: ReportOptions,
}

/// One report, or one for each part.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// On the whole log.
    Whole(Box<Report>),
    /// On each part of it.
    Parts {
        /// The field that it was split by.
        by: String,
        /// Each value's report, in the order of the log; last that of the entries without one.
        reports: Vec<Report>,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError<E> {
    /// The log can't be read.
    #[error(transparent)]
    Log(E),
    /// Nothing to split by.
    #[error("no entry has the field {0}")]
    UnknownField(String),
    /// Too much to split by.
    #[error("the field {0} has more than {PARTS_MAX} values")]
    TooManyParts(String),
    /// Nothing to compare with.
    #[error("no variant is {wanted}: {known}")]
    UnknownControl {
        /// What was to be the control.
        wanted: String,
        /// What there is.
        known: String,
    },
    /// Nothing to report on.
    #[error("no entry has the metric {wanted}: {known}")]
    UnknownMetric {
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: String,
    },
}

impl Question {
    /// The question about an experiment with this definition. A unit that it names itself stays.
    pub fn about(mut self, definition: Definition) -> Self {
        let unit = self.definition.unit.or(definition.unit.clone());
        self.definition = Definition { unit, ..definition };
        self
    }

    /// Whether the answer is in the log's summary, so that no entry has to be read.
    pub fn is_summary_enough(&self) -> bool {
        self.by.is_none() && self.definition.unit.is_none()
    }

    /// The answer. Reads entries only for a unit, or to split.
    pub fn answer<L: Entries>(&self, log: &mut L) -> Result<Answer, QuestionError<L::Error>> {
        let Some(by) = &self.by else {
            let summary = log.summary(self.limits).map_err(QuestionError::Log)?;
            let mut parts = [Part::new(None, summary)];
            let mut reports = self.reports(log, &mut parts, &mut |_| Some(0))?;
            return match reports.pop() {
                Some(report) => Ok(Answer::Whole(Box::new(report))),
                None => Ok(Answer::Parts {
                    by: String::new(),
                    reports,
                }),
            };
        };
        let mut parts = split(log, by, self.limits.share())?;
        let values: Vec<_> = parts.iter().map(|part| part.value.clone()).collect();
        let mut part_of = |body: &[u8]| {
            let value = by.find(body);
            values.iter().position(|known| *known == value)
        };
        let reports = self.reports(log, &mut parts, &mut part_of)?;
        let by = by.as_str().to_owned();
        Ok(Answer::Parts { by, reports })
    }

    fn reports<L: Entries>(
        &self,
        log: &mut L,
        parts: &mut [Part],
        part_of: &mut dyn FnMut(&[u8]) -> Option<usize>,
    ) -> Result<Vec<Report>, QuestionError<L::Error>> {
        self.check(parts)?;
        if let Some(unit) = &self.definition.unit {
            scan_units(log, &FieldPath::new(unit), parts, part_of).map_err(QuestionError::Log)?;
        }
        let report = |part: &Part| {
            let field = self.by.as_ref().map(FieldPath::as_str);
            let options = ReportOptions {
                part: field.map(|field| match &part.value {
                    Some(value) => format!("{field} = {value}"),
                    None => format!("no {field}"),
                }),
                ..self.options.clone()
            };
            let units = part.units.as_ref();
            Report::new(&self.definition, &part.summary, units, &options)
        };
        Ok(parts.iter().map(report).collect())
    }

    /// Whether there is what the options name, in some part.
    fn check<E>(&self, parts: &[Part]) -> Result<(), QuestionError<E>> {
        let summaries = || parts.iter().map(|part| &part.summary);
        if let Some(wanted) = &self.options.control {
            let defined = self.definition.variants.iter().map(|variant| &variant.key);
            let met = summaries().flat_map(Summary::variants);
            let names = defined.chain(met.map(|variant| &variant.key));
            if let Some(known) = lacks(names, wanted) {
                let wanted = wanted.clone();
                return Err(QuestionError::UnknownControl { wanted, known });
            }
        }
        if let Some(wanted) = &self.options.metric {
            let metrics = summaries().flat_map(Summary::metrics);
            if let Some(known) = lacks(metrics.map(|metric| &metric.name), wanted) {
                let wanted = wanted.clone();
                return Err(QuestionError::UnknownMetric { wanted, known });
            }
        }
        Ok(())
    }
}

/// What there is instead, if `wanted` is not among the names.
fn lacks<'a>(names: impl Iterator<Item = &'a Box<str>>, wanted: &str) -> Option<String> {
    let mut known: Vec<&str> = Vec::new();
    for name in names {
        if **name == *wanted {
            return None;
        }
        if known.len() <= NAMED_MAX && !known.contains(&&**name) {
            known.push(name);
        }
    }
    let rest = if known.len() > NAMED_MAX { ", …" } else { "" };
    known.truncate(NAMED_MAX);
    Some(match known.as_slice() {
        [] => "there is none yet".into(),
        known => format!("there are {}{rest}", known.join(", ")),
    })
}

/// The entries with one value of the field that the report is split by.
struct Part {
    value: Option<std::borrow::Cow<'static, str>>,
    summary: Summary,
    units: Option<Units>,
}

impl Part {
    fn new(value: Option<std::borrow::Cow<'static, str>>, summary: Summary) -> Self {
        let units = None;
        Self {
            value,
            summary,
            units,
        }
    }
}

/// One summary for each value, in the order of the log; last the one of entries without a value. Each
/// has its share, so that all together are bounded, too.
fn split<L: Entries>(
    log: &mut L,
    by: &FieldPath,
    share: Limits,
) -> Result<Vec<Part>, QuestionError<L::Error>> {
    let mut parts: Vec<Part> = Vec::new();
    let mut without = Part::new(None, Summary::new(share));
    let mut is_beyond = false;
    log.scan(&mut |variant, at, body| {
        let part = match by.find(body) {
            None => &mut without,
            Some(value) => {
                let known = parts
                    .iter()
                    .position(|part| part.value.as_deref() == Some(&*value));
                let place = known.unwrap_or(parts.len());
                is_beyond |= place >= PARTS_MAX;
                if is_beyond {
                    return;
                }
                if known.is_none() {
                    let value = Some(value.into_owned().into());
                    parts.push(Part::new(value, Summary::new(share)));
                }
                match parts.get_mut(place) {
                    Some(part) => part,
                    None => return,
                }
            }
        };
        part.summary.apply(variant, at, body);
    })
    .map_err(QuestionError::Log)?;
    if is_beyond {
        return Err(QuestionError::TooManyParts(by.as_str().to_owned()));
    }
    if parts.is_empty() {
        return Err(QuestionError::UnknownField(by.as_str().to_owned()));
    }
    if without.summary.entry_count() > 0 {
        parts.push(without);
    }
    Ok(parts)
}

/// The units of all parts, in as few scans as their share of the memory allows.
fn scan_units<L: Entries>(
    log: &mut L,
    unit: &FieldPath,
    parts: &mut [Part],
    part_of: &mut dyn FnMut(&[u8]) -> Option<usize>,
) -> Result<(), L::Error> {
    let bytes_max = BYTES_MAX / parts.len().max(1);
    let mut scans: Vec<_> = parts
        .iter()
        .map(|part| UnitScan::new(unit, &part.summary, bytes_max))
        .collect();
    loop {
        let mut tables: Vec<_> = scans.iter_mut().map(UnitScan::next_table).collect();
        if tables.iter().all(Option::is_none) {
            break;
        }
        log.scan(&mut |variant, _, body| {
            let place = part_of(body);
            if let Some(Some(table)) = place.and_then(|place| tables.get_mut(place)) {
                table.apply(variant, body);
            }
        })?;
        for (scan, table) in scans.iter_mut().zip(tables) {
            if let Some(table) = table {
                scan.take(table);
            }
        }
    }
    for (part, scan) in parts.iter_mut().zip(scans) {
        part.units = Some(scan.finish());
    }
    Ok(())
}

impl Answer {
    /// How many values of metrics are in no report, since more metrics came than are kept.
    pub fn dropped_value_count(&self) -> u64 {
        match self {
            Self::Whole(report) => report.dropped_value_count,
            Self::Parts { reports, .. } => reports.iter().map(|one| one.dropped_value_count).sum(),
        }
    }

    /// The answer as text that ends with a line feed.
    pub fn render(&self, format: Format) -> String {
        match (self, format) {
            (Self::Whole(report), format) => report.render(format),
            (Self::Parts { .. }, Format::Json) => {
                // Numbers, texts and lists always serialise.
                let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
                text.push('\n');
                text
            }
            (Self::Parts { reports, .. }, format) => {
                let texts: Vec<_> = reports.iter().map(|one| one.render(format)).collect();
                texts.join("\n")
            }
        }
    }
}

#[cfg(test)]
mod tests;
