//! What serde_json makes of a request body, held against what the server makes of it.
//!
//! The two are meant to differ in this, and in nothing else:
//!
//! | | serde_json's `Value` | the server |
//! | --- | --- | --- |
//! | a number | must fit an `f64` | stays text; its grammar alone counts |
//! | the same name twice in an entry's own object | the last one wins | refused |
//! | the same in an object further inside | the last one wins | taken, both stay |
//! | nesting, the outermost object included | at most 127 (switched off here) | at most 128 |
//!
//! Beyond JSON, an entry has a `variantKey`, a string of 1 to 128 bytes when unescaped; `input`,
//! `output`, `metrics` and `context` are objects or `null` where they are there; and `logId`,
//! `experiment` and `receivedAt` aren't there.

use serde_json::value::RawValue;
use serde_json::{Deserializer, Value};

use serde::de::{Deserialize, IgnoredAny, MapAccess, Visitor};

const DEPTH_MAX: usize = 128;
const KEY_BYTES_MAX: usize = 128;
const RESERVED: [&str; 3] = ["logId", "experiment", "receivedAt"];
const OBJECTS: [&str; 4] = ["input", "output", "metrics", "context"];

/// An entry that must be taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken<'a> {
    /// Its variant.
    pub variant_key: String,
    /// The object's text.
    pub body: &'a str,
}

/// The entry in `text`, if it must be taken.
pub fn entry(text: &str) -> Option<Taken<'_>> {
    let body = trimmed(text);
    serde_json::from_str::<IgnoredAny>(body).ok()?;
    // Fails where an escape is half a surrogate pair.
    let value = value_of(&with_zeros_for_numbers(body))?;
    if !value.is_object() || depth(&value) > DEPTH_MAX {
        return None;
    }
    let Members(members) = serde_json::from_str(body).ok()?;
    let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let is_twice = names.windows(2).any(|pair| pair[0] == pair[1]);
    let is_object = |name: &str| value.get(name).is_none_or(|v| v.is_object() || v.is_null());
    let is_reserved = names.iter().any(|name| RESERVED.contains(name));
    if is_twice || is_reserved || !OBJECTS.into_iter().all(is_object) {
        return None;
    }
    let variant_key = value.get("variantKey")?.as_str()?.to_owned();
    let fits = (1..=KEY_BYTES_MAX).contains(&variant_key.len());
    fits.then_some(Taken { variant_key, body })
}

/// The entries of a batch with one on each line, if it must be taken.
pub fn lines(text: &str) -> Option<Vec<Taken<'_>>> {
    let filled = text.split('\n').filter(|line| !trimmed(line).is_empty());
    let entries: Option<Vec<_>> = filled.map(entry).collect();
    entries.filter(|entries| !entries.is_empty())
}

/// The entries of a batch that is an array, if it must be taken.
pub fn array(text: &str) -> Option<Vec<Taken<'_>>> {
    let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    let entries: Option<Vec<_>> = elements.into_iter().map(|e| entry(e.get())).collect();
    entries.filter(|entries| !entries.is_empty())
}

/// A body as text, when it can be one: serde_json refuses a byte order mark, too.
pub fn text(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    (!text.starts_with('\u{feff}')).then_some(text)
}

/// Without JSON's white space around it.
pub fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r'])
}

/// As serde_json reads it, however deeply it is nested.
fn value_of(text: &str) -> Option<Value> {
    let mut deserializer = Deserializer::from_str(text);
    deserializer.disable_recursion_limit();
    let value = Value::deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(value)
}

/// JSON with each number replaced by 0.
fn with_zeros_for_numbers(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut in_string = false;
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => in_string = !in_string,
            '\\' if in_string => {
                out.push(c);
                out.extend(chars.next());
                continue;
            }
            '-' | '0'..='9' if !in_string => {
                let goes_on = |c: &char| matches!(c, '0'..='9' | '.' | 'e' | 'E' | '+' | '-');
                while chars.next_if(goes_on).is_some() {}
                out.push('0');
                continue;
            }
            _ => {}
        }
        out.push(c);
    }
    out
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// An object's members as they come.
struct Members(Vec<(String, IgnoredAny)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Members;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Walk)
    }
}
