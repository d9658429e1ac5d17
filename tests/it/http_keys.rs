//! Keys: made, listed, restricted, ended and revoked over HTTP; and the first one.

use serde_json::json;

use crate::server::{EXAMPLE, Server, trialog};

const LOG: &str = "/experiment/demo/log";

#[test]
fn a_key_is_shown_once_and_kept_without_its_secret() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let request = json!({
        "name": "ci", "scopes": ["ingest", "read"], "experiments": ["search-*", "demo"],
        "expiresAt": "2999-12-31T23:59:59Z",
    });
    let made = server.ask("POST", "/keys", &request.to_string());
    assert_eq!(made.status, 201);
    let mut json = made.json();
    let key = json["key"].take().as_str().expect("a key").to_owned();
    let id = json["id"].as_str().expect("an id").to_owned();
    assert!(
        key.starts_with(&format!("tl_{id}_")) && key.len() >= 40,
        "the form of a key"
    );
    for name in ["name", "scopes", "experiments"] {
        assert_eq!(json[name], request[name], "{name}");
    }
    assert_eq!(json["expiresAt"], "2999-12-31T23:59:59.000Z");
    let listed = server.ask("GET", "/keys", "");
    let text = String::from_utf8_lossy(&listed.body).into_owned();
    let secret = key.rsplit('_').next().unwrap();
    assert!(!text.contains(secret) && !text.contains("sha256"), "{text}");
    let keys = listed.json()["keys"].take();
    assert_eq!(keys.as_array().expect("a list").len(), 2);
    assert_eq!(keys[0]["name"], "first admin key");
    json.as_object_mut().expect("an object").remove("key");
    assert_eq!(keys[1], json);
    let file = std::fs::read_to_string(server.dir.join("keys.json")).unwrap();
    assert!(file.contains(&id) && !file.contains(secret), "{file}");
    // A restart, even an unclean one, keeps it.
    server.kill();
    let server = Server::start(&dir.path().join("s"), &[]);
    assert_eq!(server.ask_as(&key, "GET", "/experiment/demo").status, 200);
    assert_eq!(
        server.ask_as(&key, "GET", "/experiment/search-x").status,
        404
    );
    assert_eq!(server.ask_as(&key, "GET", "/experiment/chat").status, 403);
}

#[test]
fn a_revoked_key_is_refused_on_the_next_request() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let (id, key) = server.make_key(r#"{"name":"t","scopes":["ingest"]}"#);
    // On one connection, which is open already when the key goes.
    let mut client = server.connect();
    let mut post = || {
        client
            .send("POST", LOG, &[("x-api-key", &key)], EXAMPLE.as_bytes())
            .unwrap()
    };
    post().log_id();
    let path = format!("/keys/{id}");
    let revoked = server.ask("DELETE", &path, "");
    assert_eq!(
        (revoked.status, revoked.body.as_slice()),
        (200, b"{\"success\":true}".as_slice())
    );
    post().assert_error(401, "api_key_invalid", "holds no valid key", "revoked");
    let answer = server.ask("DELETE", &path, "");
    answer.assert_error(
        404,
        "key_not_found",
        "there is no key with this id",
        "again",
    );
    server.kill();
    let server = Server::start(&dir.path().join("s"), &[]);
    assert_eq!(server.ask_as(&key, "GET", "/experiments").status, 401);
    assert_eq!(server.ask("GET", "/experiments", "").status, 200);
}

#[test]
fn keys_are_rotated_with_two_that_are_good_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let request = r#"{"name":"writer","scopes":["ingest"]}"#;
    let (old_id, old) = server.make_key(request);
    let mut client = server.connect();
    let mut post = |key: &str| {
        let key = ("x-api-key", key);
        client
            .send("POST", LOG, &[key], EXAMPLE.as_bytes())
            .unwrap()
    };
    post(&old).log_id();
    let (_, new) = server.make_key(request);
    post(&new).log_id();
    post(&old).log_id();
    let revoked = server.ask("DELETE", &format!("/keys/{old_id}"), "");
    assert_eq!(revoked.status, 200);
    post(&old).assert_error(401, "api_key_invalid", "holds no valid key", "old");
    post(&new).log_id();
}

#[test]
fn when_a_key_was_last_used_is_told_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let (_, key) = server.make_key(r#"{"name":"t","scopes":["read"]}"#);
    let used =
        |server: &Server| server.ask("GET", "/keys", "").json()["keys"][1]["lastUsedAt"].take();
    assert_eq!(used(&server), json!(null));
    assert_eq!(server.ask_as(&key, "GET", "/experiment/demo").status, 200);
    let at = used(&server);
    let text = at.as_str().expect("a time");
    assert!(text.ends_with(".000Z"), "to the second: {text}");
    let server_dir = server.dir.clone();
    assert!(server.stop().0.success());
    let server = Server::start(&server_dir, &[]);
    assert_eq!(used(&server), at);
}

#[test]
fn a_key_ends_when_it_should() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let make = |end: &str| {
        let request = format!(r#"{{"name":"t","scopes":["read"],"expiresAt":{end}}}"#);
        server.make_key(&request).1
    };
    let status = |key: &str| server.ask_as(key, "GET", "/experiments").status;
    assert_eq!(status(&make("\"2999-01-01T00:00:00+01:00\"")), 200);
    assert_eq!(status(&make("null")), 200);
    // One that ends while it is in use: it works until it doesn't, and never again.
    let short = make(&format!("\"{}\"", soon()));
    while status(&short) == 200 {}
    let answer = server.ask_as(&short, "GET", "/experiments");
    answer.assert_error(401, "api_key_invalid", "holds no valid key", "ended");
}

/// A time that is still to come, but not for long.
fn soon() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    trialog::entry_json::rfc3339_ms(now.unwrap().as_millis() as u64 + 2_000)
}

#[test]
fn a_bad_request_for_a_key_says_what_is_wrong_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let long = format!(r#"{{"name":"{}","scopes":["read"]}}"#, "n".repeat(201));
    let globs = json!({"name": "t", "scopes": ["read"], "experiments": vec!["a"; 101]}).to_string();
    #[rustfmt::skip]
    let cases = [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("[]", "expected an object"),
        (r#"["t",["admin"]]"#, "expected an object"),
        ("null", "expected an object"),
        ("{}", "missing field `name`"),
        (r#"{"name":"t"}"#, "missing field `scopes`"),
        (r#"{"name":"t","scopes":[]}"#, "a key needs at least one scope: ingest, read or admin"),
        (r#"{"name":"t","scopes":["write"]}"#, "unknown variant `write`, expected one of `ingest`, `read`, `admin`"),
        (r#"{"name":"t","scopes":"read"}"#, "expected a sequence"),
        (r#"{"name":"","scopes":["read"]}"#, "a key's name has 1 to 200 bytes"),
        (&long, "a key's name has 1 to 200 bytes"),
        (r#"{"name":1,"scopes":["read"]}"#, "expected a string"),
        (r#"{"name":"t","scopes":["read"],"experiments":["UP"]}"#, "experiments are at most 100 slugs"),
        (r#"{"name":"t","scopes":["read"],"experiments":[""]}"#, "experiments are at most 100 slugs"),
        (r#"{"name":"t","scopes":["read"],"experiments":["../x"]}"#, "experiments are at most 100 slugs"),
        (&globs, "experiments are at most 100 slugs"),
        (r#"{"name":"t","scopes":["read"],"expiresAt":"tomorrow"}"#, "expiresAt is an RFC 3339 time"),
        (r#"{"name":"t","scopes":["read"],"expiresAt":"2030-01-01"}"#, "expiresAt is an RFC 3339 time"),
        (r#"{"name":"t","scopes":["read"],"expiresAt":"2020-01-01T00:00:00Z"}"#, "expiresAt is in the past"),
        (r#"{"name":"t","scopes":["read"],"expiresAt":"1960-01-01T00:00:00Z"}"#, "expiresAt is in the past"),
        (r#"{"name":"t","scopes":["read"],"expiresAt":5}"#, "expected a string"),
        (r#"{"name":"t","scopes":["read"],"key":"mine"}"#, "unknown field `key`"),
    ];
    for (request, message) in cases {
        let answer = server.ask("POST", "/keys", request);
        answer.assert_error(400, "bad_key_request", message, request);
        for internal in ["struct", "enum", "Request", "visitor"] {
            assert!(!answer.message().contains(internal), "{}", answer.message());
        }
    }
    assert_eq!(
        server.ask("GET", "/keys", "").json()["keys"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn somebody_can_always_manage_keys() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let first = server.ask("GET", "/keys", "").json()["keys"][0]["id"].take();
    let first = format!("/keys/{}", first.as_str().unwrap());
    let words = "this is the last admin key for all experiments";
    let refused = |why: &str| {
        let answer = server.ask("DELETE", &first, "");
        answer.assert_error(409, "last_admin_key", words, why);
    };
    refused("alone");
    // None of these could make another key, now or tomorrow.
    server.make_key(r#"{"name":"t","scopes":["ingest","read"]}"#);
    refused("no admin");
    let request = r#"{"name":"t","scopes":["admin"],"experiments":["*"]}"#;
    let (_, restricted) = server.make_key(request);
    refused("restricted");
    let ending = json!({"name": "t", "scopes": ["admin"], "expiresAt": soon()});
    let (_, ended) = server.make_key(&ending.to_string());
    refused("ending soon");
    while server.ask_as(&ended, "GET", "/experiments").status == 200 {}
    refused("ended");
    let request = r#"{"name":"t","scopes":["admin"],"expiresAt":"2999-01-01T00:00:00Z"}"#;
    let (ending, _) = server.make_key(request);
    refused("ending");
    assert_eq!(
        server.ask("DELETE", &format!("/keys/{ending}"), "").status,
        200
    );
    let words = "restricted to some experiments, so it can't manage keys";
    for (method, path) in [
        ("GET", "/keys"),
        ("POST", "/keys"),
        ("DELETE", first.as_str()),
    ] {
        let answer = server.ask_as(&restricted, method, path);
        answer.assert_error(403, "key_restricted", words, method);
    }
    // It does define experiments, those that it reaches.
    let send = |path: &str| {
        let key = ("x-api-key", restricted.as_str());
        let definition = br#"{"variants":["A"]}"#;
        server
            .connect()
            .send("PUT", path, &[key], definition)
            .unwrap()
            .status
    };
    assert_eq!(send("/experiment/any"), 201);
    let (_, second) = server.make_key(r#"{"name":"t","scopes":["admin"]}"#);
    assert_eq!(server.ask("DELETE", &first, "").status, 200);
    assert_eq!(server.ask("GET", "/keys", "").status, 401);
    assert_eq!(server.ask_as(&second, "GET", "/keys").status, 200);
}

#[test]
fn the_first_key_may_be_the_operators_own() {
    let dir = tempfile::tempdir().unwrap();
    let own = "correct-horse-battery-staple-0123";
    let start = |key: &str| {
        let mut command = trialog();
        command.env("TRIALOG_BOOTSTRAP_KEY", key);
        Server::start_by(&mut command, &dir.path().join("s"), &[])
    };
    let server = start(own);
    assert_eq!(server.key, own);
    assert_eq!(
        server.ask_as(own, "GET", "/keys").json()["keys"][0]["id"],
        "bootstrap"
    );
    server.ask("POST", LOG, EXAMPLE).log_id();
    for wrong in [
        "correct-horse-battery-staple-0124",
        "correct-horse-battery-staple-01234",
        "",
    ] {
        assert_eq!(server.ask_as(wrong, "GET", "/keys").status, 401, "{wrong}");
    }
    server.kill();
    // Only on an empty folder: later it changes nothing.
    let server = start("another-key-another-key-another-k");
    assert_eq!(
        server
            .ask_as("another-key-another-key-another-k", "GET", "/keys")
            .status,
        401
    );
    assert_eq!(server.ask_as(own, "GET", "/keys").status, 200);
}
