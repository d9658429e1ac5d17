//! Answers to what never becomes a request: heads that hyper's parser refuses, and connections for which
//! there is no place.
//!
//! hyper answers such a head by itself, with a status and no body, and asks no service. What it writes
//! then is known to the byte and none of ours (they have an `x-request-id`), so it is recognized as it
//! goes out, and an error of ours goes in its place. If hyper ever writes it otherwise, clients get that.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::debug;

use super::error::{ApiError, Code};
use super::server::AppState;

/// How all answers begin that may be hyper's own.
const BEGIN: &[u8] = b"HTTP/1.";
/// What follows: the version, the status with its reason, and what stands before the date. Of HTTP/1.0 it
/// doesn't say that the connection ends.
const VERSIONS: [(&[u8], &[u8]); 2] = [
    (b"1 ", b"connection: close\r\ncontent-length: 0\r\n"),
    (b"0 ", b"content-length: 0\r\n"),
];
const REFUSALS: [(&[u8], Code, &str); 3] = [
    (
        b"400 Bad Request\r\n",
        Code::MalformedHead,
        "what came is no head of an HTTP request",
    ),
    (
        b"414 URI Too Long\r\n",
        Code::UrlTooLong,
        "path and query are longer than any that are read",
    ),
    (
        b"431 Request Header Fields Too Large\r\n",
        Code::HeadersTooLarge,
        "the head is larger than any that is read",
    ),
];
const DATE_LEN: usize = b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n".len();
const END: &[u8] = b"\r\n";

/// A connection on which no answer of hyper's own goes out.
pub struct Unparsed<S> {
    stream: S,
    state: Arc<AppState>,
    /// What goes out in the place of hyper's answer, as far as it hasn't.
    instead: Vec<u8>,
    sent: usize,
}

impl<S> Unparsed<S> {
    /// Looks at what is written to `stream`.
    pub fn new(stream: S, state: Arc<AppState>) -> Self {
        Self {
            stream,
            state,
            instead: Vec::new(),
            sent: 0,
        }
    }
}

/// An error as the bytes of a last answer on a connection, with `date_line` if there is one. It is counted
/// and told as a request's would be.
pub fn refuse(state: &AppState, refused: ApiError, date_line: &[u8]) -> Vec<u8> {
    let request_id = state.request_ids.next();
    let (code, json) = (refused.code, refused.to_json());
    let status = code.status();
    state.metrics.refused(&refused);
    state.metrics.answered(None, status, Duration::ZERO);
    debug!(?request_id, code = code.as_str(), "no request");
    let len = json.len();
    let mut bytes = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {len}\r\n");
    bytes.push_str("x-request-id: ");
    bytes.push_str(request_id.to_str().unwrap_or_default());
    bytes.push_str("\r\n");
    let mut bytes = bytes.into_bytes();
    bytes.extend_from_slice(date_line);
    for (name, value) in refused.into_response().headers() {
        bytes.extend_from_slice(name.as_ref());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(END);
    }
    bytes.extend_from_slice(END);
    bytes.extend_from_slice(json.as_bytes());
    bytes
}

/// Which error hyper has answered by itself, and its line with the date; `None` for all other bytes.
fn of_parser(bytes: &[u8]) -> Option<(Code, &'static str, &[u8])> {
    let rest = bytes.strip_prefix(BEGIN)?;
    let (before_date, rest) = after(
        rest,
        VERSIONS.iter().map(|(version, line)| (*version, line)),
    )?;
    let refusals = REFUSALS.iter().map(|one| (one.0, one));
    let ((_, code, message), rest) = after(rest, refusals)?;
    let rest = rest.strip_prefix(*before_date)?;
    let (date_line, end) = rest.split_at_checked(DATE_LEN)?;
    let is_whole = date_line.starts_with(b"date: ") && date_line.ends_with(END) && end == END;
    is_whole.then_some((*code, *message, date_line))
}

/// What belongs to the beginning that `bytes` have, and what follows.
fn after<T>(
    bytes: &[u8],
    mut beginnings: impl Iterator<Item = (&'static [u8], T)>,
) -> Option<(T, &[u8])> {
    beginnings.find_map(|(begin, what)| Some((what, bytes.strip_prefix(begin)?)))
}

impl<S: AsyncWrite + Unpin> Unparsed<S> {
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self
            .instead
            .get(self.sent..)
            .filter(|rest| !rest.is_empty())
        {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unparsed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unparsed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_instead(cx))?;
        let Some((code, message, date_line)) = of_parser(bytes) else {
            return Pin::new(&mut this.stream).poll_write(cx, bytes);
        };
        // It is taken over, and goes out at the latest when hyper flushes, before it closes.
        this.instead = refuse(&this.state, ApiError::new(code, message), date_line);
        this.sent = 0;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_instead(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_instead(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "date: Sat, 28 Nov 2026 20:37:08 GMT\r\n";

    #[test]
    fn answers_of_the_parser_are_told_from_all_others() {
        for (version, before) in [("1", "connection: close\r\n"), ("0", "")] {
            for (status, code) in [
                ("400 Bad Request", Code::MalformedHead),
                ("414 URI Too Long", Code::UrlTooLong),
                ("431 Request Header Fields Too Large", Code::HeadersTooLarge),
            ] {
                let whole =
                    format!("HTTP/1.{version} {status}\r\n{before}content-length: 0\r\n{DATE}\r\n");
                let found = of_parser(whole.as_bytes());
                let (found, _, date) = found.unwrap_or_else(|| panic!("{whole}"));
                assert_eq!((found, date), (code, DATE.as_bytes()));
                // Nothing that is shorter, longer or has a line more.
                for len in 0..whole.len() {
                    assert_eq!(of_parser(&whole.as_bytes()[..len]).map(|one| one.0), None);
                }
                let more = whole.replace(DATE, &format!("x-request-id: 1\r\n{DATE}"));
                assert_eq!(of_parser(more.as_bytes()).map(|one| one.0), None);
                let behind = format!("{whole}{{}}");
                assert_eq!(of_parser(behind.as_bytes()).map(|one| one.0), None);
            }
        }
    }
}
