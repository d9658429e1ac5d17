//! Where a body ends: lengths, chunks, limits, and requests that try to hide another one.

use crate::server::{Answer, Client, EXAMPLE, Server};

const LOG: &str = "/experiment/demo/log";

/// The length of the example.
const LEN: &str = "content-length: 319\r\n";

/// The head of a POST with the admin key, up to its own `headers`.
fn head(server: &Server, headers: &str) -> String {
    let key = &server.key;
    format!("POST {LOG} HTTP/1.1\r\nhost: trialog\r\nx-api-key: {key}\r\n{headers}\r\n")
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn send(server: &Server, bytes: impl AsRef<[u8]>) -> (Client, Answer) {
    let mut client = server.connect();
    client.send_raw(bytes.as_ref()).unwrap();
    let answer = client.read_answer(false).unwrap();
    (client, answer)
}

fn count(server: &Server) -> u64 {
    let described = server.ask("GET", "/experiment/demo", "").json();
    described["count"].as_u64().expect("a count")
}

#[test]
fn a_length_beside_a_coding_is_refused_and_hides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let whole = format!("{}0\r\n\r\n", chunk(EXAMPLE));
    let (inner, len) = (format!("{}{EXAMPLE}", head(&server, LEN)), whole.len());
    let hidden = format!("0\r\n\r\n{inner}");
    for (headers, body) in [
        (
            format!("content-length: {len}\r\ntransfer-encoding: chunked\r\n"),
            &whole,
        ),
        (
            format!("transfer-encoding: chunked\r\ncontent-length: {len}\r\n"),
            &whole,
        ),
        (
            format!(
                "Transfer-Encoding: chunked\r\nx: y\r\nContent-Length: {}\r\n",
                hidden.len()
            ),
            &hidden,
        ),
        (
            format!(
                "CONTENT-LENGTH: {}\r\nTRANSFER-ENCODING: chunked\r\n",
                hidden.len()
            ),
            &hidden,
        ),
        (
            "content-length: 5\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n".into(),
            &hidden,
        ),
    ] {
        let (mut client, answer) = send(&server, head(&server, &headers) + body);
        answer.assert_error(
            400,
            "ambiguous_length",
            "which one holds can't be told",
            &headers,
        );
        assert!(client.is_closed(), "{headers}");
        // Who may not ask learns nothing, but the connection ends as well.
        let anonymous = format!("POST {LOG} HTTP/1.1\r\nhost: trialog\r\n{headers}\r\n{body}");
        let (mut client, answer) = send(&server, anonymous);
        answer.assert_error(401, "api_key_missing", "missing", &headers);
        assert!(client.is_closed(), "{headers}");
    }
    assert_eq!(count(&server), 0);
    // Behind a request that was right.
    let first = format!("{}{EXAMPLE}", head(&server, LEN));
    let second = head(
        &server,
        "transfer-encoding: chunked\r\ncontent-length: 9\r\n",
    ) + &hidden;
    let (mut client, answer) = send(&server, first + &second);
    answer.log_id();
    let answer = client.read_answer(false).unwrap();
    answer.assert_error(400, "ambiguous_length", "can't be told", "pipelined");
    assert!(client.is_closed());
    assert_eq!(count(&server), 1);
}

fn assert_malformed(answer: &Answer, what: &str) {
    let words = "what came is no head of an HTTP request";
    answer.assert_error(400, "malformed_head", words, what);
    assert!(answer.header("x-request-id").is_some(), "{what}");
    assert!(answer.header("date").is_some(), "{what}");
    assert_eq!(answer.header("connection"), Some("close"), "{what}");
}

/// hyper refuses these by itself; what goes out is ours.
#[test]
fn a_head_that_cannot_be_read_ends_its_connection() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let chunked = format!("{}0\r\n\r\n", chunk(EXAMPLE));
    for (headers, body) in [
        ("content-length: 319\r\ncontent-length: 32\r\n", EXAMPLE),
        ("content-length: 32\r\ncontent-length: 319\r\n", EXAMPLE),
        ("content-length: 319, 32\r\n", EXAMPLE),
        ("content-length: +319\r\n", EXAMPLE),
        ("content-length: -1\r\n", EXAMPLE),
        ("content-length: 0x13f\r\n", EXAMPLE),
        ("content-length: 99999999999999999999999\r\n", EXAMPLE),
        ("content-length:\r\n", EXAMPLE),
        ("content-length : 319\r\n", EXAMPLE),
        ("transfer-encoding: identity\r\n", &chunked),
        ("transfer-encoding: chunked, gzip\r\n", &chunked),
        ("transfer-encoding: xchunked\r\n", &chunked),
        ("transfer-encoding : chunked\r\n", &chunked),
        ("x: y\r\n z\r\ncontent-length: 319\r\n", EXAMPLE),
    ] {
        let (mut client, answer) =
            send(&server, head(&server, headers) + body + &head(&server, ""));
        assert_malformed(&answer, headers);
        assert!(client.is_closed(), "{headers}");
    }
    let old = head(&server, "transfer-encoding: chunked\r\n").replace("HTTP/1.1", "HTTP/1.0");
    let (mut client, answer) = send(&server, old + &chunked);
    assert_malformed(&answer, "chunks in HTTP/1.0");
    assert!(client.is_closed());
    let (mut client, answer) = send(&server, "nonsense\r\n\r\n");
    assert_malformed(&answer, "nonsense");
    assert!(client.is_closed());
    // Behind requests that were right, of both versions, sent at once or later.
    for version in ["1.0", "1.1"] {
        let first =
            format!("GET /health HTTP/{version}\r\nconnection: keep-alive\r\nhost: t\r\n\r\n");
        let (mut client, answer) = send(&server, first.clone() + "nonsense\r\n\r\n");
        assert_eq!(answer.status, 200);
        assert_malformed(&client.read_answer(false).unwrap(), "pipelined");
        assert!(client.is_closed());
        let (mut client, answer) = send(&server, first);
        assert_eq!(answer.status, 200);
        client.send_raw(b"nonsense\r\n\r\n").unwrap();
        assert_malformed(&client.read_answer(false).unwrap(), "later");
        assert!(client.is_closed());
    }
    let (mut client, answer) = send(
        &server,
        format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000)),
    );
    // No more of a head is read than a whole one may have; what a part of it would be isn't known.
    let words = "the head is larger than any that is read";
    answer.assert_error(431, "headers_too_large", words, "a long path");
    assert!(answer.header("x-request-id").is_some());
    assert!(client.is_closed());
    assert_eq!(count(&server), 0);
}

#[test]
fn a_body_needs_no_length() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let chunked = head(&server, "transfer-encoding: chunked\r\n");
    let (one, two) = EXAMPLE.split_at(100);
    let by_byte: String = EXAMPLE.chars().map(|c| chunk(&c.to_string())).collect();
    let mut client = server.connect();
    for body in [
        format!("{}0\r\n\r\n", chunk(EXAMPLE)),
        format!("{}{}0\r\n\r\n", chunk(one), chunk(two)),
        format!("{by_byte}0\r\n\r\n"),
        format!("{}0\r\nx-trailer: 1\r\n\r\n", chunk(EXAMPLE)),
        format!("000013f;name=value\r\n{EXAMPLE}\r\n0\r\n\r\n"),
    ] {
        client
            .send_raw((chunked.clone() + &body).as_bytes())
            .unwrap();
        let id = client.read_answer(false).unwrap().log_id();
        let entry = server.ask("GET", &format!("{LOG}/{id}"), "");
        assert!(entry.body.ends_with(&EXAMPLE.as_bytes()[1..]), "{body}");
    }
    client
        .send_raw((chunked.clone() + "0\r\n\r\n").as_bytes())
        .unwrap();
    let answer = client.read_answer(false).unwrap();
    answer.assert_error(400, "body_empty", "nothing came", "no chunk at all");
    for broken in [
        "xyz\r\n",
        "5\r\n{\"var",
        "-1\r\n\r\n",
        "ffffffffffffffffff\r\n",
    ] {
        let (one, two) = (chunk(one), broken);
        let mut client = server.connect();
        client
            .send_raw((chunked.clone() + &one + two).as_bytes())
            .unwrap();
        client.end_sending();
        let answer = client.read_answer(false).unwrap();
        answer.assert_error(
            400,
            "body_incomplete",
            "ended before it was complete",
            broken,
        );
        assert!(client.is_closed(), "{broken}");
    }
    assert_eq!(count(&server), 5);
}

#[test]
fn a_body_that_ends_early_is_not_an_entry() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    // What came would be an entry by itself.
    let begun = head(&server, "content-length: 320\r\n") + EXAMPLE;
    let mut client = server.connect();
    client.send_raw(begun.as_bytes()).unwrap();
    client.end_sending();
    let answer = client.read_answer(false).unwrap();
    answer.assert_error(
        400,
        "body_incomplete",
        "ended before it was complete",
        "cut",
    );
    assert!(client.is_closed());
    assert_eq!(count(&server), 0);
}

#[test]
fn requests_may_follow_each_other_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let one = head(&server, LEN) + EXAMPLE;
    let bad = head(&server, "content-length: 2\r\n") + "{}";
    let two = head(&server, "transfer-encoding: chunked\r\n") + &chunk(EXAMPLE) + "0\r\n\r\n";
    let mut client = server.connect();
    client
        .send_raw([one.as_str(), &bad, &two, &one].concat().as_bytes())
        .unwrap();
    let first = client.read_answer(false).unwrap().log_id();
    let answer = client.read_answer(false).unwrap();
    answer.assert_error(
        400,
        "variant_key_missing",
        "variantKey is missing",
        "the second",
    );
    let third = client.read_answer(false).unwrap().log_id();
    let fourth = client.read_answer(false).unwrap().log_id();
    assert!(first < third && third < fourth);
    assert_eq!(count(&server), 3);
}

#[test]
fn a_refused_body_is_never_taken_for_a_request() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let hidden = head(&server, LEN) + EXAMPLE;
    let len = format!("content-length: {}\r\n", hidden.len());
    let good = head(&server, &len);
    for (refused, status) in [
        (good.replace("x-api-key", "x-api-kez"), 401),
        (good.replace("/demo/", "/none/"), 404),
        (good.replace("POST", "GET"), 405),
        (good.replace("host:", "content-encoding: br\r\nhost:"), 415),
        (good.clone(), 400),
    ] {
        let (mut client, answer) = send(&server, refused.clone() + &hidden);
        assert_eq!(answer.status, status, "{refused}");
        // Whether the connection goes on or not, the next request is the one behind the body.
        let next = format!(
            "GET /health HTTP/1.1\r\nhost: trialog\r\n{}\r\n",
            "connection: close\r\n"
        );
        let _may_be_closed = client.send_raw(next.as_bytes());
        if let Ok(answer) = client.read_answer(false) {
            assert_eq!(answer.body, b"{\"status\":\"ok\"}", "{refused}");
            assert!(client.is_closed());
        }
    }
    assert_eq!(count(&server), 0);
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &["--max-body", "1024"]);
    let fitting = |len: usize| {
        let rest = len - r#"{"variantKey":"A","x":""}"#.len();
        format!(r#"{{"variantKey":"A","x":"{}"}}"#, "x".repeat(rest))
    };
    let words = "the body has more than 1024 bytes";
    server.ask("POST", LOG, &fitting(1024)).log_id();
    let answer = server.ask("POST", LOG, &fitting(1025));
    answer.assert_error(413, "body_too_large", words, "with a length");
    // Nothing of the body is sent, or more than there may be and never its end.
    let declared = head(&server, "content-length: 9000000000000000000\r\n");
    let chunked = head(&server, "transfer-encoding: chunked\r\n");
    let endless = format!("{chunked}{}", chunk(&fitting(1025)));
    let bit_by_bit = format!("{chunked}{}", chunk(&"{\"x\":".repeat(100)).repeat(3));
    for request in [declared, endless, bit_by_bit] {
        let (mut client, answer) = send(&server, &request);
        answer.assert_error(413, "body_too_large", words, &request);
        assert!(client.is_closed(), "{request}");
    }
    let whole = format!("{chunked}{}0\r\n\r\n", chunk(&fitting(1024)));
    send(&server, whole).1.log_id();
    assert_eq!(count(&server), 2);
}
