//! The headers `idempotency-key` and `idempotency-keys`: what makes it safe to send again.

use std::collections::HashSet;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

use super::error::{ApiError, ApiResult, Code};
use crate::experiment::BytePermit;
use crate::model::{Idempotency, IdempotencyKey, NewEntry};

/// One key, of one entry or of a whole batch.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The keys of a batch's entries, in their order, with spaces in between.
const KEYS: HeaderName = HeaderName::from_static("idempotency-keys");

/// The keys that came with a request.
#[derive(Debug)]
pub enum Keys {
    /// None did.
    None,
    /// One, for all that is sent.
    One(HeaderValue),
    /// One for each entry. The header may come in pieces.
    Each(Vec<HeaderValue>),
}

impl Keys {
    /// The keys of a request that sends one entry.
    pub fn of_entry(headers: &HeaderMap) -> ApiResult<Self> {
        if headers.contains_key(KEYS) {
            return Err(bad("idempotency-keys is for batches: POST them to …/logs"));
        }
        Self::one(headers)
    }

    /// The keys of a request that sends a batch.
    pub fn of_batch(headers: &HeaderMap) -> ApiResult<Self> {
        let keys: Vec<HeaderValue> = headers.get_all(KEYS).iter().cloned().collect();
        if keys.is_empty() {
            return Self::one(headers);
        }
        if headers.contains_key(KEY) {
            let message = "idempotency-key is for the whole batch, idempotency-keys for its entries: \
                send one of them";
            return Err(bad(message));
        }
        Ok(Self::Each(keys))
    }

    fn one(headers: &HeaderMap) -> ApiResult<Self> {
        let mut keys = headers.get_all(KEY).iter();
        let Some(key) = keys.next() else {
            return Ok(Self::None);
        };
        if keys.next().is_some() {
            return Err(bad("idempotency-key is there more than once"));
        }
        parse(key.as_bytes())?;
        Ok(Self::One(key.clone()))
    }

    /// Gives the entries their keys. What that takes in memory is added to their permit.
    pub fn give_to(&self, entries: &mut [NewEntry], permit: &mut BytePermit) -> ApiResult<()> {
        let count = entries.len();
        let mut give = |entry: &mut NewEntry, idempotency: Idempotency| {
            let bytes = size_of::<Idempotency>() + idempotency.text.len();
            permit.try_grow(bytes)?;
            entry.idempotency = Some(Box::new(idempotency));
            Ok(())
        };
        match self {
            Self::None => Ok(()),
            Self::One(key) => {
                let key = parse(key.as_bytes())?;
                let mut numbered = (1..).zip(entries);
                numbered.try_for_each(|(number, entry)| {
                    let idempotency = Idempotency::in_batch(key, number, count, &entry.body);
                    give(entry, idempotency)
                })
            }
            Self::Each(keys) => {
                let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
                let words = keys.iter().flat_map(|keys| keys.as_bytes().split(is_space));
                let words: Vec<&[u8]> = words.filter(|word| !word.is_empty()).collect();
                if words.len() != count {
                    let key_count = words.len();
                    let message =
                        format!("idempotency-keys has {key_count} keys for {count} entries");
                    return Err(ApiError::new(Code::BadIdempotencyKey, message));
                }
                let mut met = HashSet::with_capacity(count);
                words
                    .into_iter()
                    .zip(entries)
                    .try_for_each(|(word, entry)| {
                        let key = parse(word)?;
                        if !met.insert(key) {
                            return Err(bad(
                                "two entries of the batch have the same idempotency key",
                            ));
                        }
                        let idempotency = Idempotency::new(key, &entry.body);
                        give(entry, idempotency)
                    })
            }
        }
    }
}

fn parse(key: &[u8]) -> ApiResult<IdempotencyKey<'_>> {
    let parsed = IdempotencyKey::parse(key);
    parsed.map_err(|error| ApiError::new(Code::BadIdempotencyKey, error.to_string()))
}

fn bad(message: &'static str) -> ApiError {
    ApiError::new(Code::BadIdempotencyKey, message)
}
