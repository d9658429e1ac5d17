//! What is made by forms.

use serde_json::json;

use super::{Visitor, store, text};
use crate::server::{EXAMPLE, Server};

#[test]
fn experiments_are_made_and_changed() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &[]);
    let visitor = Visitor::admin(&server);
    let form = [
        ("slug", "made"),
        ("description", "about it"),
        ("unit", "context.user"),
        ("key", "A"),
        ("weight", "0.25"),
        ("key", "B"),
        ("weight", "0.75"),
        ("key", ""),
        ("weight", ""),
        ("control", "1"),
        ("max_age", "90d"),
    ];
    let made = visitor.post("/ui/new-experiment", &form);
    assert_eq!(
        (made.status, made.header("location")),
        (303, Some("/ui/experiment/made"))
    );
    let described = server.ask("GET", "/experiment/made", "").json();
    let variants =
        json!([{"key":"A","weight":0.25,"control":false},{"key":"B","weight":0.75,"control":true}]);
    assert_eq!(described["variants"], variants);
    assert_eq!(described["retention"], json!({"maxAge":"90d"}));
    assert_eq!(described["unit"], "context.user");
    server
        .ask("POST", "/experiment/made/log", r#"{"variantKey":"A"}"#)
        .log_id();

    let edit = visitor.page("/ui/experiment/made/edit");
    assert!(edit.contains("value=\"0.25\"") && edit.contains("value=\"90d\""));
    let form = [("key", "B"), ("weight", ""), ("description", "<kept>")];
    let refused = visitor.post("/ui/experiment/made/edit", &form);
    assert_eq!(refused.status, 409, "A has entries");
    assert!(
        text(&refused).contains("&lt;kept&gt;"),
        "what was written stays"
    );
    let form = [("key", "A"), ("weight", "1"), ("key", "C"), ("weight", "x")];
    assert_eq!(visitor.post("/ui/experiment/made/edit", &form).status, 400);
    let form = [("key", "A"), ("weight", "1"), ("key", "C"), ("weight", "3")];
    assert_eq!(visitor.post("/ui/experiment/made/edit", &form).status, 303);
    let described = server.ask("GET", "/experiment/made", "").json();
    assert_eq!(
        described["variants"][1],
        json!({"key":"C","weight":3.0,"control":false})
    );
    assert!(described["retention"].is_null());
}

/// The longest keys, each with a weight: a small page, and what it shows is what it sends.
#[test]
fn a_thousand_variants_are_a_small_form_that_changes_nothing_by_itself() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &[]);
    let variants: Vec<_> = (0..1000)
        .map(|n| json!({"key": format!("{n:0>128}"), "weight": 0.001, "control": n == 700}))
        .collect();
    let definition = json!({ "variants": variants }).to_string();
    let made = server.ask("PUT", "/experiment/wide", &definition);
    assert_eq!(made.status, 201);
    let visitor = Visitor::admin(&server);
    let page = visitor.page("/ui/experiment/wide/edit");
    assert!(page.len() < 200_000, "{} bytes", page.len());
    let (_, field) = page.split_once("name=\"variants\"").unwrap();
    let (_, field) = field.split_once('>').unwrap();
    let (lines, _) = field.split_once("</textarea>").unwrap();
    assert_eq!(lines.matches("control").count(), 1);
    let sent = visitor.post("/ui/experiment/wide/edit", &[("variants", lines)]);
    assert_eq!(sent.status, 303, "{sent:?}");
    let described = server.ask("GET", "/experiment/wide", "").json();
    assert_eq!(described["variants"], json!(variants));
    // One more than there may be is told, and what was written stays.
    let more = format!("{lines}one more");
    let refused = visitor.post("/ui/experiment/wide/edit", &[("variants", &more)]);
    assert_eq!(refused.status, 400);
    let page = text(&refused);
    assert!(page.contains("at most 1000 variants") && page.contains("one more"));
    assert!(page.len() < 200_000, "{} bytes", page.len());
}

#[test]
fn keys_are_made_shown_once_and_revoked() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &[]);
    let visitor = Visitor::admin(&server);
    let form = [
        ("name", "ci"),
        ("scope", "ingest"),
        ("experiments", "demo, x-*"),
        ("expires_at", "2099-01-01T10:00"),
    ];
    let made = visitor.post("/ui/keys", &form);
    assert_eq!(made.status, 200, "{made:?}");
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let page = text(&made);
    let key = page
        .split("<code id=\"key\">")
        .nth(1)
        .unwrap()
        .split('<')
        .next()
        .unwrap();
    assert_eq!(
        page.matches(key).count(),
        4,
        "the key, curl, Python, JavaScript"
    );
    assert!(page.contains("http://trialog/experiment/demo/log"));
    let mut client = server.connect();
    let entry = EXAMPLE.as_bytes();
    client
        .send("POST", "/experiment/demo/log", &[("x-api-key", key)], entry)
        .unwrap()
        .log_id();

    let list = visitor.page("/ui/keys");
    let (_, secret) = key.rsplit_once('_').unwrap();
    assert!(list.contains("ci") && list.contains("demo, x-*") && !list.contains(secret));
    assert!(list.contains("2099-01-01 10:00:00"));
    let id = key.split('_').nth(1).unwrap();
    assert_eq!(
        visitor.post(&format!("/ui/keys/{id}/revoke"), &[]).status,
        303
    );
    assert_eq!(
        server.ask_as(key, "POST", "/experiment/demo/log").status,
        401
    );
    assert_eq!(
        visitor.post(&format!("/ui/keys/{id}/revoke"), &[]).status,
        404
    );
    let (own, _) = server.key["tl_".len()..].split_once('_').unwrap();
    assert_eq!(
        visitor.post(&format!("/ui/keys/{own}/revoke"), &[]).status,
        409,
        "the last admin key"
    );
    for form in [
        &[("name", ""), ("scope", "read")][..],
        &[("name", "n")],
        &[("name", "n"), ("scope", "x")],
    ] {
        assert_eq!(visitor.post("/ui/keys", form).status, 400, "{form:?}");
    }
}
