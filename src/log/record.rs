//! Records as bincode bytes. The only file that names the codec.
//!
//! The configuration is bincode's fixed-width little-endian one, whose bytes other maintained
//! crates (`wincode`) read too.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
/// What records derive.
pub use bincode::{BorrowDecode, Encode};

use super::frame::{Frame, FrameKind};

/// The longest payload of a frame. A body's limit is far below; this only bounds what a decoder
/// may be asked for.
pub const PAYLOAD_LEN_MAX: usize = 1 << 30;

const CONFIG: Configuration<LittleEndian, Fixint, Limit<PAYLOAD_LEN_MAX>> =
    bincode::config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
        .with_limit::<PAYLOAD_LEN_MAX>();

/// Gives a variant key a short number within its segment; written before the number's first use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct VariantRecord<'a> {
    /// The number, rising from 0 in each segment.
    pub number: u16,
    /// What clients send as `variantKey`.
    pub key: &'a str,
}

/// One entry. Its id stands in the frame's header and is not repeated here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct EntryRecord<'a> {
    /// The server's clock at its arrival, in milliseconds since 1970.
    pub received_at_ms: u64,
    /// The number of its variant in this segment.
    pub variant: u16,
    /// The client's idempotency key.
    pub idempotency: Option<&'a str>,
    /// The request's JSON object, byte for byte.
    pub body: &'a [u8],
}

/// What a frame holds, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// A variant's number.
    Variant(VariantRecord<'a>),
    /// An entry.
    Entry(EntryRecord<'a>),
}

impl<'a> Record<'a> {
    /// The record in `frame`.
    pub fn of(frame: &Frame<'a>) -> Result<Self, RecordError> {
        match frame.header.kind {
            FrameKind::Variant => decode(frame.payload).map(Self::Variant),
            FrameKind::Entry => decode(frame.payload).map(Self::Entry),
        }
    }
}

/// Why bytes are not the record that was asked for. Their checksum was right, so this is a
/// record that we never wrote.
#[derive(Debug, thiserror::Error)]
#[error("the record doesn't decode: {0}")]
pub struct RecordError(String);

/// Appends the bytes of `record` to `out`.
pub fn encode<T: Encode>(record: &T, out: &mut Vec<u8>) {
    struct Appender<'a>(&'a mut Vec<u8>);
    impl bincode::enc::write::Writer for Appender<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }
    let encoded = bincode::encode_into_writer(record, Appender(out), CONFIG);
    // Our records hold integers, texts and bytes only, and memory is the only place they go to.
    debug_assert!(encoded.is_ok(), "records of plain data always encode");
}

/// Reads the record that `bytes` hold, with nothing left over.
pub fn decode<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<T, RecordError> {
    let (record, len) = bincode::borrow_decode_from_slice(bytes, CONFIG)
        .map_err(|error| RecordError(error.to_string()))?;
    if len != bytes.len() {
        let rest = bytes.len() - len;
        return Err(RecordError(format!("{rest} bytes are left over")));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_bytes_are_pinned_and_a_maintained_crate_reads_them() {
        #[derive(wincode::SchemaRead, Debug, PartialEq)]
        struct Other {
            received_at_ms: u64,
            variant: u16,
            idempotency: Option<String>,
            body: Vec<u8>,
        }
        let record = EntryRecord {
            received_at_ms: 0x0102_0304_0506_0708,
            variant: 3,
            idempotency: Some("k"),
            body: b"{}",
        };
        let mut bytes = Vec::new();
        encode(&record, &mut bytes);
        let golden =
            b"\x08\x07\x06\x05\x04\x03\x02\x01\x03\x00\x01\x01\0\0\0\0\0\0\0k\x02\0\0\0\0\0\0\0{}";
        assert_eq!(bytes, golden);
        assert_eq!(decode::<EntryRecord>(&bytes).unwrap(), record);
        let other: Other = wincode::deserialize(golden).unwrap();
        let expected = Other {
            received_at_ms: 0x0102_0304_0506_0708,
            variant: 3,
            idempotency: Some("k".into()),
            body: b"{}".to_vec(),
        };
        assert_eq!(other, expected);
    }

    #[test]
    fn left_over_and_missing_bytes_are_refused() {
        let mut bytes = Vec::new();
        let record = VariantRecord {
            number: 0,
            key: "A",
        };
        encode(&record, &mut bytes);
        for len in 0..bytes.len() {
            assert!(decode::<VariantRecord>(&bytes[..len]).is_err());
        }
        bytes.push(0);
        assert!(decode::<VariantRecord>(&bytes).is_err());
    }

    #[test]
    fn a_length_of_terabytes_is_refused_without_asking_for_memory() {
        let mut bytes = vec![0; 10];
        bytes.push(0);
        bytes.extend_from_slice(&(1u64 << 42).to_le_bytes());
        assert!(decode::<EntryRecord>(&bytes).is_err());
    }
}
