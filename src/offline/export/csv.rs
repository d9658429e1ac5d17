//! A table as CSV (RFC 4180). Cells are what the entry says, and begin with whatever it begins with:
//! programs read this, and a spreadsheet that takes a text for a formula must be told not to.

use std::borrow::Cow;
use std::io::{self, Write};

use ::csv::{Terminator, Writer, WriterBuilder};

use super::columns::Columns;
use super::row::Row;
use super::{Exporter, Replayed};
use crate::entry_json::{EntryWriter, join_lines};
use crate::model::LogId;

const BUFFER_LEN: usize = 256 << 10;

pub(super) struct CsvTable<W: Write> {
    out: Writer<W>,
    columns: Columns,
    times: EntryWriter,
    time: Vec<u8>,
}

impl<W: Write> CsvTable<W> {
    /// Writes the line of names.
    pub(super) fn new(out: W, columns: Columns) -> io::Result<Self> {
        let mut builder = WriterBuilder::new();
        builder.terminator(Terminator::CRLF);
        builder.buffer_capacity(BUFFER_LEN);
        let mut out = builder.from_writer(out);
        let names = columns.table_names().map(|name| name.into_owned());
        out.write_record(names).map_err(io::Error::from)?;
        Ok(Self {
            out,
            columns,
            times: EntryWriter::default(),
            time: Vec::new(),
        })
    }
}

impl<W: Write> Exporter for CsvTable<W> {
    fn take(&mut self, entry: &Replayed<'_>) -> io::Result<()> {
        let row = Row::read(entry.body, &self.columns);
        self.time.clear();
        self.times.write_time(&mut self.time, entry.received_at_ms);
        let out = &mut self.out;
        out.write_field(entry.id.encode(&mut [0; LogId::TEXT_LEN]))?;
        out.write_field(entry.slug.as_str())?;
        out.write_field(&self.time)?;
        out.write_field(&*row.variant_key)?;
        for json in [row.input, row.output, row.context] {
            out.write_field(on_one_line(json))?;
        }
        for number in &row.numbers {
            out.write_field(number.map_or("", |number| number.text))?;
        }
        out.write_field(on_one_line(row.metrics))?;
        out.write_field(on_one_line(row.other.as_deref()))?;
        out.write_record(None::<&[u8]>)?;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.out.flush()
    }
}

/// JSON without the line breaks between its tokens: one entry is one line then, unless a name that
/// a client gave has one.
fn on_one_line(json: Option<&str>) -> Cow<'_, [u8]> {
    let json = json.unwrap_or_default().as_bytes();
    if memchr::memchr2(b'\n', b'\r', json).is_none() {
        return Cow::Borrowed(json);
    }
    let mut line = json.to_vec();
    join_lines(&mut line, 0);
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Slug;

    #[test]
    fn cells_are_quoted_where_they_must_be_and_stay_what_they_are() {
        let body = b"{\"variantKey\":\"=1+1\",\"input\":{\n\"q\":1},\"metrics\":{\"a,b\":0.10,\"c\":true}}";
        let mut columns = Columns::default();
        columns.learn(body);
        let mut out = Vec::new();
        let mut table = Box::new(CsvTable::new(&mut out, columns).unwrap());
        let slug = Slug::parse("demo").unwrap();
        let entry = Replayed {
            slug: &slug,
            id: LogId::from_u128(1),
            received_at_ms: 1_764_000_000_007,
            body,
        };
        table.take(&entry).unwrap();
        table.finish().unwrap();
        let expected = "log_id,experiment,received_at,variant_key,input,output,context,\
            \"metrics.a,b\",metrics.c,metrics,other\r\n\
            log_00000000000000000000000001,demo,2025-11-24T16:00:00.007Z,=1+1,\"{ \"\"q\"\":1}\",,,0.10,1,\
            \"{\"\"a,b\"\":0.10,\"\"c\"\":true}\",\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
