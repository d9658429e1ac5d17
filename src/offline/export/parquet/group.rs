//! A row group: rows by column, and how they become Parquet's pages.

use ::parquet::column::writer::{
    ColumnCloseResult, ColumnWriterImpl, get_column_writer, get_typed_column_writer,
};
use ::parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterPropertiesPtr;
use ::parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use ::parquet::schema::types::{ColumnDescPtr, SchemaDescPtr};
use bytes::Bytes;

use super::super::Replayed;
use super::super::row::Row;
use crate::model::LogId;

/// So many rows of texts are handed to the encoder at once.
const PIECE_ROWS: usize = 1024;
/// Memory for a text beside its bytes: where it ends, and whether it is there.
const TEXT_BYTES: usize = 10;
const NUMBER_BYTES: usize = 10;

/// Rows, by column, in the order of the table's columns.
pub(super) struct Group {
    log_id: Texts,
    experiment: Texts,
    received_at: Vec<i64>,
    variant_key: Texts,
    input: Texts,
    output: Texts,
    context: Texts,
    numbers: Vec<Numbers>,
    metrics: Texts,
    other: Texts,
    bytes: usize,
}

/// The values that there are, one behind the other, and for each row whether it has one.
#[derive(Default)]
struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    levels: Vec<i16>,
}

#[derive(Default)]
struct Numbers {
    values: Vec<f64>,
    levels: Vec<i16>,
}

/// A column of a row group, encoded.
pub(super) struct Chunk {
    pub bytes: Bytes,
    pub close: ColumnCloseResult,
}

impl Group {
    pub(super) fn new(number_columns: usize) -> Self {
        Self {
            log_id: Texts::default(),
            experiment: Texts::default(),
            received_at: Vec::new(),
            variant_key: Texts::default(),
            input: Texts::default(),
            output: Texts::default(),
            context: Texts::default(),
            numbers: (0..number_columns).map(|_| Numbers::default()).collect(),
            metrics: Texts::default(),
            other: Texts::default(),
            bytes: 0,
        }
    }

    /// What its rows take in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, entry: &Replayed<'_>, row: &Row<'_>) {
        let received_at = i64::try_from(entry.received_at_ms).unwrap_or(i64::MAX);
        self.received_at.push(received_at);
        for (numbers, number) in self.numbers.iter_mut().zip(&row.numbers) {
            numbers.push(number.map(|number| number.value));
        }
        let text_bytes = [
            self.log_id
                .push(Some(entry.id.encode(&mut [0; LogId::TEXT_LEN]))),
            self.experiment.push(Some(entry.slug.as_str())),
            self.variant_key.push(Some(&row.variant_key)),
            self.input.push(row.input),
            self.output.push(row.output),
            self.context.push(row.context),
            self.metrics.push(row.metrics),
            self.other.push(row.other.as_deref()),
        ];
        self.bytes += size_of::<i64>() + NUMBER_BYTES * self.numbers.len();
        self.bytes += text_bytes.iter().sum::<usize>();
    }

    /// Forgets its rows, and keeps their memory.
    pub(super) fn clear(&mut self) {
        self.received_at.clear();
        for numbers in &mut self.numbers {
            numbers.values.clear();
            numbers.levels.clear();
        }
        let ours = [
            &mut self.log_id,
            &mut self.experiment,
            &mut self.variant_key,
        ];
        let json = [&mut self.input, &mut self.output, &mut self.context];
        let rest = [&mut self.metrics, &mut self.other];
        for texts in ours.into_iter().chain(json).chain(rest) {
            texts.bytes.clear();
            texts.ends.clear();
            texts.levels.clear();
        }
        self.bytes = 0;
    }

    /// Its columns as `schema` has them, one after the other.
    pub(super) fn encode(
        &self,
        schema: &SchemaDescPtr,
        properties: &WriterPropertiesPtr,
    ) -> Result<Vec<Chunk>, ParquetError> {
        let mut columns = schema.columns().iter();
        let mut next = || Place(columns.next(), properties);
        let mut chunks = vec![
            next().encode_texts(&self.log_id)?,
            next().encode_texts(&self.experiment)?,
            next().encode_numbers::<Int64Type>(&self.received_at, &[])?,
        ];
        for texts in [&self.variant_key, &self.input, &self.output, &self.context] {
            chunks.push(next().encode_texts(texts)?);
        }
        for Numbers { values, levels } in &self.numbers {
            chunks.push(next().encode_numbers::<DoubleType>(values, levels)?);
        }
        for texts in [&self.metrics, &self.other] {
            chunks.push(next().encode_texts(texts)?);
        }
        Ok(chunks)
    }
}

impl Texts {
    /// Adds a row, and says what it takes.
    fn push(&mut self, text: Option<&str>) -> usize {
        self.levels.push(text.is_some().into());
        let text = text.unwrap_or_default();
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push(self.bytes.len());
        TEXT_BYTES + text.len()
    }
}

impl Numbers {
    fn push(&mut self, number: Option<f64>) {
        self.levels.push(number.is_some().into());
        self.values.extend(number);
    }
}

/// Where a column stands in the schema, and how it is written. Each row has a level that says whether
/// it has a value; a column in which all have one needs none.
struct Place<'a>(Option<&'a ColumnDescPtr>, &'a WriterPropertiesPtr);

impl Place<'_> {
    fn encode_texts(self, texts: &Texts) -> Result<Chunk, ParquetError> {
        let Texts {
            bytes,
            ends,
            levels,
        } = texts;
        let pieces = ends.chunks(PIECE_ROWS).zip(levels.chunks(PIECE_ROWS));
        self.encode::<ByteArrayType>(|writer, is_optional| {
            let mut begin = 0;
            for (ends, levels) in pieces {
                let end = ends.last().copied().unwrap_or(begin);
                let piece = bytes.get(begin..end).unwrap_or_default();
                let piece = Bytes::copy_from_slice(piece);
                let mut values: Vec<ByteArray> = Vec::with_capacity(ends.len());
                let mut from = 0;
                for (end, level) in ends.iter().zip(levels) {
                    let to = end - begin;
                    if *level > 0 {
                        values.push(piece.slice(from..to).into());
                    }
                    from = to;
                }
                writer.write_batch(&values, is_optional.then_some(levels), None)?;
                begin = end;
            }
            Ok(())
        })
    }

    fn encode_numbers<T: DataType>(
        self,
        values: &[T::T],
        levels: &[i16],
    ) -> Result<Chunk, ParquetError> {
        self.encode::<T>(|writer, is_optional| {
            writer.write_batch(values, is_optional.then_some(levels), None)?;
            Ok(())
        })
    }

    fn encode<T: DataType>(
        self,
        write: impl FnOnce(&mut ColumnWriterImpl<'_, T>, bool) -> Result<(), ParquetError>,
    ) -> Result<Chunk, ParquetError> {
        let Self(column, properties) = self;
        let column = column.ok_or_else(|| ParquetError::General("a column too many".into()))?;
        let mut sink = TrackedWrite::new(Vec::new());
        let pages = Box::new(SerializedPageWriter::new(&mut sink));
        let writer = get_column_writer(column.clone(), properties.clone(), pages);
        let mut writer = get_typed_column_writer::<T>(writer);
        write(&mut writer, column.max_def_level() > 0)?;
        let close = writer.close()?;
        let bytes = sink.into_inner()?.into();
        Ok(Chunk { bytes, close })
    }
}
