//! A batch's body, one entry on each line or an array: taken exactly when serde_json and the rules
//! say so, with the same entries in the same order. The differences stand in `src/json.rs`.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use trialog::http::json::{NESTING_MAX, Shape, parse_batch};
use trialog_fuzz::json::{self, Taken};

fuzz_target!(|body: &[u8]| {
    let text = json::text(body);
    let lines = text.and_then(json::lines);
    let array = text.and_then(json::array);
    check(body, Some(Shape::Lines), lines.as_deref());
    check(body, Some(Shape::Array), array.as_deref());
    // Said to be JSON: an array when it begins as one.
    let is_array = text.is_some_and(|text| json::trimmed(text).starts_with('['));
    let expected = if is_array { array } else { lines };
    check(body, None, expected.as_deref());
});

fn check(body: &[u8], shape: Option<Shape>, expected: Option<&[Taken<'_>]>) {
    let body = Bytes::copy_from_slice(body);
    let found = parse_batch(body.clone(), shape, NESTING_MAX, &mut |_| Ok(()));
    match (found, expected) {
        (Ok(found), Some(expected)) => {
            assert_eq!(found.entries.len(), expected.len());
            for (at, (found_entry, expected)) in found.entries.iter().zip(expected).enumerate() {
                assert_eq!(*found_entry.variant_key, *expected.variant_key);
                assert_eq!(found_entry.body, expected.body);
                check_place(&body, &found.places().name(at), at, expected.body);
            }
        }
        (Err(refused), None) => {
            assert!(!refused.message.is_empty() && refused.message.len() < 1000);
        }
        (Ok(_), None) => panic!("{shape:?}: taken, and serde_json refuses it"),
        (Err(refused), Some(_)) => panic!("{shape:?}: refused, and serde_json takes it: {refused}"),
    }
}

/// The place that an error would name is where the entry stands.
fn check_place(batch: &[u8], place: &str, at: usize, entry: &str) {
    match place.split_once(' ') {
        Some(("line", number)) => {
            let number: usize = number.parse().expect("a line's number");
            let line = batch.split(|byte| *byte == b'\n').nth(number - 1);
            let line = std::str::from_utf8(line.expect("such a line")).expect("UTF-8");
            assert_eq!(json::trimmed(line), entry);
        }
        _ => assert_eq!(place, format!("element {}", at + 1)),
    }
}
