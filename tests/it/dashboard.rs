//! The dashboard over sockets: who sees what, what it says, and that nothing in an entry is markup.

use serde_json::{Value, json};

use crate::client::Answer;
use crate::real_entries::lines;
use crate::server::{EXAMPLE, Server};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const OURS: (&str, &str) = ("sec-fetch-site", "same-origin");
/// What an entry may try.
const NASTY: [&str; 5] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "</title></svg><svg onload=alert(1)>",
    "\u{202e}gnp.exe",
];

/// Somebody who signed in.
struct Visitor<'s> {
    server: &'s Server,
    cookie: String,
}

impl<'s> Visitor<'s> {
    fn sign_in(server: &'s Server, key: &str) -> Self {
        let answer = try_sign_in(server, key);
        assert_eq!(answer.status, 303, "{answer:?}");
        let cookie = answer.header("set-cookie").unwrap();
        let cookie = cookie.split(';').next().unwrap().to_owned();
        Self { server, cookie }
    }

    fn admin(server: &'s Server) -> Self {
        Self::sign_in(server, &server.key)
    }

    fn get(&self, path: &str) -> Answer {
        let mut client = self.server.connect();
        client
            .send("GET", path, &[("cookie", &self.cookie)], b"")
            .unwrap()
    }

    fn page(&self, path: &str) -> String {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        text(&answer)
    }

    fn post(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        let headers = [FORM, OURS, ("cookie", &self.cookie)];
        let body = encoded(form);
        let mut client = self.server.connect();
        client
            .send("POST", path, &headers, body.as_bytes())
            .unwrap()
    }
}

fn try_sign_in(server: &Server, key: &str) -> Answer {
    let body = encoded(&[("key", key), ("to", "/ui/operation")]);
    let mut client = server.connect();
    client
        .send("POST", "/ui/sign-in", &[FORM, OURS], body.as_bytes())
        .unwrap()
}

fn encoded(form: &[(&str, &str)]) -> String {
    let pairs = form.iter().map(|(name, value)| {
        let value = value.bytes().map(|byte| format!("%{byte:02x}"));
        format!("{name}={}", value.collect::<String>())
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.clone()).unwrap()
}

fn store() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

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

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
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
