//! Limits that the operating system sets to the process: descriptors, and the length of a file.

use std::process::Command;

use crate::ledger::{Ledger, Outcome};
use crate::load::{assert_some_are_read, assert_whole, body, post};
use crate::rig::slug;
use crate::server::{EXAMPLE, Server, arg, trialog};

const LOG: &str = "/experiment/demo/log";

/// The binary under a limit, as `ulimit` takes it.
fn limited(limit: &str) -> Command {
    let mut command = Command::new("sh");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TRIALOG_") {
            command.env_remove(name);
        }
    }
    command.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")]);
    command.arg(env!("CARGO_BIN_EXE_trialog"));
    command
}

#[test]
fn too_few_descriptors_end_the_start_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    for limit in [20, 64, 256, 1023] {
        let mut command = limited(&format!("-n {limit}"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--data", arg(&store)]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{limit}: {said}");
        let words = format!("{limit} descriptors are too few: raise `ulimit -n` to 1024 or more");
        assert!(said.contains(&words), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!store.exists(), "it leaves no store behind");
    }
}

#[test]
fn with_the_fewest_descriptors_hundreds_of_experiments_and_clients_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut ledger = Ledger::default();
    let mut random = fastrand::Rng::with_seed(1);
    let server = Server::start_by(&mut limited("-n 1024"), &store, &[]);
    server.wait_until_said("allow 16 connections");
    let mut client = server.connect();
    let open = r#"{"variants":["A","B"]}"#;
    let key = ("x-api-key", &*server.key);
    let names: Vec<_> = (0..600).map(|n| slug(&format!("e{n}"))).collect();
    for name in &names {
        let path = format!("/experiment/{name}");
        let made = client.send("PUT", &path, &[key], open.as_bytes()).unwrap();
        assert_eq!(made.status, 201);
    }
    for _ in 0..3 {
        for name in &names {
            let bodies = vec![body(&mut random, 100)];
            let answer = post(&mut client, &server.key, name, &bodies);
            assert_eq!(ledger.note(name, bodies, answer), Outcome::Acknowledged);
        }
    }
    // More than there are places for: they wait, and each has its turn.
    let mut waiting: Vec<_> = (0..100).map(|_| server.connect()).collect();
    let head = format!(
        "POST {LOG} HTTP/1.1\r\nhost: t\r\nx-api-key: {}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{EXAMPLE}",
        server.key,
        EXAMPLE.len()
    );
    for client in &mut waiting {
        client.send_raw(head.as_bytes()).unwrap();
    }
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    assert!(descriptors.count() <= 1024);
    for client in &mut waiting {
        let answer = client.read_answer(false).unwrap();
        let id = answer.log_id().parse().unwrap();
        ledger.acknowledge(&slug("demo"), vec![id], vec![EXAMPLE.as_bytes().to_vec()]);
    }
    assert_eq!(server.ask("GET", "/ready", "").status, 200);
    server.kill();
    // The same body, sent by all: the ledger can't tell them apart, so it isn't asked to.
    let server = Server::start(&store, &[]);
    assert_some_are_read(&server, &ledger, &mut random);
    assert_eq!(
        server.ask("GET", "/experiment/demo", "").json()["count"],
        100
    );
}

/// By default SIGXFSZ, which comes with it, ends a process without a word.
#[test]
fn a_file_that_may_not_grow_is_a_failure_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut ledger = Ledger::default();
    let mut random = fastrand::Rng::with_seed(1);
    let args = ["--journal-bytes", "1048576"];
    // In units of 512 bytes: three laps of the journal, as a segment.
    let server = Server::start_by(&mut limited("-f 6144"), &store, &args);
    let mut client = server.connect();
    let refusal = (0..2000).find_map(|_| {
        let bodies = vec![body(&mut random, 6000)];
        let answer = post(&mut client, &server.key, &slug("demo"), &bodies);
        let outcome = ledger.note(&slug("demo"), bodies, answer);
        (outcome != Outcome::Acknowledged).then_some(outcome)
    });
    let is_failure = [Some(Outcome::AppendFailed), Some(Outcome::StorageFailed)].contains(&refusal);
    assert!(is_failure, "{refusal:?}");
    assert_eq!(
        server.ask("GET", "/ready", "").json()["reason"],
        "storage_failed"
    );
    server.wait_until_said("File too large");
    assert_some_are_read(&server, &ledger, &mut random);
    server.kill();
    assert_whole(&store, &mut ledger, "EFBIG");
    let mut again = limited("-f 6144");
    again
        .args(["serve", "--listen", "127.0.0.1:0", "--data", arg(&store)])
        .args(args);
    let output = again.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.lines().last().unwrap().contains("File too large"),
        "{said}"
    );
    let server = Server::start_by(&mut trialog(), &store, &args);
    assert_some_are_read(&server, &ledger, &mut random);
    assert!(server.stop().0.success());
    assert_whole(&store, &mut ledger, "after EFBIG");
}
