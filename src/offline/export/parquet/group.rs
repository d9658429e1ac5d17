//! A row group: rows by column, and how they become Parquet's pages.

use ::parquet::column::writer::{ColumnCloseResult, get_column_writer, get_typed_column_writer};
use ::parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterPropertiesPtr;
use ::parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use ::parquet::schema::types::{ColumnDescPtr, SchemaDescPtr};
use bytes::Bytes;

use super::super::Replayed;
use super::super::row::Row;
use crate::model::LogId;

/// Memory for a value of a text beside its bytes: where it ends, whether it is there, and a handle
/// when it is encoded.
const TEXT_BYTES: usize = 50;
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

    /// Its columns as `schema` has them, one after the other.
    pub(super) fn encode(
        self,
        schema: &SchemaDescPtr,
        properties: &WriterPropertiesPtr,
    ) -> Result<Vec<Chunk>, ParquetError> {
        let mut columns = schema.columns().iter();
        let mut next = || Place(columns.next(), properties);
        let mut chunks = vec![
            next().encode_texts(self.log_id)?,
            next().encode_texts(self.experiment)?,
            next().encode::<Int64Type>(&self.received_at, &[])?,
        ];
        for texts in [self.variant_key, self.input, self.output, self.context] {
            chunks.push(next().encode_texts(texts)?);
        }
        for Numbers { values, levels } in self.numbers {
            chunks.push(next().encode::<DoubleType>(&values, &levels)?);
        }
        for texts in [self.metrics, self.other] {
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

/// Where a column stands in the schema, and how it is written.
struct Place<'a>(Option<&'a ColumnDescPtr>, &'a WriterPropertiesPtr);

impl Place<'_> {
    fn encode_texts(self, texts: Texts) -> Result<Chunk, ParquetError> {
        let bytes = Bytes::from(texts.bytes);
        let begins = [0].into_iter().chain(texts.ends.iter().copied());
        let values: Vec<ByteArray> = begins
            .zip(&texts.ends)
            .zip(&texts.levels)
            .filter(|(_, level)| **level > 0)
            .map(|((begin, end), _)| bytes.slice(begin..*end).into())
            .collect();
        self.encode::<ByteArrayType>(&values, &texts.levels)
    }

    /// `values` are those that there are; each row has a level that says whether it has one.
    fn encode<T: DataType>(self, values: &[T::T], levels: &[i16]) -> Result<Chunk, ParquetError> {
        let Self(column, properties) = self;
        let column = column.ok_or_else(|| ParquetError::General("a column too many".into()))?;
        let is_optional = column.max_def_level() > 0;
        let mut sink = TrackedWrite::new(Vec::new());
        let pages = Box::new(SerializedPageWriter::new(&mut sink));
        let writer = get_column_writer(column.clone(), properties.clone(), pages);
        let mut writer = get_typed_column_writer::<T>(writer);
        writer.write_batch(values, is_optional.then_some(levels), None)?;
        let close = writer.close()?;
        let bytes = sink.into_inner()?.into();
        Ok(Chunk { bytes, close })
    }
}
