//! Sizes and times as people write them: `64MiB`, `90d`, `30s`. A plain number stays what it was.

use std::ops::RangeInclusive;
use std::time::Duration;

const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

const TIMES_MS: [(&str, u64); 6] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
];

/// A parser of sizes in this range; a plain number is in bytes.
pub fn size(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> + Clone {
    move |text| {
        let bytes = parse(text, &SIZES, 1)?;
        if range.contains(&bytes) {
            return Ok(bytes);
        }
        let (low, high) = (range.start(), range.end());
        match *high {
            u64::MAX => Err(format!("must be at least {low} bytes")),
            _ => Err(format!("must be {low} to {high} bytes")),
        }
    }
}

/// A parser of times from `min` to `max`; a plain number is in seconds.
pub fn seconds(min: Duration, max: Duration) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| time(text, 1000, min, max)
}

/// As [`seconds`], but a plain number is in milliseconds.
pub fn millis(min: Duration, max: Duration) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| time(text, 1, min, max)
}

fn time(text: &str, plain_ms: u64, min: Duration, max: Duration) -> Result<Duration, String> {
    let time = Duration::from_millis(parse(text, &TIMES_MS, plain_ms)?);
    match (min..=max).contains(&time) {
        true => Ok(time),
        false => Err(format!("must be {min:?} to {max:?}")),
    }
}

fn parse(text: &str, units: &[(&str, u64)], plain: u64) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (digits, unit) = text.split_at(end.unwrap_or(text.len()));
    let names = || {
        let names: Vec<_> = units.iter().map(|(name, _)| *name).collect();
        format!(
            "must be a whole number, or one with a unit: {}",
            names.join(", ")
        )
    };
    let number: u64 = digits.parse().map_err(|_| names())?;
    let factor = match unit.trim_start() {
        "" => Some(plain),
        unit => {
            let found = units.iter().find(|(name, _)| *name == unit);
            found.map(|(_, factor)| *factor)
        }
    };
    let whole = number.checked_mul(factor.ok_or_else(names)?);
    whole.ok_or_else(|| "is too large".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_and_without_a_unit() {
        let parse = size(4..=1 << 40);
        for (text, expected) in [
            ("4", Some(4)),
            ("64MiB", Some(64 << 20)),
            ("64 MiB", Some(64 << 20)),
            ("3kB", Some(3000)),
            ("1TiB", Some(1 << 40)),
            ("3", None),
            ("2TiB", None),
            ("64M", None),
            ("MiB", None),
            ("1.5MiB", None),
            ("-1", None),
            ("", None),
            ("99999999999999999999", None),
            ("99999999999999TiB", None),
        ] {
            assert_eq!(parse(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn times_with_and_without_a_unit() {
        let parse = seconds(Duration::from_millis(100), Duration::from_secs(31_536_000));
        for (text, expected_ms) in [
            ("60", Some(60_000)),
            ("100ms", Some(100)),
            ("30s", Some(30_000)),
            ("90d", Some(7_776_000_000)),
            ("2w", Some(1_209_600_000)),
            ("0", None),
            ("99ms", None),
            ("366d", None),
            ("1y", None),
            ("s", None),
        ] {
            let expected = expected_ms.map(Duration::from_millis);
            assert_eq!(parse(text).ok(), expected, "{text:?}");
        }
        let parse = millis(Duration::ZERO, Duration::from_secs(60));
        assert_eq!(parse("250"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("2s"), Ok(Duration::from_secs(2)));
    }
}
