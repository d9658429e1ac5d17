//! Who gets in, and how far.

use super::{FORM, Visitor, encoded, store, text, try_sign_in};
use crate::server::Server;

#[test]
fn whoever_has_a_key_that_may_read_signs_in_and_out() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &[]);
    let plain = server.connect().send("GET", "/", &[], b"").unwrap();
    assert_eq!(plain.status, 200);
    assert!(text(&plain).contains("<h1>Sign in</h1>"));
    assert!(!text(&plain).contains("demo"));

    let answer = try_sign_in(&server, &server.key);
    assert_eq!(
        (answer.status, answer.header("location")),
        (303, Some("/ui/operation"))
    );
    let cookie = answer.header("set-cookie").unwrap();
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(cookie.contains(attribute), "{attribute}: {cookie}");
    }
    assert!(!cookie.contains("Secure"), "it isn't TLS: {cookie}");
    let (_, secret) = server.key.rsplit_once('_').unwrap();
    assert!(!cookie.contains(secret));

    let visitor = Visitor::admin(&server);
    assert!(visitor.page("/ui/experiments").contains("demo"));
    let home = visitor.get("/");
    assert_eq!(
        (home.status, home.header("location")),
        (303, Some("/ui/experiments"))
    );
    let out = visitor.post("/ui/sign-out", &[]);
    assert_eq!(out.status, 303);
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
}

#[test]
fn without_a_session_nothing_is_told() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &[]);
    let visitor = Visitor::admin(&server);
    let changed = visitor.cookie.replace(['0', '1'], "2");
    let (_, ingest) = server.make_key(r#"{"name":"i","scopes":["ingest"]}"#);
    for cookie in ["", "trialog_session=x.9999999999999.00", &changed] {
        for path in [
            "/ui/experiments",
            "/ui/experiment/demo",
            "/ui/experiment/none",
            "/ui/none",
            "/ui/keys",
        ] {
            let headers = [("cookie", cookie), ("x-api-key", server.key.as_str())];
            let answer = server.connect().send("GET", path, &headers, b"").unwrap();
            assert_eq!(answer.status, 401, "{path}");
            assert!(text(&answer).contains("Sign in"), "{path}");
            let to = if path == "/ui/none" {
                "/ui/experiments"
            } else {
                path
            };
            let to = format!("value=\"{to}\"");
            assert!(text(&answer).contains(&to), "it goes on there");
        }
        for path in ["/ui/operation/figures", "/ui/experiment/demo/tail"] {
            let answer = server
                .connect()
                .send("GET", path, &[("cookie", cookie)], b"")
                .unwrap();
            assert_eq!(answer.status, 401, "{path}");
            assert!(answer.code().starts_with("api_key"), "{path}");
        }
    }
    assert_eq!(try_sign_in(&server, &ingest).status, 403, "it may not read");
    assert_eq!(try_sign_in(&server, "").status, 401);
}

#[test]
fn wrong_keys_are_counted_with_those_of_the_api() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &["--max-key-failures", "3"]);
    for _ in 0..2 {
        assert_eq!(try_sign_in(&server, "tl_wrong_wrong").status, 401);
    }
    assert_eq!(server.ask_as("wrong", "GET", "/experiments").status, 401);
    let answer = try_sign_in(&server, "tl_wrong_wrong");
    assert_eq!(answer.status, 429);
    assert!(answer.header("retry-after").is_some());
    assert_eq!(
        try_sign_in(&server, &server.key).status,
        303,
        "a good one gets in"
    );
}

#[test]
fn a_revoked_key_ends_its_sessions_at_once() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &[]);
    let (id, key) = server.make_key(r#"{"name":"r","scopes":["read"]}"#);
    let visitor = Visitor::sign_in(&server, &key);
    assert_eq!(visitor.get("/ui/experiments").status, 200);
    assert_eq!(server.ask("DELETE", &format!("/keys/{id}"), "").status, 200);
    assert_eq!(visitor.get("/ui/experiments").status, 401);
    assert_eq!(visitor.get("/ui/operation/figures").status, 401);
}

#[test]
fn scopes_and_experiments_hold_for_pages_too() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &[]);
    server.define("search-a");
    server.define("other");
    let request = r#"{"name":"r","scopes":["read"],"experiments":["search-*"]}"#;
    let (_, key) = server.make_key(request);
    let visitor = Visitor::sign_in(&server, &key);
    let list = visitor.page("/ui/experiments");
    assert!(list.contains("search-a") && !list.contains("other") && !list.contains("demo"));
    assert!(!list.contains("New experiment") && !list.contains("/ui/keys"));
    for (path, status) in [
        ("/ui/experiment/search-a", 200),
        ("/ui/experiment/other", 403),
        ("/ui/experiment/other/entries", 403),
        ("/ui/experiment/search-none", 404),
        ("/ui/keys", 403),
        ("/ui/new-experiment", 403),
        ("/ui/experiment/search-a/edit", 403),
        ("/ui/none", 404),
    ] {
        let answer = visitor.get(path);
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.header("content-security-policy").is_some(), "{path}");
    }
    let fields = [("name", "x"), ("scope", "admin")];
    assert_eq!(visitor.post("/ui/keys", &fields).status, 403);
    // An admin of some experiments makes those, and no keys.
    let request = r#"{"name":"a","scopes":["admin"],"experiments":["search-*"]}"#;
    let (_, key) = server.make_key(request);
    let visitor = Visitor::sign_in(&server, &key);
    assert_eq!(visitor.get("/ui/keys").status, 403);
    let make = |slug| {
        visitor.post(
            "/ui/new-experiment",
            &[("slug", slug), ("key", "A"), ("weight", "")],
        )
    };
    assert_eq!(make("search-b").status, 303);
    assert_eq!(make("elsewhere").status, 403);
    assert_eq!(
        make("search-a").status,
        400,
        "it is there, and isn't changed"
    );
}

#[test]
fn forms_of_other_sites_are_refused() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &[]);
    let visitor = Visitor::admin(&server);
    let body = encoded(&[("slug", "made"), ("key", "A"), ("weight", "")]);
    let cookie = ("cookie", visitor.cookie.as_str());
    for from in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("x-nothing", "said"),
    ] {
        for path in [
            "/ui/new-experiment",
            "/ui/sign-in",
            "/ui/sign-out",
            "/ui/keys",
        ] {
            let headers = [FORM, cookie, from];
            let answer = server
                .connect()
                .send("POST", path, &headers, body.as_bytes())
                .unwrap();
            assert_eq!(answer.status, 403, "{path} {from:?}");
        }
    }
    assert_eq!(server.ask("GET", "/experiment/made", "").status, 404);
    let headers = [FORM, cookie, ("origin", "http://trialog")];
    let answer = server
        .connect()
        .send("POST", "/ui/new-experiment", &headers, body.as_bytes());
    assert_eq!(answer.unwrap().status, 303);
    // Nothing is changed by asking for a page.
    for path in ["/ui/sign-out", "/ui/keys/x/revoke"] {
        assert_eq!(visitor.get(path).status, 404, "{path}");
    }
}

#[test]
fn a_link_on_another_site_finds_the_session() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &[]);
    let from = [("sec-fetch-site", "cross-site")];
    let answer = server
        .connect()
        .send("GET", "/ui/experiment/demo", &from, b"")
        .unwrap();
    assert_eq!((answer.status, answer.header("refresh")), (200, Some("0")));
    assert!(!text(&answer).contains("demo"));
}
