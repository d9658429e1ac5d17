//! A summary as bytes: pinned, whole, and safe to read whatever they are.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// One that keeps so many names.
fn keeping(metrics: usize) -> Summary {
    Summary::new(Limits {
        metrics,
        ..Limits::default()
    })
}

fn encoded(summary: &Summary) -> Vec<u8> {
    let mut bytes = Vec::new();
    summary.encode(&mut bytes);
    bytes
}

/// Two variants, three metrics that are kept and two that are not.
fn example() -> Summary {
    let mut summary = keeping(3);
    let bodies = [
        r#"{"metrics":{"ms":12.5,"ok":true,"who":"x","late":1,"later":[]}}"#,
        r#"{"metrics":{"ms":-1e300,"ok":false,"who":null}}"#,
        r#"{"metrics":{"ms":1e-300,"ok":1e999}}"#,
        "{}",
    ];
    for (at, body) in (0_u64..).zip(bodies) {
        let key = if at == 1 { "B" } else { "A" };
        summary.apply(key, 1_764_000_000_000 + at, body.as_bytes());
    }
    summary
}

#[test]
fn bytes_are_pinned() {
    let mut summary = keeping(1);
    let body = br#"{"metrics":{"ms":1.5,"x":0}}"#;
    summary.apply("A", 300, body);
    let mut expected = vec![1];
    expected.extend(b"\x01\x00\x02ms"); // One metric.
    expected.extend(b"\x01\x01"); // One value of one other name.
    expected.extend(0xaf63_f54c_8602_1707_u64.to_le_bytes());
    expected.extend(b"\x01\x01A\x01\xac\x02\xac\x02\x01"); // One variant, one series.
    expected.extend(b"\x02\x01"); // Numbers: one.
    expected.extend(1.5_f64.to_le_bytes());
    expected.extend(1.5_f64.to_le_bytes());
    expected.extend(b"\x04\x43\0\0\0\x80\x01\0\0\0"); // 1.5 = 2^-1 + 1, from the place 67.
    expected.extend(b"\x04\x43\0\0\0\x40\x02\0\0\0"); // 2.25.
    expected.extend(b"\x00\x01\xc0\xff\x07\x01\x00"); // 1.5 begins bucket 0x1ffc0.
    assert_eq!(encoded(&summary), expected);
    assert_eq!(Summary::decode(&expected), Ok(summary));
}

#[test]
fn missing_left_over_and_later_bytes_are_refused() {
    let mut bytes = encoded(&example());
    assert_eq!(Summary::decode(&bytes), Ok(example()));
    for length in 0..bytes.len() {
        assert!(Summary::decode(&bytes[..length]).is_err(), "{length}");
    }
    bytes.push(0);
    assert!(Summary::decode(&bytes).is_err());
    bytes[0] = 2;
    assert_eq!(Summary::decode(&bytes), Err(DecodeError::Version(2)));
}

/// What decodes is one of ours: it comes out as the same bytes, and every figure of it can be
/// asked for, alone and merged.
fn assert_sound(bytes: &[u8]) {
    let Ok(summary) = Summary::decode(bytes) else {
        return;
    };
    assert_eq!(encoded(&summary), bytes);
    let mut twice = summary.clone();
    twice.merge(&summary);
    twice.apply("A", 7, br#"{"metrics":{"ms":1,"new":2}}"#);
    for variant in twice.variants() {
        for series in (0..).map_while(|place| variant.series(place)) {
            let _figures = (series.sum(), series.variance(), series.quantile(0.5));
        }
    }
}

#[test]
fn any_flipped_bit_is_refused_or_is_another_summary() {
    let good = encoded(&example());
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_sound(&bad);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_taken_without_a_panic(
        mut bytes in vec(any::<u8>(), 0..300),
        from in any::<prop::sample::Index>(),
    ) {
        // Alone, and as a change of something good.
        let mut changed = encoded(&example());
        let from = from.index(changed.len());
        for (good, bad) in changed[from..].iter_mut().zip(&bytes).take(4) {
            *good = *bad;
        }
        assert_sound(&changed);
        if let Some(version) = bytes.first_mut() {
            *version = VERSION;
        }
        assert_sound(&bytes);
    }

    #[test]
    fn any_summary_comes_back(
        entries in vec((0_u8..4, vec((0_u8..9, any::<f64>()), 0..6)), 0..30),
    ) {
        let mut summary = keeping(6);
        for (variant, values) in entries {
            let members: Vec<_> = values
                .iter()
                .map(|(name, value)| match value.is_finite() {
                    true => format!("\"{name}\":{value:e}"),
                    false => format!("\"{name}\":null"),
                })
                .collect();
            let body = format!("{{\"metrics\":{{{}}}}}", members.join(","));
            summary.apply(&variant.to_string(), u64::from(variant), body.as_bytes());
        }
        prop_assert_eq!(Summary::decode(&encoded(&summary)), Ok(summary));
    }
}
