//! What serde_json lets pass in values it doesn't look into: great depth, and escapes of one half
//! of a surrogate pair. Both are valid by the grammar and break whoever reads them later.

use super::fault::Fault;
use crate::http::error::Code;

/// How deep objects and arrays may be nested at most, an entry's own object included: readers' parsers
/// go no further.
pub const NESTING_MAX: usize = 128;

/// Finds the first fault in `text`, which is valid JSON, or the valid beginning of a broken one. An
/// entry in it may be nested so deep, and has so many levels `around` it.
pub(super) fn check(text: &[u8], nesting_max: usize, around: usize) -> Result<(), Fault> {
    let depth = depth_fault(text, nesting_max, around);
    let surrogate = surrogate_fault(text);
    match depth
        .into_iter()
        .chain(surrogate)
        .min_by_key(|fault| fault.at)
    {
        Some(fault) => Err(fault),
        None => Ok(()),
    }
}

fn depth_fault(text: &[u8], nesting_max: usize, around: usize) -> Option<Fault> {
    let depth_max = nesting_max + around;
    // Counting is a handful of vector instructions, and nearly always the end of it.
    let opened = text.iter().filter(|b| matches!(b, b'{' | b'[')).count();
    if opened <= depth_max {
        return None;
    }
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut bytes = text.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => {
                bytes.next();
            }
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > depth_max {
                    let message = format!("nested deeper than {nesting_max} levels");
                    return Some(Fault::new(at, Code::JsonTooDeep, message));
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

fn surrogate_fault(text: &[u8]) -> Option<Fault> {
    // Outside of strings valid JSON has no backslash.
    let mut at = next_backslash(text, 0)?;
    loop {
        let mut next = at + 2;
        if text.get(at + 1) == Some(&b'u') {
            next = at + 6;
            match hex4(text, at + 2)? {
                0xD800..=0xDBFF if low_half_at(text, at + 6) => next = at + 12,
                0xD800..=0xDFFF => {
                    let message = "an escape of half a surrogate pair";
                    return Some(Fault::new(at, Code::JsonLoneSurrogate, message));
                }
                _ => {}
            }
        }
        at = next_backslash(text, next)?;
    }
}

fn low_half_at(text: &[u8], at: usize) -> bool {
    text.get(at..at + 2) == Some(br"\u")
        && hex4(text, at + 2).is_some_and(|unit| (0xDC00..=0xDFFF).contains(&unit))
}

fn hex4(text: &[u8], at: usize) -> Option<u32> {
    let digits = text.get(at..at + 4)?;
    digits.iter().try_fold(0, |value, digit| {
        Some(value * 16 + char::from(*digit).to_digit(16)?)
    })
}

fn next_backslash(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    // Whole chunks without one are passed over at the speed of vector instructions.
    for chunk in text.get(from..)?.chunks(32) {
        if chunk.iter().fold(false, |found, b| found | (*b == b'\\')) {
            return chunk.iter().position(|b| *b == b'\\').map(|i| at + i);
        }
        at += chunk.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Option<(Code, usize)> {
        let fault = check(text.as_bytes(), NESTING_MAX, 0).err()?;
        Some((fault.code, fault.at))
    }

    #[test]
    fn depth_is_counted_outside_of_strings() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(code(&nested(128)), None);
        assert_eq!(code(&nested(129)), Some((Code::JsonTooDeep, 128)));
        assert_eq!(
            code(&format!(r#"["{}\"{}"]"#, "[".repeat(99), "[".repeat(99))),
            None
        );
        assert_eq!(code(&format!("[{}]", vec!["[]"; 999].join(","))), None);
    }

    #[test]
    fn halves_of_pairs() {
        let long = "x".repeat(100);
        for (text, at) in [
            (r#""\ud800""#.to_owned(), Some(1)),
            (r#""\udc00""#.to_owned(), Some(1)),
            (r#""\ud800\n""#.to_owned(), Some(1)),
            (r#""\ud800\ud800\udc00""#.to_owned(), Some(1)),
            (r#""\udc00\ud800""#.to_owned(), Some(1)),
            (r#""\ud83d\ude00\ud83d""#.to_owned(), Some(13)),
            (r#""\ud83d\ude00""#.to_owned(), None),
            (r#""\uD83D\uDE00\u0041""#.to_owned(), None),
            (r#""\\ud800""#.to_owned(), None),
            (r#""\\\ud800""#.to_owned(), Some(3)),
            (format!(r#""{long}\n{long}\udfff""#), Some(203)),
        ] {
            let expected = at.map(|at| (Code::JsonLoneSurrogate, at));
            assert_eq!(code(&text), expected, "{text}");
        }
    }
}
