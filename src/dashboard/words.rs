//! Figures as people read them.

use crate::entry_json::rfc3339_ms;
use crate::stats::significance::Interval;

pub use crate::stats::report::{figure, percent};

/// A whole number, with a comma between thousands.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number and a noun, which is in the plural unless there is one.
pub fn of(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A size.
pub fn bytes(bytes: u64) -> String {
    let mut size = bytes as f64;
    let mut unit = "bytes";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    match unit {
        "bytes" => of(bytes, "byte", "bytes"),
        unit if size < 10.0 => format!("{size:.1} {unit}"),
        unit => format!("{size:.0} {unit}"),
    }
}

/// How long ago something was.
pub fn ago(at_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(at_ms) / 1000;
    match seconds {
        0..2 => "just now".into(),
        2..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// A time in UTC, to the second.
pub fn time(ms: u64) -> String {
    let text = rfc3339_ms(ms);
    let text = text.split('.').next().unwrap_or_default();
    text.replace('T', " ")
}

/// How many in a time that is told, such as `12.5`.
pub fn rate(rate: f64) -> String {
    match rate {
        0.0 => "0".into(),
        small if small < 10.0 => format!("{small:.1}"),
        large => count(large.round() as u64),
    }
}

/// From and to.
pub fn interval(interval: Interval) -> String {
    format!("{} to {}", figure(interval.0), figure(interval.1))
}

/// A number with its sign.
pub fn signed(value: f64) -> String {
    match value > 0.0 {
        true => format!("+{}", figure(value)),
        false => figure(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_read_well() {
        assert_eq!([count(0), count(999), count(1000)], ["0", "999", "1,000"]);
        assert_eq!(count(12_345_678), "12,345,678");
        let sizes = [bytes(1), bytes(1023), bytes(1536), bytes(700 << 20)];
        assert_eq!(sizes, ["1 byte", "1,023 bytes", "1.5 KiB", "700 MiB"]);
        assert_eq!(ago(1000, 61_000), "1 min ago");
        assert_eq!(ago(2000, 1000), "just now");
        assert_eq!(time(1_764_000_000_007), "2025-11-24 16:00:00");
        assert_eq!([rate(0.0), rate(0.25), rate(1234.4)], ["0", "0.2", "1,234"]);
    }
}
