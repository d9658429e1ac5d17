//! JSON of clients, for reading: as a tree that can be folded, and in a few words. Values stay as they
//! were written; nothing is taken for a number that would lose digits.

use std::borrow::Cow;
use std::fmt;

use maud::{Markup, html};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Values that the trees of a page have at most, for each KiB of their text.
const NODES_PER_KIB: usize = 16;
/// What an escaped character takes at most.
const ESCAPED_BYTES: usize = 6;
/// Folds down to this depth are open.
const OPEN_DEPTH: usize = 2;
/// Bytes that tell what an entry is about.
const EXCERPT_BYTES: usize = 240;

/// The members of an object, in their order.
pub struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
            members.push((key, value));
        }
        Ok(Members(members))
    }
}

/// A name, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Members<'a> {
    /// Those of the object `body`; none if it isn't one.
    pub fn of(body: &'a [u8]) -> Self {
        serde_json::from_slice(body).unwrap_or(Self(Vec::new()))
    }

    /// The value of a member.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| *value)
    }
}

/// A value, one level deep.
enum Value<'a> {
    Object(Members<'a>),
    Array(Vec<&'a RawValue>),
    Text(String),
    /// A number, a boolean or null, as it was written.
    Plain(&'a str),
}

impl<'a> Value<'a> {
    fn of(raw: &'a RawValue) -> Self {
        let text = raw.get();
        let plain = || Self::Plain(text);
        match text.as_bytes().first() {
            Some(b'{') => serde_json::from_str(text).map_or_else(|_| plain(), Self::Object),
            Some(b'[') => serde_json::from_str(text).map_or_else(|_| plain(), Self::Array),
            Some(b'"') => serde_json::from_str(text).map_or_else(|_| plain(), Self::Text),
            _ => plain(),
        }
    }
}

/// What may still be shown on a page.
pub struct Budget {
    nodes: usize,
    bytes: usize,
}

impl Budget {
    /// So much text, as it stands in the page.
    pub fn of_kib(kib: usize) -> Self {
        Self {
            nodes: kib * NODES_PER_KIB,
            bytes: kib << 10,
        }
    }
}

/// The value as a tree.
pub fn tree(raw: &RawValue, budget: &mut Budget) -> Markup {
    html! {
        div.json {
            (node(raw, 0, budget))
            @if budget.nodes == 0 || budget.bytes == 0 {
                p.muted { "This is not all of it: the rest is in the API's answer." }
            }
        }
    }
}

fn node(raw: &RawValue, depth: usize, budget: &mut Budget) -> Markup {
    if budget.nodes == 0 {
        return html! { span.muted { "…" } };
    }
    budget.nodes -= 1;
    match Value::of(raw) {
        Value::Object(Members(members)) => {
            let members: Vec<_> = members
                .into_iter()
                .map(|(key, value)| (Some(key), value))
                .collect();
            fold(&members, ["{", "}"], depth, budget)
        }
        Value::Array(values) => {
            let values: Vec<_> = values.into_iter().map(|value| (None, value)).collect();
            fold(&values, ["[", "]"], depth, budget)
        }
        Value::Text(text) => html! { bdi.text { (cut(&text, budget)) } },
        Value::Plain(text) => html! { span.plain { (cut(text, budget)) } },
    }
}

fn fold(
    members: &[(Option<Cow<'_, str>>, &RawValue)],
    [open, close]: [&str; 2],
    depth: usize,
    budget: &mut Budget,
) -> Markup {
    if members.is_empty() {
        return html! { span.plain { (open) (close) } };
    }
    html! {
        details open[depth < OPEN_DEPTH] {
            summary { (open) " " span.muted { (members.len()) } " " (close) }
            ul {
                @for (key, value) in members {
                    @if budget.nodes > 0 {
                        li {
                            @if let Some(key) = key {
                                bdi.key { (cut(key, budget)) } ": "
                            }
                            (node(value, depth + 1, budget))
                        }
                    }
                }
            }
        }
    }
}

/// As much of a text as may be shown still.
fn cut(text: &str, budget: &mut Budget) -> String {
    for (at, shown) in text.char_indices() {
        let bytes = match shown {
            '<' | '>' | '&' | '"' => ESCAPED_BYTES,
            other => other.len_utf8(),
        };
        match budget.bytes.checked_sub(bytes) {
            Some(rest) => budget.bytes = rest,
            None => {
                budget.bytes = 0;
                return format!("{}…", up_to(text, at));
            }
        }
    }
    text.to_owned()
}

fn up_to(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max))
        .unwrap_or_default()
}

/// What an entry is about: the first text in its output, or else in its input.
pub fn excerpt(members: &Members<'_>) -> String {
    let found = ["output", "input", "metrics"]
        .into_iter()
        .find_map(|name| first_leaf(members.get(name)?, 0));
    let text = found.unwrap_or_default();
    let shown = up_to(&text, EXCERPT_BYTES);
    let words: Vec<_> = shown.split_whitespace().collect();
    let ending = if shown.len() < text.len() { "…" } else { "" };
    format!("{}{ending}", words.join(" "))
}

fn first_leaf(raw: &RawValue, depth: usize) -> Option<String> {
    if depth > 4 {
        return None;
    }
    match Value::of(raw) {
        Value::Object(Members(members)) => members
            .iter()
            .find_map(|(_, value)| first_leaf(value, depth + 1)),
        Value::Array(values) => values.iter().find_map(|value| first_leaf(value, depth + 1)),
        Value::Text(text) => Some(text).filter(|text| !text.trim().is_empty()),
        Value::Plain("null") => None,
        Value::Plain(text) => Some(text.to_owned()),
    }
}

/// The metrics of an entry that are numbers, as they were written.
pub fn metrics<'a>(members: &Members<'a>) -> Vec<(Cow<'a, str>, &'a str)> {
    let Some(Value::Object(Members(metrics))) = members.get("metrics").map(Value::of) else {
        return Vec::new();
    };
    let numbers = metrics
        .into_iter()
        .filter_map(|(name, value)| match Value::of(value) {
            Value::Plain(text) => Some((name, text)),
            _ => None,
        });
    numbers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_as_they_were_written_and_are_text() {
        let body = br#"{"a":1e400,"b":"<script>x</script>","c":[],"d":{"e":0.10},"f\n":null}"#;
        let raw: &RawValue = serde_json::from_slice(body).unwrap();
        let tree = tree(raw, &mut Budget::of_kib(9)).into_string();
        for expected in ["1e400", "&lt;script&gt;", "[]", "0.10", "null"] {
            assert!(tree.contains(expected), "{expected}: {tree}");
        }
        assert!(!tree.contains("<script"), "{tree}");
    }

    #[test]
    fn what_is_too_much_is_cut() {
        let long = format!("{{\"a\":\"{}\"}}", "\u{e9}".repeat(1 << 20));
        let raw: &RawValue = serde_json::from_str(&long).unwrap();
        let shown = tree(raw, &mut Budget::of_kib(9)).into_string();
        assert!(shown.len() < 10_000 && shown.contains("not all of it"));
        let long = format!("{{\"a\":\"{}\"}}", "<".repeat(1 << 20));
        let raw: &RawValue = serde_json::from_str(&long).unwrap();
        let shown = tree(raw, &mut Budget::of_kib(9)).into_string();
        assert!(shown.len() < 10_000, "{}", shown.len());
        let many = format!("[{}1]", "1,".repeat(100_000));
        let raw: &RawValue = serde_json::from_str(&many).unwrap();
        let text = tree(raw, &mut Budget::of_kib(9)).into_string();
        assert!(text.len() < 10_000 && text.contains("not all of it"));
    }

    #[test]
    fn an_excerpt_is_the_first_text() {
        let excerpt = |body: &str| excerpt(&Members::of(body.as_bytes()));
        assert_eq!(
            excerpt(r#"{"output":{"n":null,"text":"so  it\nis"}}"#),
            "so it is"
        );
        assert_eq!(
            excerpt(r#"{"output":{},"input":{"q":[{"a":"why"}]}}"#),
            "why"
        );
        assert_eq!(excerpt(r#"{"metrics":{"a":1}}"#), "1");
        assert_eq!(excerpt("{}"), "");
        let body = br#"{"metrics":{"a":1.50,"b":"no","c":{}}}"#;
        let members = Members::of(body);
        assert_eq!(metrics(&members), [("a".into(), "1.50")]);
    }
}
