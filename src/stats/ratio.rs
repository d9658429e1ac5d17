//! Fractions of whole numbers of any size, rounded to a double once, at the end of a formula.

use num_bigint::{BigInt, BigUint, Sign};

/// A fraction of whole numbers, for formulas that are rounded once at their end.
#[derive(Debug, Clone)]
pub struct Ratio {
    numerator: BigInt,
    denominator: BigUint,
}

impl From<u64> for Ratio {
    fn from(count: u64) -> Self {
        Self {
            numerator: count.into(),
            denominator: 1_u8.into(),
        }
    }
}

impl std::ops::Mul for &Ratio {
    type Output = Ratio;
    fn mul(self, other: Self) -> Ratio {
        Ratio {
            numerator: &self.numerator * &other.numerator,
            denominator: &self.denominator * &other.denominator,
        }
    }
}

impl std::ops::Sub for &Ratio {
    type Output = Ratio;
    fn sub(self, other: Self) -> Ratio {
        let left = &self.numerator * BigInt::from(other.denominator.clone());
        let right = &other.numerator * BigInt::from(self.denominator.clone());
        Ratio {
            numerator: left - right,
            denominator: &self.denominator * &other.denominator,
        }
    }
}

impl std::ops::Add for &Ratio {
    type Output = Ratio;
    fn add(self, other: Self) -> Ratio {
        let negative = Ratio {
            numerator: -other.numerator.clone(),
            denominator: other.denominator.clone(),
        };
        self - &negative
    }
}

impl Ratio {
    /// `numerator / 2^power`.
    pub fn over_power_of_two(numerator: BigInt, power: u64) -> Self {
        Self {
            numerator,
            denominator: BigUint::from(1_u8) << power,
        }
    }

    /// The quotient; `None` for a divisor of zero.
    pub fn over(&self, divisor: &Self) -> Option<Self> {
        let (sign, magnitude) = divisor.numerator.clone().into_parts();
        if sign == Sign::NoSign {
            return None;
        }
        let numerator = &self.numerator * BigInt::from(divisor.denominator.clone());
        Some(Self {
            numerator: if sign == Sign::Minus {
                -numerator
            } else {
                numerator
            },
            denominator: &self.denominator * magnitude,
        })
    }

    /// The nearest double (ties to even); infinite beyond the largest one.
    pub fn to_f64(&self) -> f64 {
        let magnitude = self.numerator.magnitude();
        if self.numerator.sign() == Sign::NoSign {
            return 0.0;
        }
        // Scaled so that the quotient has 65 or 66 bits, fewer where the result has fewer.
        let scale = magnitude.bits() as i64 - self.denominator.bits() as i64 - 65;
        let scale = scale.max(-1080);
        let quotient = if scale < 0 {
            (magnitude << -scale, self.denominator.clone())
        } else {
            (magnitude.clone(), &self.denominator << scale)
        };
        let whole = &quotient.0 / &quotient.1;
        let is_inexact = &whole * &quotient.1 != quotient.0;
        let rounded = round(&whole, is_inexact, scale);
        match self.numerator.sign() {
            Sign::Minus => -rounded,
            _ => rounded,
        }
    }
}

/// `whole * 2^scale`, and a little more if it is inexact, as the nearest double.
fn round(whole: &BigUint, is_inexact: bool, scale: i64) -> f64 {
    // Bits that the double has no room for: 53 it has, none of them below 2^-1074.
    let drop = (whole.bits() as i64 - 53).max(-1074 - scale).max(0);
    let kept = whole >> drop;
    let rest = whole - (&kept << drop);
    let half = (BigUint::from(1_u8) << drop) >> 1_u8;
    let mut mantissa = u64::try_from(&kept).unwrap_or(u64::MAX);
    let is_up = drop > 0 && (rest > half || rest == half && (is_inexact || mantissa & 1 == 1));
    mantissa += u64::from(is_up);
    // The mantissa has at most 54 bits, so all of this but an overflow is exact.
    let mut value = mantissa as f64;
    let mut exponent = scale + drop;
    while exponent > 0 && value.is_finite() {
        let step = exponent.min(1023);
        value *= 2_f64.powi(step as i32);
        exponent -= step;
    }
    while exponent < 0 && value != 0.0 {
        let step = (-exponent).min(1000);
        value *= 2_f64.powi(-step as i32);
        exponent += step;
    }
    value
}
