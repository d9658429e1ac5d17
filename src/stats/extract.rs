//! Finds metrics and single fields in an entry's JSON, without building it in memory.
//!
//! A metric's name is the keys that lead to it, joined with `.`: `{"judge":{"score":1}}` has
//! `judge.score`, and so has `{"judge.score":1}`: both are one metric. Where an entry gives a name
//! twice, all that reads the result must take the last value, as JSON parsers do.
//!
//! Numbers are read from their text and rounded once, and not by serde_json, which refuses `1e400`
//! and, without a feature of its own, may miss the nearest double by one.

use std::borrow::Cow;

pub use super::members::each_member;
use super::members::member;

/// Objects deeper than this within `metrics` are not walked: they count as not numeric.
pub const DEPTH_MAX: usize = 16;

/// A metric's value in one entry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A number, or a boolean as 0 or 1. Not finite when it is beyond the range of a double.
    Number(f64),
    /// A string, null, an array.
    NonNumeric,
}

/// Calls `take` with the name and the value of each metric of an entry, in the order of the text.
/// `body` is the entry's JSON object; what can't be read has no metrics.
pub fn metrics(body: &[u8], take: &mut impl FnMut(&str, Value)) {
    if let Some(metrics) = member(body, "metrics") {
        metrics_within(metrics, &mut |name, _, value| take(name, value));
    }
}

/// As [`metrics`], from what an entry's member `metrics` holds, and with each value's text.
pub fn metrics_within<'a>(metrics: &'a [u8], take: &mut impl FnMut(&str, &'a [u8], Value)) {
    each_member(metrics, &mut |key, value| match value.first() {
        Some(b'{') => walk(value, &mut key.to_owned(), 1, take),
        _ => take(key, value, read(value)),
    });
}

/// The way to one field of an entry, such as `context.session_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPath(Box<str>);

impl FieldPath {
    /// The path that `text` gives: keys joined with `.`.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The field's value in an entry: a string's text; of a number or a boolean the text it was
    /// written as. `None` when it is absent, null, an object or an array.
    pub fn find<'a>(&self, body: &'a [u8]) -> Option<Cow<'a, str>> {
        find(body, &self.0)
    }
}

fn find<'a>(object: &'a [u8], path: &str) -> Option<Cow<'a, str>> {
    let mut found = None;
    each_member(object, &mut |key, value| {
        let Some(rest) = path.strip_prefix(key) else {
            return;
        };
        if rest.is_empty() {
            found = scalar(value);
        } else if let Some(rest) = rest.strip_prefix('.')
            && value.starts_with(b"{")
            && let Some(inner) = find(value, rest)
        {
            found = Some(inner);
        }
    });
    found
}

/// A string's text; a number's or a boolean's as it was written. `None` for null, objects, arrays.
pub fn scalar(text: &[u8]) -> Option<Cow<'_, str>> {
    match text {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => {
            std::str::from_utf8(inner).ok().map(Cow::Borrowed)
        }
        [b'"', ..] => serde_json::from_slice(text).ok().map(Cow::Owned),
        [b'{' | b'[' | b'n', ..] | [] => None,
        _ => std::str::from_utf8(text).ok().map(Cow::Borrowed),
    }
}

/// The metrics in the object `object`, whose own name is `name`.
fn walk<'a>(
    object: &'a [u8],
    name: &mut String,
    depth: usize,
    take: &mut (impl FnMut(&str, &'a [u8], Value) + ?Sized),
) {
    if depth >= DEPTH_MAX {
        return take(name, object, Value::NonNumeric);
    }
    let begin = name.len();
    each_member(object, &mut |key, value| {
        name.push('.');
        name.push_str(key);
        match value.first() {
            Some(b'{') => walk(value, name, depth + 1, take),
            _ => take(name, value, read(value)),
        }
        name.truncate(begin);
    });
}

fn read(text: &[u8]) -> Value {
    match text {
        b"true" => Value::Number(1.0),
        b"false" => Value::Number(0.0),
        // What JSON calls a number, `parse` reads, and rounds to the nearest double.
        [b'-' | b'0'..=b'9', ..] => {
            let parsed = || std::str::from_utf8(text).ok()?.parse().ok();
            let number = plain_number(text).or_else(parsed);
            number.map_or(Value::NonNumeric, Value::Number)
        }
        _ => Value::NonNumeric,
    }
}

/// A number of few digits without a sign and an exponent, as most are: its digits and the power of
/// ten below them are exact doubles, so their quotient is rounded once.
fn plain_number(text: &[u8]) -> Option<f64> {
    /// Below 10^15 any whole number is a double.
    const LEN_MAX: usize = 15;
    if text.len() > LEN_MAX {
        return None;
    }
    let mut digits = 0_u64;
    let mut scale = None;
    for byte in text {
        match byte {
            b'0'..=b'9' => {
                digits = digits * 10 + u64::from(byte - b'0');
                scale = scale.map(|scale: f64| scale * 10.0);
            }
            b'.' if scale.is_none() => scale = Some(1.0),
            _ => return None,
        }
    }
    Some(digits as f64 / scale.unwrap_or(1.0))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn all(body: &str) -> Vec<(String, Value)> {
        let mut all = Vec::new();
        metrics(body.as_bytes(), &mut |name, value| {
            all.push((name.to_owned(), value));
        });
        all
    }

    fn number(name: &str, number: f64) -> (String, Value) {
        (name.to_owned(), Value::Number(number))
    }

    fn other(name: &str) -> (String, Value) {
        (name.to_owned(), Value::NonNumeric)
    }

    #[test]
    fn names_are_the_keys_that_lead_there() {
        let body = r#" {"variantKey":"A","metrics": {"ms": 12.5, "judge": {"score":-1e3, "sure":true,
            "by":{"who":"x"}}, "ok":false, "gone":null, "list":[1,{"a":2}], "empty":{}, "a.b":0,
            "\u00e9\n":7, "":1, "deep":{"":2}},"context":{"metrics":{"no":1}}} "#;
        let expected = [
            number("ms", 12.5),
            number("judge.score", -1000.0),
            number("judge.sure", 1.0),
            other("judge.by.who"),
            number("ok", 0.0),
            other("gone"),
            other("list"),
            number("a.b", 0.0),
            number("é\n", 7.0),
            number("", 1.0),
            number("deep.", 2.0),
        ];
        assert_eq!(all(body), expected);
    }

    #[test]
    fn numbers_are_rounded_once_and_may_be_too_large() {
        let body = r#"{"metrics":{"a":1e400,"b":-1e400,"c":0.1,"d":123456789012345678901234567890,
            "e":9007199254740993,"f":2.2250738585072011e-308,"g":-0,"h":1e-400}}"#;
        let expected = [
            number("a", f64::INFINITY),
            number("b", f64::NEG_INFINITY),
            number("c", 0.1),
            number("d", 1.2345678901234568e29),
            number("e", 9_007_199_254_740_992.0),
            number("f", 2.225_073_858_507_201e-308),
            number("g", -0.0),
            number("h", 0.0),
        ];
        assert_eq!(all(body), expected);
    }

    #[test]
    fn what_has_no_metrics_has_none() {
        let bodies = [
            "",
            "{",
            "[]",
            "7",
            r#"{"metrics":null}"#,
            r#"{"metrics":[1]}"#,
            r#"{"metrics":5}"#,
            r#"{"metrics":{"#,
        ];
        for body in bodies {
            assert_eq!(all(body), [], "{body}");
        }
    }

    #[test]
    fn what_is_nested_too_deeply_is_not_walked() {
        let nest = |depth| {
            let body = format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
            all(&format!(r#"{{"metrics":{body}}}"#))
        };
        let name = ["a"; DEPTH_MAX].join(".");
        assert_eq!(nest(DEPTH_MAX), [number(&name, 1.0)]);
        assert_eq!(nest(DEPTH_MAX + 1), [other(&name)]);
    }

    #[test]
    fn a_field_is_found_by_its_path() {
        let body =
            br#"{"variantKey":"A","context":{"session_id":"s \u00e9","n":1.50,"b":true,"o":{},
            "z":null,"a":{"b":"deep"},"x.y":"dotted"},"x":1,"x":2}"#;
        let find = |path: &str| FieldPath::new(path).find(body);
        assert_eq!(find("context.session_id").as_deref(), Some("s é"));
        assert_eq!(find("context.n").as_deref(), Some("1.50"));
        assert_eq!(find("context.b").as_deref(), Some("true"));
        assert_eq!(find("context.a.b").as_deref(), Some("deep"));
        assert_eq!(find("context.x.y").as_deref(), Some("dotted"));
        assert_eq!(find("variantKey").as_deref(), Some("A"));
        assert_eq!(find("x").as_deref(), Some("2"), "the last one counts");
        for path in [
            "",
            "context",
            "context.o",
            "context.z",
            "context.no",
            "contex",
            "x.y",
        ] {
            assert_eq!(find(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_a_panic(body in vec(any::<u8>(), 0..200)) {
            metrics(&body, &mut |_, _| {});
            FieldPath::new("a.b").find(&body);
        }

        #[test]
        fn numbers_of_few_digits_are_the_nearest_doubles(text in "[0-9]{1,9}(\\.[0-9]{1,8})?") {
            let all = all(&format!(r#"{{"metrics":{{"a":{text}}}}}"#));
            prop_assert_eq!(all, [number("a", text.parse().unwrap())]);
        }

        #[test]
        fn any_number_comes_back(value in any::<f64>().prop_filter("finite", |f| f.is_finite())) {
            let body = format!(r#"{{"metrics":{{"a":{value:e}}}}}"#);
            prop_assert_eq!(all(&body), [number("a", value)]);
        }
    }
}
