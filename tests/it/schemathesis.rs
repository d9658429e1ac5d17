//! The real schemathesis makes requests from `/openapi.json`, good and bad ones, and holds every answer
//! against it. How it is told to: `tests/openapi`.

use std::process::Command;

use crate::faults::{not_run, report};
use crate::openapi::actions;
use crate::server::Server;

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openapi");
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/openapi.json");
const PHASES: [&str; 4] = ["Examples", "Coverage", "Fuzzing", "Stateful"];

/// A server whose experiment `demo` takes any variant, and has entries in several segments; and the ids
/// of these entries.
fn server(dir: &std::path::Path) -> (Server, Vec<String>) {
    let server = Server::start(&dir.join("s"), &["--segment-bytes", "4096"]);
    let definition = r#"{"variants":["A","B"],"openVariants":true}"#;
    let defined = server.ask("PUT", "/experiment/demo", definition);
    assert_eq!(defined.status, 200, "{defined:?}");
    let entry = |n: usize| {
        let (variant, ms) = (["A", "B"][n % 2], 100 + n % 7);
        let context = r#"{"session_id":"s","environment":"production"}"#;
        format!(
            r#"{{"variantKey":"{variant}","metrics":{{"latency_ms":{ms}}},"context":{context}}}"#
        )
    };
    let entries = 0..100;
    let post = |n| {
        server
            .ask("POST", "/experiment/demo/log", &entry(n))
            .log_id()
    };
    let ids = entries.map(post).collect();
    (server, ids)
}

#[test]
fn schemathesis_finds_nothing() {
    let Some(packages) = std::env::var_os("TRIALOG_TEST_SCHEMATHESIS") else {
        return not_run("no TRIALOG_TEST_SCHEMATHESIS, a folder with that package");
    };
    if packages.is_empty() {
        return report("NOT RUN: schemathesis is not to be had here");
    }
    let dir = tempfile::tempdir().unwrap();
    let (server, ids) = server(dir.path());
    let keys = server.ask("GET", "/keys", "").json();
    let key_id = keys["keys"][0]["id"].as_str().unwrap();

    let mut python = Command::new("python3");
    python.args(["-m", "schemathesis.cli", "--config-file"]);
    python.arg(format!("{DIR}/schemathesis.toml"));
    // By its address it would pass over the operation that gives the document.
    python.args(["run", "--no-color", "--url", &server.url(), DOCUMENT]);
    python.env(
        "PYTHONPATH",
        std::env::join_paths([DIR.as_ref(), packages.as_os_str()]).unwrap(),
    );
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    python
        .env("TRIALOG_API_KEY", &server.key)
        .env("TRIALOG_KEY_ID", key_id);
    python.env("TRIALOG_LOG_IDS", ids.join(" "));
    let output = python.current_dir(dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for phase in PHASES {
        assert!(
            said.contains(&format!("\u{2705} {phase}\n")),
            "{phase} in: {said}"
        );
    }
    let tested = format!("Tested: {}\n", actions().count());
    assert!(said.contains(&tested), "{tested} in: {said}");
    all_was_asked(&server);
    for words in ["ERROR", "panicked"] {
        assert!(!server.said().contains(words), "{}", server.said());
    }
}

/// Each route gave what it gives.
fn all_was_asked(server: &Server) {
    let metrics = server.ask("GET", "/metrics", "").body;
    let metrics = String::from_utf8(metrics).unwrap();
    for (_, method, route) in actions() {
        let labels = format!(r#"{{method="{method}",route="{route}",status="2xx"}} "#);
        let counted = metrics
            .split_once(&labels)
            .map_or("0", |(_, behind)| behind);
        let count: u64 = counted.lines().next().unwrap().parse().unwrap();
        assert!(count > 0, "{method} {route}");
    }
}
