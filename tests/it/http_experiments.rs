//! Experiments: defining, describing, listing and deleting them over HTTP.

use serde_json::{Value, json};

use crate::server::{EXAMPLE, Server};

fn variant(key: &str) -> Value {
    json!({"key": key, "control": false})
}

#[test]
fn an_experiment_is_created_changed_and_described() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let path = "/experiment/ranker";
    let created = server.ask("PUT", path, r#"{"variants":["A","B"]}"#);
    assert_eq!(created.status, 201);
    let json = created.json();
    assert_eq!(json["slug"], "ranker");
    assert_eq!(json["variants"], json!([variant("A"), variant("B")]));
    assert_eq!(json["openVariants"], false);
    assert_eq!(
        (&json["count"], &json["lastEntry"]),
        (&0.into(), &Value::Null)
    );
    let whole = json!({
        "variants": [{"key": "A", "weight": 0.5, "control": true}, {"key": "C", "weight": 1.5}, "D"],
        "openVariants": false,
        "unit": "context.session_id",
        "description": "which ranker",
        "retention": {"maxAge": "90d", "maxBytes": 1_000_000},
    });
    let changed = server.ask("PUT", path, &whole.to_string());
    assert_eq!(changed.status, 200);
    let id = server
        .ask("POST", "/experiment/ranker/log", EXAMPLE)
        .log_id();
    let described = server.ask("GET", path, "");
    assert_eq!(described.status, 200);
    let json = described.json();
    let controlled = json!({"key": "A", "weight": 0.5, "control": true});
    let weighted = json!({"key": "C", "weight": 1.5, "control": false});
    assert_eq!(
        json["variants"],
        json!([controlled, weighted, variant("D")])
    );
    for name in ["openVariants", "unit", "description", "retention"] {
        assert_eq!(json[name], whole[name], "{name}");
    }
    let counts =
        json!([{"key": "A", "count": 1}, {"key": "C", "count": 0}, {"key": "D", "count": 0}]);
    assert_eq!(
        (&json["count"], &json["variantCounts"]),
        (&1.into(), &counts)
    );
    assert_eq!(json["lastEntry"]["logId"], id);
    assert_eq!(json["createdAt"], created.json()["createdAt"]);
    let entry = server.ask("GET", &format!("{path}/log/{id}"), "").json();
    assert_eq!(json["lastEntry"]["receivedAt"], entry["receivedAt"]);
    // A variant that was left out is not taken any more.
    let body = EXAMPLE.replace("\"A\"", "\"B\"");
    let answer = server.ask("POST", "/experiment/ranker/log", &body);
    answer.assert_error(400, "unknown_variant", r#"not one of "A", "C", "D""#, "B");
}

/// JSON knows one kind of number: schemathesis wrote a whole one with a point.
#[test]
fn a_whole_number_may_be_written_as_any_number() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    for (written, bytes) in [
        ("1000000", 1_000_000),
        ("1e6", 1_000_000),
        ("133822654.0", 133_822_654),
        ("18446744073709551615", u64::MAX),
        ("1e19", 10_000_000_000_000_000_000),
    ] {
        let body = format!(r#"{{"variants":["A"],"retention":{{"maxBytes":{written}}}}}"#);
        let answer = server.ask("PUT", "/experiment/demo", &body);
        assert_eq!(answer.status, 200, "{written}: {answer:?}");
        assert_eq!(answer.json()["retention"]["maxBytes"], bytes, "{written}");
    }
}

#[test]
fn a_bad_definition_says_what_is_wrong_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let many: Vec<_> = (0..1001).map(|n| n.to_string()).collect();
    let many = json!({"variants": many}).to_string();
    let long = json!({"variants": ["A"], "description": "x".repeat(4097)}).to_string();
    let long_key = json!({"variants": ["k".repeat(129)]}).to_string();
    #[rustfmt::skip]
    let cases = [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{", "EOF"),
        ("[]", "expected an object"),
        (r#"[["A"],false]"#, "expected an object"),
        ("null", "expected an object"),
        ("7", "expected an object"),
        ("{}", "an experiment needs at least one variant, or openVariants"),
        (r#"{"variants":[]}"#, "an experiment needs at least one variant, or openVariants"),
        (r#"{"variants":["A"]} x"#, "trailing characters at line 1 column 20"),
        (r#"{"variants":["A"],"variants":["B"]}"#, "duplicate field `variants`"),
        (r#"{"variants":["A"],"openvariants":true}"#, "unknown field `openvariants`"),
        (r#"{"variants":"A"}"#, "expected a sequence"),
        (r#"{"variants":null}"#, "expected a sequence"),
        (r#"{"variants":[1]}"#, "expected a string or an object"),
        (r#"{"variants":[null]}"#, "expected a string or an object"),
        (r#"{"variants":[["A"]]}"#, "expected a string or an object"),
        (r#"{"variants":[{}]}"#, "missing field `key`"),
        (r#"{"variants":[{"key":1}]}"#, "expected a string"),
        (r#"{"variants":[{"key":"A","weigth":1}]}"#, "unknown field `weigth`"),
        (r#"{"variants":[{"key":"A","weight":"1"}]}"#, "expected f64"),
        (r#"{"variants":[{"key":"A","weight":1e999}]}"#, "number out of range"),
        (r#"{"variants":[{"key":"A","weight":-1}]}"#, r#"variant "A": a weight is a number of 0 or more"#),
        (r#"{"variants":[{"key":"A","control":1}]}"#, "expected a boolean"),
        (r#"{"variants":[{"key":"A","control":true},{"key":"B","control":true}]}"#, "at most one variant is the control"),
        (r#"{"variants":["A","B","A"]}"#, r#"variant "A" is defined twice"#),
        (r#"{"variants":[""]}"#, "a variant's key has 1 to 128 bytes"),
        (&long_key, "a variant's key has 1 to 128 bytes"),
        (&many, "at most 1000 variants"),
        (&long, "unit and description have at most 4096 bytes"),
        (r#"{"variants":["A"],"openVariants":"yes"}"#, "expected a boolean"),
        (r#"{"variants":["A"],"unit":1}"#, "expected a string"),
        (r#"{"variants":["A"],"retention":{"maxAge":90}}"#, "expected a string"),
        (r#"{"variants":["A"],"retention":{"maxBytes":-1}}"#, "-1 is no whole number"),
        (r#"{"variants":["A"],"retention":{"maxBytes":1.5}}"#, "1.5 is no whole number"),
        (r#"{"variants":["A"],"retention":{"maxBytes":18446744073709551616}}"#, "no whole number"),
        (r#"{"variants":["A"],"retention":{"maxBytes":"1"}}"#, "expected a JSON number"),
        (r#"{"variants":["A"],"retention":{"maxBytes":0}}"#, "retention: maxBytes is 1 or more"),
        (r#"{"variants":["A"],"retention":{"maxAge":"90"}}"#, "retention: maxAge is a number and s, m, h, d or w, such as 90d"),
        (r#"{"variants":["A"],"retention":{"maxAge":"soon"}}"#, "retention: maxAge is a number"),
        (r#"{"variants":["A"],"retention":{"maxAge":"0d"}}"#, "retention: maxAge is a number"),
        (r#"{"variants":["A"],"retention":{"maxAge":"","maxBytes":1}}"#, "retention: maxAge is a number"),
        (r#"{"variants":["A"],"retention":{"max":1}}"#, "unknown field `max`"),
        (r#"{"variants":["A"],"retention":[]}"#, "expected an object"),
    ];
    for (definition, message) in cases {
        for slug in ["new", "demo"] {
            let answer = server.ask("PUT", &format!("/experiment/{slug}"), definition);
            answer.assert_error(400, "bad_definition", message, definition);
            for internal in ["struct", "enum", "Request", "visitor"] {
                assert!(!answer.message().contains(internal), "{}", answer.message());
            }
        }
    }
    assert_eq!(server.ask("GET", "/experiment/new", "").status, 404);
    let demo = server.ask("GET", "/experiment/demo", "").json();
    assert_eq!(demo["variants"], json!([variant("A"), variant("B")]));
}

#[test]
fn a_variant_with_entries_stays() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    server.ask("POST", "/experiment/demo/log", EXAMPLE).log_id();
    let put = |definition: &str| server.ask("PUT", "/experiment/demo", definition);
    let words = r#"variant "A" has entries and can't be removed"#;
    put(r#"{"variants":["B","C"]}"#).assert_error(409, "variant_in_use", words, "A left out");
    assert_eq!(put(r#"{"variants":["A"]}"#).status, 200);
    // Open to any, it need not be named; once met, a variant can't be shut out again.
    assert_eq!(put(r#"{"openVariants":true}"#).status, 200);
    let met = EXAMPLE.replace("\"A\"", "\"met\"");
    server.ask("POST", "/experiment/demo/log", &met).log_id();
    let words = r#"has entries and can't be removed"#;
    put(r#"{"variants":["A"]}"#).assert_error(409, "variant_in_use", words, "met left out");
    assert_eq!(put(r#"{"variants":["A","met"]}"#).status, 200);
    let counts = server.ask("GET", "/experiment/demo", "").json()["variantCounts"].take();
    assert_eq!(
        counts,
        json!([{"key": "A", "count": 1}, {"key": "met", "count": 1}])
    );
}

#[test]
fn experiments_are_listed_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    for slug in ["chat", "search-a", "search-b", "0", "z"] {
        server.define(slug);
    }
    let restricted = r#"{"name":"t","scopes":["read"],"experiments":["search-*","none"]}"#;
    let (_, restricted) = server.make_key(restricted);
    let page = |key: &str, query: &str| {
        let answer = server.ask_as(key, "GET", &format!("/experiments{query}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut json = answer.json();
        let listed = json["experiments"].as_array().expect("a list").iter();
        let slugs: Vec<_> = listed
            .map(|e| e["slug"].as_str().expect("a slug").to_owned())
            .collect();
        (slugs.join(" "), json["next"].take())
    };
    let all = "0 chat demo search-a search-b z".to_owned();
    assert_eq!(page(&server.key, ""), (all.clone(), Value::Null));
    assert_eq!(page(&server.key, "?limit=6"), (all, Value::Null));
    assert_eq!(
        page(&server.key, "?limit=4"),
        ("0 chat demo search-a".into(), "search-a".into())
    );
    assert_eq!(
        page(&server.key, "?limit=4&after=search-a"),
        ("search-b z".into(), Value::Null)
    );
    assert_eq!(
        page(&server.key, "?after=d&limit=1"),
        ("demo".into(), "demo".into())
    );
    assert_eq!(page(&server.key, "?after=z"), (String::new(), Value::Null));
    assert_eq!(
        page(&restricted, ""),
        ("search-a search-b".into(), Value::Null)
    );
    assert_eq!(
        page(&restricted, "?limit=1"),
        ("search-a".into(), "search-a".into())
    );
    for (query, code, message) in [
        (
            "?limit=0",
            "bad_parameter",
            "limit is a number from 1 to 1000",
        ),
        (
            "?limit=1001",
            "bad_parameter",
            "limit is a number from 1 to 1000",
        ),
        ("?limit=x", "bad_parameter", "limit is a number"),
        ("?limit=", "bad_parameter", "limit is a number"),
        ("?limit=1&limit=2", "bad_parameter", "limit is there twice"),
        ("?after=UP", "bad_parameter", "after: a slug is"),
        (
            "?page=2",
            "unknown_parameter",
            "this path takes after, limit",
        ),
    ] {
        let answer = server.ask("GET", &format!("/experiments{query}"), "");
        answer.assert_error(400, code, message, query);
    }
}

#[test]
fn deleting_needs_the_name_twice_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    server.define("other");
    let old = server.ask("POST", "/experiment/demo/log", EXAMPLE).log_id();
    for (query, code, message) in [
        (
            "",
            "confirm_missing",
            "deleting can't be undone: say ?confirm=demo",
        ),
        ("?confirm=", "confirm_missing", "?confirm=demo"),
        ("?confirm=other", "confirm_missing", "?confirm=demo"),
        (
            "?confirm=demo&confirm=demo",
            "bad_parameter",
            "confirm is there twice",
        ),
        ("?force=1", "unknown_parameter", "this path takes confirm"),
    ] {
        let answer = server.ask("DELETE", &format!("/experiment/demo{query}"), "");
        answer.assert_error(400, code, message, query);
    }
    server.ask("POST", "/experiment/demo/log", EXAMPLE).log_id();
    let delete = || server.ask("DELETE", "/experiment/demo?confirm=demo", "");
    let deleted = delete();
    assert_eq!(
        (deleted.status, deleted.body.as_slice()),
        (200, b"{\"success\":true}".as_slice())
    );
    let words = "there is no experiment with this slug";
    delete().assert_error(404, "experiment_not_found", words, "again");
    for (method, path) in [
        ("GET", "/experiment/demo".to_owned()),
        ("POST", "/experiment/demo/log".to_owned()),
        ("POST", "/experiment/demo/logs".to_owned()),
        ("GET", "/experiment/demo/logs".to_owned()),
        ("GET", format!("/experiment/demo/log/{old}")),
    ] {
        let answer = server.ask(method, &path, EXAMPLE);
        answer.assert_error(404, "experiment_not_found", words, &path);
    }
    assert!(!server.dir.join("experiments/demo").exists());
    // Made again, it has nothing of its former life, after a restart neither.
    server.define("demo");
    let described = server.ask("GET", "/experiment/demo", "").json();
    assert_eq!(
        (&described["count"], &described["lastEntry"]),
        (&0.into(), &Value::Null)
    );
    let found = server.ask("GET", &format!("/experiment/demo/log/{old}"), "");
    found.assert_error(404, "log_not_found", "no entry with this id", "the old one");
    let new = server.ask("POST", "/experiment/demo/log", EXAMPLE).log_id();
    server.kill();
    let server = Server::start(&dir.path().join("s"), &[]);
    assert_eq!(server.ask("GET", "/experiment/demo", "").json()["count"], 1);
    for (id, status) in [(old, 404), (new, 200)] {
        let found = server.ask("GET", &format!("/experiment/demo/log/{id}"), "");
        assert_eq!(found.status, status);
    }
}

/// A client that is gone before its answer. What it asked for is done whole or not at all: half of
/// it, and the experiment couldn't be used again, or would come back with the next start.
#[test]
fn a_client_that_leaves_does_not_leave_an_experiment_half_made_or_half_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let body = r#"{"variants":["A"]}"#;
    let ask_and_leave = |method: &str, path: &str, body: &str| {
        let (key, len) = (&server.key, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\
            content-type: application/json\r\ncontent-length: {len}\r\n\r\n{body}"
        );
        server.connect().send_raw(request.as_bytes()).unwrap();
    };
    for n in 0..100 {
        let path = format!("/experiment/left-{n}");
        ask_and_leave("PUT", &path, body);
        server.define(&format!("left-{n}"));
        ask_and_leave("DELETE", &format!("{path}?confirm=left-{n}"), "");
        server.define(&format!("left-{n}"));
        let answer = server.ask("DELETE", &format!("{path}?confirm=left-{n}"), "");
        assert!(matches!(answer.status, 200 | 404), "{answer:?}");
    }
    let listed =
        |server: &Server| server.ask("GET", "/experiments", "").json()["experiments"].clone();
    let before = listed(&server);
    server.kill();
    let server = Server::start(&dir.path().join("s"), &[]);
    assert_eq!(listed(&server), before);
}
