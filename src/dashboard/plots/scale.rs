//! From values to places.

/// The values that a drawing shows, from left to right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
}

/// Steps between ticks, within a power of ten.
const STEPS: [f64; 4] = [1.0, 2.0, 5.0, 10.0];
const TICKS_MAX: f64 = 5.0;
/// Far from where doubles lose their digits.
const ROOM_MIN: f64 = 1e-300;

impl Scale {
    /// A scale on which all of these values are, with some room to both sides.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let finite = values.into_iter().filter(|value| value.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        if low > high {
            return Self {
                low: 0.0,
                high: 1.0,
            };
        }
        // Wide enough to be told apart, also where all values are the same.
        let room = match high - low {
            0.0 if low == 0.0 => 1.0,
            0.0 => low.abs() * 0.1,
            len => (len * 0.04).max(low.abs().max(high.abs()) * 1e-9),
        };
        let room = room.max(ROOM_MIN);
        let (low, high) = (low - room, high + room);
        match low.is_finite() && high.is_finite() && (high - low).is_finite() {
            true => Self { low, high },
            false => Self {
                low: f64::MIN / 4.0,
                high: f64::MAX / 4.0,
            },
        }
    }

    /// A scale from one value to another.
    pub fn between(low: f64, high: f64) -> Self {
        match high > low && (high - low).is_finite() {
            true => Self { low, high },
            false => Self::of([low]),
        }
    }

    /// Where it begins.
    pub fn low(&self) -> f64 {
        self.low
    }

    /// Where it ends.
    pub fn high(&self) -> f64 {
        self.high
    }

    /// Where a value is: 0 at the left, 1 at the right. What is beyond is at the end.
    pub fn part(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// The same, as SVG takes it.
    pub fn percent(&self, value: f64) -> String {
        format!("{:.2}%", self.part(value) * 100.0)
    }

    /// Round values, rising.
    pub fn ticks(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / TICKS_MAX;
        let power = 10_f64.powf(rough.log10().floor());
        let steps = STEPS.iter().map(|step| step * power);
        let step = steps
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        let first = (self.low / step).ceil();
        let ticks = (0..=TICKS_MAX as u32 + 1).map(|n| (first + f64::from(n)) * step);
        ticks.take_while(|tick| *tick <= self.high).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_places_and_ticks_are_round() {
        let scale = Scale::between(0.0, 10.0);
        assert_eq!(
            [scale.percent(2.5), scale.percent(99.0)],
            ["25.00%", "100.00%"]
        );
        assert_eq!(scale.ticks(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(Scale::between(-0.3, 0.3).ticks().len(), 3);
        assert!(Scale::between(-0.3, 0.3).ticks().contains(&0.0));
    }

    #[test]
    fn whatever_the_values_are_there_is_a_scale() {
        let odd = [
            f64::NAN,
            f64::INFINITY,
            f64::MAX,
            f64::MIN,
            0.0,
            -0.0,
            5e-324,
        ];
        for first in odd {
            for second in odd {
                let scale = Scale::of([first, second]);
                assert!(scale.high > scale.low, "{first} {second} {scale:?}");
                for value in odd {
                    assert!(scale.part(value) >= 0.0 || value.is_nan());
                }
                assert!(scale.ticks().len() <= 8);
            }
        }
        assert_eq!(Scale::of([]), Scale::between(0.0, 1.0));
    }
}
