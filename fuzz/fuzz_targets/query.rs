//! Any query string: the values are those that a plain reading finds; what is unknown or there
//! twice is refused.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use trialog::http::query::parameters;

const NAMES: [&str; 3] = ["after", "limit", "variant"];

fuzz_target!(|query: &str| {
    let found = parameters(Some(query), NAMES).map_err(|error| error.code.as_str());
    assert_eq!(found, expected(query));
    // Where no parameter is taken, anything but separators is one too many.
    let none = parameters::<0>(Some(query), []);
    assert_eq!(none.is_ok(), query.bytes().all(|byte| byte == b'&'));
});

/// Walks the bytes one by one.
fn expected(query: &str) -> Result<[Option<&str>; 3], &'static str> {
    let mut values = BTreeMap::new();
    let mut start = 0;
    while start < query.len() {
        let rest = &query[start..];
        let end = rest
            .bytes()
            .position(|byte| byte == b'&')
            .unwrap_or(rest.len());
        let pair = &rest[..end];
        start += end + 1;
        if pair.is_empty() {
            continue;
        }
        let equals = pair.bytes().position(|byte| byte == b'=');
        let name = &pair[..equals.unwrap_or(pair.len())];
        let value = equals.map_or("", |at| &pair[at + 1..]);
        if !NAMES.contains(&name) {
            return Err("unknown_parameter");
        }
        if values.insert(name, value).is_some() {
            return Err("bad_parameter");
        }
    }
    Ok(NAMES.map(|name| values.get(name).copied()))
}
