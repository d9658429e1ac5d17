//! One entry's JSON: the object is walked once, its values stay as they were written.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::SPACE;
use super::fault::{self, Fault};
use super::guard;
use crate::http::error::Code;
use crate::model::VARIANT_KEY_BYTES_MAX;

/// An entry found in a text.
#[derive(Debug)]
pub(super) struct Found {
    /// The value of `variantKey`, unescaped.
    pub variant_key: Box<str>,
    /// Where the object is, without the white space around it.
    pub range: Range<usize>,
}

/// The members that mean something to us; `variantKey` is the first.
const KNOWN: [&str; 5] = ["variantKey", "input", "output", "metrics", "context"];

/// The members that an entry is given back with, in front of its own: one of the client's with such a
/// name would be there twice, and readers would differ about which one counts.
const RESERVED: [&str; 3] = ["logId", "experiment", "receivedAt"];

/// Reads the one object that `text` must be, nested so deep at most.
pub(super) fn parse(text: &str, nesting_max: usize) -> Result<Found, Fault> {
    let start = text.len() - text.trim_start_matches(SPACE).len();
    match text.as_bytes().get(start) {
        None => {
            return Err(Fault::new(
                0,
                Code::BodyEmpty,
                "a JSON object is expected, nothing came",
            ));
        }
        Some(b'{') => {}
        Some(_) => {
            return Err(Fault::new(
                start,
                Code::NotAnObject,
                "a JSON object is expected",
            ));
        }
    }
    let mut refused = None;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let known = deserializer
        .deserialize_map(Members {
            text,
            refused: &mut refused,
        })
        .map_err(|error| refused.unwrap_or_else(|| broken(text, nesting_max, 0, &error)))?;
    deserializer.end().map_err(|_| trailing(text))?;
    guard::check(text.as_bytes(), nesting_max, 0)?;

    let [variant_key, objects @ ..] = known;
    for (name, value) in KNOWN.iter().skip(1).zip(objects) {
        require_object(text, name, value)?;
    }
    let range = start..text.trim_end_matches(SPACE).len();
    let variant_key = read_variant_key(text, range.start, variant_key)?;
    Ok(Found { variant_key, range })
}

/// A syntax error; or, when that comes first, what the guard finds before it.
pub(super) fn broken(
    text: &str,
    nesting_max: usize,
    around: usize,
    error: &serde_json::Error,
) -> Fault {
    let syntax = fault::syntax(text, Code::JsonSyntax, error);
    let before = text.as_bytes().get(..=syntax.at).unwrap_or(text.as_bytes());
    guard::check(before, nesting_max, around)
        .err()
        .unwrap_or(syntax)
}

/// Where `part`, a piece of `text`, begins in it.
pub(super) fn offset(text: &str, part: &str) -> usize {
    (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize)
}

/// What comes behind the one JSON value that begins `text`.
pub(super) fn trailing(text: &str) -> Fault {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    values.next();
    let behind = values.byte_offset();
    let rest = text.get(behind..).unwrap_or_default();
    let at = behind + rest.len() - rest.trim_start_matches(SPACE).len();
    Fault::new(at, Code::JsonTrailing, "there is something behind the JSON")
}

fn require_object(text: &str, name: &str, value: Option<&RawValue>) -> Result<(), Fault> {
    match value.map(RawValue::get) {
        Some(value) if !value.starts_with(['{', 'n']) => {
            let message = format!("{name} must be an object or null");
            Err(Fault::new(offset(text, value), Code::FieldType, message))
        }
        _ => Ok(()),
    }
}

fn read_variant_key(text: &str, start: usize, value: Option<&RawValue>) -> Result<Box<str>, Fault> {
    // `null` is the same as leaving it out, as with the optional members.
    let Some(value) = value.map(RawValue::get).filter(|value| *value != "null") else {
        return Err(Fault::new(
            start,
            Code::VariantKeyMissing,
            "variantKey is missing",
        ));
    };
    let fault = |code, message: String| Fault::new(offset(text, value), code, message);
    let Some(quoted) = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    else {
        return Err(fault(
            Code::VariantKeyType,
            "variantKey must be a string".into(),
        ));
    };
    let key: Cow<'_, str> = if quoted.contains('\\') {
        let unescaped = serde_json::from_str(value);
        Cow::Owned(
            unescaped.map_err(|_| fault(Code::JsonSyntax, "variantKey can't be read".into()))?,
        )
    } else {
        Cow::Borrowed(quoted)
    };
    match key.len() {
        0 => Err(fault(Code::VariantKeyEmpty, "variantKey is empty".into())),
        1..=VARIANT_KEY_BYTES_MAX => Ok(key.into()),
        len => Err(fault(
            Code::VariantKeyTooLong,
            format!("variantKey has {len} bytes, at most {VARIANT_KEY_BYTES_MAX} are taken"),
        )),
    }
}

/// Walks the members, keeps the values of the known ones and refuses a name that comes twice.
struct Members<'a, 'text> {
    text: &'text str,
    /// Ours to report, since serde's error can't carry it.
    refused: &'a mut Option<Fault>,
}

impl<'de> Visitor<'de> for Members<'_, '_> {
    type Value = [Option<&'de RawValue>; KNOWN.len()];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut known = Self::Value::default();
        let mut others = Names::default();
        while let Some(name) = map.next_key_seed(NameSeed)? {
            let value = map.next_value::<&RawValue>()?;
            if let Name::Other(other) = &name
                && RESERVED.contains(&&**other)
            {
                let at = offset(self.text, value.get());
                let message = format!("{other} is given by the server: send it by another name");
                *self.refused = Some(Fault::new(at, Code::ReservedField, message));
                return Err(A::Error::custom("reserved field"));
            }
            let doubled = match &name {
                Name::Known(place) => known
                    .get_mut(*place)
                    .and_then(|slot| slot.replace(value))
                    .is_some(),
                Name::Other(other) => !others.insert(other.clone()),
            };
            if doubled {
                let at = offset(self.text, value.get());
                let message = format!("{} is there twice, the second time here", name.shown());
                *self.refused = Some(Fault::new(at, Code::DuplicateField, message));
                return Err(A::Error::custom("duplicate field"));
            }
        }
        Ok(known)
    }
}

/// A member's name, unescaped.
enum Name<'de> {
    Known(usize),
    Other(Cow<'de, str>),
}

impl Name<'_> {
    fn shown(&self) -> String {
        match self {
            Self::Known(place) => (*KNOWN.get(*place).unwrap_or(&"")).to_owned(),
            Self::Other(name) => format!("{:?}", name.chars().take(64).collect::<String>()),
        }
    }
}

struct NameSeed;

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = Name<'de>;
    fn deserialize<D: serde::Deserializer<'de>>(self, names: D) -> Result<Name<'de>, D::Error> {
        names.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for NameSeed {
    type Value = Name<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
        Ok(match known_place(name) {
            Some(place) => Name::Known(place),
            None => Name::Other(Cow::Borrowed(name)),
        })
    }

    fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
        Ok(match known_place(name) {
            Some(place) => Name::Known(place),
            None => Name::Other(Cow::Owned(name.to_owned())),
        })
    }
}

fn known_place(name: &str) -> Option<usize> {
    KNOWN.iter().position(|known| *known == name)
}

/// Names met so far: few are compared one by one, many are hashed, so that 100,000 of them cost
/// no more than their length.
#[derive(Default)]
struct Names<'de> {
    few: Vec<Cow<'de, str>>,
    many: HashSet<Cow<'de, str>>,
}

impl<'de> Names<'de> {
    const FEW_MAX: usize = 8;

    /// Whether `name` is new.
    fn insert(&mut self, name: Cow<'de, str>) -> bool {
        if self.few.contains(&name) {
            return false;
        }
        if self.few.len() < Self::FEW_MAX {
            self.few.push(name);
            return true;
        }
        self.many.insert(name)
    }
}
