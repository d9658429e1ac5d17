//! Query strings: known names once each, with plain values.

use super::error::{ApiError, ApiResult, Code};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ones_once_each() {
        let read = |query| parameters(query, ["after", "limit"]).map_err(|e| e.code);
        assert_eq!(read(None), Ok([None, None]));
        assert_eq!(read(Some("limit=5&after=a")), Ok([Some("a"), Some("5")]));
        assert_eq!(read(Some("limit=5&limit=6")), Err(Code::BadParameter));
        assert_eq!(read(Some("limits=5")), Err(Code::UnknownParameter));
    }
}
