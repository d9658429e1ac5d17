//! One entry's body: taken exactly when serde_json and the rules of an entry say so, with the same
//! variant, and as it was sent. Where the two differ on purpose stands in `src/json.rs`.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use trialog::http::error::Code;
use trialog::http::json::{NESTING_MAX, parse_entry};
use trialog_fuzz::json;

fuzz_target!(|body: &[u8]| {
    let expected = json::text(body).and_then(json::entry);
    let found = parse_entry(Bytes::copy_from_slice(body), NESTING_MAX);
    match (&found, &expected) {
        (Ok(found), Some(expected)) => {
            assert_eq!(*found.variant_key, *expected.variant_key);
            assert_eq!(found.body, expected.body);
        }
        (Err(refused), None) => {
            assert!(!refused.message.is_empty() && refused.message.len() < 1000);
            // Nothing but JSON's own grammar may be called a fault of it.
            if [Code::JsonSyntax, Code::JsonTrailing].contains(&refused.code) {
                let theirs = serde_json::from_slice::<serde_json::Value>(body);
                assert!(theirs.is_err(), "{refused}");
            }
        }
        (Ok(_), None) => panic!("taken, and serde_json refuses it"),
        (Err(refused), Some(_)) => panic!("refused, and serde_json takes it: {refused}"),
    }
});
