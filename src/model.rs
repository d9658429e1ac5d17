//! The nouns of the domain: slugs, log ids, variants, definitions, entries. No I/O, no runtime.

mod idempotency;

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

pub use idempotency::{
    Fingerprint, IDEMPOTENCY_KEY_BYTES_MAX, Idempotency, IdempotencyKey, IdempotencyKeyError,
};

/// The longest slug, in bytes.
pub const SLUG_BYTES_MAX: usize = 64;
/// The longest variant key, in bytes.
pub const VARIANT_KEY_BYTES_MAX: usize = 128;
/// How many variants one experiment may have, defined or met in open experiments.
pub const VARIANTS_MAX: usize = 1_000;

/// The unique name of an experiment: `[a-z0-9][a-z0-9_-]{0,63}`.
///
/// [`Slug::parse`] is the only way to make one, so a `Slug` is always safe as the name of a folder.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Slug(Box<str>);

/// Why a text is not a [`Slug`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a slug is 1 to 64 characters of a-z, 0-9, '_' and '-', and begins with a letter or a digit"
)]
pub struct SlugError;

impl Slug {
    /// Checks `text` and takes it as a slug.
    pub fn parse(text: &str) -> Result<Self, SlugError> {
        let bytes = text.as_bytes();
        let first_fits = bytes
            .first()
            .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let rest_fits = bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_' || *b == b'-');
        if first_fits && rest_fits && bytes.len() <= SLUG_BYTES_MAX {
            Ok(Self(text.into()))
        } else {
            Err(SlugError)
        }
    }

    /// The slug as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Slug {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for Slug {
    type Err = SlugError;
    fn from_str(text: &str) -> Result<Self, SlugError> {
        Self::parse(text)
    }
}

impl<'de> Deserialize<'de> for Slug {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// What identifies an entry: `log_` and the 26 characters of a ULID.
///
/// Within one experiment ids strictly increase in log order, whatever the clock does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(Ulid);

/// Why a text is not a [`LogId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a log id is 'log_' and the 26 characters of a ULID")]
pub struct LogIdError;

impl LogId {
    /// The smallest id; no entry has it.
    pub const MIN: Self = Self(Ulid(0));
    /// How many characters an id has as text.
    pub const TEXT_LEN: usize = 4 + ulid::ULID_LEN;

    /// The id with these 128 bits.
    pub fn from_u128(bits: u128) -> Self {
        Self(Ulid(bits))
    }

    /// The id's 128 bits: 48 of time (milliseconds since 1970), then 80 that make it unique.
    pub fn as_u128(self) -> u128 {
        self.0.0
    }

    /// The id's time in milliseconds since 1970. It may run ahead of the entry's `receivedAt`
    /// after the clock was set back.
    pub fn timestamp_ms(self) -> u64 {
        self.0.timestamp_ms()
    }

    /// Writes the id as text into `buffer` and gives it back as a string.
    pub fn encode(self, buffer: &mut [u8; Self::TEXT_LEN]) -> &str {
        let (prefix, ulid) = buffer.split_at_mut(4);
        prefix.copy_from_slice(b"log_");
        if let Ok(ulid) = ulid.try_into() {
            self.0.array_to_str(ulid);
        }
        std::str::from_utf8(buffer).unwrap_or_default()
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encode(&mut [0; Self::TEXT_LEN]))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LogId {
    type Err = LogIdError;
    fn from_str(text: &str) -> Result<Self, LogIdError> {
        let ulid = text.strip_prefix("log_").ok_or(LogIdError)?;
        let id = Self(Ulid::from_string(ulid).map_err(|_| LogIdError)?);
        // Crockford's alphabet reads lower case and look-alikes too; one id has one spelling here.
        if id.encode(&mut [0; Self::TEXT_LEN]) == text {
            Ok(id)
        } else {
            Err(LogIdError)
        }
    }
}

/// An entry as a client sent it, checked and with its variant located.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// The value of `variantKey`, unescaped.
    pub variant_key: Box<str>,
    /// The whole JSON object, byte for byte.
    pub body: Bytes,
    /// What tells it from others when it is sent again. (In a box, since most entries have none.)
    pub idempotency: Option<Box<Idempotency>>,
}

/// An entry as the log holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What identifies it.
    pub id: LogId,
    /// The server's clock when it arrived, in milliseconds since 1970.
    pub received_at_ms: u64,
    /// The variant that was run.
    pub variant_key: Box<str>,
    /// The JSON object that the client sent, byte for byte.
    pub body: Bytes,
}

/// One variant of an experiment's definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Variant {
    /// What an entry names in `variantKey`.
    pub key: Box<str>,
    /// The planned share of traffic, relative to the other variants' weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Whether the other variants are compared with this one.
    #[serde(default)]
    pub control: bool,
}

/// How long and how much of an experiment is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// A duration such as `90d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
    /// Bytes on disk.
    #[serde(
        default,
        deserialize_with = "whole_number",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_bytes: Option<u64>,
}

/// A whole number, however it is written: `1e9` and `5.0` are whole numbers too.
fn whole_number<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    /// 2 to the power of 64: from here on it doesn't fit.
    const END: f64 = 18_446_744_073_709_551_616.0;
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let real = number.as_f64();
    let real = real.filter(|real| real.fract() == 0.0 && (0.0..END).contains(real));
    let whole = number.as_u64().or(real.map(|real| real as u64));
    let refused = || {
        let message = format!("{number} is no whole number from 0 to {}", u64::MAX);
        serde::de::Error::custom(message)
    };
    whole.map(Some).ok_or_else(refused)
}

/// What an experiment is: its variants and how they are read.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Definition {
    /// The defined variants, in the order of the definition.
    pub variants: Vec<Variant>,
    /// Whether entries may name variants that aren't defined (up to [`VARIANTS_MAX`]).
    #[serde(default)]
    pub open_variants: bool,
    /// The field that says who was assigned, such as `context.session_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Words for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What may be dropped, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

/// How many entries a variant has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VariantCount {
    /// The variant's key.
    pub key: Box<str>,
    /// Its entries.
    pub count: u64,
}

/// An experiment's definition with what its log holds now.
#[derive(Debug, Clone)]
pub struct Description {
    /// The experiment.
    pub slug: Slug,
    /// What it is.
    pub definition: Definition,
    /// When it was created, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// All its durable entries.
    pub count: u64,
    /// Entries of each variant that is defined or has any.
    pub variant_counts: Vec<VariantCount>,
    /// Bytes of its segments.
    pub bytes_on_disk: u64,
    /// How many segments it has.
    pub segment_count: u64,
    /// The newest entry's id and time of receipt (milliseconds since 1970).
    pub last_entry: Option<(LogId, u64)>,
    /// What retention has dropped of its log.
    pub dropped: DroppedCount,
}

/// How much was dropped of a log since it was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct DroppedCount {
    /// Segments.
    pub segments: u64,
    /// Their entries.
    pub entries: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

/// What an acknowledgement means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The entry is on stable storage: `fdatasync` returned.
    #[default]
    Sync,
    /// The entry is with the operating system: it survives `kill -9`, and a power cut only once
    /// the journal was synced, which happens in the background.
    Relaxed,
}

impl Durability {
    /// The word used in settings, in `/ready` and in the `trialog-durability` header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Relaxed => "relaxed",
        }
    }
}
