//! What a request is called in the log: its own id, and the trace that it is a part of.

use hyper::HeaderMap;
use hyper::header::HeaderValue;

use super::server::RequestIds;

/// The header with a request's id.
pub const REQUEST_ID: &str = "x-request-id";
const REQUEST_ID_LEN_MAX: usize = 128;
const TRACE_PARENT: &str = "traceparent";

/// The names of one request.
#[derive(Debug, Clone)]
pub struct Names {
    id: HeaderValue,
    parent: Option<HeaderValue>,
}

impl Names {
    /// Those that it came with; an id of our own if it has none that can be used.
    pub fn of(headers: &HeaderMap, ids: &RequestIds) -> Self {
        let sent = headers.get(REQUEST_ID);
        let usable = sent.filter(|id| {
            let bytes = id.as_bytes();
            (1..=REQUEST_ID_LEN_MAX).contains(&bytes.len())
                && bytes.iter().all(u8::is_ascii_graphic)
        });
        Self {
            id: usable.cloned().unwrap_or_else(|| ids.next()),
            parent: headers.get(TRACE_PARENT).cloned(),
        }
    }

    /// Its id, as a text.
    pub fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    /// The trace that the caller says it is a part of (W3C's Trace Context).
    pub fn trace_id(&self) -> Option<&str> {
        trace_id(self.parent.as_ref()?.to_str().ok()?)
    }

    /// Its id, for the answer.
    pub fn into_id(self) -> HeaderValue {
        self.id
    }
}

/// The trace's id in `00-{trace}-{parent}-{flags}`. A later version may go on behind the flags.
fn trace_id(parent: &str) -> Option<&str> {
    let is_hex = |text: &str, len| {
        text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_set = |text: &str| text.bytes().any(|byte| byte != b'0');
    let mut parts = parent.splitn(5, '-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (span, flags, rest) = (parts.next()?, parts.next()?, parts.next());
    let is_version = is_hex(version, 2) && version != "ff" && (version != "00" || rest.is_none());
    let is_trace = is_hex(trace, 32) && is_set(trace);
    let is_span = is_hex(span, 16) && is_set(span) && is_hex(flags, 2);
    (is_version && is_trace && is_span).then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_traceparent_that_is_one_is_taken() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (parent, is_one) in [
            (format!("00-{trace}-00f067aa0ba902b7-01"), true),
            (format!("cc-{trace}-00f067aa0ba902b7-01-what-comes"), true),
            (format!("00-{trace}-00f067aa0ba902b7-01-more"), false),
            (format!("ff-{trace}-00f067aa0ba902b7-01"), false),
            (format!("00-{trace}-0000000000000000-01"), false),
            (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), false),
            (
                format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
                false,
            ),
            (format!("00-{trace}x-00f067aa0ba902b7-01"), false),
            (format!("00-{trace}"), false),
            (String::new(), false),
        ] {
            assert_eq!(trace_id(&parent), is_one.then_some(trace), "{parent}");
        }
    }
}
