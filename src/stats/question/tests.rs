//! Questions on a small log in memory.

use std::convert::Infallible;

use super::*;
use crate::model::Variant;

struct Log {
    bodies: Vec<(&'static str, String)>,
    scan_count: usize,
}

impl Entries for Log {
    type Error = Infallible;

    fn summary(&mut self, limits: Limits) -> Result<Summary, Infallible> {
        let mut summary = Summary::new(limits);
        for (at, (variant, body)) in self.bodies.iter().enumerate() {
            summary.apply(variant, at as u64, body.as_bytes());
        }
        Ok(summary)
    }

    fn scan(&mut self, take: &mut Take<'_>) -> Result<(), Infallible> {
        self.scan_count += 1;
        for (at, (variant, body)) in self.bodies.iter().enumerate() {
            take(variant, at as u64, body.as_bytes());
        }
        Ok(())
    }
}

/// 400 entries of 40 users in three places; one in eight names no place.
fn log() -> Log {
    let body = |n: usize| {
        let variant = ["A", "B"][n % 2];
        let place = ["berlin", "paris", "rome"][n / 2 % 3];
        let context = match n % 8 {
            7 => format!(r#"{{"user":"u{}"}}"#, n % 40),
            _ => format!(r#"{{"user":"u{}","place":"{place}"}}"#, n % 40),
        };
        let body = format!(
            r#"{{"metrics":{{"ms":{}}},"context":{context}}}"#,
            n * 7 % 31
        );
        (variant, body)
    };
    Log {
        bodies: (0..400).map(body).collect(),
        scan_count: 0,
    }
}

fn question(unit: Option<&str>, by: Option<&str>) -> Question {
    let variant = |key: &str| Variant {
        key: key.into(),
        weight: None,
        control: false,
    };
    Question {
        definition: Definition {
            variants: vec![variant("A"), variant("B")],
            unit: unit.map(str::to_owned),
            ..Definition::default()
        },
        by: by.map(FieldPath::new),
        limits: Limits::default(),
        options: ReportOptions::default(),
    }
}

#[test]
fn without_a_unit_no_entry_is_read() {
    let mut log = log();
    let question = question(None, None);
    assert!(question.is_summary_enough());
    let Ok(Answer::Whole(report)) = question.answer(&mut log) else {
        panic!("one report");
    };
    assert_eq!((report.count, log.scan_count), (400, 0));
}

#[test]
fn parts_are_the_whole_and_each_is_as_if_it_were_alone() {
    let mut log = log();
    let question = question(Some("context.user"), Some("context.place"));
    let Ok(Answer::Parts { by, reports }) = question.answer(&mut log) else {
        panic!("several reports");
    };
    assert_eq!((&*by, log.scan_count), ("context.place", 2));
    let names: Vec<_> = reports
        .iter()
        .map(|report| report.part.as_deref())
        .collect();
    let expected = [
        Some("context.place = berlin"),
        Some("context.place = paris"),
        Some("context.place = rome"),
        Some("no context.place"),
    ];
    assert_eq!(names, expected);
    assert_eq!(reports.iter().map(|report| report.count).sum::<u64>(), 400);
    let mut alone = super::tests::log();
    alone.bodies.retain(|(_, body)| body.contains("paris"));
    let without_by = Question {
        by: None,
        ..question
    };
    let Ok(Answer::Whole(mut report)) = without_by.answer(&mut alone) else {
        panic!("one report");
    };
    assert!(report.variants.iter().all(|one| one.unit_count > Some(1)));
    report.part = reports[1].part.clone();
    assert_eq!(*report, reports[1]);
}

#[test]
fn what_can_not_be_split_is_told() {
    let mut log = log();
    let unknown = question(None, Some("context.nope")).answer(&mut log);
    let said = unknown.unwrap_err().to_string();
    assert_eq!(said, "no entry has the field context.nope");
    for n in 0..PARTS_MAX + 1 {
        let body = format!(r#"{{"context":{{"n":{n}}}}}"#);
        log.bodies.push(("A", body));
    }
    let many = question(None, Some("context.n")).answer(&mut log);
    let said = many.unwrap_err().to_string();
    assert_eq!(said, "the field context.n has more than 64 values");
    log.bodies.pop();
    assert!(question(None, Some("context.n")).answer(&mut log).is_ok());
}
