//! The members of a JSON object, each as the text it was written as: what isn't asked for is stepped
//! over and not read.
//!
//! Who folds entries meets some ten bytes that say something among hundreds that don't. A JSON parser
//! checks all of them again, though each entry was checked when it came. Here strings are left by looking
//! for their end, objects and arrays by counting brackets. In text that isn't JSON this finds something
//! or nothing, but always the same.

use std::borrow::Cow;

use memchr::memchr2;

/// How much of a string is looked at eight bytes at a time: most keys end in there.
const NEAR_BYTES: usize = 32;

/// Calls `take` with the key and the value's text of each member of a JSON object, in the order of the
/// text. Ends where the text is broken.
pub fn each_member<'a>(object: &'a [u8], take: &mut impl FnMut(&str, &'a [u8])) {
    each(object, &mut |key, value| {
        if let Some(key) = key.text() {
            take(&key, value);
        }
    });
}

/// The value's text of the member with this key, the last one if there are several.
pub fn member<'a>(object: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    let mut found = None;
    each(object, &mut |key, value| {
        if key.is(wanted) {
            found = Some(value);
        }
    });
    found
}

fn each<'a>(object: &'a [u8], take: &mut impl FnMut(Key<'a>, &'a [u8])) {
    let mut text = Text(object);
    if !text.eat(b'{') {
        return;
    }
    // What could be read of a broken object was taken; there is nobody to tell of the rest.
    while let Some((key, value)) = text.member() {
        take(key, value);
        if !text.eat(b',') {
            return;
        }
    }
}

/// A member's key as it was written, with its quotes.
struct Key<'a> {
    quoted: &'a [u8],
    has_escapes: bool,
}

impl<'a> Key<'a> {
    /// What it says; `None` if that isn't text.
    fn text(&self) -> Option<Cow<'a, str>> {
        Some(match self.has_escapes {
            true => Cow::Owned(serde_json::from_slice(self.quoted).ok()?),
            false => Cow::Borrowed(std::str::from_utf8(self.inner()).ok()?),
        })
    }

    fn is(&self, text: &str) -> bool {
        match self.has_escapes {
            true => self.text().is_some_and(|key| key == text),
            false => self.inner() == text.as_bytes(),
        }
    }

    fn inner(&self) -> &'a [u8] {
        let end = self.quoted.len().saturating_sub(1);
        self.quoted.get(1..end).unwrap_or_default()
    }
}

/// What is left of a text.
struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    fn member(&mut self) -> Option<(Key<'a>, &'a [u8])> {
        self.skip_space();
        let string = string_at(self.0)?;
        let quoted = self.cut(string.len)?;
        if !self.eat(b':') {
            return None;
        }
        self.skip_space();
        let value = self.cut(value_len(self.0)?)?;
        let key = Key {
            quoted,
            has_escapes: string.has_escapes,
        };
        Some((key, value))
    }

    /// Steps over this byte and the space in front of it; says whether it was there.
    fn eat(&mut self, byte: u8) -> bool {
        self.skip_space();
        match self.0.split_first() {
            Some((first, rest)) if *first == byte => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn skip_space(&mut self) {
        while let Some((b' ' | b'\n' | b'\r' | b'\t', rest)) = self.0.split_first() {
            self.0 = rest;
        }
    }

    fn cut(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }
}

/// A string with its quotes.
struct StringAt {
    len: usize,
    has_escapes: bool,
}

/// The string that `text` begins with.
fn string_at(text: &[u8]) -> Option<StringAt> {
    let mut has_escapes = false;
    if text.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        at += quote_or_escape(text.get(at..)?)?;
        if text.get(at) == Some(&b'"') {
            let len = at + 1;
            return Some(StringAt { len, has_escapes });
        }
        has_escapes = true;
        at += 2;
    }
}

/// Where the first quote or backslash is.
fn quote_or_escape(text: &[u8]) -> Option<usize> {
    let near = text.get(..NEAR_BYTES).unwrap_or(text);
    let (words, _) = near.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let hits = has_byte(word, b'"') | has_byte(word, b'\\');
        if hits != 0 {
            return Some(8 * at + hits.trailing_zeros() as usize / 8);
        }
    }
    let begin = 8 * words.len();
    Some(begin + memchr2(b'"', b'\\', text.get(begin..)?)?)
}

/// The lowest bit that is set is the highest one of the first byte that is `byte`, if any is.
fn has_byte(word: u64, byte: u8) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    let zero_there = word ^ (ONES * u64::from(byte));
    zero_there.wrapping_sub(ONES) & !zero_there & (ONES << 7)
}

/// How long the value is that `text` begins with.
fn value_len(text: &[u8]) -> Option<usize> {
    match text.first()? {
        b'"' => Some(string_at(text)?.len),
        b'{' | b'[' => nested_len(text),
        _ => {
            let ends =
                |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t');
            let len = text.iter().position(ends).unwrap_or(text.len());
            (len > 0).then_some(len)
        }
    }
}

/// As [`value_len`], of an object or an array.
fn nested_len(text: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => {
                at += string_at(text.get(at..)?)?.len;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    type Members = Vec<(String, String)>;

    fn members(object: &[u8]) -> Members {
        let mut all = Vec::new();
        each_member(object, &mut |key, value| {
            let value = String::from_utf8(value.to_vec()).unwrap();
            all.push((key.to_owned(), value));
        });
        all
    }

    /// What a JSON parser finds.
    fn parsed(object: &str) -> Members {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Members, A::Error> {
                let mut all = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    all.push((key, map.next_value::<&RawValue>()?.get().to_owned()));
                }
                Ok(all)
            }
        }
        let mut deserializer = serde_json::Deserializer::from_str(object);
        serde::Deserializer::deserialize_map(&mut deserializer, Visitor).unwrap()
    }

    /// A value's text, written in any way.
    fn any_value() -> impl Strategy<Value = String> {
        let space = prop_oneof![3 => Just(""), 1 => Just(" "), 1 => Just("\n\t\r ")];
        let string = any_string();
        let number = prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            any::<f64>()
                .prop_filter("finite", |f| f.is_finite())
                .prop_map(|f| format!("{f:e}")),
        ];
        let word = prop_oneof![Just("true"), Just("false"), Just("null")];
        let leaf = prop_oneof![string.clone(), number, word.prop_map(str::to_owned)];
        leaf.prop_recursive(5, 40, 6, move |inner| {
            let array = (vec(inner.clone(), 0..5), space.clone());
            let member = (any_string(), space.clone(), inner, space.clone());
            let member = member.prop_map(|(key, a, value, b)| format!("{a}{key}{b}:{a}{value}{b}"));
            prop_oneof![
                array.prop_map(|(all, space)| format!(
                    "[{space}{}{space}]",
                    all.join(&format!("{space},"))
                )),
                (vec(member, 0..5), space.clone())
                    .prop_map(|(all, space)| format!("{{{}}}", all.join(&format!(",{space}")))),
            ]
        })
    }

    /// With quotes, brackets and escapes within.
    fn any_string() -> impl Strategy<Value = String> + Clone {
        let piece = prop_oneof![
            3 => "[a-z]{0,40}",
            1 => Just(r#"\""#.to_owned()),
            1 => Just(r"\\".to_owned()),
            1 => Just(r"\u00e9\n".to_owned()),
            1 => Just("{[,:]}é".to_owned()),
        ];
        vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
    }

    proptest! {
        #[test]
        fn a_json_parser_finds_the_same(values in vec((any_string(), any_value()), 0..6), end in " {0,2}") {
            let members_of = values.iter().map(|(key, value)| format!("{key}:{value}"));
            let object = format!("{end}{{{}}}{end}", members_of.collect::<Vec<_>>().join(","));
            prop_assert_eq!(members(object.as_bytes()), parsed(&object));
        }

        #[test]
        fn any_text_is_taken_without_a_panic(text in r#"[\{\}\[\]",:\\0-9a ]{0,40}"#) {
            members(text.as_bytes());
        }
    }

    #[test]
    fn what_is_broken_ends_it() {
        let found = |text: &str| members(text.as_bytes()).len();
        for text in [
            "",
            "{",
            "[]",
            "7",
            "{}",
            r#"{"a"#,
            r#"{"a":"#,
            r#"{"a":{"#,
            r#"{"a":,}"#,
            r#"{"a" 1}"#,
        ] {
            assert_eq!(found(text), 0, "{text}");
        }
        for text in [
            r#"{"a":1"#,
            r#"{"a":1,"#,
            r#"{"a":1 2,"b":3}"#,
            r#"{"a":[1,{}],b:2}"#,
        ] {
            assert_eq!(found(text), 1, "{text}");
        }
    }
}
