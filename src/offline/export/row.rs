//! An entry as the cells of a table.

use std::borrow::Cow;
use std::io::Write as _;

use super::columns::Columns;
use crate::stats::extract::{self, Value};

/// So many significant digits come back from a double as they were, at any everyday magnitude.
const EXACT_DIGITS: usize = 15;

/// What an entry has for the columns that aren't ours. JSON is in the client's own words.
#[derive(Debug, Default)]
pub(super) struct Row<'a> {
    pub variant_key: Cow<'a, str>,
    pub input: Option<&'a str>,
    pub output: Option<&'a str>,
    pub context: Option<&'a str>,
    /// By the metric's column.
    pub numbers: Vec<Option<Number<'a>>>,
    /// All metrics, where the numbers don't say all.
    pub metrics: Option<&'a str>,
    /// An object of what the contract has no name for.
    pub other: Option<String>,
}

/// A metric's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Number<'a> {
    pub value: f64,
    /// As it was written; 0 or 1 for a boolean.
    pub text: &'a str,
}

impl<'a> Row<'a> {
    /// Reads an entry's JSON object.
    pub(super) fn read(body: &'a [u8], columns: &Columns) -> Self {
        let mut row = Row {
            numbers: vec![None; columns.names().len()],
            ..Row::default()
        };
        extract::each_member(body, &mut |key, value| {
            let Ok(text) = std::str::from_utf8(value) else {
                return;
            };
            // For these, null is the same as nothing.
            let object = Some(text).filter(|text| *text != "null");
            match key {
                "variantKey" => row.variant_key = extract::scalar(value).unwrap_or_default(),
                "input" => row.input = object,
                "output" => row.output = object,
                "context" => row.context = object,
                "metrics" => row.read_metrics(text, columns),
                _ => row.add_other(key, text),
            }
        });
        if let Some(other) = &mut row.other {
            other.push('}');
        }
        row
    }

    fn read_metrics(&mut self, metrics: &'a str, columns: &Columns) {
        let mut is_all = true;
        let mut due = 0;
        extract::metrics_within(metrics.as_bytes(), &mut |name, text, value| {
            let text = std::str::from_utf8(text).unwrap_or_default();
            let place = columns.place(name, due);
            let cell = place.and_then(|place| self.numbers.get_mut(place));
            let (Some(place), Some(cell)) = (place, cell) else {
                is_all = false;
                return;
            };
            due = place + 1;
            // A name that comes twice counts once, with its last value.
            is_all &= cell.is_none();
            *cell = match value {
                Value::Number(value) if value.is_finite() => {
                    is_all &= is_exact(text, value);
                    let text = match text {
                        "true" => "1",
                        "false" => "0",
                        text => text,
                    };
                    Some(Number { value, text })
                }
                _ => {
                    is_all = false;
                    None
                }
            };
        });
        self.metrics = Some(metrics).filter(|_| !is_all);
    }

    fn add_other(&mut self, key: &str, text: &str) {
        let other = self.other.get_or_insert_default();
        other.push(if other.is_empty() { '{' } else { ',' });
        // A string always becomes JSON.
        other.push_str(&serde_json::to_string(key).unwrap_or_default());
        other.push(':');
        other.push_str(text);
    }
}

/// Whether `value` says all that a number's text does.
fn is_exact(text: &str, value: f64) -> bool {
    let bytes = text.as_bytes();
    let is_plain = bytes
        .iter()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'-'));
    if is_plain && bytes.len() <= EXACT_DIGITS {
        return true;
    }
    let mut shortest = [0; 32];
    let mut rest = &mut shortest[..];
    let written = write!(rest, "{value:e}");
    let left = rest.len();
    let len = shortest.len() - left;
    let shortest = shortest.get(..len).and_then(decimal);
    written.is_ok() && shortest.is_some() && shortest == decimal(bytes)
}

/// A decimal number: whether it is negative, its significant digits, and the power of ten of the
/// last of them. `None` for what isn't a number, and for exponents that no number of ours has.
fn decimal(text: &[u8]) -> Option<(bool, Vec<u8>, i64)> {
    let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => {
            let exponent = std::str::from_utf8(text.get(at + 1..)?).ok()?;
            (text.get(..at)?, exponent.parse::<i32>().ok()?)
        }
        None => (text, 0),
    };
    let unsigned = mantissa.strip_prefix(b"-");
    let is_negative = unsigned.is_some();
    let mantissa = unsigned.unwrap_or(mantissa);
    let point = mantissa.iter().position(|byte| *byte == b'.');
    let decimals = point.map_or(0, |at| mantissa.len() - at - 1);
    let digits = mantissa.iter().filter(|byte| **byte != b'.');
    let mut digits: Vec<u8> = digits.copied().skip_while(|digit| *digit == b'0').collect();
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut exponent = i64::from(exponent) - i64::try_from(decimals).ok()?;
    while digits.last() == Some(&b'0') {
        digits.pop();
        exponent += 1;
    }
    Some((
        is_negative,
        digits.clone(),
        if digits.is_empty() { 0 } else { exponent },
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn columns(body: &str) -> Columns {
        let mut columns = Columns::default();
        columns.learn(body.as_bytes());
        columns
    }

    fn number(value: f64, text: &str) -> Option<Number<'_>> {
        Some(Number { value, text })
    }

    #[test]
    fn each_member_has_its_cell_as_it_was_sent() {
        let body = r#" {"variantKey":"\u0041 b","input":{"q": "é\n"},"output":null,"n":0.10,
            "metrics":{"ms":12.50,"judge":{"score":3,"ok":2e0}},"say \"x\"":[1, 2]}"#;
        let row = Row::read(body.as_bytes(), &columns(body));
        assert_eq!(row.variant_key, "A b");
        assert_eq!(row.input, Some(r#"{"q": "é\n"}"#));
        assert_eq!((row.output, row.context), (None, None));
        let numbers = [number(12.5, "12.50"), number(3.0, "3"), number(2.0, "2e0")];
        assert_eq!(row.numbers, numbers);
        assert_eq!(row.metrics, None, "the numbers say all");
        assert_eq!(
            row.other.as_deref(),
            Some(r#"{"n":0.10,"say \"x\"":[1, 2]}"#)
        );
    }

    #[test]
    fn metrics_stay_whole_where_the_numbers_dont_say_all() {
        let has = r#"{"metrics":{"a":1,"b":1,"note":1}}"#;
        let columns = columns(has);
        for metrics in [
            r#"{"a":1,"b":"text"}"#,
            r#"{"a":1,"b":null}"#,
            r#"{"a":1,"c":2}"#,
            r#"{"a":1,"b":[1]}"#,
            r#"{"a":1,"b":true}"#,
            r#"{"a":1,"b":1e400}"#,
            r#"{"a":1,"b":1e-400}"#,
            r#"{"a":1,"b":123456789012345678901234567890}"#,
            r#"{"a":1,"b":9007199254740993}"#,
            r#"{"a":2,"a":1}"#,
        ] {
            let body = format!(r#"{{"metrics":{metrics}}}"#);
            let row = Row::read(body.as_bytes(), &columns);
            assert_eq!(row.metrics, Some(metrics));
            assert_eq!(row.numbers[0], number(1.0, "1"), "{metrics}");
        }
        let row = Row::read(br#"{"metrics":{"b":1e400}}"#, &columns);
        assert_eq!(row.numbers[1], None, "no double can hold it");
        let row = Row::read(br#"{"metrics":{"b":false}}"#, &columns);
        assert_eq!(row.numbers[1], number(0.0, "0"));
    }

    #[test]
    fn a_double_says_all_of_most_numbers() {
        for text in [
            "0",
            "-0",
            "0.0",
            "1",
            "-12.50",
            "123456789012345",
            "0.1",
            "1e3",
            "1E+3",
            "1.50e-7",
            "0.30000000000000004",
            "0.8333333333333334",
            "9007199254740992",
            "1e22",
            "1e308",
            "1.7976931348623157e308",
            "5e-324",
            "0e99",
            "100000000000000000000",
            "0.000000000000001",
        ] {
            assert!(is_exact(text, text.parse().unwrap()), "{text}");
        }
        for text in [
            "9007199254740993",
            "0.1000000000000000055511151231257827",
            "1e-400",
            "1.0000000000000000001",
            "123456789012345678901234567890",
            "0e99999999999",
        ] {
            assert!(!is_exact(text, text.parse().unwrap()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_a_double_says_in_its_own_words_is_exact(value in any::<f64>().prop_filter("finite", |f| f.is_finite())) {
            for text in [format!("{value:e}"), format!("{value}")] {
                prop_assert!(is_exact(&text, value));
            }
            let longer = format!("{value:.1100}1");
            prop_assert!(!is_exact(&longer, longer.parse().unwrap()));
        }

        #[test]
        fn up_to_fifteen_digits_come_back(digits in 0u64..100_000_000_000_000, point in 0usize..14) {
            let mut text = format!("{digits:014}");
            text.insert(point, '.');
            let value: f64 = text.parse().unwrap();
            let shortest = format!("{value:e}");
            prop_assert_eq!(decimal(shortest.as_bytes()), decimal(text.as_bytes()));
        }

        #[test]
        fn any_bytes_are_a_row(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            Row::read(&body, &Columns::default());
        }
    }
}
