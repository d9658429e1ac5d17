//! Figures on pages are those of the report; lists are small and wake nobody.

use serde_json::{Value, json};

use super::{Visitor, store};
use crate::real_entries::lines;
use crate::server::Server;

#[test]
fn plots_carry_the_figures_of_the_report() {
    let Some(lines) = lines() else {
        let why = "NOT RUN: the real entries aren't in ../shared, nor in TRIALOG_TEST_SHARED";
        return crate::faults::report(why);
    };
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &["--segment-bytes", "400kB"]);
    let variants = json!({"variants": ["gpt-3.5-turbo-1106", "gpt-3.5-turbo-1106_concise",
        "gpt-3.5-turbo-1106_verbose"], "openVariants": true});
    assert_eq!(
        server
            .ask("PUT", "/experiment/real", &variants.to_string())
            .status,
        201
    );
    for batch in lines.chunks(500) {
        let answer = server.ask(
            "POST",
            "/experiment/real/logs",
            &format!("[{}]", batch.join(",")),
        );
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let report = server.ask("GET", "/experiment/real/report", "").json();
    let command = server.command(&["report", "--experiment", "real", "--format", "json"]);
    let printed: Value = serde_json::from_slice(&command.stdout).unwrap();
    assert_eq!(report, printed);
    let page = Visitor::admin(&server).page("/ui/experiment/real");
    assert!(page.len() < 200_000, "{} bytes", page.len());

    let means = plotted(&page, "mean");
    let mut checked = 0;
    for variant in report["variants"].as_array().unwrap() {
        for metric in variant["metrics"].as_array().unwrap() {
            let of =
                |row: &&Value| row["variant"] == variant["key"] && row["metric"] == metric["name"];
            let row = means.iter().find(of).unwrap();
            assert_same(&row["mean"], &metric["mean"], row);
            assert_same(&row["low"], &metric["interval"][0], row);
            assert_same(&row["high"], &metric["interval"][1], row);
            let always = &metric["alwaysValidInterval"];
            assert_same(&row["always-low"], &always[0], row);
            assert_same(&row["always-high"], &always[1], row);
            checked += 1;
        }
    }
    assert_eq!((checked, means.len()), (16, 16));
    let differences = plotted(&page, "difference");
    let comparisons = report["comparisons"].as_array().unwrap();
    assert_eq!(differences.len(), comparisons.len());
    for one in comparisons {
        let of = |row: &&Value| row["variant"] == one["variant"] && row["metric"] == one["metric"];
        let row = differences.iter().find(of).unwrap();
        assert_same(&row["difference"], &one["difference"], row);
        assert_same(&row["low"], &one["interval"][0], row);
        assert_same(&row["high"], &one["interval"][1], row);
        let always = &one["alwaysValid"]["interval"];
        assert_same(&row["always-low"], &always[0], row);
        assert_same(&row["always-high"], &always[1], row);
    }
    for row in plotted(&page, "timeline") {
        assert_eq!(row["count"], json!(805.0), "{row}");
    }
    for row in plotted(&page, "distribution") {
        let stats = server.ask("GET", "/experiment/real/stats", "").json();
        let variants = stats["variants"].as_array().unwrap();
        let variant = variants
            .iter()
            .find(|one| one["key"] == row["variant"])
            .unwrap();
        let metrics = variant["metrics"].as_array().unwrap();
        let metric = metrics
            .iter()
            .find(|one| one["name"] == row["metric"])
            .unwrap();
        assert_same(&row["median"], &metric["quantiles"]["0.5"], &row);
        assert_same(&row["p99"], &metric["quantiles"]["0.99"], &row);
    }
    for sentence in report["sentences"].as_array().unwrap() {
        assert!(
            page.contains(&escaped(sentence.as_str().unwrap())),
            "{sentence}"
        );
    }
    let p_value = plotted(&page, "ratio")[0]["p"].clone();
    assert_same(&p_value, &report["sampleRatio"]["pValue"], &p_value);
}

/// The attributes of a page's plots of one kind.
fn plotted(page: &str, kind: &str) -> Vec<Value> {
    let mark = format!("data-plot=\"{kind}\"");
    let rows = page.split(&mark).skip(1).map(|rest| {
        let mut row = serde_json::Map::new();
        let tag = rest.split('>').next().unwrap();
        for pair in tag.split(" data-").skip(1) {
            let (name, value) = pair.split_once("=\"").unwrap();
            let value = value.split('"').next().unwrap();
            let number: Option<f64> = value.parse().ok();
            row.insert(
                name.into(),
                number.map_or(json!(value), |number| json!(number)),
            );
        }
        Value::Object(row)
    });
    rows.collect()
}

/// The same figure, but for the last bit, which serde_json may read wrong.
fn assert_same(shown: &Value, told: &Value, row: &Value) {
    match (shown.as_f64(), told.as_f64()) {
        (Some(shown), Some(told)) => {
            let is_same = (shown - told).abs() <= told.abs() * f64::EPSILON;
            assert!(is_same, "{shown} {told}: {row}");
        }
        _ => assert_eq!(shown.is_null(), told.is_null(), "{shown} {told}: {row}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[test]
fn ten_thousand_experiments_are_a_small_page_and_stay_idle() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &["--idle-timeout", "1s"]);
    let mut client = server.connect();
    let key = [("x-api-key", server.key.as_str())];
    for n in 0..10_000 {
        let path = format!("/experiment/exp-{n:05}");
        let answer = client
            .send("PUT", &path, &key, br#"{"variants":["A","B"]}"#)
            .unwrap();
        assert_eq!(answer.status, 201);
    }
    let visitor = Visitor::admin(&server);
    let page = visitor.page("/ui/experiments");
    assert!(page.len() < 200_000, "{} bytes", page.len());
    assert!(page.contains("1–50 of 10,001") && page.contains("demo") && page.contains("exp-00048"));
    let page = visitor.page("/ui/experiments?page=201");
    assert!(page.contains("exp-09999") && !page.contains("exp-09998"));
    let page = visitor.page("/ui/experiments?q=0123");
    assert!(
        page.contains("exp-00123") && page.contains("exp-01230") && !page.contains("exp-00001")
    );
    assert!(
        visitor
            .page("/ui/experiments?q=nothing")
            .contains("No experiment")
    );

    // Once those that were looked at have left memory, another look doesn't wake them.
    let in_use = || {
        let figures = visitor.get("/ui/operation/figures").json();
        figures["inUseCount"].as_u64().unwrap()
    };
    let until = std::time::Instant::now() + crate::server::PATIENCE;
    while in_use() > 0 {
        assert!(std::time::Instant::now() < until, "they never leave");
        std::thread::yield_now();
    }
    let again = visitor.page("/ui/experiments");
    assert!(again.contains("exp-00048"));
    assert_eq!(in_use(), 0, "they stayed idle");
    // What has changed meanwhile is seen.
    let entry = r#"{"variantKey":"A"}"#;
    server
        .ask("POST", "/experiment/exp-00001/log", entry)
        .log_id();
    while in_use() > 0 {
        assert!(std::time::Instant::now() < until, "it never leaves");
    }
    let page = visitor.page("/ui/experiments");
    let row = page.split("exp-00001").nth(2).unwrap();
    assert!(row.contains("<td class=\"number\">1</td>"), "{row}");
}

/// Entries of sessions, all of A's with one of their own and B's with one together: by entries the split is
/// as planned, by sessions it isn't.
fn log_by_session(server: &Server, count: usize) {
    let definition = r#"{"variants":["A","B"],"unit":"context.session"}"#;
    let made = server.ask("PUT", "/experiment/units", definition);
    assert_eq!(made.status, 201);
    let line = |n: usize| {
        let (variant, session) = match n % 2 {
            0 => ("A", n),
            _ => ("B", n % 200),
        };
        format!(
            r#"{{"variantKey":"{variant}","metrics":{{"ms":{}}},"context":{{"session":"{variant}{session}"}}}}"#,
            n * 7919 % 1000
        )
    };
    let lines: Vec<_> = (0..count).map(line).collect();
    for batch in lines.chunks(5000) {
        let answer = server.ask("POST", "/experiment/units/logs", &batch.join("\n"));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// With more than 20,000 entries a report by unit comes behind its page, and says what the API says.
#[test]
fn a_report_by_unit_over_many_entries_comes_behind_its_page() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &[]);
    log_by_session(&server, 20_000);
    let visitor = Visitor::admin(&server);
    let page = visitor.page("/ui/experiment/units");
    assert!(!page.contains("data-part") && page.contains("data-plot=\"mean\""));
    server.ask("POST", "/experiment/units/log", r#"{"variantKey":"A"}"#);
    let page = visitor.page("/ui/experiment/units");
    assert!(page.contains("Its unit has all entries read"), "{page}");
    assert!(
        !page.contains("data-plot=\"mean\""),
        "nothing of it is here"
    );
    let (_, part) = page.split_once("data-part=\"").unwrap();
    let (path, _) = part.split_once('"').unwrap();
    let behind = visitor.page(path);
    assert!(behind.len() < 200_000, "{} bytes", behind.len());
    let report = server.ask("GET", "/experiment/units/report", "").json();
    assert_eq!(report["unit"]["field"], "context.session");
    assert_eq!(report["count"], 20_001);
    let means = plotted(&behind, "mean");
    assert_eq!(means.len(), 2);
    for (row, variant) in means.iter().zip(report["variants"].as_array().unwrap()) {
        let metric = &variant["metrics"][0];
        assert_eq!(
            (&row["variant"], &row["metric"]),
            (&variant["key"], &json!("ms"))
        );
        assert_same(&row["mean"], &metric["mean"], row);
        assert_same(&row["low"], &metric["interval"][0], row);
        assert_same(&row["high"], &metric["interval"][1], row);
    }
    let differences = plotted(&behind, "difference");
    let one = &report["comparisons"][0];
    assert_same(&differences[0]["low"], &one["interval"][0], one);
    let p_value = plotted(&behind, "ratio")[0]["p"].clone();
    assert_same(&p_value, &report["sampleRatio"]["pValue"], &p_value);
    for sentence in report["sentences"].as_array().unwrap() {
        assert!(
            behind.contains(&escaped(sentence.as_str().unwrap())),
            "{sentence}"
        );
    }
}

/// The list can't read all entries: it says so, until somebody has read the report.
#[test]
fn a_ratio_by_unit_stands_in_the_list_once_a_report_has_found_it() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &[]);
    log_by_session(&server, 2000);
    let visitor = Visitor::admin(&server);
    let row = || {
        let page = visitor.page("/ui/experiments");
        let row = page.split("<tr>").find(|row| row.contains("/units\""));
        row.unwrap().to_owned()
    };
    let unchecked = "sample ratio by unit: not checked";
    assert!(
        row().contains(unchecked) && !row().contains("mismatch"),
        "{}",
        row()
    );
    // One by another unit, or of parts, doesn't say it.
    for other in ["?unit=context.none", "?by=context.session"] {
        let _refused_or_not = server.ask("GET", &format!("/experiment/units/report{other}"), "");
    }
    assert!(row().contains(unchecked), "{}", row());
    let report = server.ask("GET", "/experiment/units/report", "").json();
    assert_eq!(report["sampleRatio"]["isMismatch"], true);
    let found = row();
    assert!(
        found.contains("sample ratio mismatch in the last report"),
        "{found}"
    );
    assert!(!found.contains(unchecked), "{found}");
    // Another definition is another plan.
    let definition = r#"{"variants":["A",{"key":"B"}],"unit":"context.user"}"#;
    assert_eq!(
        server.ask("PUT", "/experiment/units", definition).status,
        200
    );
    assert!(row().contains(unchecked), "{}", row());
}

#[test]
fn warnings_stand_in_the_list() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &[]);
    let a = format!("{}\n", r#"{"variantKey":"A"}"#).repeat(200);
    let answer = server.ask("POST", "/experiment/demo/logs", &a);
    assert_eq!(answer.status, 200, "{answer:?}");
    for _ in 0..3 {
        let answer = server.ask("POST", "/experiment/demo/log", r#"{"variantKey":"C"}"#);
        assert_eq!(answer.code(), "unknown_variant");
    }
    let visitor = Visitor::admin(&server);
    let page = visitor.page("/ui/experiments");
    assert!(page.contains("sample ratio mismatch") && page.contains("unknown variant refused (3)"));
    assert!(page.contains("200 entries in the last hour"));
    let page = visitor.page("/ui/experiment/demo");
    assert!(
        page.contains("3 requests since the server started"),
        "{page}"
    );
    assert!(page.contains("mismatch"));
}
