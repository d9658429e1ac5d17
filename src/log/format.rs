//! The bytes that a store keeps, for those who write another reader.
#![doc = ""]
#![doc = include_str!("FORMAT.md")]

#[cfg(test)]
mod tests {
    use crate::log::frame::{self, FRAME_HEADER_LEN, FrameKind, Seed};
    use crate::log::record::{self, EntryRecord};
    use crate::model::LogId;

    const PAGE: &str = include_str!("FORMAT.md");

    /// The fields of the example's frame, with their widths.
    const FIELDS: [(usize, &str); 16] = [
        (2, "magic"),
        (1, "kind: entry"),
        (1, "codec: bincode"),
        (4, "length of the payload: 37"),
        (4, "ordinal: 1"),
        (8, "the log id's lower half"),
        (8, "its upper half"),
        (4, "header CRC"),
        (4, "payload CRC"),
        (8, "received at 1764000000007"),
        (2, "variant 0"),
        (1, "no idempotency key"),
        (8, "length of the body: 18"),
        (9, "the body,"),
        (9, "to its end"),
        (7, "zeros to 8"),
    ];

    fn example() -> String {
        let salt = 0x0123_4567_89ab_cdef;
        let id: LogId = "log_01KAV9FT07041061050R3GG28A".parse().unwrap();
        let entry = EntryRecord {
            received_at_ms: 1_764_000_000_007,
            variant: 0,
            idempotency: None,
            body: br#"{"variantKey":"A"}"#,
        };
        let mut bytes = Vec::new();
        let (seed, kind) = (Seed::new(salt), FrameKind::Entry);
        frame::encode(&mut bytes, seed, kind, 1, id, |out| {
            record::encode(&entry, out);
        });
        let words = |at| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let mut text = format!(
            "salt          {}\nlog id        {id}\nseed          {:08x}\nheader CRC    {:08x}\n\
             payload CRC   {:08x}\n\n",
            hex(&u64::to_le_bytes(salt)),
            crc32fast::hash(&u64::to_le_bytes(salt)),
            words(FRAME_HEADER_LEN - 8),
            words(FRAME_HEADER_LEN - 4),
        );
        let mut at = 0;
        for (width, what) in FIELDS {
            let field = hex(&bytes[at..at + width]);
            text.push_str(&format!("{at:>2}  {field:<28}{what}\n"));
            at += width;
        }
        assert_eq!(at, bytes.len());
        text
    }

    fn hex(bytes: &[u8]) -> String {
        let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        bytes.join(" ")
    }

    #[test]
    fn the_pages_example_is_what_is_written() {
        let example = example();
        assert!(
            PAGE.contains(&format!("```text\n{example}```\n")),
            "{example}"
        );
    }
}
