//! What a client takes as an answer.

use hyper::HeaderMap;
use hyper::header::ACCEPT;

/// Whether the media type `wanted` is named among those that are accepted.
pub fn accepts(headers: &HeaderMap, wanted: &str) -> bool {
    let accepted = headers.get_all(ACCEPT).into_iter();
    let mut types = accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim());
    types.any(|accepted| accepted.eq_ignore_ascii_case(wanted))
}
