//! A summary as bytes: the section *metrics* of a segment's footer, described in `log/FORMAT.md`.
//! Bytes that are missing or left over are damage.

use std::collections::{BTreeMap, BTreeSet};

use super::exact::{ExactSum, SumParts};
use super::series::Series;
use super::sketch::{BUCKETS_MAX, Side, Sketch};
use super::summary::{DROPPED_NAMES_MAX, Limits, NAME_BYTES_MAX, Summary};
use crate::model::{VARIANT_KEY_BYTES_MAX, VARIANTS_MAX};

const VERSION: u8 = 1;
const FLAG_INCOMPLETE: u8 = 1;
const FLAG_OTHERS: u8 = 1;
const FLAG_NUMBERS: u8 = 2;
const FLAG_ROUNDED: u8 = 4;
/// No setting may keep more names than this.
pub const METRICS_LIMIT_MAX: usize = 4096;
/// No log has more values than this; so adding counts up never overflows.
const COUNT_MAX: u64 = 1 << 48;

/// Why bytes are not a summary. Their checksum was right, so we never wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They are of a version that this program doesn't know.
    #[error("a summary of version {0}, which this program doesn't know")]
    Version(u8),
    /// They don't decode.
    #[error("no summary: {0}")]
    Malformed(&'static str),
}

impl Summary {
    /// Appends the summary's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put(out, self.metrics.len() as u64);
        for metric in &self.metrics {
            out.push(u8::from(metric.is_incomplete) * FLAG_INCOMPLETE);
            put_text(out, &metric.name);
        }
        put(out, self.dropped.value_count);
        put(out, self.dropped.names.len() as u64);
        for hash in &self.dropped.names {
            out.extend_from_slice(&hash.to_le_bytes());
        }
        put(out, self.variants.len() as u64);
        for variant in &self.variants {
            put_text(out, &variant.key);
            put(out, variant.entry_count);
            put(out, variant.received_at_ms_min);
            put(out, variant.received_at_ms_max);
            put(out, variant.series.len() as u64);
            for series in &variant.series {
                match series {
                    Some(series) => put_series(out, series),
                    None => out.push(0),
                }
            }
        }
    }

    /// Reads what [`Self::encode`] wrote. Takes memory in proportion to the bytes only.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(bytes);
        let version = reader.byte()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let limits = Limits::default();
        let mut summary = Self::new(Limits {
            metrics: METRICS_LIMIT_MAX,
            ..limits
        });
        for place in 0..reader.length(METRICS_LIMIT_MAX)? {
            let is_incomplete = reader.flags(FLAG_INCOMPLETE)? != 0;
            let name = reader.text(NAME_BYTES_MAX)?;
            check(
                summary.place_of_metric(name) == Some(place),
                "a metric twice",
            )?;
            if let Some(metric) = summary.metrics.last_mut() {
                metric.is_incomplete = is_incomplete;
            }
        }
        summary.dropped.value_count = reader.count()?;
        summary.dropped.names = reader.hashes()?;
        for place in 0..reader.length(VARIANTS_MAX)? {
            let metric_count = summary.metrics.len();
            let key = reader.text(VARIANT_KEY_BYTES_MAX)?;
            let variant = summary.variant_mut(key);
            variant.entry_count = reader.count()?;
            variant.received_at_ms_min = reader.integer()?;
            variant.received_at_ms_max = reader.integer()?;
            let series: Result<_, _> = (0..reader.length(metric_count)?)
                .map(|_| reader.series())
                .collect();
            variant.series = series?;
            let kept = || variant.series.iter().flatten();
            let bucket_count: usize = kept().map(|one| one.sketch().bucket_count()).sum();
            let series_count = kept().count();
            summary.series_count += series_count;
            summary.bucket_count += bucket_count;
            check(summary.variants.len() == place + 1, "a variant twice")?;
        }
        check(reader.0.is_empty(), "bytes are left over")?;
        let fits = summary.series_count <= limits.series && summary.bucket_count <= limits.buckets;
        check(fits, "more than is kept")?;
        Ok(summary)
    }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_series(out: &mut Vec<u8>, series: &Series) {
    let (positive, negative, zero_count, is_rounded) = series.sketch.parts();
    let others = series.non_numeric_count + series.not_finite_count;
    let has_numbers = series.count > 0;
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    let flags = flag(others > 0, FLAG_OTHERS)
        | flag(has_numbers, FLAG_NUMBERS)
        | flag(is_rounded, FLAG_ROUNDED);
    out.push(flags);
    if others > 0 {
        put(out, series.non_numeric_count);
        put(out, series.not_finite_count);
    }
    if has_numbers {
        put(out, series.count);
        out.extend_from_slice(&series.min.to_le_bytes());
        out.extend_from_slice(&series.max.to_le_bytes());
        put_sum(out, &series.sum);
        put_sum(out, &series.squares);
        put(out, zero_count);
        put_side(out, positive);
        put_side(out, negative);
    }
}

fn put_sum(out: &mut Vec<u8>, sum: &ExactSum) {
    let parts = SumParts::from(sum);
    let length = parts.digits.len() as u64;
    put(out, length * 2 + u64::from(parts.is_negative));
    if length > 0 {
        out.push(parts.place);
    }
    for digit in parts.digits {
        out.extend_from_slice(&digit.to_le_bytes());
    }
}

fn put_side(out: &mut Vec<u8>, side: &Side) {
    put(out, side.buckets.len() as u64);
    let mut before = 0;
    for (bucket, count) in &side.buckets {
        put(out, u64::from(bucket - before));
        put(out, *count);
        before = *bucket;
    }
}

fn check(holds: bool, what: &'static str) -> Result<(), DecodeError> {
    if holds {
        Ok(())
    } else {
        Err(DecodeError::Malformed(what))
    }
}

/// The bytes that are still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let missing = DecodeError::Malformed("bytes are missing");
        let (taken, rest) = self.0.split_at_checked(length).ok_or(missing)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], DecodeError> {
        let bytes = self.take(LENGTH)?;
        let array = bytes.try_into();
        array.map_err(|_| DecodeError::Malformed("bytes are missing"))
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn flags(&mut self, known: u8) -> Result<u8, DecodeError> {
        let flags = self.byte()?;
        check(flags & !known == 0, "an unknown flag")?;
        Ok(flags)
    }

    fn integer(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            check(bits << shift >> shift == bits, "an integer beyond 64 bits")?;
            value |= bits << shift;
            if byte & 0x80 == 0 {
                check(byte != 0 || shift == 0, "an integer longer than needed")?;
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed("an integer beyond 64 bits"))
    }

    fn count(&mut self) -> Result<u64, DecodeError> {
        let count = self.integer()?;
        check(count <= COUNT_MAX, "a count beyond all logs")?;
        Ok(count)
    }

    /// A list's or a text's length: never beyond `max`, nor what the bytes that follow can hold.
    fn length(&mut self, max: usize) -> Result<usize, DecodeError> {
        let length = usize::try_from(self.integer()?).unwrap_or(usize::MAX);
        check(length <= max.min(self.0.len()), "a length beyond the limit")?;
        Ok(length)
    }

    fn text(&mut self, max: usize) -> Result<&'a str, DecodeError> {
        let length = self.length(max)?;
        let text = std::str::from_utf8(self.take(length)?);
        text.map_err(|_| DecodeError::Malformed("a text that isn't UTF-8"))
    }

    fn hashes(&mut self) -> Result<BTreeSet<u64>, DecodeError> {
        let mut hashes = BTreeSet::new();
        for _ in 0..self.length(DROPPED_NAMES_MAX)? {
            let hash = u64::from_le_bytes(self.array()?);
            let is_above = hashes.last().is_none_or(|last| *last < hash);
            check(is_above, "hashes that don't rise")?;
            hashes.insert(hash);
        }
        Ok(hashes)
    }

    fn series(&mut self) -> Result<Option<Box<Series>>, DecodeError> {
        let mut series = Box::<Series>::default();
        let flags = self.flags(FLAG_OTHERS | FLAG_NUMBERS | FLAG_ROUNDED)?;
        if flags & FLAG_OTHERS != 0 {
            series.non_numeric_count = self.count()?;
            series.not_finite_count = self.count()?;
            check(series.value_count() > 0, "a flag without values")?;
        }
        if flags & FLAG_NUMBERS == 0 {
            check(flags & FLAG_ROUNDED == 0, "a rounded sketch of nothing")?;
            return Ok((series.value_count() > 0).then_some(series));
        }
        series.count = self.count()?;
        series.min = self.double()?;
        series.max = self.double()?;
        series.sum = self.sum()?;
        series.squares = self.sum()?;
        let zero_count = self.count()?;
        let (positive, negative) = (self.side()?, self.side()?);
        let parts = (positive, negative, zero_count, flags & FLAG_ROUNDED != 0);
        let sketch = Sketch::from_parts(parts);
        series.sketch = sketch.ok_or(DecodeError::Malformed("an impossible sketch"))?;
        let is_whole =
            series.count > 0 && series.sketch.count() == series.count && series.min <= series.max;
        check(is_whole, "counts that differ")?;
        Ok(Some(series))
    }

    fn double(&mut self) -> Result<f64, DecodeError> {
        let double = f64::from_le_bytes(self.array()?);
        let is_possible = double.is_finite() && double.to_bits() != (-0_f64).to_bits();
        check(is_possible, "an impossible number")?;
        Ok(double)
    }

    fn sum(&mut self) -> Result<ExactSum, DecodeError> {
        let head = self.integer()?;
        let length = usize::try_from(head / 2).unwrap_or(usize::MAX);
        check(length <= SumParts::DIGITS_MAX, "a sum beyond all sums")?;
        let place = if length > 0 { self.byte()? } else { 0 };
        let digits: Result<_, _> = (0..length)
            .map(|_| Ok(u32::from_le_bytes(self.array()?)))
            .collect();
        let parts = SumParts {
            is_negative: head & 1 == 1,
            place,
            digits: digits?,
        };
        ExactSum::try_from(parts).map_err(|()| DecodeError::Malformed("an impossible sum"))
    }

    fn side(&mut self) -> Result<Side, DecodeError> {
        let mut buckets = BTreeMap::new();
        let mut bucket = 0;
        for at in 0..self.length(BUCKETS_MAX)? {
            let above = u32::try_from(self.integer()?).unwrap_or(u32::MAX);
            check(above > 0 || at == 0, "buckets that don't rise")?;
            bucket = above.saturating_add(bucket);
            buckets.insert(bucket, self.count()?);
        }
        Ok(Side { buckets })
    }
}

#[cfg(test)]
mod tests;
