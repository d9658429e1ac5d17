//! The commands that ask a running server.

use std::process::Output;

use serde_json::{Value, json};

use crate::server::{EXAMPLE, Server, arg, run, trialog};

/// What a command that succeeded printed; it said nothing else.
fn printed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn printed_json(output: &Output) -> Value {
    serde_json::from_str(&printed(output)).expect("one JSON value")
}

/// Fails unless a command failed with these words and printed nothing.
fn failed(output: &Output, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.starts_with("trialog: ") && said.contains(words),
        "{said}"
    );
}

#[test]
fn experiments_are_managed_from_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let create = [
        "experiment",
        "create",
        "ranker",
        "--variant",
        "A",
        "--variant",
        "B",
    ];
    let created = printed_json(&server.command(&create));
    assert_eq!(
        (&created["slug"], &created["count"]),
        (&json!("ranker"), &json!(0))
    );
    server
        .ask("POST", "/experiment/ranker/log", EXAMPLE)
        .log_id();
    let changed = [
        &create[..],
        &["--variant", "C", "--description", "which one"],
    ]
    .concat();
    printed_json(&server.command(&changed));
    let open = ["experiment", "create", "open", "--open-variants"];
    assert_eq!(printed_json(&server.command(&open))["openVariants"], true);
    let shown = printed_json(&server.command(&["experiment", "show", "ranker"]));
    assert_eq!(shown["description"], "which one");
    assert_eq!(shown["variantCounts"][0], json!({"key": "A", "count": 1}));
    assert_eq!(shown["variants"].as_array().expect("a list").len(), 3);
    let remove_used = ["experiment", "create", "ranker", "--variant", "B"];
    failed(
        &server.command(&remove_used),
        r#"variant "A" has entries and can't be removed"#,
    );
    failed(
        &server.command(&["experiment", "create", "none"]),
        "at least one variant",
    );
    failed(
        &server.command(&["experiment", "show", "none"]),
        "no experiment with this slug",
    );
    let delete =
        |confirm: &str| server.command(&["experiment", "delete", "ranker", "--confirm", confirm]);
    failed(
        &delete("open"),
        "deleting can't be undone: say ?confirm=ranker",
    );
    printed(&delete("ranker"));
    failed(&delete("ranker"), "no experiment with this slug");
    assert_eq!(server.ask("GET", "/experiment/ranker", "").status, 404);
}

#[test]
fn all_experiments_are_listed_over_all_pages() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let slugs: Vec<_> = (100..205).map(|n| format!("e{n}")).collect();
    for slug in &slugs {
        server.define(slug);
    }
    let lines = printed(&server.command(&["experiment", "list"]));
    let slug = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["slug"].take();
    let listed: Vec<_> = lines.lines().map(slug).collect();
    assert_eq!(listed.len(), 106);
    assert_eq!(listed[0], "demo");
    assert!(
        listed[1..]
            .iter()
            .zip(&slugs)
            .all(|(listed, slug)| listed == slug),
        "{listed:?}"
    );
}

#[test]
fn keys_are_managed_from_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    #[rustfmt::skip]
    let create = [
        "key", "create", "--name", "ci", "--scope", "ingest", "--scope", "read",
        "--experiment", "search-*", "--experiment", "demo", "--expires-at", "2999-01-01T00:00:00Z",
    ];
    // The key and nothing else, so that a script can take it.
    let key = printed(&server.command(&create));
    let key = key.strip_suffix('\n').expect("a line");
    assert!(
        key.starts_with("tl_") && !key.contains(char::is_whitespace),
        "the form of a key"
    );
    assert_eq!(server.ask_as(key, "GET", "/experiment/demo").status, 200);
    assert_eq!(server.ask_as(key, "GET", "/experiment/chat").status, 403);
    let listed = printed(&server.command(&["key", "list"]));
    assert_eq!(listed.lines().count(), 2);
    assert!(
        !listed.contains(key) && !listed.contains(&server.key),
        "{listed}"
    );
    let info: Value = serde_json::from_str(listed.lines().nth(1).unwrap()).unwrap();
    assert_eq!(info["name"], "ci");
    assert_eq!(info["scopes"], json!(["ingest", "read"]));
    assert_eq!(info["experiments"], json!(["search-*", "demo"]));
    assert_eq!(info["expiresAt"], "2999-01-01T00:00:00.000Z");
    let id = info["id"].as_str().expect("an id");
    printed(&server.command(&["key", "revoke", id]));
    assert_eq!(server.ask_as(key, "GET", "/experiment/demo").status, 401);
    failed(
        &server.command(&["key", "revoke", id]),
        "there is no key with this id",
    );
    let whole = [
        "key",
        "create",
        "--name",
        "t",
        "--scope",
        "read",
        "--experiment",
        "UP",
    ];
    failed(&server.command(&whole), "experiments are at most 100 slugs");
}

#[test]
fn the_server_and_the_key_are_found_in_several_places() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &[]);
    let url = server.url();
    let list = || {
        let mut command = trialog();
        command.args(["experiment", "list"]);
        command
    };
    // The key of a store on this machine.
    let by_flag = list()
        .args(["--server", &url, "--data", arg(&store)])
        .output()
        .unwrap();
    let by_variable = list()
        .env("TRIALOG_SERVER", &url)
        .env("TRIALOG_API_KEY", &server.key)
        .output()
        .unwrap();
    assert_eq!(printed(&by_flag), printed(&by_variable));
    // A flag is over a variable.
    let over = list()
        .args(["--server", &url, "--api-key", &server.key])
        .env("TRIALOG_SERVER", "http://127.0.0.1:1")
        .env("TRIALOG_API_KEY", "wrong")
        .output()
        .unwrap();
    assert_eq!(printed(&over), printed(&by_flag));
    let wrong = list()
        .args(["--server", &url, "--api-key", "wrong"])
        .output()
        .unwrap();
    failed(&wrong, "the x-api-key header holds no valid key");
    let unsendable = list()
        .args(["--server", &url, "--api-key", "a\nb"])
        .output()
        .unwrap();
    failed(&unsendable, "the API key can't be sent");
    let none = list()
        .args(["--server", &url, "--data", arg(dir.path())])
        .output()
        .unwrap();
    failed(&none, "no --api-key (or TRIALOG_API_KEY) given, and");
    // What answers there is no trialog.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let accepting = std::thread::spawn(move || drop(silent.accept()));
    let output = list()
        .args(["--server", &url, "--api-key", "k"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        !String::from_utf8_lossy(&output.stderr).contains("panicked"),
        "{output:?}"
    );
    accepting.join().unwrap();
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let server = Server::start(&store, &[]);
    server.ask("POST", "/experiment/demo/log", EXAMPLE).log_id();
    server.stop();
    let server = Server::start(&store, &[]);
    let nobody = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let asking = ["--server", &server.url(), "--api-key", &server.key];
    for args in [
        [&["experiment", "list"], &asking[..]].concat(),
        [&["key", "list"], &asking[..]].concat(),
        vec!["replay", arg(&store)],
        vec![
            "inspect",
            arg(&store.join("experiments/demo/00000000000000000000.segment")),
        ],
    ] {
        let output = trialog().args(&args).stdout(nobody()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
        let output = trialog().args(&args).stderr(nobody()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    }
    // A key that nobody saw is worth a word.
    let create = [
        &["key", "create", "--name", "t", "--scope", "read"],
        &asking[..],
    ]
    .concat();
    let output = trialog().args(&create).stdout(nobody()).output().unwrap();
    failed(&output, "Broken pipe");
    // Nor does it panic where nobody hears of a failure.
    let output = trialog()
        .args(["replay", "/none"])
        .stderr(nobody())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(run(&["verify", arg(&store)]).status.code(), Some(0));
}
