//! How an entry is given back: ours first, then the client's own members as they were sent, byte
//! for byte. One way for the API and for replay.

use std::io::Write as _;

use jiff::Timestamp;

use crate::model::{LogId, Slug};

/// Writes entries as JSON. Keeps the text of the last second, which most entries share.
#[derive(Default)]
pub struct EntryWriter {
    second: Option<u64>,
    second_text: Vec<u8>,
}

impl EntryWriter {
    /// Appends the entry as a JSON object to `out`.
    pub fn write(
        &mut self,
        out: &mut Vec<u8>,
        slug: &Slug,
        id: LogId,
        received_at_ms: u64,
        body: &[u8],
    ) {
        out.extend_from_slice(b"{\"logId\":\"");
        out.extend_from_slice(id.encode(&mut [0; LogId::TEXT_LEN]).as_bytes());
        out.extend_from_slice(b"\",\"experiment\":\"");
        out.extend_from_slice(slug.as_str().as_bytes());
        out.extend_from_slice(b"\",\"receivedAt\":\"");
        self.write_time(out, received_at_ms);
        out.extend_from_slice(b"\",");
        let body = body.trim_ascii();
        out.extend_from_slice(body.strip_prefix(b"{").unwrap_or(body));
    }

    /// As [`Self::write`], on one line: line breaks between the client's tokens become spaces.
    /// (Within a JSON string there are none.)
    pub fn write_line(
        &mut self,
        out: &mut Vec<u8>,
        slug: &Slug,
        id: LogId,
        received_at_ms: u64,
        body: &[u8],
    ) {
        let begin = out.len();
        self.write(out, slug, id, received_at_ms, body);
        join_lines(out, begin);
        out.push(b'\n');
    }

    /// Appends a time of receipt as [`rfc3339_ms`] gives it.
    pub fn write_time(&mut self, out: &mut Vec<u8>, ms: u64) {
        let second = ms / 1000;
        if self.second != Some(second) {
            self.second = Some(second);
            self.second_text.clear();
            let text = rfc3339_ms(second * 1000);
            let whole = text.split('.').next().unwrap_or_default();
            self.second_text.extend_from_slice(whole.as_bytes());
        }
        out.extend_from_slice(&self.second_text);
        // Writing into memory doesn't fail.
        let _infallible = write!(out, ".{:03}Z", ms % 1000);
    }
}

/// Makes spaces of the line breaks in `text` from `begin` on, which is JSON: there they stand between
/// tokens only.
pub fn join_lines(text: &mut [u8], begin: usize) {
    let mut rest = text.get_mut(begin..).unwrap_or_default();
    while let Some(at) = memchr::memchr2(b'\n', b'\r', rest) {
        let (line, behind) = rest.split_at_mut(at + 1);
        if let Some(last) = line.last_mut() {
            *last = b' ';
        }
        rest = behind;
    }
}

/// A time in milliseconds since 1970 as RFC 3339 text in UTC, with milliseconds.
pub fn rfc3339_ms(ms: u64) -> String {
    let time = i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", time.unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_come_first_and_the_clients_bytes_stay() {
        let mut out = Vec::new();
        let slug = Slug::parse("demo").unwrap();
        let id = LogId::from_u128(1);
        let body = b" {\"variantKey\":\"A\",\n \"x\":[0.10, 1e400]}\n";
        let mut writer = EntryWriter::default();
        writer.write(&mut out, &slug, id, 1_764_000_000_007, body);
        let expected = "{\"logId\":\"log_00000000000000000000000001\",\"experiment\":\"demo\",\
            \"receivedAt\":\"2025-11-24T16:00:00.007Z\",\"variantKey\":\"A\",\n \"x\":[0.10, 1e400]}";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut line = Vec::new();
        writer.write_line(&mut line, &slug, id, 1_764_000_000_999, body);
        assert!(line.ends_with(b".999Z\",\"variantKey\":\"A\",  \"x\":[0.10, 1e400]}\n"));
    }
}
