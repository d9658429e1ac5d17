//! Many entries in one body: one on each line, or as the elements of a JSON array.

use std::fmt;

use bytes::Bytes;
use serde::Deserializer as _;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::SPACE;
use super::fault::{BodyError, Fault};
use super::object::{self, Found};
use crate::experiment::OverBudget;
use crate::http::error::Code;
use crate::model::NewEntry;

/// How many entries one batch may have.
pub const ENTRIES_MAX: usize = 1_000_000;
/// What an entry costs in memory beside its bytes in the body.
pub const ENTRY_BYTES: usize = size_of::<NewEntry>() + 48;

/// How the entries of a batch follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One on each line (NDJSON); empty lines are passed over.
    Lines,
    /// The elements of a JSON array.
    Array,
}

/// The entries of a batch, and how to say where one of them was.
#[derive(Debug)]
pub struct Batch {
    /// The entries, in their order.
    pub entries: Vec<NewEntry>,
    shape: Shape,
    body: Bytes,
}

/// Checks every entry of a batch, each nested so deep at most. `reserve` is asked for the memory that
/// many small entries take.
pub fn parse_batch(
    body: Bytes,
    shape: Option<Shape>,
    nesting_max: usize,
    reserve: &mut dyn FnMut(usize) -> Result<(), OverBudget>,
) -> Result<Batch, BodyError> {
    let text = super::text(&body).map_err(|fault| fault.locate(&body, None))?;
    let shape = shape.unwrap_or_else(|| guess(text));
    let mut entries = Entries {
        body: &body,
        nesting_max,
        list: Vec::new(),
        reserve,
    };
    let done = match shape {
        Shape::Lines => lines(text, &mut entries),
        Shape::Array => array(text, &mut entries),
    };
    done.map_err(|Bad { place, fault }| fault.locate(&body, place.as_deref()))?;
    let entries = entries.list;
    if entries.is_empty() {
        let fault = Fault::new(0, Code::BatchEmpty, "the batch has no entry");
        return Err(fault.locate(&body, None));
    }
    Ok(Batch {
        entries,
        shape,
        body,
    })
}

impl Batch {
    /// What is needed to say later where an entry was; cheap.
    pub fn places(&self) -> Places {
        Places {
            shape: self.shape,
            body: self.body.clone(),
        }
    }
}

/// Says where in a batch an entry was.
pub struct Places {
    shape: Shape,
    body: Bytes,
}

impl Places {
    /// `line 3` or `element 3` for the entry at `position` (from 0).
    pub fn name(&self, position: usize) -> String {
        let line = || {
            let lines = self.body.split(|b| *b == b'\n').enumerate();
            let is_filled = |line: &[u8]| line.iter().any(|b| !SPACE.contains(&char::from(*b)));
            let mut filled = lines.filter(|(_, line)| is_filled(line));
            filled.nth(position).map(|(line, _)| line)
        };
        match self.shape {
            Shape::Lines => format!("line {}", line().unwrap_or(position) + 1),
            Shape::Array => format!("element {}", position + 1),
        }
    }
}

/// A fault, and the line or element that has it.
struct Bad {
    place: Option<String>,
    fault: Fault,
}

struct Entries<'a> {
    body: &'a Bytes,
    nesting_max: usize,
    list: Vec<NewEntry>,
    reserve: &'a mut dyn FnMut(usize) -> Result<(), OverBudget>,
}

impl Entries<'_> {
    const RESERVE_EACH: usize = 1024;

    /// Takes the entry found in a piece of the body that begins at `offset`.
    fn push(&mut self, found: Found, offset: usize) -> Result<(), Fault> {
        let len = self.list.len();
        if len >= ENTRIES_MAX {
            let message = format!("more than {ENTRIES_MAX} entries");
            return Err(Fault::new(offset, Code::BatchTooLong, message));
        }
        // The first thousand are covered by the body's own bytes, near enough.
        if len > 0 && len.is_multiple_of(Self::RESERVE_EACH) {
            (self.reserve)(Self::RESERVE_EACH * ENTRY_BYTES).map_err(|_| {
                Fault::new(
                    offset,
                    Code::Overloaded,
                    "too many requests are in flight, try again",
                )
            })?;
        }
        let range = found.range.start + offset..found.range.end + offset;
        let body = self.body.slice(range);
        self.list.push(NewEntry {
            variant_key: found.variant_key,
            body,
            idempotency: None,
        });
        Ok(())
    }
}

fn guess(text: &str) -> Shape {
    match text.trim_start_matches(SPACE).starts_with('[') {
        true => Shape::Array,
        false => Shape::Lines,
    }
}

fn lines(text: &str, entries: &mut Entries<'_>) -> Result<(), Bad> {
    let mut offset = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let filled = line.trim_end_matches(SPACE);
        if !filled.is_empty() {
            // Without its end, so that what is missing is missed on this line.
            object::parse(filled, entries.nesting_max)
                .map_err(|fault| fault.shifted(offset))
                .and_then(|found| entries.push(found, offset))
                .map_err(|fault| Bad {
                    place: Some(format!("line {}", number + 1)),
                    fault,
                })?;
        }
        offset += line.len();
    }
    Ok(())
}

fn array(text: &str, entries: &mut Entries<'_>) -> Result<(), Bad> {
    let start = text.len() - text.trim_start_matches(SPACE).len();
    match text.as_bytes().get(start) {
        None => return Ok(()),
        Some(b'[') => {}
        Some(_) => {
            let message =
                "a JSON array is expected (one entry on each line is application/x-ndjson)";
            let fault = Fault::new(start, Code::NotAnArray, message);
            return Err(Bad { place: None, fault });
        }
    }
    let mut refused = None;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let elements = Elements {
        text,
        entries: &mut *entries,
        refused: &mut refused,
    };
    deserializer
        .deserialize_seq(elements)
        .map_err(|error| Bad {
            place: Some(format!("element {}", entries.list.len() + 1)),
            fault: refused.unwrap_or_else(|| object::broken(text, entries.nesting_max, 1, &error)),
        })?;
    deserializer.end().map_err(|_| Bad {
        place: None,
        fault: object::trailing(text),
    })
}

struct Elements<'a, 'b, 'text> {
    text: &'text str,
    entries: &'a mut Entries<'b>,
    refused: &'a mut Option<Fault>,
}

impl<'de> Visitor<'de> for Elements<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<&RawValue>()? {
            let offset = object::offset(self.text, element.get());
            let taken = object::parse(element.get(), self.entries.nesting_max)
                .map_err(|fault| fault.shifted(offset))
                .and_then(|found| self.entries.push(found, offset));
            if let Err(fault) = taken {
                *self.refused = Some(fault);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}
