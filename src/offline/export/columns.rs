//! Which metrics get a column of their own.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::stats::extract::{self, Value};
use crate::stats::summary::{METRICS_MAX, NAME_BYTES_MAX};

/// What the names of their columns begin with.
pub(super) const METRIC: &str = "metrics.";

/// The names of numeric metrics, in the order in which they first came up: [`METRICS_MAX`] of them at
/// most, as a report has.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    names: Vec<Box<str>>,
    places: HashMap<Box<str>, usize>,
    has_more: bool,
}

impl Columns {
    /// Gives each numeric metric of an entry a column, as long as there is room.
    pub fn learn(&mut self, body: &[u8]) {
        let mut due = 0;
        extract::metrics(body, &mut |name, value| {
            let is_number = matches!(value, Value::Number(number) if number.is_finite());
            match self.place(name, due) {
                Some(place) => due = place + 1,
                None if is_number => self.add(name),
                None => {}
            }
        });
    }

    /// The names, in the order of the columns.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// The names of a table's columns, in their order.
    pub(super) fn table_names(&self) -> impl Iterator<Item = Cow<'static, str>> {
        let ours = ["log_id", "experiment", "received_at", "variant_key"];
        let json = ["input", "output", "context"];
        let metrics = self
            .names()
            .map(|name| Cow::Owned(format!("{METRIC}{name}")));
        let first = ours.into_iter().chain(json).map(Cow::Borrowed);
        first
            .chain(metrics)
            .chain(["metrics", "other"].map(Cow::Borrowed))
    }

    /// Whether there are numeric metrics that got no column.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// The column of `name`. It is found at once where it stands at `due`, as it does when entries
    /// give their metrics in one order.
    pub(super) fn place(&self, name: &str, due: usize) -> Option<usize> {
        match self.names.get(due) {
            Some(next) if **next == *name => Some(due),
            _ => self.places.get(name).copied(),
        }
    }

    fn add(&mut self, name: &str) {
        if self.names.len() >= METRICS_MAX || name.len() > NAME_BYTES_MAX {
            self.has_more = true;
            return;
        }
        self.places.insert(name.into(), self.names.len());
        self.names.push(name.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(bodies: &[String]) -> Columns {
        let mut columns = Columns::default();
        for body in bodies {
            columns.learn(body.as_bytes());
        }
        columns
    }

    #[test]
    fn names_come_in_the_order_of_the_log_and_only_of_numbers() {
        let bodies = [
            r#"{"metrics":{"b":1,"note":"x","judge":{"score":0.5,"big":1e400}}}"#,
            r#"{"metrics":{"a":true,"b":2,"note":3}}"#,
        ];
        let columns = learned(&bodies.map(str::to_owned));
        let names: Vec<_> = columns.names().collect();
        assert_eq!(names, ["b", "judge.score", "a", "note"]);
        assert!(!columns.has_more());
        assert_eq!(columns.place("a", 0), Some(2));
        assert_eq!(columns.place("judge.big", 0), None);
    }

    #[test]
    fn there_are_no_more_than_a_report_has() {
        let bodies: Vec<_> = (0..300)
            .map(|n| format!(r#"{{"metrics":{{"m{n}":{n}}}}}"#))
            .collect();
        let columns = learned(&bodies[..METRICS_MAX]);
        assert!(columns.names().len() == METRICS_MAX && !columns.has_more());
        let columns = learned(&bodies);
        assert!(columns.names().len() == METRICS_MAX && columns.has_more());
        let long = format!(
            r#"{{"metrics":{{"{}":1}}}}"#,
            "n".repeat(NAME_BYTES_MAX + 1)
        );
        let columns = learned(&[long]);
        assert!(columns.names().len() == 0 && columns.has_more());
    }
}
