//! Who may ask, what exists, what can be asked there, and only then the body: the order of checks.

use std::io;

use crate::server::{Answer, EXAMPLE, Server};

/// A request that is wrong in several ways, and the one way that it is refused for. It announces
/// a body and never sends it: an answer shows that nobody waited for one.
struct Case<'a> {
    key: Option<&'a str>,
    method: &'a str,
    path: &'a str,
    headers: &'a str,
    body_len: usize,
    expected: (u16, &'a str, &'a str),
}

const TEXT: &str = "content-type: text/plain\r\n";
const LINES: &str = "content-type: application/x-ndjson\r\n";
const BROTLI: &str = "content-encoding: br\r\n";
const NONE: &str = "";

impl Case<'_> {
    fn ask(&self, server: &Server) -> io::Result<Answer> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nhost: trialog\r\n",
            self.method, self.path
        );
        if let Some(key) = self.key {
            head += &format!("x-api-key: {key}\r\n");
        }
        head += self.headers;
        head += &format!(
            "expect: 100-continue\r\ncontent-length: {}\r\n\r\n",
            self.body_len
        );
        let mut client = server.connect();
        client.send_raw(head.as_bytes())?;
        client.read_answer(self.method == "HEAD")
    }

    fn check(&self, server: &Server) {
        let (status, code, message) = self.expected;
        let case = format!("{} {} {:?}", self.method, self.path, self.headers);
        let answer = self.ask(server).unwrap();
        answer.assert_error(status, code, message, &case);
    }
}

fn key(server: &Server, scope: &str, experiments: &str) -> String {
    let request = format!(r#"{{"name":"t","scopes":["{scope}"],"experiments":[{experiments}]}}"#);
    server.make_key(&request).1
}

#[test]
fn the_first_thing_wrong_is_the_one_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &["--max-body", "2000"]);
    server.define("chat");
    let ingest = key(&server, "ingest", "");
    let read = key(&server, "read", "");
    let search = key(&server, "ingest", r#""search-*""#);
    let search_admin = key(&server, "admin", r#""search-*""#);
    let (admin, ingest, read) = (server.key.as_str(), ingest.as_str(), read.as_str());
    let (search, search_admin) = (search.as_str(), search_admin.as_str());
    let other = if admin.ends_with('x') { 'y' } else { 'x' };
    let altered = format!("{}{other}", &admin[..admin.len() - 1]);

    let no_key = (401, "api_key_missing", "the x-api-key header is missing");
    let bad_key = (
        401,
        "api_key_invalid",
        "the x-api-key header holds no valid key",
    );
    let no_ingest = (403, "scope_missing", "this key lacks the scope ingest");
    let no_read = (403, "scope_missing", "this key lacks the scope read");
    let no_admin = (403, "scope_missing", "this key lacks the scope admin");
    let elsewhere = (
        403,
        "experiment_forbidden",
        "restricted to other experiments",
    );
    let restricted = (403, "key_restricted", "so it can't manage keys");
    let no_experiment = (
        404,
        "experiment_not_found",
        "there is no experiment with this slug",
    );
    let no_path = (404, "not_found", "there is nothing at this path");
    let no_brew = (
        405,
        "method_not_allowed",
        "this path takes GET, HEAD, POST only",
    );
    let not_so = (405, "method_not_allowed", "this path takes POST only");
    let too_large = (413, "body_too_large", "the body has more than 2000 bytes");
    let no_text = (415, "unsupported_media_type", "must be application/json");
    let no_lines = (415, "unsupported_media_type", "is for batches");
    let no_brotli = (
        415,
        "unsupported_content_encoding",
        "content-encoding is not supported",
    );

    #[rustfmt::skip]
    let cases = [
        // Without a key nothing is learned, not even which paths there are.
        (None, "POST", "/experiment/chat/log", TEXT, 10, no_key),
        (None, "POST", "/experiment/none/log", TEXT, 5000, no_key),
        (None, "BREW", "/experiment/NONE/log", BROTLI, 10, no_key),
        (None, "GET", "/nothing", NONE, 0, no_key),
        (None, "PUT", "/experiment/..", NONE, 10, no_key),
        (None, "GET", "/keys", NONE, 0, no_key),
        (Some(""), "POST", "/experiment/chat/log", TEXT, 10, bad_key),
        (Some("tl_"), "POST", "/experiment/none/log", TEXT, 10, bad_key),
        (Some("tl_a_b"), "GET", "/nothing", NONE, 0, bad_key),
        (Some("Bearer x"), "GET", "/nothing", NONE, 0, bad_key),
        (Some(&altered), "POST", "/experiment/none/log", TEXT, 10, bad_key),
        // A good key that may not: before anything is told of what exists.
        (Some(read), "POST", "/experiment/chat/log", TEXT, 5000, no_ingest),
        (Some(read), "POST", "/experiment/none/log", TEXT, 10, no_ingest),
        (Some(read), "POST", "/experiment/none/logs", BROTLI, 10, no_ingest),
        (Some(read), "POST", "/experiment/NONE/log", TEXT, 10, no_ingest),
        (Some(read), "PUT", "/experiment/NONE", TEXT, 10, no_admin),
        (Some(ingest), "PUT", "/experiment/chat", TEXT, 10, no_admin),
        (Some(ingest), "DELETE", "/experiment/none", NONE, 0, no_admin),
        (Some(ingest), "GET", "/experiment/none", NONE, 0, no_read),
        (Some(ingest), "GET", "/experiment/chat/log/log_x", NONE, 0, no_read),
        (Some(ingest), "GET", "/experiments", NONE, 0, no_read),
        (Some(ingest), "GET", "/experiment/none/tail", NONE, 0, no_read),
        (Some(admin), "GET", "/experiment/none/tail", NONE, 0, no_experiment),
        (Some(ingest), "GET", "/experiment/chat/segments/0", NONE, 0, no_read),
        (Some(admin), "GET", "/experiment/none/segments", NONE, 0, no_experiment),
        (Some(ingest), "POST", "/keys", TEXT, 5000, no_admin),
        (Some(ingest), "DELETE", "/keys/none", NONE, 0, no_admin),
        (Some(search), "POST", "/experiment/chat/log", TEXT, 10, elsewhere),
        (Some(search), "POST", "/experiment/none/logs", TEXT, 10, elsewhere),
        (Some(search), "GET", "/experiment/none/log", TEXT, 10, elsewhere),
        (Some(search_admin), "PUT", "/experiment/chat", TEXT, 10, elsewhere),
        (Some(search_admin), "DELETE", "/experiment/none", NONE, 0, elsewhere),
        (Some(search_admin), "POST", "/keys", TEXT, 10, restricted),
        (Some(search_admin), "GET", "/keys", NONE, 0, restricted),
        (Some(search_admin), "DELETE", "/keys/none", NONE, 0, restricted),
        // What isn't there, however it is asked for.
        (Some(search), "POST", "/experiment/search-x/log", TEXT, 5000, no_experiment),
        (Some(ingest), "POST", "/experiment/none/log", TEXT, 5000, no_experiment),
        (Some(ingest), "GET", "/experiment/none/log", TEXT, 10, no_experiment),
        (Some(admin), "PATCH", "/experiment/none", TEXT, 10, no_experiment),
        (Some(admin), "GET", "/experiment/none/log/log_x", NONE, 0, no_experiment),
        (Some(admin), "POST", "/nothing", TEXT, 5000, no_path),
        (Some(admin), "POST", "/experiment/chat/log/", TEXT, 10, no_path),
        (Some(admin), "POST", "//experiment/chat/log", TEXT, 10, no_path),
        // What can't be asked so.
        (Some(ingest), "GET", "/experiment/chat/log", TEXT, 5000, not_so),
        (Some(ingest), "BREW", "/experiment/chat/logs", BROTLI, 10, no_brew),
        (Some(ingest), "POST", "/experiment/chat/log", TEXT, 2001, too_large),
        (Some(admin), "PUT", "/experiment/chat", TEXT, 2001, too_large),
        (Some(admin), "POST", "/keys", BROTLI, 2001, too_large),
        (Some(ingest), "POST", "/experiment/chat/log", TEXT, 2000, no_text),
        (Some(ingest), "POST", "/experiment/chat/logs", TEXT, 10, no_text),
        (Some(admin), "PUT", "/experiment/new", TEXT, 10, no_text),
        (Some(admin), "POST", "/keys", TEXT, 10, no_text),
        (Some(ingest), "POST", "/experiment/chat/log", LINES, 10, no_lines),
        (Some(admin), "PUT", "/experiment/new", LINES, 10, no_lines),
        (Some(admin), "POST", "/keys", LINES, 10, no_lines),
        (Some(ingest), "POST", "/experiment/chat/log", BROTLI, 10, no_brotli),
        (Some(ingest), "POST", "/experiment/chat/logs", BROTLI, 10, no_brotli),
        (Some(admin), "PUT", "/experiment/new", BROTLI, 10, no_brotli),
    ];
    for (key, method, path, headers, body_len, expected) in cases {
        let case = Case {
            key,
            method,
            path,
            headers,
            body_len,
            expected,
        };
        case.check(&server);
    }
    assert_eq!(server.ask("GET", "/experiment/chat", "").json()["count"], 0);
    assert_eq!(server.ask("GET", "/experiment/new", "").status, 404);
}

#[test]
fn a_body_is_asked_for_once_everything_else_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let mut client = server.connect();
    let head = format!(
        "POST /experiment/demo/log HTTP/1.1\r\nhost: trialog\r\nx-api-key: {}\r\n\
         expect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        server.key,
        EXAMPLE.len()
    );
    client.send_raw(head.as_bytes()).unwrap();
    assert_eq!(client.read_answer(false).unwrap().status, 100);
    client.send_raw(EXAMPLE.as_bytes()).unwrap();
    client.read_answer(false).unwrap().log_id();
}

#[test]
fn one_key_is_sent_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let good = ("x-api-key", server.key.as_str());
    let send = |headers: &[(&str, &str)]| {
        let mut client = server.connect();
        let path = "/experiment/demo/log";
        client
            .send("POST", path, headers, EXAMPLE.as_bytes())
            .unwrap()
    };
    assert_eq!(send(&[good]).status, 200);
    for headers in [vec![good, good], vec![good, ("x-api-key", "tl_a_b")]] {
        let answer = send(&headers);
        answer.assert_error(401, "api_key_invalid", "holds no valid key", "two keys");
        assert_eq!(answer.header("www-authenticate"), Some("ApiKey"));
    }
    let bearer = format!("Bearer {}", server.key);
    send(&[("authorization", &bearer)]).assert_error(401, "api_key_missing", "x-api-key", "bearer");
    let long = "k".repeat(10_000);
    let answer = send(&[("x-api-key", &long)]);
    answer.assert_error(401, "api_key_invalid", "holds no valid key", "a long key");
}

#[test]
fn another_method_is_told_which_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let id = server.ask("POST", "/experiment/demo/log", EXAMPLE).log_id();
    let entry = format!("/experiment/demo/log/{id}");
    for (path, allowed) in [
        ("/health", "GET, HEAD"),
        ("/ready", "GET, HEAD"),
        ("/experiments", "GET, HEAD"),
        ("/experiment/demo", "GET, HEAD, PUT, DELETE"),
        ("/experiment/demo/log", "POST"),
        ("/experiment/demo/logs", "GET, HEAD, POST"),
        (entry.as_str(), "GET, HEAD"),
        ("/experiment/demo/tail", "GET, HEAD"),
        ("/experiment/demo/segments", "GET, HEAD"),
        ("/experiment/demo/segments/0", "GET, HEAD"),
        ("/keys", "GET, HEAD, POST"),
        ("/keys/none", "DELETE"),
    ] {
        for method in [
            "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get",
        ] {
            if allowed.split(", ").any(|known| known == method) {
                continue;
            }
            let answer = server.ask(method, path, "");
            let message = format!("this path takes {allowed} only");
            let case = format!("{method} {path}");
            answer.assert_error(405, "method_not_allowed", &message, &case);
            assert_eq!(answer.header("allow"), Some(allowed), "{case}");
        }
    }
}

#[test]
fn what_cannot_be_a_slug_names_nothing_and_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let longest = "a".repeat(64);
    let too_long = "a".repeat(65);
    for slug in [
        "..",
        ".",
        "%2e%2e",
        "%2f",
        "..%2f..",
        "%00",
        "demo%00",
        "DEMO",
        "Demo",
        "-demo",
        "_demo",
        "demo ",
        "d%65mo",
        "d.emo",
        "d\u{e9}mo",
        "%c3%a9",
        "demo%2f",
        "*",
        &too_long,
        "demo/",
        "",
    ] {
        let slug = &slug.replace(' ', "%20");
        let path = format!("/experiment/{slug}");
        for method in ["GET", "DELETE"] {
            let answer = server.ask(method, &path, "");
            let words = "there is no experiment with this slug";
            answer.assert_error(
                404,
                "experiment_not_found",
                words,
                &format!("{method} {path}"),
            );
        }
        let answer = server.ask("PUT", &path, r#"{"variants":["A"]}"#);
        answer.assert_error(400, "bad_slug", "a slug is 1 to 64 characters", &path);
        for end in ["log", "logs"] {
            let answer = server.ask("POST", &format!("{path}/{end}"), EXAMPLE);
            assert_eq!(answer.status, 404, "{path}/{end}");
        }
    }
    server.define(&longest);
    server
        .ask("POST", &format!("/experiment/{longest}/log"), EXAMPLE)
        .log_id();
    let mut made: Vec<_> = std::fs::read_dir(server.dir.join("experiments"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    made.sort();
    assert_eq!(made, [longest.as_str(), "demo"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn head_is_get_without_the_body() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let id = server.ask("POST", "/experiment/demo/log", EXAMPLE).log_id();
    let entry = format!("/experiment/demo/log/{id}");
    let key = ("x-api-key", server.key.as_str());
    // On one connection: bytes of a body would be taken for the beginning of the next answer.
    let mut client = server.connect();
    for (path, status) in [
        ("/health", 200),
        ("/ready", 200),
        ("/experiments", 200),
        ("/experiment/demo", 200),
        (entry.as_str(), 200),
        ("/keys", 200),
        ("/experiment/none", 404),
        ("/nothing", 404),
    ] {
        let get = client.send("GET", path, &[key], b"").unwrap();
        let head = client.send("HEAD", path, &[key], b"").unwrap();
        assert_eq!((get.status, head.status), (status, status), "{path}");
        assert!(!get.body.is_empty() && head.body.is_empty(), "{path}");
        for name in ["content-type", "content-length"] {
            assert_eq!(get.header(name), head.header(name), "{name} of {path}");
        }
    }
    let answer = client
        .send("HEAD", "/experiment/demo/log", &[key], b"")
        .unwrap();
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
}

#[test]
fn every_answer_names_its_request() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let mut client = server.connect();
    let mut ask = |key: &str, path: &str, id: Option<&str>| {
        let mut headers = vec![("x-api-key", key)];
        headers.extend(id.map(|id| ("x-request-id", id)));
        let answer = client.send("GET", path, &headers, b"").unwrap();
        let id = answer.header("x-request-id").expect("an id").to_owned();
        (answer.status, id)
    };
    let mut met = std::collections::HashSet::new();
    for (key, path, status) in [
        (server.key.as_str(), "/health", 200),
        (&server.key, "/experiments", 200),
        (&server.key, "/experiments", 200),
        (&server.key, "/nothing", 404),
        (&server.key, "/experiment/demo/log", 405),
        ("wrong", "/experiments", 401),
    ] {
        let (answered, id) = ask(key, path, None);
        assert_eq!(answered, status);
        assert!(met.insert(id), "an id twice: {path}");
        let (_, echoed) = ask(key, path, Some("trace-1/a:b"));
        assert_eq!(echoed, "trace-1/a:b", "{path}");
    }
    let longest = "x".repeat(128);
    assert_eq!(ask("", "/health", Some(&longest)).1, longest);
    for unusable in ["", "two words", "\u{e4}", &"x".repeat(129)] {
        let (_, id) = ask("", "/health", Some(unusable));
        assert_ne!(id, unusable);
        assert!(met.insert(id), "an id twice: {unusable}");
    }
}

#[test]
fn only_health_and_readiness_need_no_key() {
    let dir = tempfile::tempdir().unwrap();
    for (durability, flags) in [
        ("sync", vec![]),
        ("relaxed", vec!["--durability", "relaxed"]),
    ] {
        let server = Server::start(&dir.path().join(durability), &flags);
        let ready = format!(r#"{{"status":"ok","durability":"{durability}"}}"#);
        for (path, expected) in [("/health", r#"{"status":"ok"}"#), ("/ready", &ready)] {
            for headers in [vec![], vec![("x-api-key", "wrong")]] {
                let answer = server.connect().send("GET", path, &headers, b"").unwrap();
                assert_eq!(answer.status, 200);
                assert_eq!(String::from_utf8_lossy(&answer.body), expected);
            }
        }
        let appended = server.ask("POST", "/experiment/demo/log", EXAMPLE);
        assert_eq!(appended.header("trialog-durability"), Some(durability));
        let body = format!("{EXAMPLE}\n{EXAMPLE}");
        let appended = server.ask("POST", "/experiment/demo/logs", &body);
        assert_eq!(appended.header("trialog-durability"), Some(durability));
    }
}
