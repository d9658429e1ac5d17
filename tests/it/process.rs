//! The binary from the outside: its start, its end, and what it says when it can't.

use crate::server::{EXAMPLE, Server, arg, run};

#[test]
fn an_empty_folder_becomes_a_store_that_takes_the_example() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let server = Server::start(&store, &[]);
    let id = server.ask("POST", "/experiment/demo/log", EXAMPLE).log_id();
    assert!(id.starts_with("log_") && id.len() == 30, "{id}");
    server.kill();
    let replayed = run(&["replay", arg(&store)]);
    assert!(replayed.status.success());
    let line = String::from_utf8(replayed.stdout).unwrap();
    assert!(line.contains(&id), "{line}");
    let sent = EXAMPLE.strip_prefix('{').unwrap();
    assert!(line.ends_with(&format!("\",{sent}\n")), "{line}");
}
