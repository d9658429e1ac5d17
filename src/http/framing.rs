//! What hyper keeps to itself: whether a head named `content-length` beside `transfer-encoding`.
//!
//! Two ways of saying where a body ends are how requests are smuggled past a proxy. Of such a
//! head hyper drops the length before we see it (and closes the connection after the answer), so
//! the lines are looked at as they come in. This judges no framing of its own, it only looks at
//! how lines begin; so all it can get wrong is to refuse a chunked request that isn't JSON.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const CODING: &[u8] = b"transfer-encoding:";
const LENGTH: &[u8] = b"content-length:";

/// Whether a head with both was read from a connection.
#[derive(Debug, Clone, Default)]
pub struct Ambiguity(Arc<AtomicBool>);

impl Ambiguity {
    /// Whether one was.
    pub fn is_met(&self) -> bool {
        // Set before hyper parses the bytes, on the task that reads this.
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection whose lines are looked at.
pub struct Watched<S> {
    stream: S,
    lines: Lines,
    ambiguity: Ambiguity,
}

impl<S> Watched<S> {
    /// Watches `stream`.
    pub fn new(stream: S) -> (Self, Ambiguity) {
        let ambiguity = Ambiguity::default();
        let watched = Self {
            stream,
            lines: Lines::default(),
            ambiguity: ambiguity.clone(),
        };
        (watched, ambiguity)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buf));
        let new = buf.filled().get(before..).unwrap_or_default();
        if this.lines.have_both(new) {
            this.ambiguity.0.store(true, Ordering::Relaxed);
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// How the lines of a connection begin, over the borders of what is read at once.
#[derive(Default)]
pub struct Lines {
    /// The beginning of a line that goes on in the next read.
    begun: [u8; CODING.len()],
    begun_len: usize,
    has_coding: bool,
    has_length: bool,
}

impl Lines {
    /// Whether `bytes` complete a head (or what looks like one) that has both.
    pub fn have_both(&mut self, bytes: &[u8]) -> bool {
        let mut have_both = false;
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let line = bytes.get(start..end).unwrap_or_default();
            start = end + 1;
            if self.begun_len == 0 {
                self.take(line);
            } else {
                self.begin(line);
                let (begun, len) = (self.begun, std::mem::take(&mut self.begun_len));
                self.take(begun.get(..len).unwrap_or_default());
            }
            have_both |= self.has_coding && self.has_length;
        }
        self.begin(bytes.get(start..).unwrap_or_default());
        have_both
    }

    fn begin(&mut self, part: &[u8]) {
        let room = self.begun.get_mut(self.begun_len..).unwrap_or_default();
        for (place, byte) in room.iter_mut().zip(part) {
            *place = *byte;
            self.begun_len += 1;
        }
    }

    fn take(&mut self, line: &[u8]) {
        let begins = |name: &[u8]| {
            let begin = line.get(..name.len());
            begin.is_some_and(|begin| begin.eq_ignore_ascii_case(name))
        };
        match line.first() {
            // The end of a head.
            None | Some(b'\r') => (self.has_coding, self.has_length) = (false, false),
            Some(b't' | b'T') => self.has_coding |= begins(CODING),
            Some(b'c' | b'C') => self.has_length |= begins(LENGTH),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: [(&str, bool); 7] = [
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n12345", false),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            false,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n",
            true,
        ),
        (
            "POST / HTTP/1.1\ntransfer-encoding: chunked\ncontent-length: 5\n\n",
            true,
        ),
        (
            "POST / HTTP/1.1\r\nTRANSFER-ENCODING:chunked\r\nCONTENT-LENGTH:\r\n\r\n",
            true,
        ),
        (
            "POST / HTTP/1.1\r\nx-transfer-encoding: a\r\ncontent-lengths: 5\r\ncontent-length: 5\r\n\r\n",
            false,
        ),
        (
            "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
            false,
        ),
    ];

    #[test]
    fn both_in_one_head_are_seen_wherever_reads_end() {
        for (head, expected) in HEADS {
            for split in 0..=head.len() {
                let (one, two) = head.as_bytes().split_at(split);
                let mut lines = Lines::default();
                let seen = lines.have_both(one) | lines.have_both(two);
                assert_eq!(seen, expected, "{head:?} split at {split}");
            }
            let mut lines = Lines::default();
            let seen = head
                .bytes()
                .fold(false, |seen, byte| seen | lines.have_both(&[byte]));
            assert_eq!(seen, expected, "{head:?} byte by byte");
        }
    }
}
