//! The messages of a shard, and their bytes.
//!
//! | part | bytes |
//! | --- | --- |
//! | version | 1 |
//! | node | 8 |
//! | message id | 16 |
//! | the message before, on this shard: its sequence in the stream, its id | 8, 16 |
//! | number of changes | 4 |
//! | each change: kind, slug (with its length), life of the experiment | 1, 1 + n, 8 |
//! | … of entries: the log's last id before, their number; each its id, time, variant, key, body | 16, 4; 16, 8, 2 + n, 2 + n, 4 + n |
//! | … of a definition: when the life began, the definition as JSON | 8, 4 + n |
//! | … of a deletion: nothing more | |
//! | CRC-32 of all before | 4 |
//!
//! All numbers are little-endian. A key of no bytes is none. Whoever reads this trusts nothing: each length
//! is held against what is left, and against what a client may send.

use std::collections::HashSet;

use bytes::Bytes;

use super::position::{MessageId, Position};
use crate::experiment::replicated::{PlacedDefinition, PlacedEntry};
use crate::model::{
    Fingerprint, IDEMPOTENCY_KEY_BYTES_MAX, Idempotency, LogId, NewEntry, Slug,
    VARIANT_KEY_BYTES_MAX,
};

/// The version that this code writes, of these and of what nodes say to each other.
pub(super) const VERSION: u8 = 1;
/// The longest message that is read or written, whatever a server allows.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Of a key's text, with the number and count of an entry in a batch.
const KEY_TEXT_BYTES_MAX: usize = IDEMPOTENCY_KEY_BYTES_MAX + 48;
/// Bytes of a message without changes.
const FRAME_LEN: usize = 1 + 8 + 16 + 8 + 16 + 4 + 4;
/// Bytes of a change at most, without its content.
const CHANGE_LEN_MAX: usize = 1 + 1 + 64 + 8 + 16 + 4;
/// Bytes of an entry without its variant, its key and its body.
const ENTRY_LEN: usize = 16 + 8 + 2 + 2 + 4;

const ENTRIES: u8 = 1;
const DEFINITION: u8 = 2;
const DELETION: u8 = 3;

/// What stands at one place of a shard.
#[derive(Debug, Clone)]
pub struct Message {
    /// Who wrote it.
    pub node: u64,
    /// What tells it from all others.
    pub id: MessageId,
    /// The message before it on this shard, as its writer knew it.
    pub previous: Position,
    /// What it changes, in order.
    pub changes: Vec<Change>,
}

/// One experiment's part of a message.
#[derive(Debug, Clone)]
pub struct Change {
    /// The experiment.
    pub slug: Slug,
    /// Which life of it.
    pub incarnation: u64,
    /// What becomes of it.
    pub what: What,
}

/// What becomes of an experiment.
#[derive(Debug, Clone)]
pub enum What {
    /// Entries are appended.
    Entries {
        /// The last id before them.
        after: LogId,
        /// The entries.
        entries: Vec<PlacedEntry>,
    },
    /// It is made, or has another definition from now on.
    Definition(PlacedDefinition),
    /// It is deleted.
    Deletion,
}

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A later program wrote it.
    #[error("it is of version {0}, this program knows {VERSION}: use a newer trialog")]
    Newer(u8),
    /// Its checksum doesn't fit.
    #[error("its bytes don't fit their checksum")]
    Checksum,
    /// It doesn't hold what it should.
    #[error("its {0} can't be")]
    Malformed(&'static str),
}

/// About as many bytes as a request's entries take, at most.
pub fn entries_len_max<'a>(entries: impl Iterator<Item = &'a NewEntry>) -> usize {
    let len = |entry: &NewEntry| {
        let key = entry.idempotency.as_deref().map_or(0, |key| key.text.len());
        ENTRY_LEN + entry.variant_key.len() + key + entry.body.len()
    };
    entries.map(len).sum::<usize>() + CHANGE_LEN_MAX
}

/// Bytes that a message has beside what [`entries_len_max`] counts.
pub const fn frame_len() -> usize {
    FRAME_LEN
}

impl Message {
    /// How many entries it has.
    pub fn entry_count(&self) -> u64 {
        let counts = self.changes.iter().map(|change| match &change.what {
            What::Entries { entries, .. } => entries.len() as u64,
            What::Definition(_) | What::Deletion => 0,
        });
        counts.sum()
    }

    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.len_about());
        out.push(VERSION);
        out.extend_from_slice(&self.node.to_le_bytes());
        out.extend_from_slice(&self.id.0.to_le_bytes());
        out.extend_from_slice(&self.previous.sequence.to_le_bytes());
        out.extend_from_slice(&self.previous.id.0.to_le_bytes());
        put_len(&mut out, self.changes.len());
        for change in &self.changes {
            change.encode(&mut out);
        }
        sealed(out)
    }

    /// Reads one.
    pub fn decode(bytes: &Bytes) -> Result<Self, MessageError> {
        let mut reader = opened(bytes)?;
        let node = u64::from_le_bytes(reader.array("node")?);
        let id = MessageId(u128::from_le_bytes(reader.array("id")?));
        let previous = Position {
            sequence: u64::from_le_bytes(reader.array("previous sequence")?),
            id: MessageId(u128::from_le_bytes(reader.array("previous id")?)),
        };
        let count = reader.count(1, "number of changes")?;
        let changes = (0..count).map(|_| Change::decode(&mut reader));
        let changes = changes.collect::<Result<Vec<_>, _>>()?;
        let slugs: HashSet<_> = changes.iter().map(|change| &change.slug).collect();
        if slugs.len() < changes.len() {
            return Err(MessageError::Malformed("slug, which is there twice,"));
        }
        if !reader.bytes.is_empty() {
            return Err(MessageError::Malformed("end"));
        }
        Ok(Self {
            node,
            id,
            previous,
            changes,
        })
    }

    fn len_about(&self) -> usize {
        let len = |change: &Change| match &change.what {
            What::Entries { entries, .. } => {
                entries_len_max(entries.iter().map(|placed| &placed.entry))
            }
            What::Definition(_) | What::Deletion => CHANGE_LEN_MAX + 1024,
        };
        FRAME_LEN + self.changes.iter().map(len).sum::<usize>()
    }
}

impl Change {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self.what {
            What::Entries { .. } => ENTRIES,
            What::Definition(_) => DEFINITION,
            What::Deletion => DELETION,
        });
        let slug = self.slug.as_str().as_bytes();
        // A slug has 64 bytes at most.
        out.push(slug.len() as u8);
        out.extend_from_slice(slug);
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        match &self.what {
            What::Entries { after, entries } => {
                out.extend_from_slice(&after.as_u128().to_le_bytes());
                put_len(out, entries.len());
                for placed in entries {
                    put_entry(out, placed);
                }
            }
            What::Definition(placed) => {
                out.extend_from_slice(&placed.created_at_ms.to_le_bytes());
                // A definition is made of strings and finite numbers: there is JSON for each.
                let json = serde_json::to_vec(&placed.definition).unwrap_or_default();
                put_len(out, json.len());
                out.extend_from_slice(&json);
            }
            What::Deletion => {}
        }
    }

    fn decode(reader: &mut Reader) -> Result<Self, MessageError> {
        let [kind, slug_len] = reader.array("kind")?;
        let slug = reader.text(usize::from(slug_len), "slug")?;
        let slug = Slug::parse(&slug).map_err(|_| MessageError::Malformed("slug"))?;
        let incarnation = u64::from_le_bytes(reader.array("life")?);
        let what = match kind {
            ENTRIES => What::Entries {
                after: LogId::from_u128(u128::from_le_bytes(reader.array("last id")?)),
                entries: entries(reader)?,
            },
            DEFINITION => {
                let created_at_ms = u64::from_le_bytes(reader.array("time")?);
                let len = reader.count(1, "definition's length")?;
                let json = reader.take(len, "definition")?;
                let definition = serde_json::from_slice(&json);
                What::Definition(PlacedDefinition {
                    incarnation,
                    created_at_ms,
                    definition: definition.map_err(|_| MessageError::Malformed("definition"))?,
                })
            }
            DELETION => What::Deletion,
            _ => return Err(MessageError::Malformed("kind")),
        };
        Ok(Self {
            slug,
            incarnation,
            what,
        })
    }
}

/// Adds the checksum.
pub(super) fn sealed(mut out: Vec<u8>) -> Bytes {
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.into()
}

/// What stands behind the version, if that and the checksum are right.
pub(super) fn opened(bytes: &Bytes) -> Result<Reader, MessageError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(MessageError::Malformed("length"));
    }
    match bytes.first() {
        Some(&VERSION) => {}
        Some(&version) if version > VERSION => return Err(MessageError::Newer(version)),
        _ => return Err(MessageError::Malformed("version")),
    }
    let content_len = bytes.len().checked_sub(4);
    let content_len = content_len.ok_or(MessageError::Malformed("length"))?;
    let crc = bytes.get(content_len..).unwrap_or_default();
    let content = bytes.slice(..content_len);
    if crc32fast::hash(&content).to_le_bytes() != *crc {
        return Err(MessageError::Checksum);
    }
    let mut reader = Reader { bytes: content };
    reader.take(1, "version")?;
    Ok(reader)
}

pub(super) fn put_len(out: &mut Vec<u8>, len: usize) {
    // A message has far fewer bytes than this counts.
    out.extend_from_slice(&(len as u32).to_le_bytes());
}

fn put_short(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_entry(out: &mut Vec<u8>, placed: &PlacedEntry) {
    out.extend_from_slice(&placed.id.as_u128().to_le_bytes());
    out.extend_from_slice(&placed.received_at_ms.to_le_bytes());
    put_new_entry(out, &placed.entry);
}

pub(super) fn put_new_entry(out: &mut Vec<u8>, entry: &NewEntry) {
    put_short(out, &entry.variant_key);
    let key = entry.idempotency.as_deref();
    put_short(out, key.map_or("", |key| &key.text));
    put_len(out, entry.body.len());
    out.extend_from_slice(&entry.body);
}

fn entries(reader: &mut Reader) -> Result<Vec<PlacedEntry>, MessageError> {
    let count = reader.count(ENTRY_LEN, "number of entries")?;
    let mut entries: Vec<PlacedEntry> = Vec::with_capacity(count);
    for _ in 0..count {
        let entry = entry(reader)?;
        if entries.last().is_some_and(|before| before.id >= entry.id) {
            return Err(MessageError::Malformed("order of ids"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn entry(reader: &mut Reader) -> Result<PlacedEntry, MessageError> {
    let id = LogId::from_u128(u128::from_le_bytes(reader.array("entry's id")?));
    let received_at_ms = u64::from_le_bytes(reader.array("entry's time")?);
    Ok(PlacedEntry {
        id,
        received_at_ms,
        entry: new_entry(reader)?,
    })
}

/// Whether an entry that nobody has checked yet can be read again.
pub(super) fn is_readable(entry: &NewEntry) -> bool {
    let key = entry.idempotency.as_deref();
    (1..=VARIANT_KEY_BYTES_MAX).contains(&entry.variant_key.len())
        && key.is_none_or(|key| (1..=KEY_TEXT_BYTES_MAX).contains(&key.text.len()))
        && std::str::from_utf8(&entry.body).is_ok()
}

pub(super) fn new_entry(reader: &mut Reader) -> Result<NewEntry, MessageError> {
    let variant_len = usize::from(u16::from_le_bytes(reader.array("variant's length")?));
    if variant_len == 0 || variant_len > VARIANT_KEY_BYTES_MAX {
        return Err(MessageError::Malformed("variant's length"));
    }
    let variant_key = reader.text(variant_len, "variant")?;
    let key_len = usize::from(u16::from_le_bytes(reader.array("key's length")?));
    if key_len > KEY_TEXT_BYTES_MAX {
        return Err(MessageError::Malformed("key's length"));
    }
    let key = reader.text(key_len, "key")?;
    let body_len = reader.count(1, "body's length")?;
    let body = reader.take(body_len, "body")?;
    if std::str::from_utf8(&body).is_err() {
        return Err(MessageError::Malformed("body"));
    }
    let idempotency = (key_len > 0).then(|| {
        let fingerprint = Fingerprint::of(&key, &body);
        Box::new(Idempotency {
            text: key,
            fingerprint,
        })
    });
    Ok(NewEntry {
        variant_key,
        body,
        idempotency,
    })
}

/// What is left of a message.
pub(super) struct Reader {
    pub(super) bytes: Bytes,
}

impl Reader {
    pub(super) fn take(&mut self, len: usize, what: &'static str) -> Result<Bytes, MessageError> {
        if len > self.bytes.len() {
            return Err(MessageError::Malformed(what));
        }
        Ok(self.bytes.split_to(len))
    }

    pub(super) fn array<const LEN: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; LEN], MessageError> {
        let bytes = self.take(LEN, what)?;
        let array = bytes.first_chunk().copied();
        array.ok_or(MessageError::Malformed(what))
    }

    pub(super) fn text(
        &mut self,
        len: usize,
        what: &'static str,
    ) -> Result<Box<str>, MessageError> {
        let bytes = self.take(len, what)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| MessageError::Malformed(what))?;
        Ok(text.into())
    }

    /// A number of things that take so many bytes each, at least: no more than can be there.
    pub(super) fn count(&mut self, each: usize, what: &'static str) -> Result<usize, MessageError> {
        let count = u32::from_le_bytes(self.array(what)?) as usize;
        match count.saturating_mul(each) <= self.bytes.len() {
            true => Ok(count),
            false => Err(MessageError::Malformed(what)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Definition, IdempotencyKey, Variant};

    fn message() -> Message {
        let slug = |text| Slug::parse(text).unwrap();
        let placed = |n: u128, key: Option<&str>| {
            let body: Bytes = format!(r#"{{"variantKey":"A","n":{n}}}"#).into();
            let key = key.map(|key| IdempotencyKey::parse(key.as_bytes()).unwrap());
            PlacedEntry {
                id: LogId::from_u128(n),
                received_at_ms: 7,
                entry: NewEntry {
                    variant_key: "A".into(),
                    idempotency: key.map(|key| Box::new(Idempotency::new(key, &body))),
                    body,
                },
            }
        };
        let definition = Definition {
            variants: vec![Variant {
                key: "A".into(),
                weight: Some(0.1),
                control: true,
            }],
            ..Definition::default()
        };
        let change = |name, what| Change {
            slug: slug(name),
            incarnation: 5,
            what,
        };
        Message {
            node: 1,
            id: MessageId(2),
            previous: Position {
                sequence: 3,
                id: MessageId(4),
            },
            changes: vec![
                change(
                    "one",
                    What::Entries {
                        after: LogId::from_u128(9),
                        entries: vec![placed(10, None), placed(11, Some("k"))],
                    },
                ),
                change(
                    "two",
                    What::Definition(PlacedDefinition {
                        incarnation: 5,
                        created_at_ms: 8,
                        definition,
                    }),
                ),
                change("three", What::Deletion),
            ],
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let written = message();
        let bytes = written.encode();
        let read = Message::decode(&bytes).unwrap();
        assert_eq!(format!("{written:?}"), format!("{read:?}"));
        assert!(bytes.len() <= written.len_about());
        assert_eq!(read.encode(), bytes);
    }

    #[test]
    fn no_flipped_bit_and_no_missing_byte_passes() {
        let good = message().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Message::decode(&bad.into()).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Message::decode(&good.slice(..len)).is_err(), "{len} bytes");
        }
    }

    /// Also where the checksum fits: what is read is never more than is there, and nothing panics.
    #[test]
    fn changed_bytes_with_a_right_checksum_are_refused_or_read() {
        let good = message().encode();
        let content = &good[..good.len() - 4];
        for at in 0..content.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = content.to_vec();
                bad[at] = value;
                let crc = crc32fast::hash(&bad);
                bad.extend_from_slice(&crc.to_le_bytes());
                if let Ok(read) = Message::decode(&bad.into()) {
                    assert!(read.encode().len() <= good.len() + 64);
                }
            }
        }
    }

    #[test]
    fn ids_that_do_not_rise_are_refused() {
        let mut bad = message();
        if let What::Entries { entries, .. } = &mut bad.changes[0].what {
            entries[1].id = entries[0].id;
        }
        let read = Message::decode(&bad.encode());
        assert_eq!(read.unwrap_err(), MessageError::Malformed("order of ids"));
    }

    #[test]
    fn a_later_version_says_so() {
        let mut later = message().encode().to_vec();
        later[0] = VERSION + 1;
        let read = Message::decode(&later.into());
        assert_eq!(read.unwrap_err(), MessageError::Newer(VERSION + 1));
    }
}
