//! Server-Sent Events, read as the WHATWG's standard says.

/// An event.
#[derive(Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its name; empty if none was given.
    pub name: &'a str,
    /// Its lines of data.
    pub data: &'a str,
}

/// Reads events out of bytes that come in pieces.
#[derive(Default)]
pub struct Events {
    /// The beginning of a line whose end hasn't come.
    line: Vec<u8>,
    /// The last piece ended in a carriage return, which a line feed may belong to.
    has_returned: bool,
    name: String,
    data: String,
    id: Option<String>,
    last_id: Option<String>,
}

impl Events {
    /// Reads on, and hands each event that is whole to `take`.
    pub fn read(&mut self, bytes: &[u8], mut take: impl FnMut(Event<'_>)) {
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            if std::mem::take(&mut self.has_returned) && piece == b"\n" {
                continue;
            }
            let (line, end) = match piece.split_last() {
                Some((b'\n', line)) => (line, true),
                Some((b'\r', line)) => {
                    self.has_returned = true;
                    (line, true)
                }
                _ => (piece, false),
            };
            self.line.extend_from_slice(line);
            if end {
                let line = std::mem::take(&mut self.line);
                self.take_line(&String::from_utf8_lossy(&line), &mut take);
            }
        }
    }

    /// The id of the last event, or of the place that was told without one.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    fn take_line(&mut self, line: &str, take: &mut impl FnMut(Event<'_>)) {
        if line.is_empty() {
            self.last_id.clone_from(&self.id);
            if let Some(data) = self.data.strip_suffix('\n') {
                let name = &self.name;
                take(Event { name, data });
            }
            self.data.clear();
            self.name.clear();
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // Comments, `retry`, and what is not known yet.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "retry: 1000\nid: log_0\n\nid: log_1\ndata: {\"a\":1}\n\n:\n\n\
        event: lagged\ndata: x\ndata:y\n\n:\nid: log_7\n\nunknown\ndata\n\nid: log_8\r\ndata: \u{e4}\r\r\ndata: never";

    fn read(
        pieces: impl Iterator<Item = impl AsRef<[u8]>>,
    ) -> (Vec<(String, String)>, Vec<String>) {
        let mut events = Events::default();
        let (mut read, mut ids) = (Vec::new(), Vec::new());
        for piece in pieces {
            events.read(piece.as_ref(), |event| {
                read.push((event.name.to_owned(), event.data.to_owned()));
            });
            ids.extend(events.last_id().map(str::to_owned));
        }
        ids.dedup();
        (read, ids)
    }

    #[test]
    fn events_are_read_whatever_the_pieces() {
        let expected = [
            ("", "{\"a\":1}"),
            ("lagged", "x\ny"),
            ("", ""),
            ("", "\u{e4}"),
        ];
        let expected = expected.map(|(name, data)| (name.to_owned(), data.to_owned()));
        let (events, _) = read([STREAM].into_iter());
        assert_eq!(events, expected);
        let (events, ids) = read(STREAM.as_bytes().chunks(1));
        assert_eq!(events, expected);
        assert_eq!(ids, ["log_0", "log_1", "log_7", "log_8"]);
        for len in 2..40 {
            assert_eq!(read(STREAM.as_bytes().chunks(len)).0, expected, "by {len}");
        }
    }
}
