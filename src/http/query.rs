//! Query strings: known names once each, with plain values.

use std::borrow::Cow;

use super::error::{ApiError, ApiResult, Code};

/// How many a page holds when nothing is said, and at most.
const PAGE_LEN: usize = 100;
const PAGE_LEN_MAX: usize = 1000;

/// The values of the parameters `names`, in that order. A parameter that is not among them, or is
/// there twice, is refused.
pub fn parameters<'q, const N: usize>(
    query: Option<&'q str>,
    names: [&str; N],
) -> ApiResult<[Option<&'q str>; N]> {
    let mut values = [None; N];
    let pairs = query.unwrap_or_default().split('&');
    for pair in pairs.filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let place = names.iter().position(|known| *known == name);
        let Some(slot) = place.and_then(|place| values.get_mut(place)) else {
            let known = if N == 0 {
                "none".into()
            } else {
                names.join(", ")
            };
            let message = format!("unknown query parameter; this path takes {known}");
            return Err(ApiError::new(Code::UnknownParameter, message));
        };
        if slot.replace(value).is_some() {
            let name = place.and_then(|place| names.get(place)).unwrap_or(&"");
            let message = format!("the query parameter {name} is there twice");
            return Err(ApiError::new(Code::BadParameter, message));
        }
    }
    Ok(values)
}

/// The value of a parameter `limit`.
pub fn limit(text: &str) -> ApiResult<usize> {
    match text.parse() {
        Ok(limit) if (1..=PAGE_LEN_MAX).contains(&limit) => Ok(limit),
        _ => {
            let message = format!("limit is a number from 1 to {PAGE_LEN_MAX}");
            Err(ApiError::new(Code::BadParameter, message))
        }
    }
}

/// How many a page holds.
pub fn limit_of(limit: Option<usize>) -> usize {
    limit.unwrap_or(PAGE_LEN)
}

/// The value of the parameter `name` with its `%` and `+` resolved, as forms write them.
pub fn decoded<'q>(name: &str, value: &'q str) -> ApiResult<Cow<'q, str>> {
    if !value.contains(['%', '+']) {
        return Ok(Cow::Borrowed(value));
    }
    let bad = || {
        let message = format!("{name}: a % is followed by two hexadecimal digits, in UTF-8");
        ApiError::new(Code::BadParameter, message)
    };
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let (digits, behind) = rest.split_first_chunk::<2>().ok_or_else(bad)?;
                rest = behind;
                let digit = |byte: u8| char::from(byte).to_digit(16).ok_or_else(bad);
                let [high, low] = *digits;
                (digit(high)? * 16 + digit(low)?) as u8
            }
            plain => *plain,
        });
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::percent::encoded;

    proptest::proptest! {
        #[test]
        fn what_is_encoded_is_read_again(text in ".*") {
            let value = encoded(&text);
            proptest::prop_assert!(!value.contains(['&', '=', '+', '#', ' ']));
            let read = decoded("by", &value);
            proptest::prop_assert_eq!(read.map_err(|error| error.code), Ok(text.into()));
        }
    }

    #[test]
    fn what_is_escaped_is_read_as_it_was_meant() {
        let read = |value| decoded("variant", value).map_err(|error| error.code);
        assert_eq!(read("gpt-4"), Ok("gpt-4".into()));
        assert_eq!(read("a+b%20c%2Bd%c3%A9"), Ok("a b c+d\u{e9}".into()));
        for bad in ["%", "%2", "%zz", "%+1", "%ff", "a%"] {
            assert_eq!(read(bad), Err(Code::BadParameter), "{bad}");
        }
    }

    #[test]
    fn known_ones_once_each() {
        let read = |query| parameters(query, ["after", "limit"]).map_err(|e| e.code);
        assert_eq!(read(None), Ok([None, None]));
        assert_eq!(read(Some("limit=5&after=a")), Ok([Some("a"), Some("5")]));
        assert_eq!(read(Some("limit=5&limit=6")), Err(Code::BadParameter));
        assert_eq!(read(Some("limits=5")), Err(Code::UnknownParameter));
    }
}
