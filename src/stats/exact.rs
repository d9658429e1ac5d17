//! Sums of doubles and of products of doubles, without any rounding.
//!
//! Floating-point addition isn't associative: what a sum rounds to depends on how a log was split
//! into segments, and in which order they were merged. Here every bit is kept (a superaccumulator,
//! after Neal, "Fast exact summation using small and large superaccumulators", 2015), so any split
//! and any order give the same sum; it is rounded once, when it is read. For the price of about
//! 20 ns a value this makes `/stats`, a report from copied segments and one from rebuilt footers
//! equal to the last digit, and a variance free of cancellation.

use num_bigint::{BigInt, BigUint, Sign};

use super::ratio::Ratio;

/// A sum counts in units of 2^-2176: below the product of the two smallest doubles, 2^-2148.
const UNIT_BITS: i64 = 2176;
const DIGIT_BITS: u32 = 32;
const DIGIT_MASK: u64 = (1 << DIGIT_BITS) - 1;
/// The digit behind which no addend reaches: the largest product is below 2^2048.
const ADDEND_END: usize = (UNIT_BITS as usize + 2048) / DIGIT_BITS as usize + 1;
/// A decoded sum may have carries of 2^64 addends on top.
const DIGITS_MAX: usize = ADDEND_END + 3;
/// An addend changes a digit by less than 2^33, so this many can't overflow 63 bits.
const ADDENDS_BEFORE_CARRY: u32 = 1 << 28;

/// A sum of doubles or of products of two doubles, exact.
///
/// Only the digits between the smallest and the largest addend take memory: some 40 bytes for
/// everyday values, 1.1 KB at most.
#[derive(Debug, Clone, Default)]
pub struct ExactSum {
    /// Base 2^32, least significant first. Carries are put off: each digit has 31 spare bits, and
    /// a sign.
    digits: Vec<i64>,
    /// The place of `digits[0]`.
    start: usize,
    addends_since_carry: u32,
}

impl ExactSum {
    /// Adds a finite value; one that isn't finite changes nothing.
    pub fn add(&mut self, value: f64) {
        self.add_product(value, 1.0);
    }

    /// Adds `a * b` without rounding the product; nothing if one of them isn't finite.
    pub fn add_product(&mut self, a: f64, b: f64) {
        if !a.is_finite() || !b.is_finite() {
            return;
        }
        let ((a_mantissa, a_exponent), (b_mantissa, b_exponent)) = (split(a), split(b));
        let mut mantissa = u128::from(a_mantissa) * u128::from(b_mantissa);
        if mantissa == 0 {
            return;
        }
        let zeros = mantissa.trailing_zeros();
        mantissa >>= zeros;
        let place = UNIT_BITS + a_exponent + b_exponent + i64::from(zeros);
        let place = place as u32; // From 28 up to 4,223.
        let sign = if a.is_sign_negative() == b.is_sign_negative() {
            1
        } else {
            -1
        };
        self.add_shifted(mantissa, place, sign);
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        other.carry();
        self.carry();
        let end = other.start + other.digits.len();
        if let Some(digits) = self.window(other.start, end) {
            for (digit, more) in digits.iter_mut().zip(&other.digits) {
                *digit += more;
            }
        }
        self.addends_since_carry += 1;
    }

    /// Bytes beside its own.
    pub(super) fn heap_bytes(&self) -> usize {
        self.digits.capacity() * size_of::<i64>()
    }

    /// The sum, rounded once to the nearest double; infinite when it is larger than any.
    pub fn to_f64(&self) -> f64 {
        Ratio::from(self).to_f64()
    }

    /// The sum in units of 2^-2176.
    fn to_units(&self) -> BigInt {
        let mut carried = self.clone();
        carried.carry();
        // After a carry all digits but the last are plain 32-bit ones; the last one has the sign.
        let Some((top, digits)) = carried.digits.split_last() else {
            return BigInt::ZERO;
        };
        let plain = digits.iter().map(|digit| *digit as u32).collect();
        let top = BigInt::from(*top) << (digits.len() * DIGIT_BITS as usize);
        (top + BigInt::from(BigUint::new(plain))) << (carried.start * DIGIT_BITS as usize)
    }

    fn add_shifted(&mut self, mut mantissa: u128, place: u32, sign: i64) {
        if self.addends_since_carry >= ADDENDS_BEFORE_CARRY {
            self.carry();
        }
        self.addends_since_carry += 1;
        let first = (place / DIGIT_BITS) as usize;
        let shift = place % DIGIT_BITS;
        let bits = 128 - mantissa.leading_zeros() + shift;
        let end = first + bits.div_ceil(DIGIT_BITS) as usize;
        let Some(digits) = self.window(first, end) else {
            return;
        };
        // The first digit takes fewer bits of the mantissa when it begins within the digit.
        let mut take = DIGIT_BITS - shift;
        let mut shift = shift;
        for digit in digits {
            let part = (mantissa as u64 & (DIGIT_MASK >> (DIGIT_BITS - take))) << shift;
            *digit += sign * part as i64;
            mantissa >>= take;
            (take, shift) = (DIGIT_BITS, 0);
        }
    }

    /// The digits in `first..end`, made if they aren't there.
    fn window(&mut self, first: usize, end: usize) -> Option<&mut [i64]> {
        if self.digits.is_empty() {
            self.start = first;
        }
        if first < self.start {
            let missing = self.start - first;
            self.digits.splice(0..0, std::iter::repeat_n(0, missing));
            self.start = first;
        }
        if end > self.start + self.digits.len() {
            self.digits.resize(end - self.start, 0);
        }
        self.digits.get_mut(first - self.start..end - self.start)
    }

    /// Brings all digits but the last into 0 to 2^32 - 1.
    fn carry(&mut self) {
        self.addends_since_carry = 0;
        let mut carry = 0;
        let last = self.digits.len().saturating_sub(1);
        for (at, digit) in self.digits.iter_mut().enumerate() {
            *digit += carry;
            if at < last {
                carry = *digit >> DIGIT_BITS;
                *digit &= DIGIT_MASK as i64;
            }
        }
        // The last one keeps its carry and the sign, until it grows too large for that.
        if let Some(top) = self.digits.last_mut() {
            let over = *top >> DIGIT_BITS;
            if over != 0 && over != -1 {
                *top &= DIGIT_MASK as i64;
                self.digits.push(over);
            }
        }
    }
}

impl PartialEq for ExactSum {
    /// Whether the sums are equal, however they came about.
    fn eq(&self, other: &Self) -> bool {
        self.to_units() == other.to_units()
    }
}

/// The mantissa and the exponent of a finite double's magnitude.
fn split(value: f64) -> (u64, i64) {
    let bits = value.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i64;
    let fraction = bits & ((1 << 52) - 1);
    if exponent == 0 {
        (fraction, -1074)
    } else {
        (fraction | 1 << 52, exponent - 1075)
    }
}

/// A sum as it is kept on disk: a whole number of units of 2^(32 place), least significant first,
/// with no zeros at either end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumParts {
    /// Whether the sum is below zero.
    pub is_negative: bool,
    /// The place of the first digit.
    pub place: u8,
    /// The magnitude's digits.
    pub digits: Vec<u32>,
}

impl SumParts {
    /// How many digits a sum can have at most.
    pub const DIGITS_MAX: usize = DIGITS_MAX;
}

impl From<&ExactSum> for SumParts {
    fn from(sum: &ExactSum) -> Self {
        let (sign, units) = sum.to_units().into_parts();
        let digits = units.to_u32_digits();
        let place = digits.iter().take_while(|digit| **digit == 0).count();
        Self {
            is_negative: sign == Sign::Minus,
            place: place as u8, // At most DIGITS_MAX.
            digits: digits.into_iter().skip(place).collect(),
        }
    }
}

impl TryFrom<SumParts> for ExactSum {
    type Error = ();

    /// The sum of these parts, unless no sum has them.
    fn try_from(parts: SumParts) -> Result<Self, ()> {
        let start = usize::from(parts.place);
        let is_canonical = parts.digits.first() != Some(&0) && parts.digits.last() != Some(&0);
        let is_zero = parts.digits.is_empty();
        if !is_canonical
            || start + parts.digits.len() > DIGITS_MAX
            || is_zero && (parts.is_negative || start != 0)
        {
            return Err(());
        }
        let sign = if parts.is_negative { -1 } else { 1 };
        let digits = parts.digits.iter().map(|digit| i64::from(*digit) * sign);
        Ok(Self {
            digits: digits.collect(),
            start,
            addends_since_carry: 1,
        })
    }
}

impl From<&ExactSum> for Ratio {
    fn from(sum: &ExactSum) -> Self {
        let units = sum.to_units();
        // Small numbers make quick formulas, so powers of two that both sides have go.
        let common = units.trailing_zeros().unwrap_or(0).min(UNIT_BITS as u64);
        Self::over_power_of_two(units >> common, UNIT_BITS as u64 - common)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn sum(values: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        values.iter().for_each(|value| sum.add(*value));
        sum
    }

    fn any_finite() -> impl Strategy<Value = f64> {
        any::<u64>()
            .prop_map(f64::from_bits)
            .prop_filter("finite", |value| value.is_finite())
    }

    #[test]
    fn what_plain_addition_loses_is_kept() {
        assert_eq!(sum(&[1e308, 1.0, -1e308]).to_f64(), 1.0);
        assert_eq!(sum(&[f64::MAX, 5e-324, -f64::MAX]).to_f64(), 5e-324);
        assert_eq!(sum(&[f64::MAX, f64::MAX]).to_f64(), f64::INFINITY);
        assert_eq!(sum(&[-f64::MAX, -f64::MAX]).to_f64(), f64::NEG_INFINITY);
        assert_eq!(sum(&[f64::MAX, f64::MAX, -f64::MAX]).to_f64(), f64::MAX);
        assert_eq!(sum(&[0.1; 10]).to_f64(), 1.0);
        assert_eq!(sum(&[]).to_f64(), 0.0);
        assert_eq!(sum(&[f64::NAN, f64::INFINITY, 2.0]).to_f64(), 2.0);
    }

    #[test]
    fn ties_go_to_even_and_subnormals_round_once() {
        let one_and_half_ulp = [1.0, f64::EPSILON / 2.0];
        assert_eq!(sum(&one_and_half_ulp).to_f64(), 1.0);
        let above = [1.0, f64::EPSILON / 2.0, 5e-324];
        assert_eq!(sum(&above).to_f64(), 1.0 + f64::EPSILON);
        let tie_to_even_upwards = [1.0 + f64::EPSILON, f64::EPSILON / 2.0];
        assert_eq!(sum(&tie_to_even_upwards).to_f64(), 1.0 + 2.0 * f64::EPSILON);
        let mut square = ExactSum::default();
        square.add_product(5e-324, 0.5);
        assert_eq!(square.to_f64(), 0.0, "half the smallest double is a tie");
        square.add_product(5e-324, 5e-324);
        assert_eq!(square.to_f64(), 5e-324, "and a little more is not");
    }

    #[test]
    fn carries_are_taken_before_they_overflow() {
        let mut sum = sum(&[-1.5]);
        let mut expected = BigInt::from(-3) << (UNIT_BITS - 1);
        for _ in 0..80 {
            let twice = sum.clone();
            sum.merge(&twice);
            expected *= 2;
        }
        assert_eq!(sum.to_units(), expected);
        sum.addends_since_carry = ADDENDS_BEFORE_CARRY;
        sum.add(f64::MAX);
        assert_eq!(sum.addends_since_carry, 1);
        assert_eq!(sum.to_f64(), f64::MAX);
    }

    proptest! {
        #[test]
        fn any_split_and_any_order_give_the_same_bits(
            values in vec(any_finite(), 0..40).prop_shuffle(),
            cut in 0_usize..40,
        ) {
            let whole = sum(&values);
            let (left, right) = values.split_at(cut.min(values.len()));
            let mut merged = sum(right);
            merged.merge(&sum(left));
            prop_assert_eq!(&merged, &whole);
            prop_assert_eq!(merged.to_f64().to_bits(), whole.to_f64().to_bits());
            prop_assert_eq!(SumParts::from(&merged), SumParts::from(&whole));
            let mut sorted = values;
            sorted.sort_by(f64::total_cmp);
            prop_assert_eq!(sum(&sorted).to_f64().to_bits(), whole.to_f64().to_bits());
        }

        #[test]
        fn the_sum_is_that_of_whole_numbers(values in vec(any_finite(), 0..20)) {
            let mut expected = BigInt::ZERO;
            for value in &values {
                let (mantissa, exponent) = split(*value);
                let units = BigInt::from(mantissa) << (exponent + UNIT_BITS);
                expected += if *value < 0.0 { -units } else { units };
            }
            prop_assert_eq!(sum(&values).to_units(), expected);
        }

        #[test]
        fn one_product_and_one_quotient_round_as_the_processor_does(
            a in any_finite(),
            b in any_finite(),
        ) {
            let mut product = ExactSum::default();
            product.add_product(a, b);
            prop_assert_eq!(product.to_f64(), a * b);
            prop_assert_eq!(sum(&[a, b]).to_f64(), a + b);
            if let Some(quotient) = Ratio::from(&sum(&[a])).over(&Ratio::from(&sum(&[b]))) {
                prop_assert_eq!(quotient.to_f64(), a / b);
            }
        }

        #[test]
        fn parts_make_the_sum_again(values in vec(any_finite(), 0..9)) {
            let sum = sum(&values);
            prop_assert_eq!(ExactSum::try_from(SumParts::from(&sum)), Ok(sum));
        }
    }

    #[test]
    fn parts_of_no_sum_are_refused() {
        let parts = |is_negative, place, digits: &[u32]| SumParts {
            is_negative,
            place,
            digits: digits.into(),
        };
        assert!(ExactSum::try_from(parts(false, 0, &[])).is_ok());
        assert!(ExactSum::try_from(parts(true, 0, &[])).is_err());
        assert!(ExactSum::try_from(parts(false, 3, &[])).is_err());
        assert!(ExactSum::try_from(parts(false, 0, &[0, 1])).is_err());
        assert!(ExactSum::try_from(parts(false, 0, &[1, 0])).is_err());
        assert!(ExactSum::try_from(parts(true, 255, &[1])).is_err());
    }
}
