//! A frame that decodes is what the writer writes, byte for byte, and every length in it holds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trialog::log::frame::{self, FRAME_HEADER_LEN, Frame, FrameError, FrameHeader, Seed};
use trialog::log::record::{self, EntryRecord, Record, VariantRecord};
use trialog_fuzz::forge;

const SALT: u64 = 7;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // Behind the checksums.
    let mut forged = bytes.to_vec();
    forge::frame(&mut forged, SALT);
    check(&forged);
});

fn check(bytes: &[u8]) {
    let seed = Seed::new(SALT);
    let header = FrameHeader::decode(bytes, seed);
    let unpadded = Frame::decode_unpadded(bytes, seed);
    match Frame::decode(bytes, seed) {
        Ok(frame) => {
            assert_eq!(Some(frame.header), header);
            assert_eq!(Ok(frame), unpadded);
            let mut again = Vec::new();
            let header = frame.header;
            frame::encode(
                &mut again,
                seed,
                header.kind,
                header.ordinal,
                header.id,
                |out| {
                    out.extend_from_slice(frame.payload);
                },
            );
            assert_eq!(bytes.get(..frame.frame_len()), Some(&again[..]));
            check_record(&frame);
        }
        Err(FrameError::Header) => assert_eq!(header, None),
        Err(FrameError::Length(said) | FrameError::Payload(said)) => {
            assert_eq!(header, Some(said));
            assert!(unpadded.is_err());
        }
        Err(FrameError::Padding(said)) => {
            assert_eq!(header, Some(said));
            assert!(unpadded.is_ok());
            assert!(said.frame_len() <= bytes.len() && said.frame_len() >= FRAME_HEADER_LEN);
        }
    }
}

/// A record that decodes is encoded as it stood there.
fn check_record(frame: &Frame<'_>) {
    let mut again = Vec::new();
    match Record::of(frame) {
        Ok(Record::Variant(variant)) => record::encode::<VariantRecord<'_>>(&variant, &mut again),
        Ok(Record::Entry(entry)) => record::encode::<EntryRecord<'_>>(&entry, &mut again),
        Err(_) => return,
    }
    assert_eq!(again, frame.payload);
}
