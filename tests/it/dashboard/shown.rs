//! What is on a page is text, and our own.

use serde_json::json;

use super::{Visitor, percent, store, text};
use crate::server::{EXAMPLE, Server};

/// What an entry may try.
const NASTY: [&str; 5] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "</title></svg><svg onload=alert(1)>",
    "\u{202e}gnp.exe",
];

#[test]
fn pages_may_load_nothing_and_run_nothing_but_our_own() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &[]);
    server.ask("POST", "/experiment/demo/log", EXAMPLE).log_id();
    let visitor = Visitor::admin(&server);
    for path in [
        "/ui/experiments",
        "/ui/experiment/demo",
        "/ui/experiment/demo/entries",
        "/ui/experiment/demo/edit",
        "/ui/operation",
        "/ui/keys",
    ] {
        let answer = visitor.get(path);
        let policy = answer.header("content-security-policy").unwrap();
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"));
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-store"),
            ("referrer-policy", "same-origin"),
            ("content-type", "text/html; charset=utf-8"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        let page = text(&answer);
        assert!(
            !page.contains(" style=") && !page.contains(" onclick="),
            "{path}"
        );
        assert!(
            !page.contains("http://") && !page.contains("https://"),
            "{path}"
        );
        for part in page.split("<script").skip(1) {
            assert!(part.starts_with(" src=\"/ui/assets/live-"), "{path}");
        }
        for part in page.split("/ui/assets/").skip(1) {
            let name = part.split('"').next().unwrap();
            let asset = visitor.get(&format!("/ui/assets/{name}"));
            assert_eq!(asset.status, 200, "{name}");
            assert!(asset.header("cache-control").unwrap().contains("immutable"));
        }
    }
    assert_eq!(visitor.get("/ui/assets/live.js").status, 404);
}

#[test]
fn what_an_entry_holds_is_shown_as_text() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &[]);
    let open = json!({"openVariants": true, "description": NASTY.join(" ")});
    assert_eq!(
        server
            .ask("PUT", "/experiment/nasty", &open.to_string())
            .status,
        201
    );
    let mut ids = Vec::new();
    for (n, text) in NASTY.iter().enumerate() {
        for other in [*text, NASTY[(n + 1) % NASTY.len()]] {
            let entry = json!({
                "variantKey": other, "input": {*text: [text, {"k": text}]}, "output": text,
                "metrics": {*text: n}, *text: *text,
            });
            // `output` is an object by contract.
            let mut entry = entry;
            entry["output"] = json!({"text": text, *text: text});
            let answer = server.ask("POST", "/experiment/nasty/log", &entry.to_string());
            ids.push(answer.log_id());
        }
    }
    let key = json!({"name": NASTY[0], "scopes": ["read"]});
    server.make_key(&key.to_string());
    let visitor = Visitor::admin(&server);
    let mut pages = vec![
        "/ui/experiments".to_owned(),
        "/ui/experiment/nasty".into(),
        "/ui/experiment/nasty/entries".into(),
        "/ui/experiment/nasty/edit".into(),
        "/ui/keys".into(),
        format!("/ui/experiment/nasty/entries?variant={}", percent(NASTY[1])),
        format!("/ui/experiments?q={}", percent(NASTY[1])),
        format!("/ui/experiment/nasty?metric={}", percent(NASTY[3])),
    ];
    for id in &ids {
        pages.push(format!("/ui/experiment/nasty/entry/{id}"));
        pages.push(format!("/ui/experiment/nasty/compare?left={id}"));
    }
    for path in &pages {
        let page = visitor.page(path);
        for bad in [
            "<script>",
            "<img",
            "onload=alert(1)>",
            "</title></svg>",
            "\"><",
            "\" onmouse",
        ] {
            // A tag of ours may end behind an attribute.
            let met = page
                .match_indices(bad)
                .filter(|(at, _)| !(bad == "\"><" && page[*at + 2..].starts_with('<')));
            let met: Vec<_> = match bad {
                "\"><" => page.match_indices("\"><img").collect(),
                _ => met.collect(),
            };
            assert!(met.is_empty(), "{path}: {bad}");
        }
    }
    let page = visitor.page(&format!("/ui/experiment/nasty/entry/{}", ids[0]));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    let page = visitor.page(&format!("/ui/experiment/nasty/entry/{}", ids[8]));
    assert!(
        page.contains("<bdi class=\"text\">\u{202e}gnp.exe</bdi>"),
        "it turns nothing else"
    );
}

#[test]
fn entries_are_listed_filtered_and_compared() {
    let dir = store();
    let server = Server::start(&dir.path().join("s"), &[]);
    let mut ids = Vec::new();
    for n in 0..120 {
        let (variant, input) = (["A", "B"][n % 2], n / 2);
        let entry = json!({
            "variantKey": variant, "input": {"q": format!("question {input}")},
            "output": {"text": format!("answer {n} of {variant}")}, "metrics": {"n": n},
        });
        ids.push(
            server
                .ask("POST", "/experiment/demo/log", &entry.to_string())
                .log_id(),
        );
    }
    let visitor = Visitor::admin(&server);
    let page = visitor.page("/ui/experiment/demo/entries");
    assert!(
        page.contains("answer 119") && page.contains("answer 70") && !page.contains("answer 69")
    );
    assert!(
        page.contains(&format!("after={}", ids[119])),
        "the tail goes on behind them"
    );
    let next = format!("/ui/experiment/demo/entries?before={}", ids[70]);
    let page = visitor.page(&next);
    assert!(
        page.contains("answer 69") && page.contains("answer 20") && !page.contains("data-tail")
    );
    let page = visitor.page("/ui/experiment/demo/entries?variant=B");
    assert!(
        page.contains("answer 119")
            && !page.contains("answer 118")
            && page.contains("variant=B&amp;after=")
    );
    let page = visitor.page("/ui/experiment/demo/entries?since=2099-01-01T00%3A00");
    assert!(!page.contains("answer"));
    for bad in ["since=x", "before=x", "nothing=1"] {
        let answer = visitor.get(&format!("/ui/experiment/demo/entries?{bad}"));
        assert_eq!(answer.status, 400, "{bad}");
    }

    let page = visitor.page(&format!("/ui/experiment/demo/entry/{}", ids[41]));
    assert!(page.contains("answer 41 of B") && page.contains("question 20"));
    // Both ways: the other one is in front of it, or behind it.
    for (left, right) in [(40, 41), (41, 40)] {
        let page = visitor.page(&format!("/ui/experiment/demo/compare?left={}", ids[left]));
        for n in [left, right] {
            let answer = format!("answer {n} of {}", ["A", "B"][n % 2]);
            assert!(page.contains(&answer), "{answer}");
        }
        assert!(!page.contains("answer 39") && !page.contains("differ"));
    }
    let path = format!(
        "/ui/experiment/demo/compare?left={}&right={}",
        ids[0], ids[3]
    );
    assert!(
        visitor
            .page(&path)
            .contains("The inputs of these two entries differ")
    );
    let none = ids[0].replace("log_0", "log_7");
    for path in [
        format!("entry/{none}"),
        format!("compare?left={none}"),
        "entry/x".into(),
    ] {
        let answer = visitor.get(&format!("/ui/experiment/demo/{path}"));
        assert_eq!(answer.status, 404, "{path}");
    }
}
