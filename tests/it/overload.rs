//! More than a server can take, and less memory than it would like: what it accepts it keeps, the rest
//! is refused at once and told when to come back, and afterwards all is as before.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::bench::{count, document};
use crate::faults::{not_run, preloaded};
use crate::server::{EXAMPLE, PATIENCE, Server, trialog};

const LOG: &str = "/experiment/demo/log";
/// What may be worked on at once.
const REQUESTS: &str = "16";
/// Far above what 16 requests and a sync of 20 ms allow: 800 a second at most.
const RATE: &str = "8000";

/// The most memory that the server had so far, in bytes.
fn peak_memory(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.unwrap().parse::<u64>().unwrap() << 10
}

/// A server on a disk each of whose syncs takes 20 ms.
fn on_a_slow_disk(dir: &Path, args: &[&str]) -> Option<Server> {
    let shim = preloaded::compile(dir)?;
    let armed = dir.join("armed");
    std::fs::write(&armed, "").unwrap();
    let mut command = trialog();
    command.env("LD_PRELOAD", shim).env("SHIM_ARMED", armed);
    command.env("SHIM_CALL", "fdatasync");
    command.env("SHIM_PATH", ".journal").env("SHIM_DO", "delay");
    Some(Server::start_by(&mut command, &dir.join("s"), args))
}

#[test]
fn ten_times_what_it_can_take_is_refused_at_once_and_what_is_accepted_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = on_a_slow_disk(dir.path(), &["--max-requests", REQUESTS]) else {
        return not_run("there is no cc to compile tests/it/faults/shim.c with");
    };
    server.define("load");
    let is_over = AtomicBool::new(false);
    let found = std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let mut client = server.connect();
            let mut refused = 0_u64;
            while !is_over.load(Ordering::Acquire) {
                let key = ("x-api-key", server.key.as_str());
                let answer = client.send("POST", LOG, &[key], EXAMPLE.as_bytes());
                let answer = answer.unwrap();
                if answer.status == 503 {
                    let words = "nothing was stored, try again";
                    answer.assert_error(503, "overloaded", words, "too many requests");
                    assert_eq!(answer.header("retry-after"), Some("1"));
                    refused += 1;
                } else {
                    answer.log_id();
                }
            }
            refused
        });
        let args = ["bench", "--experiment", "load", "--json", "-", "--check"];
        let load = ["--rate", RATE, "--clients", "128"];
        let time = ["--duration", "2", "--warm-up", "0"];
        let found = server.command(&[&args[..], &load, &time].concat());
        is_over.store(true, Ordering::Release);
        assert!(beside.join().unwrap() > 0, "others are refused, too");
        document(&found)
    });
    let side = &found["results"][0];
    let (accepted, refused) = (
        count(&side["requests"]),
        count(&side["errors"]["overloaded"]),
    );
    assert!(accepted > 0, "{side}");
    assert!(refused > accepted, "{refused} refused, {accepted} accepted");
    // What is refused costs no memory, and nothing waits for long.
    assert!(peak_memory(&server) < 128 << 20);
    let described = server.ask("GET", "/experiment/load", "").json();
    assert_eq!(count(&described["count"]), accepted);
    server.ask("POST", LOG, EXAMPLE).log_id();
}

/// Of private memory, as a container or `ulimit -d` gives it: a third of what is asked for here.
const MEMORY: u64 = 96 << 20;
const INFLIGHT: &str = "32MiB";
const CLIENTS: usize = 48;
/// Each asks for 6 MiB.
const LINES: usize = 6000;

#[test]
fn with_little_memory_large_batches_wait_outside_and_nothing_is_lost() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        return not_run("there is no prlimit");
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let mut command = Command::new("prlimit");
    command.arg(format!("--data={MEMORY}")).arg(env!("CARGO_BIN_EXE_trialog"));
    let server = Server::start_by(&mut command, &store, &["--inflight-bytes", INFLIGHT]);
    let line = format!("{{\"variantKey\":\"A\",\"input\":{{\"text\":\"{}\"}}}}\n", "x".repeat(1000));
    let batch = line.repeat(LINES);
    let (mut accepted, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut refused = 0;
                    let begun = Instant::now();
                    loop {
                        let mut client = server.connect();
                        let headers = [
                            ("x-api-key", server.key.as_str()),
                            ("content-type", "application/x-ndjson"),
                        ];
                        let path = "/experiment/demo/logs";
                        // Who is refused in the middle of a body may find the connection closed.
                        match client.send("POST", path, &headers, batch.as_bytes()) {
                            Ok(answer) if answer.status == 200 => return refused,
                            Ok(answer) => assert_eq!(answer.code(), "overloaded"),
                            Err(_) => {}
                        }
                        refused += 1;
                        assert!(begun.elapsed() < PATIENCE, "its turn comes");
                    }
                })
            })
            .collect();
        for client in clients {
            refused += client.join().unwrap();
            accepted += 1;
        }
    });
    assert!(refused > 0, "there was room for all");
    assert!(peak_memory(&server) < MEMORY + (64 << 20), "with its program");
    let described = server.ask("GET", "/experiment/demo", "").json();
    assert_eq!(count(&described["count"]), (accepted * LINES) as u64);
    let (status, _) = server.stop();
    assert!(status.success());
    let verified = trialog().arg("verify").arg(&store).output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
}
