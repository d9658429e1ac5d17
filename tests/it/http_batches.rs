//! Batches: lines or an array, all or nothing, and which line was the bad one.

use crate::server::{Answer, EXAMPLE, Server};

const LOGS: &str = "/experiment/demo/logs";
const LINES: &str = "application/x-ndjson";
const ARRAY: &str = "application/json";

fn post(server: &Server, content_type: &str, body: &[u8]) -> Answer {
    let key = ("x-api-key", server.key.as_str());
    let headers = [key, ("content-type", content_type)];
    let mut client = server.connect();
    client
        .send("POST", LOGS, &headers, body)
        .expect("an answer")
}

fn count(server: &Server) -> u64 {
    let described = server.ask("GET", "/experiment/demo", "").json();
    described["count"].as_u64().expect("a count")
}

/// The ids of a batch that was taken.
fn ids(answer: &Answer, count: usize) -> Vec<String> {
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    let json = answer.json();
    assert_eq!(
        (&json["success"], &json["count"]),
        (&true.into(), &count.into())
    );
    let ids = json["logIds"].as_array().expect("logIds").iter();
    let ids: Vec<_> = ids
        .map(|id| id.as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(ids.len(), count);
    ids
}

#[test]
fn a_batch_gets_its_ids_in_order_and_comes_back_as_sent() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let entry = |n: usize| format!(r#"{{"variantKey":"A","n":{n},"x":0.10}}"#);
    let entries = [0, 1, 2, 3].map(entry);
    let mut all = Vec::new();
    for (content_type, body) in [
        (LINES, entries.join("\n")),
        (
            LINES,
            format!("\n\r\n{}\r\n \t\r\n\n", entries.join("\r\n\n")),
        ),
        (
            "application/x-ndjson; charset=utf-8",
            entries.join("\n") + "\n",
        ),
        (ARRAY, format!("[{}]", entries.join(","))),
        (ARRAY, format!(" [\n {}\n]\r\n", entries.join(" ,\n"))),
        // Lines under JSON's own type, as many clients send them.
        (ARRAY, entries.join("\n")),
    ] {
        let given = ids(&post(&server, content_type, body.as_bytes()), 4);
        for (id, entry) in given.iter().zip(&entries) {
            let found = server.ask("GET", &format!("/experiment/demo/log/{id}"), "");
            assert!(found.body.ends_with(&entry.as_bytes()[1..]), "{found:?}");
        }
        all.extend(given);
    }
    let one = post(&server, LINES, EXAMPLE.as_bytes());
    all.extend(ids(&one, 1));
    assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
    assert_eq!(count(&server), 25);
}

#[test]
fn a_batch_with_a_bad_entry_stores_nothing_and_says_which() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &["--max-batch", "4096"]);
    let good = r#"{"variantKey":"A"}"#;
    let lines = |bad: &str| format!("{good}\n\n{good}\r\n{bad}\n{good}\n{{}}\n").into_bytes();
    let array = |bad: &str| format!("[{good},\n{good},{bad},{good},{{}}]").into_bytes();
    let mut not_utf8 = lines("");
    not_utf8[20] = 0xFF;
    #[rustfmt::skip]
    let cases: Vec<(&str, Vec<u8>, u16, &str, &str)> = vec![
        (LINES, lines("{}"), 400, "variant_key_missing", "line 4: variantKey is missing (line 4, column 1)"),
        (LINES, lines("[]"), 400, "not_an_object", "line 4: a JSON object is expected (line 4, column 1)"),
        (LINES, lines("  {\"variantKey\":"), 400, "json_syntax", "line 4: EOF while parsing a value (line 4, column"),
        (LINES, lines(&format!("{good}{good}")), 400, "json_trailing", "line 4: there is something behind the JSON (line 4, column 19)"),
        (LINES, lines("{\"variantKey\":\"A\",\"input\":1}"), 400, "field_type", "line 4: input must be an object or null (line 4, column 27)"),
        (LINES, lines("{\"variantKey\":\"C\"}"), 400, "variant_key_missing", "line 6: variantKey is missing"),
        (LINES, format!("{good}\n\n{good}\n{{\"variantKey\":\"C\"}}").into_bytes(), 400, "unknown_variant", "line 4: variantKey is not one of \"A\", \"B\""),
        (LINES, array(good), 400, "not_an_object", "line 1: a JSON object is expected (line 1, column 1)"),
        (LINES, not_utf8, 400, "body_not_utf8", "not UTF-8 (line 3, column 1)"),
        (LINES, format!("\u{feff}{good}").into_bytes(), 400, "body_bom", "a byte order mark"),
        (ARRAY, array("{}"), 400, "variant_key_missing", "element 3: variantKey is missing (line 2, column 20)"),
        (ARRAY, array("null"), 400, "not_an_object", "element 3: a JSON object is expected (line 2, column 20)"),
        (ARRAY, array("[]"), 400, "not_an_object", "element 3: a JSON object is expected"),
        (ARRAY, array(""), 400, "json_syntax", "element 3: expected value (line 2, column 20)"),
        (ARRAY, array("{\"variantKey\":\"\\ud800\"}"), 400, "json_lone_surrogate", "element 3: an escape of half a surrogate pair"),
        (ARRAY, format!("[{good},{{\"variantKey\":\"C\"}}]").into_bytes(), 400, "unknown_variant", "element 2: variantKey is not one of"),
        (ARRAY, format!("[{good}").into_bytes(), 400, "json_syntax", "element 2: EOF while parsing a list"),
        (ARRAY, format!("[{good}]{good}").into_bytes(), 400, "json_trailing", "there is something behind the JSON (line 1, column 21)"),
        (ARRAY, format!("[{good},]").into_bytes(), 400, "json_syntax", "element 2: trailing comma"),
        (ARRAY, "[".repeat(4000).into_bytes(), 400, "json_too_deep", "element 1: nested deeper than 128 levels (line 1, column 130)"),
        (LINES, b"".to_vec(), 400, "batch_empty", "the batch has no entry"),
        (LINES, b"\n \r\n\t\n".to_vec(), 400, "batch_empty", "the batch has no entry"),
        (ARRAY, b"[]".to_vec(), 400, "batch_empty", "the batch has no entry"),
        (ARRAY, b" [ ] ".to_vec(), 400, "batch_empty", "the batch has no entry"),
        (ARRAY, b"null".to_vec(), 400, "not_an_object", "line 1: a JSON object is expected"),
        (LINES, vec![b'\n'; 4097], 413, "body_too_large", "the body has more than 4096 bytes"),
        ("text/plain", lines(good), 415, "unsupported_media_type", "for batches also application/x-ndjson"),
    ];
    for (content_type, body, status, code, message) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
        let answer = post(&server, content_type, &body);
        answer.assert_error(status, code, message, &shown);
    }
    assert_eq!(count(&server), 0);
}

#[test]
fn a_batch_over_the_limit_is_refused_before_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--max-body", "1024", "--max-batch", "5000"];
    let server = Server::start(&dir.path().join("s"), &args);
    let words = "the body has more than 5000 bytes";
    let key = &server.key;
    let head = format!("POST {LOGS} HTTP/1.1\r\nhost: trialog\r\nx-api-key: {key}\r\n");
    let lines = format!("{EXAMPLE}\n").repeat(16);
    let chunk = format!(
        "transfer-encoding: chunked\r\n\r\n{:x}\r\n{lines}\r\n",
        lines.len()
    );
    for rest in ["content-length: 5001\r\n\r\n", &chunk] {
        let mut client = server.connect();
        client.send_raw((head.clone() + rest).as_bytes()).unwrap();
        let answer = client.read_answer(false).unwrap();
        answer.assert_error(413, "body_too_large", words, rest);
        assert!(client.is_closed());
    }
    // The limit of one entry is not that of a batch.
    let lines = format!("{EXAMPLE}\n").repeat(15);
    ids(&post(&server, LINES, lines.as_bytes()), 15);
    assert_eq!(count(&server), 15);
}

#[test]
fn a_batch_may_have_very_many_small_entries() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let lines = "{\"variantKey\":\"A\"}\n".repeat(200_000);
    ids(&post(&server, LINES, lines.as_bytes()), 200_000);
    assert_eq!(count(&server), 200_000);
}
