//! Bodies of entries: JSON that is checked, and otherwise left as it was written.

mod batch;
mod fault;
mod guard;
mod object;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use batch::{Batch, ENTRIES_MAX, ENTRY_BYTES, Shape, parse_batch};
pub use fault::BodyError;
pub use guard::NESTING_MAX;

use crate::http::error::Code;
use crate::model::NewEntry;
use fault::Fault;

/// What is white space in JSON. (What Rust calls ASCII white space has the form feed, too.)
const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Checks one entry's JSON, which is nested so deep at most, and finds its variant, in one pass.
pub fn parse_entry(body: Bytes, nesting_max: usize) -> Result<NewEntry, BodyError> {
    let found = text(&body)
        .and_then(|text| object::parse(text, nesting_max))
        .map_err(|fault| fault.locate(&body, None))?;
    Ok(NewEntry {
        variant_key: found.variant_key,
        body: body.slice(found.range),
        idempotency: None,
    })
}

/// The body as text: UTF-8, and no byte order mark before it.
fn text(body: &[u8]) -> Result<&str, Fault> {
    if body.starts_with(b"\xEF\xBB\xBF") {
        return Err(Fault::new(
            0,
            Code::BodyBom,
            "a byte order mark comes before the JSON",
        ));
    }
    std::str::from_utf8(body)
        .map_err(|error| Fault::new(error.valid_up_to(), Code::BodyNotUtf8, "not UTF-8"))
}
