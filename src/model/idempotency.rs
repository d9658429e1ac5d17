//! Idempotency keys: how an entry that is sent again is known as one that was stored.

use sha2::{Digest, Sha256};

/// The longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;

/// What a client calls an entry, or a batch, that it may send again: 1 to 128 visible ASCII
/// characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdempotencyKey<'a>(&'a str);

/// Why a text is not an [`IdempotencyKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key is 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters")]
pub struct IdempotencyKeyError;

/// The idempotency key of an entry on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// As its record keeps it.
    pub text: Box<str>,
    /// What it is compared by.
    pub fingerprint: Fingerprint,
}

/// What is remembered of a key and of the entry that it was given for: 128 bits of SHA-256 each, so
/// that nobody can make a key or a body that passes for another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// Of the key; within a batch, of the entry's number too.
    pub key: u128,
    /// Of the body; within a batch, of the number of entries too.
    pub content: u128,
}

impl<'a> IdempotencyKey<'a> {
    /// Checks `text` and takes it as a key.
    pub fn parse(text: &'a [u8]) -> Result<Self, IdempotencyKeyError> {
        let is_key = (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&text.len())
            && text.iter().all(u8::is_ascii_graphic);
        let text = std::str::from_utf8(text).map_err(|_| IdempotencyKeyError)?;
        is_key.then_some(Self(text)).ok_or(IdempotencyKeyError)
    }
}

impl Idempotency {
    /// Of an entry with a key of its own.
    pub fn new(key: IdempotencyKey<'_>, body: &[u8]) -> Self {
        Self::with_text(key.0.into(), body)
    }

    /// Of an entry (its number, from 1) of a batch of `count` that has one key. The batch is the
    /// same again only if it has as many.
    pub fn in_batch(key: IdempotencyKey<'_>, number: usize, count: usize, body: &[u8]) -> Self {
        match count {
            1 => Self::new(key, body),
            _ => Self::with_text(format!("{} {number}/{count}", key.0).into(), body),
        }
    }

    /// Whether the key is that of a whole batch.
    pub fn is_of_batch(&self) -> bool {
        self.text.contains(' ')
    }

    fn with_text(text: Box<str>, body: &[u8]) -> Self {
        let fingerprint = Fingerprint::of(&text, body);
        Self { text, fingerprint }
    }
}

impl Fingerprint {
    /// Of an entry with this body, whose record has this text for its key.
    pub fn of(text: &str, body: &[u8]) -> Self {
        let place = || {
            let (key, place) = text.split_once(' ')?;
            let (number, count) = place.split_once('/')?;
            Some((key, number, count))
        };
        let (key, number, count) = place().unwrap_or((text, "1", "1"));
        Self {
            key: half_hash(&[key.as_bytes(), b" ", number.as_bytes()]),
            content: half_hash(&[count.as_bytes(), b" ", body]),
        }
    }
}

/// The first 16 bytes of SHA-256.
fn half_hash(pieces: &[&[u8]]) -> u128 {
    let mut hash = Sha256::new();
    for piece in pieces {
        hash.update(piece);
    }
    let hash: [u8; 32] = hash.finalize().into();
    hash.first_chunk()
        .map_or(0, |half| u128::from_le_bytes(*half))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> IdempotencyKey<'_> {
        IdempotencyKey::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_key_is_visible_ascii_of_bounded_length() {
        for good in ["a", "!", "~", r#""8e03978e-40d5""#, &"k".repeat(128)] {
            assert!(IdempotencyKey::parse(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["", " ", "a b", "a\t", "a\0", "\x7f", "é", &"k".repeat(129)] {
            let parsed = IdempotencyKey::parse(bad.as_bytes());
            assert_eq!(parsed, Err(IdempotencyKeyError), "{bad:?}");
        }
        assert!(IdempotencyKey::parse(b"\xff").is_err());
    }

    #[test]
    fn what_is_the_same_and_what_is_not() {
        let of = |key_text, number, count, body: &str| {
            Idempotency::in_batch(key(key_text), number, count, body.as_bytes()).fingerprint
        };
        let one = of("k", 1, 1, "{}");
        assert_eq!(one, Idempotency::new(key("k"), b"{}").fingerprint);
        // Another body, or a batch of another length, under a key that was used.
        for other in [of("k", 1, 1, "{ }"), of("k", 1, 2, "{}")] {
            assert_eq!(other.key, one.key);
            assert_ne!(other.content, one.content);
        }
        // Another key, or another place under the same one.
        for other in [of("l", 1, 1, "{}"), of("k", 2, 2, "{}"), of("k1", 1, 1, "")] {
            assert_ne!(other.key, one.key);
        }
    }

    #[test]
    fn fingerprints_are_pinned() {
        let text = Idempotency::in_batch(key("retry-7"), 2, 3, b"{}");
        assert_eq!((&*text.text, text.is_of_batch()), ("retry-7 2/3", true));
        // sha256sum of "retry-7 2" and of "3 {}", the first 32 digits.
        let hex = |bits: u128| format!("{:032x}", bits.swap_bytes());
        assert_eq!(
            hex(text.fingerprint.key),
            "678e054f116afdb61856cfa47cf98872"
        );
        assert_eq!(
            hex(text.fingerprint.content),
            "27c742bf52bbc16fadd4f04227f0ab46"
        );
    }
}
