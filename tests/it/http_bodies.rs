//! Bodies of entries over real HTTP: what is refused, with which words, and what comes back.

use crate::server::{Answer, EXAMPLE, Server};

const LOG: &str = "/experiment/demo/log";

fn post(server: &Server, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut all = vec![("x-api-key", server.key.as_str())];
    all.extend_from_slice(headers);
    let mut client = server.connect();
    client.send("POST", LOG, &all, body).expect("an answer")
}

/// The members of an entry as the API gives it back, from `variantKey` on: the client's own bytes.
fn own_members(entry: &Answer) -> String {
    let text = String::from_utf8(entry.body.clone()).unwrap();
    let (_, behind) = text.split_once("\"receivedAt\":\"").expect("our last one");
    let (time, theirs) = behind.split_once("\",").expect("theirs come behind it");
    assert_eq!(time.len(), "2026-11-24T12:00:00.123Z".len(), "{text}");
    format!("{{{theirs}")
}

fn nested(levels: usize) -> String {
    let (begin, end) = ("[".repeat(levels), "]".repeat(levels));
    format!(r#"{{"variantKey":"A","input":{{"x":{begin}{end}}}}}"#)
}

#[test]
fn a_bad_body_is_refused_with_the_field_and_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let key = |key: &str| format!(r#"{{"variantKey":"{key}"}}"#);
    let (deep, long, wide) = (
        nested(20_000),
        key(&"k".repeat(129)),
        key(&"\u{e4}".repeat(65)),
    );
    #[rustfmt::skip]
    let cases: &[(&[u8], &str, &str)] = &[
        // Not an object at all.
        (b"", "body_empty", "a JSON object is expected, nothing came (line 1, column 1)"),
        (b" \r\n\t", "body_empty", "a JSON object is expected, nothing came"),
        (b"[]", "not_an_object", "a JSON object is expected (line 1, column 1)"),
        (b"null", "not_an_object", "a JSON object is expected (line 1, column 1)"),
        (b"\n \"A\"", "not_an_object", "a JSON object is expected (line 2, column 2)"),
        (b"7", "not_an_object", "(line 1, column 1)"),
        (b"variantKey=A", "not_an_object", "(line 1, column 1)"),
        // Not the text that JSON is.
        (b"\xEF\xBB\xBF{\"variantKey\":\"A\"}", "body_bom", "a byte order mark comes before the JSON (line 1, column 1)"),
        (b"\xFF\xFE{\0", "body_not_utf8", "not UTF-8 (line 1, column 1)"),
        (b"{\"variantKey\":\n\"\xFF\"}", "body_not_utf8", "not UTF-8 (line 2, column 2)"),
        (b"{\"variantKey\":\"\xED\xA0\x80\"}", "body_not_utf8", "not UTF-8 (line 1, column 16)"),
        (b"{\"variantKey\":\"\xC3", "body_not_utf8", "not UTF-8 (line 1, column 16)"),
        // Not JSON.
        (b"{", "json_syntax", "EOF while parsing an object (line 1, column 1)"),
        (b"{\"variantKey\":\"A\"", "json_syntax", "EOF while parsing an object"),
        (b"{\"variantKey\":\"A\",}", "json_syntax", "trailing comma (line 1, column 19)"),
        (b"{\"variantKey\":\"A\",\n\"input\":{\"x\":NaN}}", "json_syntax", "expected value (line 2, column 14)"),
        (b"{\"variantKey\":\"A\",\"metrics\":{\"x\":01}}", "json_syntax", "invalid number (line 1, column 35)"),
        (b"{\"variantKey\":\"A\",\"metrics\":{\"x\":-Infinity}}", "json_syntax", "invalid number"),
        (b"{\"variantKey\":\"A\",\"metrics\":{\"x\":.5}}", "json_syntax", "expected value (line 1, column 34)"),
        (b"{\"variantKey\":\"A\x01\"}", "json_syntax", "control character"),
        (b"{\"variantKey\":\"\\x41\"}", "json_syntax", "invalid escape"),
        (b"{'variantKey':'A'}", "json_syntax", "key must be a string (line 1, column 2)"),
        (b"{\"variantKey\":\"A\"/* */}", "json_syntax", "expected `,` or `}`"),
        // JSON that somebody would stumble over later.
        (b"{\"variantKey\":\"A\"} x", "json_trailing", "there is something behind the JSON (line 1, column 20)"),
        (b"{\"variantKey\":\"A\"}\n{\"variantKey\":\"A\"}", "json_trailing", "(line 2, column 1)"),
        (b"{\"variantKey\":\"A\"}\0", "json_trailing", "(line 1, column 19)"),
        (b"{\"variantKey\":\"\\ud83d\"}", "json_lone_surrogate", "an escape of half a surrogate pair (line 1, column 16)"),
        (b"{\"variantKey\":\"A\",\"context\":{\"\\uDE00\":[1]}}", "json_lone_surrogate", "(line 1, column 31)"),
        (deep.as_bytes(), "json_too_deep", "nested deeper than 128 levels (line 1, column 158)"),
        // Members that are not as they should be.
        (b"{}", "variant_key_missing", "variantKey is missing (line 1, column 1)"),
        (b"{\"variantKey\":null}", "variant_key_missing", "variantKey is missing"),
        (b"{\"variantkey\":\"A\",\"VariantKey\":\"A\"}", "variant_key_missing", "variantKey is missing"),
        (b"{\"input\":{\"variantKey\":\"A\"}}", "variant_key_missing", "variantKey is missing"),
        (b"{\"variantKey\":7}", "variant_key_type", "variantKey must be a string (line 1, column 15)"),
        (b"{\"variantKey\":[\"A\"]}", "variant_key_type", "variantKey must be a string"),
        (b"{\"variantKey\":true}", "variant_key_type", "variantKey must be a string"),
        (b"{\"variantKey\":\"\"}", "variant_key_empty", "variantKey is empty (line 1, column 15)"),
        (long.as_bytes(), "variant_key_too_long", "variantKey has 129 bytes, at most 128 are taken (line 1, column 15)"),
        (wide.as_bytes(), "variant_key_too_long", "variantKey has 130 bytes"),
        (b"{\"variantKey\":\"A\",\"input\":[]}", "field_type", "input must be an object or null (line 1, column 27)"),
        (b"{\"variantKey\":\"A\",\"output\":\"text\"}", "field_type", "output must be an object or null (line 1, column 28)"),
        (b"{\"variantKey\":\"A\",\n\n \"metrics\": 12}", "field_type", "metrics must be an object or null (line 3, column 13)"),
        (b"{\"context\":false,\"variantKey\":\"A\"}", "field_type", "context must be an object or null (line 1, column 12)"),
        (b"{\"variantKey\":\"A\",\"variantKey\":\"B\"}", "duplicate_field", "variantKey is there twice, the second time here (line 1, column 32)"),
        (b"{\"variantKey\":\"A\",\"variant\\u004bey\":\"A\"}", "duplicate_field", "variantKey is there twice"),
        (b"{\"variantKey\":\"A\",\"input\":{},\"input\":null}", "duplicate_field", "input is there twice"),
        (b"{\"variantKey\":\"A\",\"x\":1,\"\\u0078\":1}", "duplicate_field", "\"x\" is there twice"),
        // A variant that the experiment doesn't have.
        (b"{\"variantKey\":\"C\"}", "unknown_variant", "variantKey is not one of \"A\", \"B\""),
        (b"{\"variantKey\":\"a\"}", "unknown_variant", "variantKey is not one of \"A\", \"B\""),
        (b"{\"variantKey\":\"A \"}", "unknown_variant", "variantKey is not one of \"A\", \"B\""),
        (b"{\"variantKey\":\"A\\u0000\"}", "unknown_variant", "variantKey is not one of \"A\", \"B\""),
    ];
    for (body, code, message) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        post(&server, &[], body).assert_error(400, code, message, &shown);
    }
    assert_eq!(server.ask("GET", "/experiment/demo", "").json()["count"], 0);
}

#[test]
fn what_was_sent_comes_back_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let deepest = nested(126);
    #[rustfmt::skip]
    let bodies = [
        EXAMPLE,
        r#"{"variantKey":"A"}"#,
        r#"{"variant\u004bey":"A","input":{}}"#,
        r#"{"variantKey":"\u0041"}"#,
        r#"{"input":{"a":1},"variantKey":"B"}"#,
        r#"{"variantKey":"A","input":null,"output":null,"metrics":null,"context":null}"#,
        r#"{"variantKey":"A","metrics":{"id":123456789012345678901234567890,"huge":1e400,"price":0.10,"e":1E+2,"minus":-0,"tiny":5e-400,"u64":18446744073709551615}}"#,
        r#"{"variantKey":"A","traceId":"t-1","tags":["x",{"y":null}],"n":1.0,"":true}"#,
        r#"{"variantKey":"A","input":{"twice":1,"twice":2,"empty":"","slash":"\/","pair":"\ud83d\ude00","nul":"\u0000"}}"#,
        r#"{ "variantKey" : "A" , "input" : { "x" : [ 1 , 2 ] } }"#,
        "{\n\t\"variantKey\": \"A\",\r\n\t\"input\": {\"text\": \"\u{e4}\u{1f600}\u{2028}\"}\n}",
        &deepest,
    ];
    for body in bodies {
        let id = post(&server, &[], body.as_bytes()).log_id();
        let entry = server.ask("GET", &format!("{LOG}/{id}"), "");
        assert_eq!((entry.status, own_members(&entry).as_str()), (200, body));
        let ours = format!(r#"{{"logId":"{id}","experiment":"demo","receivedAt":"20"#);
        assert!(entry.body.starts_with(ours.as_bytes()), "{entry:?}");
    }
    // White space around the object is no part of it.
    let id = post(&server, &[], b" \r\n{\"variantKey\":\"B\"}\n\n").log_id();
    let entry = server.ask("GET", &format!("{LOG}/{id}"), "");
    assert_eq!(own_members(&entry), r#"{"variantKey":"B"}"#);
    let counts = server.ask("GET", "/experiment/demo", "").json();
    assert_eq!(counts["count"], bodies.len() + 1);
    assert_eq!(counts["lastEntry"]["logId"], id);
}

#[test]
fn an_id_that_is_not_there_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    server.define("other");
    let id = post(&server, &[], EXAMPLE.as_bytes()).log_id();
    let never = "log_00000000000000000000000000".to_owned();
    let last = "log_7ZZZZZZZZZZZZZZZZZZZZZZZZZ".to_owned();
    let spelled = [
        id.to_lowercase(),
        id[4..].to_owned(),
        format!("{id}0"),
        id.replace('_', "%5F"),
    ];
    for absent in spelled.iter().chain([&never, &last]) {
        let answer = server.ask("GET", &format!("{LOG}/{absent}"), "");
        answer.assert_error(404, "log_not_found", "has no entry with this id", absent);
    }
    let answer = server.ask("GET", &format!("/experiment/other/log/{id}"), "");
    answer.assert_error(
        404,
        "log_not_found",
        "has no entry with this id",
        "another experiment's",
    );
    let answer = server.ask("GET", &format!("{LOG}/{id}?pretty=1"), "");
    answer.assert_error(
        400,
        "unknown_parameter",
        "this path takes none",
        "a parameter",
    );
}

#[test]
fn open_variants_are_taken_up_to_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let open = r#"{"variants":["A","B"],"openVariants":true}"#;
    assert_eq!(server.ask("PUT", "/experiment/open", open).status, 201);
    let log = "/experiment/open/log";
    let one = |key: &str| server.ask("POST", log, &format!(r#"{{"variantKey":"{key}"}}"#));
    let lines = |keys: std::ops::Range<usize>| {
        let lines = keys.map(|n| format!("{{\"variantKey\":\"k{n}\"}}\n"));
        server.ask("POST", "/experiment/open/logs", &lines.collect::<String>())
    };
    one("A").log_id();
    one("k0").log_id();
    // 1,000 variants, the two that are defined among them. A batch that goes over stores nothing,
    // and uses nothing up.
    let words = "line 998: this experiment has the largest number of variants";
    lines(1..1000).assert_error(400, "too_many_variants", words, "one line too many");
    assert_eq!(lines(1..998).status, 200);
    for key in ["A", "B", "k0", "k997"] {
        one(key).log_id();
    }
    for key in ["k998", "\u{e4}"] {
        one(key).assert_error(
            400,
            "too_many_variants",
            "the largest number of variants",
            key,
        );
    }
    assert_eq!(
        server.ask("GET", "/experiment/open", "").json()["count"],
        2 + 997 + 4
    );
    server.stop();
    // A restart counts the same ones.
    let server = Server::start(&dir.path().join("s"), &[]);
    let one = |key: &str| server.ask("POST", log, &format!(r#"{{"variantKey":"{key}"}}"#));
    one("k997").log_id();
    one("k998").assert_error(
        400,
        "too_many_variants",
        "the largest number",
        "after a restart",
    );
}

#[test]
fn content_types_and_codings() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    for taken in [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "application/json; charset=\"utf-8\"",
        "application/json; profile=x",
    ] {
        post(&server, &[("content-type", taken)], EXAMPLE.as_bytes()).log_id();
    }
    post(&server, &[], EXAMPLE.as_bytes()).log_id();
    post(
        &server,
        &[("content-encoding", "identity")],
        EXAMPLE.as_bytes(),
    )
    .log_id();
    for refused in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin1",
        "application/json; charset=utf-16",
        "application/jsonp",
        "application/x-ndjson",
        "application",
        "",
        "\u{e4}",
    ] {
        let answer = post(&server, &[("content-type", refused)], EXAMPLE.as_bytes());
        answer.assert_error(415, "unsupported_media_type", "application/", refused);
    }
    let twice = [
        ("content-type", "application/json"),
        ("content-type", "text/plain"),
    ];
    let answer = post(&server, &twice, EXAMPLE.as_bytes());
    answer.assert_error(415, "unsupported_media_type", "application/", "two types");
    assert_eq!(server.ask("GET", "/experiment/demo", "").json()["count"], 8);
}
