//! Entries that belong together: intervals by unit, exact in bounded memory.
//!
//! Entries of one unit (a session, a user) resemble each other, so a thousand entries of ten units
//! say less than a thousand of a thousand. With a unit, a mean is a ratio of sums over units,
//! `R = ΣS / ΣN` (S the sum and N the number of a unit's values), and its variance is that of the
//! units' linearised residuals `S − R N` (the delta method; Deng, Knoblich, Lu, "Applying the delta
//! method in metric analytics", KDD 2018): `k / (k − 1) · Σ(S − R N)² / (ΣN)²` for k units. With
//! one value in each unit it is the plain variance of a mean.
//!
//! That takes each unit's sums over the whole log. A scan keeps them for as many units as fit
//! [`BYTES_MAX`]: about a million with four metrics. If there are more, the table drops those of
//! one half of all hashes, again when needed, and what it dropped is left for another scan: `P`
//! times as many units take `P` scans, give or take one, exact in the same memory.
//!
//! ```text
//! let mut scan = UnitScan::new(&path, &summary, BYTES_MAX);
//! while let Some(mut table) = scan.next_table() {
//!     for each entry, in the order of the log { table.apply(variant_key, body) }
//!     scan.take(table);
//! }
//! let units = scan.finish();
//! ```
//!
//! A unit that is seen in several variants is counted, and stays in each of them with what it did
//! there: where it behaves alike in both, the interval is rather too wide. Entries without a unit
//! are counted and left out.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::exact::ExactSum;
use super::extract::{self, FieldPath, Value};
use super::ratio::Ratio;
use super::significance::Estimate;
use super::summary::{Summary, VariantSummary};

/// Memory for the sums of units, unless something else is said.
pub const BYTES_MAX: usize = 256 << 20;
/// What a unit, a variant of it, and a metric of that take, about.
const UNIT_BYTES: usize = 96;
const ARM_BYTES: usize = 64;
const CELL_BYTES: usize = 24;

/// What is known of units once all are scanned.
#[derive(Debug, Clone, PartialEq)]
pub struct Units {
    /// The variants, as in the summary.
    variants: Vec<VariantUnits>,
    /// Units that have entries in more than one variant.
    pub crossing_count: u64,
    /// Entries that name no unit.
    pub without_unit_count: u64,
}

/// The units of one variant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VariantUnits {
    /// The variant's key.
    pub key: Box<str>,
    /// How many units have entries in it.
    pub unit_count: u64,
    /// Their entries.
    pub entry_count: u64,
    /// By the metric's place in the summary, of those that it has values of.
    metrics: Vec<Option<Box<Clusters>>>,
}

/// Sums over the units that have values of a metric: exact, so in any order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Clusters {
    /// How many units.
    pub unit_count: u64,
    /// How many values.
    pub value_count: u64,
    sum: ExactSum,
    counts_squared: ExactSum,
    sums_squared: ExactSum,
    sums_by_counts: ExactSum,
}

/// A scan, or several, over a log.
#[derive(Debug)]
pub struct UnitScan {
    shape: Shape,
    pending: Vec<Partition>,
    units: Units,
}

/// What all tables of a scan have in common.
#[derive(Debug, Clone)]
struct Shape {
    path: FieldPath,
    bytes_max: usize,
    variants: HashMap<Box<str>, u16>,
    metrics: HashMap<Box<str>, u16>,
}

/// The units whose hash ends with these bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Partition {
    bits: u128,
    length: u32,
}

/// The sums of the units of one partition, while a scan goes on.
#[derive(Debug)]
pub struct UnitTable {
    shape: Shape,
    partition: Partition,
    /// What had to be dropped: for other scans.
    dropped: Vec<Partition>,
    units: HashMap<u128, Vec<Arm>>,
    bytes: usize,
    without_unit_count: u64,
    values: Vec<(u16, f64)>,
}

/// What one unit did in one variant.
#[derive(Debug)]
struct Arm {
    variant: u16,
    entry_count: u64,
    cells: Vec<Cell>,
}

#[derive(Debug)]
struct Cell {
    metric: u16,
    count: u64,
    /// Added up in the order of the log, which is the same wherever it is read.
    sum: f64,
}

impl UnitScan {
    /// A scan of the log that `summary` is of, for the variants and metrics in it.
    pub fn new(path: &FieldPath, summary: &Summary, bytes_max: usize) -> Self {
        let metrics = summary.metrics().iter().map(|metric| &metric.name);
        let variants = summary.variants().iter().map(|variant| &variant.key);
        let empty = |variant: &VariantSummary| VariantUnits {
            key: variant.key.clone(),
            metrics: (0..summary.metrics().len())
                .map(|place| variant.series(place).map(|_| Box::default()))
                .collect(),
            ..VariantUnits::default()
        };
        Self {
            units: Units {
                variants: summary.variants().iter().map(empty).collect(),
                crossing_count: 0,
                without_unit_count: 0,
            },
            shape: Shape {
                path: path.clone(),
                bytes_max,
                variants: places(variants),
                metrics: places(metrics),
            },
            pending: vec![Partition { bits: 0, length: 0 }],
        }
    }

    /// The table for the next scan of the whole log. `None` when all units are done.
    pub fn next_table(&mut self) -> Option<UnitTable> {
        let partition = self.pending.pop()?;
        Some(UnitTable {
            shape: self.shape.clone(),
            partition,
            dropped: Vec::new(),
            units: HashMap::new(),
            bytes: 0,
            without_unit_count: 0,
            values: Vec::new(),
        })
    }

    /// Takes what a scan found.
    pub fn take(&mut self, table: UnitTable) {
        self.pending.extend(table.dropped);
        if table.partition.bits == 0 {
            // Each scan sees them; the one of these bits is there once.
            self.units.without_unit_count = table.without_unit_count;
        }
        for arms in table.units.into_values() {
            self.units.crossing_count += u64::from(arms.len() > 1);
            for arm in arms {
                if let Some(variant) = self.units.variants.get_mut(usize::from(arm.variant)) {
                    variant.add(&arm);
                }
            }
        }
    }

    /// All units.
    pub fn finish(self) -> Units {
        self.units
    }
}

fn places<'a>(names: impl Iterator<Item = &'a Box<str>>) -> HashMap<Box<str>, u16> {
    names.cloned().zip(0..).collect()
}

impl UnitTable {
    /// Takes in an entry. Entries come in the order of the log.
    pub fn apply(&mut self, variant_key: &str, body: &[u8]) {
        let Some(variant) = self.shape.variants.get(variant_key).copied() else {
            return;
        };
        let Some(unit) = self.shape.path.find(body) else {
            self.without_unit_count += 1;
            return;
        };
        let hash = hash(&unit);
        if !self.partition.has(hash) {
            return;
        }
        self.read_values(body);
        let arms = self.units.entry(hash).or_insert_with(|| {
            self.bytes += UNIT_BYTES;
            Vec::with_capacity(1)
        });
        let known = arms.iter().position(|arm| arm.variant == variant);
        let place = known.unwrap_or_else(|| {
            self.bytes += ARM_BYTES;
            arms.push(Arm {
                variant,
                entry_count: 0,
                cells: Vec::new(),
            });
            arms.len() - 1
        });
        if let Some(arm) = arms.get_mut(place) {
            arm.entry_count += 1;
            for (metric, value) in &self.values {
                self.bytes += CELL_BYTES * usize::from(arm.add(*metric, *value));
            }
        }
        while self.bytes > self.shape.bytes_max && self.partition.length < 64 {
            self.drop_half();
        }
    }

    fn read_values(&mut self, body: &[u8]) {
        let Self { shape, values, .. } = self;
        let mut found: Vec<(u16, Value)> = Vec::new();
        extract::metrics(body, &mut |name, value| {
            let Some(metric) = shape.metrics.get(name) else {
                return;
            };
            match found.iter_mut().find(|(other, _)| other == metric) {
                Some((_, earlier)) => *earlier = value,
                None => found.push((*metric, value)),
            }
        });
        values.clear();
        values.extend(found.iter().filter_map(|(metric, value)| match value {
            Value::Number(number) if number.is_finite() => Some((*metric, *number)),
            _ => None,
        }));
    }

    fn drop_half(&mut self) {
        let (kept, dropped) = self.partition.halves();
        self.partition = kept;
        self.dropped.push(dropped);
        self.units.retain(|hash, arms| {
            let is_kept = kept.has(*hash);
            if !is_kept {
                let cells: usize = arms.iter().map(|arm| arm.cells.len()).sum();
                self.bytes -= UNIT_BYTES + arms.len() * ARM_BYTES + cells * CELL_BYTES;
            }
            is_kept
        });
    }
}

impl Partition {
    fn has(self, hash: u128) -> bool {
        hash & ((1 << self.length) - 1) == self.bits
    }

    /// The half with a zero in front of the bits so far, and the other one.
    fn halves(self) -> (Self, Self) {
        let length = self.length + 1;
        let other = self.bits | 1 << self.length;
        let half = |bits| Self { bits, length };
        (half(self.bits), half(other))
    }
}

/// 128 bits, so that two units never share a row; a fixed key, so that all scans agree.
fn hash(unit: &str) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, unit).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

impl Arm {
    /// Adds a value; says whether the metric is new here.
    fn add(&mut self, metric: u16, value: f64) -> bool {
        match self.cells.iter_mut().find(|cell| cell.metric == metric) {
            Some(cell) => {
                cell.count += 1;
                cell.sum += value;
                false
            }
            None => {
                self.cells.push(Cell {
                    metric,
                    count: 1,
                    sum: value,
                });
                true
            }
        }
    }
}

impl VariantUnits {
    fn add(&mut self, arm: &Arm) {
        self.unit_count += 1;
        self.entry_count += arm.entry_count;
        for cell in &arm.cells {
            if let Some(Some(clusters)) = self.metrics.get_mut(usize::from(cell.metric)) {
                clusters.add(cell.count, cell.sum);
            }
        }
    }

    /// The units that have values of the metric at this place in the summary.
    pub fn clusters(&self, place: usize) -> Option<&Clusters> {
        self.metrics.get(place)?.as_deref()
    }
}

impl Units {
    /// The units of the variant with this key.
    pub fn variant(&self, key: &str) -> Option<&VariantUnits> {
        self.variants.iter().find(|variant| &*variant.key == key)
    }
}

impl Clusters {
    /// Adds a unit by the number and the sum of its values.
    pub fn add(&mut self, value_count: u64, sum: f64) {
        let count = value_count as f64;
        self.unit_count += 1;
        self.value_count += value_count;
        self.sum.add(sum);
        self.counts_squared.add_product(count, count);
        self.sums_squared.add_product(sum, sum);
        self.sums_by_counts.add_product(sum, count);
    }

    /// The mean over values, and its variance over units, each rounded once. `None` below two
    /// units.
    pub fn estimate(&self) -> Option<Estimate> {
        let (n, s) = (Ratio::from(self.value_count), Ratio::from(&self.sum));
        let k = Ratio::from(self.unit_count);
        let less = Ratio::from(self.unit_count.checked_sub(1)?);
        let (nn, ss) = (
            Ratio::from(&self.counts_squared),
            Ratio::from(&self.sums_squared),
        );
        let sn = Ratio::from(&self.sums_by_counts);
        // Σ(n S − s N)², which is n² Σ(S − R N)².
        let squares = &(&n * &n) * &ss;
        let crossed = &(&(&n * &s) * &sn) * &Ratio::from(2);
        let counts = &(&s * &s) * &nn;
        let residuals = &(&squares - &crossed) + &counts;
        let fourth = &(&n * &n) * &(&n * &n);
        let variance = (&residuals * &k).over(&(&fourth * &less))?;
        Some(Estimate {
            mean: s.over(&n)?.to_f64(),
            variance: variance.to_f64(),
            count: self.unit_count,
        })
    }
}
