//! Answers of HTTP/1.1 in a buffer: where one ends, and what it says.

use anyhow::{Result, bail};
use serde_json::Value;

/// Ours have six.
const HEADERS_MAX: usize = 32;

/// A whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'b> {
    pub status: u16,
    pub body: &'b [u8],
    /// Its length, head and body.
    pub len: usize,
    /// Whether the server ends the connection behind it.
    pub is_last: bool,
}

impl<'b> Answer<'b> {
    /// The answer at the beginning of `bytes`, once all of it is there.
    pub fn parse(bytes: &'b [u8]) -> Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let head_len = match head.parse(bytes) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => bail!("what answers there doesn't speak HTTP/1.1: {error}"),
        };
        let mut body_len = None;
        let mut is_last = false;
        for header in head.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                body_len = std::str::from_utf8(header.value)
                    .ok()
                    .and_then(|text| text.parse::<usize>().ok());
            } else if header.name.eq_ignore_ascii_case("connection") {
                is_last = header.value.eq_ignore_ascii_case(b"close");
            }
        }
        let Some(body_len) = body_len else {
            bail!("what answers there doesn't say how long its answers are");
        };
        let len = head_len.saturating_add(body_len);
        Ok(bytes.get(head_len..len).map(|body| Self {
            status: head.code.unwrap_or(0),
            body,
            len,
            is_last,
        }))
    }

    /// Whether all that was sent is acknowledged.
    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The stable word of an error, or its status where there is none.
    pub fn code(&self) -> String {
        let code = self.said("/error/code");
        code.unwrap_or_else(|| format!("status_{}", self.status))
    }

    /// An error in words: its status, its code and its message.
    pub fn words(&self) -> String {
        let message = self.said("/error/message").unwrap_or_default();
        format!("{} {}: {message}", self.status, self.code())
    }

    /// The body as JSON; `null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(self.body).unwrap_or(Value::Null)
    }

    fn said(&self, pointer: &str) -> Option<String> {
        let json = self.json();
        json.pointer(pointer)?.as_str().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 64\r\nx: y\r\n\r\n\
        {\"success\":false,\"error\":{\"code\":\"overloaded\",\"message\":\"wait\"}}rest";

    #[test]
    fn an_answer_is_taken_once_it_is_whole() {
        let end = WHOLE.len() - 4;
        for cut in 0..end {
            assert_eq!(Answer::parse(&WHOLE[..cut]).unwrap(), None, "{cut}");
        }
        let answer = Answer::parse(WHOLE).unwrap().unwrap();
        assert_eq!(
            (answer.len, answer.status, answer.is_last),
            (end, 503, false)
        );
        assert_eq!(answer.words(), "503 overloaded: wait");
        assert!(!answer.is_ok());
    }

    #[test]
    fn what_is_no_answer_of_ours_is_told_apart() {
        let last =
            Answer::parse(b"HTTP/1.1 500 x\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n");
        let last = last.unwrap().unwrap();
        assert!(last.is_last);
        assert_eq!(last.code(), "status_500");
        for bytes in [
            &b"+OK redis\r\n"[..],
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        ] {
            assert!(Answer::parse(bytes).is_err());
        }
    }
}
