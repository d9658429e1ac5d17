//! Calls that fail and cost one request, not the server: accepting, reading, making experiments.

use std::time::Instant;

use super::strace::Strace;
use crate::server::{EXAMPLE, Server};

const LOG: &str = "/experiment/demo/log";
const NEW: &str = "/experiment/new";
const DEFINITION: &str = r#"{"variants":["A"]}"#;

#[test]
fn accepting_goes_on_after_errors_and_does_not_spin() {
    let dir = tempfile::tempdir().unwrap();
    for error in [
        "EMFILE",
        "ENFILE",
        "ENOBUFS",
        "ENOMEM",
        "ECONNABORTED",
        "EPERM",
    ] {
        let server = Server::start(&dir.path().join(error), &[]);
        let mut connected = server.connect();
        let key = ("x-api-key", &*server.key);
        connected.send("GET", "/health", &[], b"").unwrap();
        // A connection that was cut off on its way is the next one's turn at once.
        let inject = match error {
            "ECONNABORTED" => format!("accept4:error={error}:when=1..20"),
            _ => format!("accept4:error={error}"),
        };
        let Some(strace) = Strace::attach(&server, &inject, &[]) else {
            return;
        };
        let mut waiting = server.connect();
        let begin = Instant::now();
        // The ones that are there are served meanwhile.
        for _ in 0..300 {
            let answer = connected.send("POST", LOG, &[key], EXAMPLE.as_bytes());
            assert_eq!(answer.unwrap().status, 200, "{error}");
        }
        let pauses = begin.elapsed().as_millis() / 100;
        strace.detach();
        assert_eq!(
            waiting.send("GET", "/health", &[], b"").unwrap().status,
            200,
            "{error}"
        );
        server.kill();
        let calls = strace.calls();
        let failed = calls.iter().filter(|call| call.is_injected).count() as u128;
        assert!(failed > 0, "{error}: nothing was injected");
        let bound = if error == "ECONNABORTED" {
            20
        } else {
            pauses + 5
        };
        assert!(
            failed <= bound,
            "{error}: {failed} times in {pauses} pauses"
        );
    }
}

#[test]
fn a_read_that_fails_is_500_and_entries_are_taken_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let server = Server::start(&store, &[]);
    let id = server.ask("POST", LOG, EXAMPLE).log_id();
    let (status, _) = server.stop();
    assert!(status.success());
    let segment = store.join("experiments/demo/00000000000000000000.segment");
    for error in ["EIO", "ENOMEM"] {
        let server = Server::start(&store, &[]);
        let path = format!("{LOG}/{id}");
        assert_eq!(server.ask("GET", &path, "").status, 200);
        let inject = format!("pread64:error={error}");
        let Some(strace) = Strace::attach(&server, &inject, std::slice::from_ref(&segment)) else {
            return;
        };
        let answer = server.ask("GET", &path, "");
        answer.assert_error(500, "internal", "an unexpected error", error);
        assert!(
            !answer.message().contains("segment"),
            "names no file: {answer:?}"
        );
        server.ask("POST", LOG, EXAMPLE).log_id();
        assert_eq!(server.ask("GET", "/ready", "").status, 200);
        strace.detach();
        let calls = strace.calls();
        assert!(calls.iter().any(|call| call.is_injected), "{error}");
        assert_eq!(server.ask("GET", &path, "").status, 200, "{error}");
    }
}

#[test]
fn an_experiment_that_can_not_be_made_is_made_the_next_time() {
    let dir = tempfile::tempdir().unwrap();
    for (n, inject) in [
        "mkdir:error=EIO:when=1",
        "mkdir:error=ENOSPC:when=1",
        "rename:error=EIO:when=1",
        "rename:error=ENOSPC:when=2",
        "rename:error=EMFILE:when=2",
        "pwrite64:error=EDQUOT:when=1",
        "fdatasync:error=EIO:when=1",
        "fsync:error=EIO:when=1",
    ]
    .into_iter()
    .enumerate()
    {
        let store = dir.path().join(n.to_string());
        let server = Server::start(&store, &[]);
        let Some(strace) = Strace::attach(&server, inject, &[]) else {
            return;
        };
        let answer = server.ask("PUT", NEW, DEFINITION);
        let (status, code) = match inject {
            inject if inject.contains("ENOSPC") || inject.contains("EDQUOT") => {
                (507, "storage_full")
            }
            inject if inject.contains("EMFILE") => (503, "overloaded"),
            _ => (500, "internal"),
        };
        answer.assert_error(status, code, "", inject);
        strace.detach();
        assert!(
            strace.calls().iter().any(|call| call.is_injected),
            "{inject}"
        );
        // Nobody has been told that it is there.
        assert_eq!(server.ask("GET", NEW, "").status, 404, "{inject}");
        assert_eq!(server.ask("PUT", NEW, DEFINITION).status, 201, "{inject}");
        assert_takes_one(&server, inject);
        server.kill();
        let server = Server::start(&store, &[]);
        assert_eq!(server.ask("GET", NEW, "").json()["count"], 1, "{inject}");
        let listed = server.ask("GET", "/experiments", "").json();
        assert_eq!(
            listed["experiments"].as_array().unwrap().len(),
            2,
            "{inject}"
        );
    }
}

/// A power cut may take its folder away again, with all that would be acknowledged in it.
#[test]
fn an_experiment_whose_name_may_not_be_durable_takes_no_entries_until_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for error in ["EIO", "ENOSPC"] {
        let store = dir.path().join(error);
        let server = Server::start(&store, &[]);
        // The first is of the folder with its definition.
        let inject = format!("fsync:error={error}:when=2");
        let Some(strace) = Strace::attach(&server, &inject, &[]) else {
            return;
        };
        let answer = server.ask("PUT", NEW, DEFINITION);
        answer.assert_error(500, "internal", "", error);
        strace.detach();
        let calls = strace.calls();
        let failed = calls
            .iter()
            .find(|call| call.is_injected)
            .expect("injected");
        assert!(failed.path.ends_with("/experiments"), "{failed:?}");
        for (method, path) in [("PUT", NEW), ("POST", LOG)] {
            let answer = server.ask(
                method,
                path,
                if method == "PUT" { DEFINITION } else { EXAMPLE },
            );
            answer.assert_error(
                503,
                "storage_failed",
                "an earlier write or sync failed",
                error,
            );
        }
        assert_eq!(
            server.ask("GET", "/ready", "").json()["reason"],
            "storage_failed"
        );
        server.kill();
        let server = Server::start(&store, &[]);
        server.define("new");
        assert_takes_one(&server, error);
    }
}

fn assert_takes_one(server: &Server, case: &str) {
    let answer = server.ask("POST", "/experiment/new/log", r#"{"variantKey":"A"}"#);
    assert_eq!(answer.status, 200, "{case}: {answer:?}");
}
