//! Which bytes of a representation a request wants (RFC 9110, 13 and 14). Pure.

use std::ops::Range;

use hyper::HeaderMap;
use hyper::header::{HeaderName, IF_NONE_MATCH, IF_RANGE, RANGE};

/// What is to be answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// 200, with all of it.
    All,
    /// 206, with these bytes.
    Part(Range<u64>),
    /// 304: the client has it.
    Nothing,
    /// 416: there are no such bytes.
    Unsatisfiable,
}

/// What a request with these headers wants of `len` bytes that have this entity tag (with its
/// quotes). Several ranges, and what isn't understood, are answered with all of it, as the standard
/// has it.
pub fn wanted(headers: &HeaderMap, tag: &str, len: u64) -> Wanted {
    let known = headers.get_all(IF_NONE_MATCH).iter();
    let mut known = known
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|known| known.trim());
    if known.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag) {
        return Wanted::Nothing;
    }
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let is_same = text(IF_RANGE).is_none_or(|known| known.trim() == tag);
    match text(RANGE)
        .filter(|_| is_same)
        .map(|range| part(range, len))
    {
        Some(Some(wanted)) => wanted,
        _ => Wanted::All,
    }
}

fn part(range: &str, len: u64) -> Option<Wanted> {
    let (unit, range) = range.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    // Longer than any file is as good as its end.
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let range = match (first, last) {
        ("", last) => len.saturating_sub(number(last)?)..len,
        (first, "") => number(first)?..len,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            first..last.saturating_add(1).min(len)
        }
    };
    Some(match range.start < range.end {
        true => Wanted::Part(range),
        false => Wanted::Unsatisfiable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn of(headers: &[(HeaderName, &'static str)]) -> Wanted {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_static(value));
        }
        wanted(&map, "\"t\"", 100)
    }

    #[test]
    fn one_range_is_answered_and_what_is_no_range_is_left_aside() {
        for (range, expected) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=10-19", Wanted::Part(10..20)),
            ("Bytes = 90-", Wanted::Part(90..100)),
            ("bytes=-1", Wanted::Part(99..100)),
            ("bytes=-1000", Wanted::Part(0..100)),
            ("bytes=99-99999999999999999999999", Wanted::Part(99..100)),
            ("bytes=100-", Wanted::Unsatisfiable),
            ("bytes=100-200", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=20-10", Wanted::All),
            ("bytes=0-1,5-6", Wanted::All),
            ("bytes=a-b", Wanted::All),
            ("bytes=+1-2", Wanted::All),
            ("bytes=-", Wanted::All),
            ("bytes", Wanted::All),
            ("lines=0-1", Wanted::All),
            ("", Wanted::All),
        ] {
            assert_eq!(of(&[(RANGE, range)]), expected, "{range}");
        }
        assert_eq!(of(&[]), Wanted::All);
    }

    #[test]
    fn what_the_client_has_decides_first() {
        let range = (RANGE, "bytes=1-2");
        for (known, is_same) in [
            ("\"t\"", true),
            ("\"u\"", false),
            ("W/\"t\"", false),
            ("", false),
        ] {
            let expected = if is_same {
                Wanted::Part(1..3)
            } else {
                Wanted::All
            };
            assert_eq!(of(&[range.clone(), (IF_RANGE, known)]), expected, "{known}");
        }
        for known in ["\"t\"", "W/\"t\"", "\"x\", \"t\"", "*"] {
            assert_eq!(
                of(&[range.clone(), (IF_NONE_MATCH, known)]),
                Wanted::Nothing
            );
        }
        let other = (IF_NONE_MATCH, "\"x\"");
        assert_eq!(of(&[range, other]), Wanted::Part(1..3));
    }
}
