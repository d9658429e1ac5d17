//! Planted cases, logged into a real server: what its report must see, and what it must not; and that
//! files say the same.

use serde_json::Value;

use crate::report::{post, printed};
use crate::server::{Server, arg};

/// The report on an experiment, from the server; `query` begins with a question mark.
fn report(server: &Server, slug: &str, query: &str) -> Value {
    let answer = server.ask("GET", &format!("/experiment/{slug}/report{query}"), "");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn define(server: &Server, slug: &str, definition: &str) {
    let answer = server.ask("PUT", &format!("/experiment/{slug}"), definition);
    assert_eq!(answer.status, 201, "{answer:?}");
}

fn warns(report: &Value, words: &str) -> bool {
    let warnings = report["warnings"].as_array().unwrap();
    warnings
        .iter()
        .any(|one| one.as_str().unwrap().contains(words))
}

#[test]
fn a_split_that_is_not_as_planned_is_flagged_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &["--segment-bytes", "300000"]);
    let weights = |a: f64, b: f64| {
        format!(r#"{{"variants":[{{"key":"A","weight":{a}}},{{"key":"B","weight":{b}}}]}}"#)
    };
    let cases = [
        ("off", (0.5, 0.5), (5200, 4800), true),
        ("even", (0.5, 0.5), (5000, 5000), false),
        ("planned", (0.9, 0.1), (9000, 1000), false),
        ("small", (0.5, 0.5), (52, 48), false),
    ];
    for (slug, (a, b), (a_count, b_count), is_flagged) in cases {
        define(&server, slug, &weights(a, b));
        let line = |n: usize| {
            let key = if n < a_count { "A" } else { "B" };
            format!(
                r#"{{"variantKey":"{key}","metrics":{{"score":{}}}}}"#,
                n % 7
            )
        };
        post(
            &server,
            slug,
            &(0..a_count + b_count).map(line).collect::<Vec<_>>(),
        );
        let found = report(&server, slug, "");
        let p_value = found["sampleRatio"]["pValue"].as_f64().unwrap();
        assert_eq!(found["sampleRatio"]["isMismatch"], is_flagged, "{slug}");
        assert_eq!(p_value < 0.0005, is_flagged, "{slug}: {p_value}");
        assert_eq!(warns(&found, "Sample ratio mismatch"), is_flagged, "{slug}");
    }
    let online: Vec<_> = cases.map(|(slug, ..)| report(&server, slug, "")).into();
    server.kill();
    for ((slug, ..), online) in cases.into_iter().zip(online) {
        let offline = printed(&[arg(&store), "--experiment", slug, "--format", "json"]);
        assert!(
            serde_json::from_str::<Value>(&offline).unwrap() == online,
            "{slug}"
        );
    }
}

/// 30 units a variant, ten entries each. The units' levels are spread evenly, each entry is one above or
/// below its unit's: nine tenths of the variance is the units'. B is one higher.
#[test]
fn entries_of_one_unit_are_not_taken_for_as_many_independent_ones() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &["--segment-bytes", "20000"]);
    define(&server, "repeated", r#"{"variants":["A","B"]}"#);
    let line = |n: usize| {
        let (unit, round) = (n % 60, n / 60);
        let (key, shift) = if unit < 30 { ("A", 0.0) } else { ("B", 1.0) };
        let level = -5.0 + 10.0 * (unit % 30) as f64 / 29.0;
        let score = level + shift + if round % 2 == 0 { 1.0 } else { -1.0 };
        format!(
            r#"{{"variantKey":"{key}","metrics":{{"score":{score}}},"context":{{"session":"s{unit}"}}}}"#
        )
    };
    post(&server, "repeated", &(0..600).map(line).collect::<Vec<_>>());
    let compared = |query: &str| {
        let found = report(&server, "repeated", query);
        let comparison = found["comparisons"][0].clone();
        let end = |n: usize| comparison["interval"][n].as_f64().unwrap();
        (
            end(0),
            end(1),
            comparison["verdict"].as_str().unwrap().to_owned(),
        )
    };
    let (low, high, verdict) = compared("");
    assert!(
        low > 0.0 && verdict != "not-sure",
        "{low} to {high}: {verdict}"
    );
    let (unit_low, unit_high, verdict) = compared("?unit=context.session");
    assert!(
        unit_low < 0.0 && unit_high > 1.0,
        "{unit_low} to {unit_high}"
    );
    assert_eq!(verdict, "not-sure");
    // The square root of 1 + 9 × 0.9 is 3.02; with t for 58 degrees of freedom, not 598, 3.08, and with
    // 30 − 1 where that had 30, 3.14.
    let ratio = (unit_high - unit_low) / (high - low);
    assert!((3.0..3.2).contains(&ratio), "{ratio}");
}

#[test]
fn units_in_two_variants_and_entries_without_one_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &["--segment-bytes", "20000"]);
    let definition = r#"{"variants":["A","B"],"unit":"context.session"}"#;
    define(&server, "crossing", definition);
    // Every unit has its variant; 17 of them are seen once in the other one, much later.
    let line = |key: &str, unit: usize| {
        format!(
            r#"{{"variantKey":"{key}","metrics":{{"score":{unit}}},"context":{{"session":"s{unit}"}}}}"#
        )
    };
    let own = |unit: usize| ["A", "B"][unit % 2];
    let mut lines: Vec<_> = (0..1000).map(|n| line(own(n % 200), n % 200)).collect();
    lines.extend((0..17).map(|unit| line(own(unit + 1), unit)));
    lines.extend((0..3).map(|_| r#"{"variantKey":"A","metrics":{"score":1}}"#.to_owned()));
    post(&server, "crossing", &lines);
    let found = report(&server, "crossing", "");
    assert_eq!(found["unit"]["field"], "context.session");
    assert_eq!(found["unit"]["crossingCount"], 17);
    assert_eq!(found["unit"]["withoutUnitCount"], 3);
    assert!(warns(
        &found,
        "17 units (context.session) were seen in more than one variant"
    ));
    assert!(warns(&found, "3 entries name no unit"));
    let counts = [0, 1].map(|n| found["variants"][n]["unitCount"].as_u64().unwrap());
    assert_eq!(counts, [100 + 8, 100 + 9]);
    server.kill();
    let offline = printed(&[arg(&store), "--experiment", "crossing", "--format", "json"]);
    assert!(serde_json::from_str::<Value>(&offline).unwrap() == found);
}
