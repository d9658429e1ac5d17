//! A table as Parquet: typed columns in row groups, each compressed with zstd.
//!
//! Entries gather by column until a row group is full; then a thread encodes it while the next one
//! gathers. These two bound the memory, but for the footer that Parquet ends with, which says of each
//! column of each group where it is.

mod group;

use std::io::{self, Write};
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use ::parquet::basic::{
    Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel,
};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::types::{ColumnPath, SchemaDescriptor, Type};

use self::group::{Chunk, Group};
use super::columns::Columns;
use super::row::Row;
use super::{Exporter, Replayed};

/// A row group is full with so many bytes, before they are compressed.
const GROUP_BYTES: usize = 6 << 20;
/// zstd's own scale; above 1 it is the compression that takes most of the time.
const ZSTD_LEVEL: i32 = 1;

type Encoded = Result<(Group, Vec<Chunk>), ParquetError>;

pub(super) struct ParquetTable<W: Write + Send> {
    file: SerializedFileWriter<W>,
    columns: Columns,
    group: Group,
    to_encoder: Sender<Group>,
    encoded: Receiver<Encoded>,
    /// Whether a group is being encoded.
    is_under_way: bool,
}

impl<W: Write + Send> ParquetTable<W> {
    pub(super) fn new(out: W, columns: Columns) -> io::Result<Self> {
        let schema = Arc::new(schema(&columns).map_err(into_io)?);
        let properties = Arc::new(properties().map_err(into_io)?);
        let file = SerializedFileWriter::new(out, schema.clone(), properties).map_err(into_io)?;
        let schema = Arc::new(SchemaDescriptor::new(schema));
        let properties = file.properties().clone();
        // One thread, and not one for each group: those would leave their memory behind.
        let (to_encoder, groups) = mpsc::channel::<Group>();
        let (to_writer, encoded) = mpsc::channel();
        let encoder = thread::Builder::new().name("encode".into());
        encoder.spawn(move || {
            for group in groups {
                let chunks = group.encode(&schema, &properties);
                if to_writer
                    .send(chunks.map(|chunks| (group, chunks)))
                    .is_err()
                {
                    return;
                }
            }
        })?;
        let group = Group::new(columns.names().len());
        Ok(Self {
            file,
            columns,
            group,
            to_encoder,
            encoded,
            is_under_way: false,
        })
    }

    fn begin_encoding(&mut self) -> io::Result<()> {
        let spare = self.write_encoded()?;
        let next = spare.unwrap_or_else(|| Group::new(self.columns.names().len()));
        let group = mem::replace(&mut self.group, next);
        self.to_encoder.send(group).map_err(|_| died())?;
        self.is_under_way = true;
        Ok(())
    }

    /// Writes the group that is under way, and gives its memory back.
    fn write_encoded(&mut self) -> io::Result<Option<Group>> {
        if !mem::take(&mut self.is_under_way) {
            return Ok(None);
        }
        let encoded = self.encoded.recv().map_err(|_| died())?;
        let (mut spare, chunks) = encoded.map_err(into_io)?;
        let mut group = self.file.next_row_group().map_err(into_io)?;
        for Chunk { bytes, close } in chunks {
            group.append_column(&bytes, close).map_err(into_io)?;
        }
        group.close().map_err(into_io)?;
        spare.clear();
        Ok(Some(spare))
    }
}

fn died() -> io::Error {
    io::Error::other("the thread that encodes has died")
}

impl<W: Write + Send> Exporter for ParquetTable<W> {
    fn take(&mut self, entry: &Replayed<'_>) -> io::Result<()> {
        self.group
            .push(entry, &Row::read(entry.body, &self.columns));
        if self.group.bytes() >= GROUP_BYTES {
            self.begin_encoding()?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if self.group.bytes() > 0 {
            self.begin_encoding()?;
        }
        self.write_encoded()?;
        self.file.finish().map_err(into_io)?;
        self.file.flush()
    }
}

/// The columns and their types, in the order in which [`Group`] encodes them.
fn schema(columns: &Columns) -> Result<Type, ParquetError> {
    // JSON is marked as text, too: Polars takes Parquet's own type for JSON as bytes.
    let text = || (Physical::BYTE_ARRAY, Some(LogicalType::String));
    let time = LogicalType::timestamp(true, TimeUnit::MILLIS);
    let mut fields = Vec::new();
    for name in columns.table_names() {
        let (physical, logical) = match &*name {
            "received_at" => (Physical::INT64, Some(time.clone())),
            name if name.starts_with(super::columns::METRIC) => (Physical::DOUBLE, None),
            _ => text(),
        };
        let is_always_there = matches!(
            &*name,
            "log_id" | "experiment" | "variant_key" | "received_at"
        );
        let repetition = match is_always_there {
            true => Repetition::REQUIRED,
            false => Repetition::OPTIONAL,
        };
        let field = Type::primitive_type_builder(&name, physical)
            .with_logical_type(logical)
            .with_repetition(repetition)
            .build()?;
        fields.push(Arc::new(field));
    }
    Type::group_type_builder("entry")
        .with_fields(fields)
        .build()
}

fn properties() -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        // Extremes of a page would make the footer, which is kept until the end, larger.
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true);
    // Hardly a value comes twice, and there is nothing to find by the extremes of JSON.
    for name in ["input", "output", "context", "metrics", "other"] {
        let column = || ColumnPath::from(name);
        properties = properties
            .set_column_dictionary_enabled(column(), false)
            .set_column_statistics_enabled(column(), EnabledStatistics::None);
    }
    let ids = ColumnPath::from("log_id");
    Ok(properties.set_column_dictionary_enabled(ids, false).build())
}

/// The error of a write is the operating system's own again.
fn into_io(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}
