//! What nodes say to each other, and its bytes.
//!
//! | part | bytes |
//! | --- | --- |
//! | version, kind, the run of the node that says it | 1, 1, 8 |
//! | a hello: the node's number, its clock in ms, its state | 8, 8, 1 |
//! | a bundle of requests: its number, how many | 8, 4 |
//! | … each: until when (by the clock of who is asked), slug, the number of entries | 8, 1 + n, 4 |
//! | … … each entry: variant, key, body | 2 + n, 2 + n, 4 + n |
//! | answers: the bundle's number, how many | 8, 4 |
//! | … each: which request of the bundle, what became of it | 4, 1 |
//! | … … where it is done: the number of ids, how many were there before; the ids | 4, 4; 16 each |
//! | CRC-32 of all before | 4 |
//!
//! All numbers are little-endian. Whoever reads this trusts nothing, as with the stream's messages ([`message`]).
//!
//! [`message`]: super::message

use bytes::Bytes;

use super::message::{
    MessageError, Reader, VERSION, new_entry, opened, put_len, put_new_entry, sealed,
};
use super::nodes::{Hello, State};
use crate::experiment::Appended;
use crate::experiment::replicated::Entries;
use crate::model::{LogId, NewEntry, Slug};

const HELLO: u8 = 1;
const BUNDLE: u8 = 2;
const ANSWERS: u8 = 3;

const TAKES: u8 = 1;
const LIVES: u8 = 2;
const GOES: u8 = 3;

const DONE: u8 = 1;
const NOT_DONE: u8 = 2;
const UNKNOWN: u8 = 3;

/// Bytes of a bundle beside its requests, and some to spare.
pub const BUNDLE_LEN: usize = 64;
/// Bytes of a request, at least.
const ASKED_LEN: usize = 8 + 1 + 4;
/// Bytes of an entry, at least.
const ENTRY_LEN: usize = 2 + 2 + 4;
/// Bytes of an answer, at least.
const ANSWER_LEN: usize = 4 + 1;

/// What a node says.
#[derive(Debug)]
pub enum Words {
    /// That it lives.
    Hello(Hello),
    /// That another node is to append something.
    Bundle(Bundle),
    /// What became of that.
    Answers(Answers),
}

/// Requests that are passed on together.
#[derive(Debug)]
pub struct Bundle {
    /// The run that asks.
    pub from: u64,
    /// Rises from bundle to bundle.
    pub number: u64,
    /// The requests.
    pub asked: Vec<Asked>,
}

/// A request.
#[derive(Debug)]
pub struct Asked {
    /// When it isn't begun any more, by the clock of who is asked.
    pub until_ms: u64,
    /// The experiment.
    pub slug: Slug,
    /// What is to be appended, all or none.
    pub entries: Entries,
}

/// What became of some requests of a bundle.
#[derive(Debug)]
pub struct Answers {
    /// The run that answers.
    pub from: u64,
    /// Which bundle.
    pub number: u64,
    /// For each request, by its place in the bundle.
    pub outcomes: Vec<(u32, Outcome)>,
}

/// What became of a request that was passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is appended.
    Done(Appended),
    /// It certainly isn't, and won't be.
    NotDone,
    /// Nobody knows.
    Unknown,
}

impl Words {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(256);
        let (kind, from) = match self {
            Self::Hello(hello) => (HELLO, hello.run),
            Self::Bundle(bundle) => (BUNDLE, bundle.from),
            Self::Answers(answers) => (ANSWERS, answers.from),
        };
        out.extend_from_slice(&[VERSION, kind]);
        put_u64(&mut out, from);
        match self {
            Self::Hello(hello) => {
                put_u64(&mut out, hello.node);
                put_u64(&mut out, hello.clock_ms);
                out.push(match hello.state {
                    State::Takes => TAKES,
                    State::Lives => LIVES,
                    State::Goes => GOES,
                });
            }
            Self::Bundle(bundle) => {
                put_u64(&mut out, bundle.number);
                put_len(&mut out, bundle.asked.len());
                for asked in &bundle.asked {
                    put_asked(&mut out, asked);
                }
            }
            Self::Answers(answers) => {
                put_u64(&mut out, answers.number);
                put_len(&mut out, answers.outcomes.len());
                for (at, outcome) in &answers.outcomes {
                    out.extend_from_slice(&at.to_le_bytes());
                    put_outcome(&mut out, outcome);
                }
            }
        }
        sealed(out)
    }

    /// Reads some.
    pub fn decode(bytes: &Bytes) -> Result<Self, MessageError> {
        let mut reader = opened(bytes)?;
        let [kind] = reader.array("kind")?;
        let from = number(&mut reader, "run")?;
        let words = match kind {
            HELLO => Self::Hello(Hello {
                run: from,
                node: number(&mut reader, "node")?,
                clock_ms: number(&mut reader, "clock")?,
                state: match reader.array("state")? {
                    [TAKES] => State::Takes,
                    [LIVES] => State::Lives,
                    [GOES] => State::Goes,
                    _ => return Err(MessageError::Malformed("state")),
                },
            }),
            BUNDLE => Self::Bundle(Bundle {
                from,
                number: number(&mut reader, "bundle's number")?,
                asked: {
                    let count = reader.count(ASKED_LEN, "number of requests")?;
                    let asked = (0..count).map(|_| asked(&mut reader));
                    asked.collect::<Result<_, _>>()?
                },
            }),
            ANSWERS => Self::Answers(Answers {
                from,
                number: number(&mut reader, "bundle's number")?,
                outcomes: {
                    let count = reader.count(ANSWER_LEN, "number of answers")?;
                    let outcomes = (0..count).map(|_| {
                        let at = u32::from_le_bytes(reader.array("request's place")?);
                        Ok((at, outcome(&mut reader)?))
                    });
                    outcomes.collect::<Result<_, MessageError>>()?
                },
            }),
            _ => return Err(MessageError::Malformed("kind")),
        };
        match reader.bytes.is_empty() {
            true => Ok(words),
            false => Err(MessageError::Malformed("end")),
        }
    }
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_asked(out: &mut Vec<u8>, asked: &Asked) {
    put_u64(out, asked.until_ms);
    let slug = asked.slug.as_str().as_bytes();
    // A slug has 64 bytes at most.
    out.push(slug.len() as u8);
    out.extend_from_slice(slug);
    put_len(out, asked.entries.len());
    for entry in asked.entries.iter() {
        put_new_entry(out, entry);
    }
}

fn put_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    match outcome {
        Outcome::Done(Appended { ids, repeated }) => {
            out.push(DONE);
            put_len(out, ids.len());
            put_len(out, *repeated);
            for id in ids {
                out.extend_from_slice(&id.as_u128().to_le_bytes());
            }
        }
        Outcome::NotDone => out.push(NOT_DONE),
        Outcome::Unknown => out.push(UNKNOWN),
    }
}

fn number(reader: &mut Reader, what: &'static str) -> Result<u64, MessageError> {
    Ok(u64::from_le_bytes(reader.array(what)?))
}

fn asked(reader: &mut Reader) -> Result<Asked, MessageError> {
    let until_ms = number(reader, "time")?;
    let [slug_len] = reader.array("slug's length")?;
    let slug = reader.text(usize::from(slug_len), "slug")?;
    let slug = Slug::parse(&slug).map_err(|_| MessageError::Malformed("slug"))?;
    let count = reader.count(ENTRY_LEN, "number of entries")?;
    let entries = (0..count).map(|_| new_entry(reader));
    let entries: Vec<NewEntry> = entries.collect::<Result<_, _>>()?;
    Ok(Asked {
        until_ms,
        slug,
        entries: entries.into(),
    })
}

fn outcome(reader: &mut Reader) -> Result<Outcome, MessageError> {
    match reader.array("outcome")? {
        [DONE] => {
            let count = reader.count(16, "number of ids")?;
            let repeated = u32::from_le_bytes(reader.array("number of repeated ones")?) as usize;
            let ids = (0..count).map(|_| {
                let id = u128::from_le_bytes(reader.array("id")?);
                Ok(LogId::from_u128(id))
            });
            let ids = ids.collect::<Result<_, MessageError>>()?;
            Ok(Outcome::Done(Appended { ids, repeated }))
        }
        [NOT_DONE] => Ok(Outcome::NotDone),
        [UNKNOWN] => Ok(Outcome::Unknown),
        _ => Err(MessageError::Malformed("outcome")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Idempotency, IdempotencyKey};

    fn entry(body: &str, key: Option<&str>) -> NewEntry {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let key = key.map(|key| IdempotencyKey::parse(key.as_bytes()).unwrap());
        NewEntry {
            variant_key: "A".into(),
            idempotency: key.map(|key| Box::new(Idempotency::in_batch(key, 1, 2, &body))),
            body,
        }
    }

    fn all() -> Vec<Words> {
        let hello = |state| {
            Words::Hello(Hello {
                run: 1,
                node: 2,
                clock_ms: 3,
                state,
            })
        };
        let asked = |entries: Vec<NewEntry>| Asked {
            until_ms: 4,
            slug: Slug::parse("search").unwrap(),
            entries: entries.into(),
        };
        let done = Outcome::Done(Appended {
            ids: vec![LogId::from_u128(7), LogId::from_u128(8)],
            repeated: 1,
        });
        vec![
            hello(State::Takes),
            hello(State::Lives),
            hello(State::Goes),
            Words::Bundle(Bundle {
                from: 1,
                number: 3,
                asked: vec![
                    asked(vec![entry("{}", None), entry(r#"{"a":1}"#, Some("k"))]),
                    asked(vec![]),
                ],
            }),
            Words::Answers(Answers {
                from: 1,
                number: 5,
                outcomes: vec![(0, done), (1, Outcome::NotDone), (2, Outcome::Unknown)],
            }),
        ]
    }

    #[test]
    fn what_was_said_is_heard() {
        for said in all() {
            let bytes = said.encode();
            let heard = Words::decode(&bytes).unwrap();
            assert_eq!(format!("{said:?}"), format!("{heard:?}"));
            assert_eq!(heard.encode(), bytes);
        }
    }

    #[test]
    fn no_flipped_bit_and_no_missing_byte_passes() {
        for said in all() {
            let good = said.encode();
            for bit in 0..good.len() * 8 {
                let mut bad = good.to_vec();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(Words::decode(&bad.into()).is_err(), "bit {bit}");
            }
            for len in 0..good.len() {
                assert!(Words::decode(&good.slice(..len)).is_err(), "{len} bytes");
            }
        }
    }

    /// Also where the checksum fits: what is read is never more than is there, and nothing panics.
    #[test]
    fn changed_bytes_with_a_right_checksum_are_refused_or_read() {
        for said in all() {
            let good = said.encode();
            let content = &good[..good.len() - 4];
            for at in 0..content.len() {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut bad = content.to_vec();
                    bad[at] = value;
                    if let Ok(read) = Words::decode(&sealed(bad)) {
                        assert!(read.encode().len() <= good.len() + 64);
                    }
                }
            }
        }
    }
}
