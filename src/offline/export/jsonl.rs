//! One JSON object a line, as the API gives an entry.

use std::io::{self, Write};

use super::{Exporter, Replayed};
use crate::entry_json::EntryWriter;

const BUFFER_LEN: usize = 256 << 10;

pub(super) struct JsonLines<W> {
    out: W,
    writer: EntryWriter,
    lines: Vec<u8>,
}

impl<W: Write> JsonLines<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            writer: EntryWriter::default(),
            lines: Vec::with_capacity(2 * BUFFER_LEN),
        }
    }
}

impl<W: Write> Exporter for JsonLines<W> {
    fn take(&mut self, entry: &Replayed<'_>) -> io::Result<()> {
        let Replayed {
            slug,
            id,
            received_at_ms,
            body,
        } = *entry;
        self.writer
            .write_line(&mut self.lines, slug, id, received_at_ms, body);
        if self.lines.len() >= BUFFER_LEN {
            self.out.write_all(&self.lines)?;
            self.lines.clear();
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.out.write_all(&self.lines)?;
        self.out.flush()
    }
}
