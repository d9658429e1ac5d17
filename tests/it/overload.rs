//! More than a server can take, or less memory than it would like: what it accepts it keeps, the rest
//! is refused at once and told when to come back, and afterwards all is as before.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use crate::bench::{count, document};
use crate::client::{Answer, Client};
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

const INFLIGHT: &str = "32MiB";
/// What a server may have that is allowed so much in flight: for what it makes of a batch (frames, groups), and
/// the files that it maps. For all batches that are sent here at once it would need more than twice of it.
const MEMORY_MAX: u64 = 256 << 20;
const CLIENTS: usize = 48;
/// Of each batch, which has 6 MB.
const LINES: usize = 6000;

fn large_batch() -> String {
    let text = "x".repeat(1000);
    format!("{{\"variantKey\":\"A\",\"input\":{{\"text\":\"{text}\"}}}}\n").repeat(LINES)
}

/// Sends the batch; `None` when there was no answer.
fn send(server: &Server, batch: &str) -> Option<Answer> {
    let headers = [
        ("x-api-key", server.key.as_str()),
        ("content-type", "application/x-ndjson"),
    ];
    let mut client = Client::connect(server.address).ok()?;
    let path = "/experiment/demo/logs";
    client.send("POST", path, &headers, batch.as_bytes()).ok()
}

fn entries(server: &Server) -> usize {
    let described = server.ask("GET", "/experiment/demo", "").json();
    count(&described["count"]) as usize
}

#[test]
fn large_batches_for_which_there_is_no_memory_wait_outside() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--inflight-bytes", INFLIGHT, "--segment-bytes", "8MiB"];
    let server = Server::start(&dir.path().join("s"), &flags);
    let batch = large_batch();
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let begun = Instant::now();
                loop {
                    // Who is refused in the middle of a body may find the connection closed.
                    match send(&server, &batch) {
                        Some(answer) if answer.status == 200 => return,
                        Some(answer) => assert_eq!(answer.code(), "overloaded"),
                        None => {}
                    }
                    refused.fetch_add(1, Ordering::Relaxed);
                    assert!(begun.elapsed() < PATIENCE, "its turn comes");
                }
            });
        }
    });
    assert!(refused.into_inner() > 0, "there was room for all");
    assert_eq!(entries(&server), CLIENTS * LINES);
    let peak = peak_memory(&server);
    assert!(peak < MEMORY_MAX, "{peak} bytes");
}

/// Far less than it is told that it may use: it can't go on, and says so to nobody.
#[test]
fn a_server_that_gets_no_memory_any_more_has_lost_nothing() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        return not_run("there is no prlimit");
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    let mut command = Command::new("prlimit");
    command.args(["--data=67108864", env!("CARGO_BIN_EXE_trialog")]);
    // More than all batches take at once, so that it isn't this bound that saves it. A slow disk may still make it
    // refuse some.
    let server = Server::start_by(&mut command, &store, &["--inflight-bytes", "1GiB"]);
    let batch = large_batch();
    let accepted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let begun = Instant::now();
                while let Some(answer) = send(&server, &batch) {
                    match answer.status {
                        200 => _ = accepted.fetch_add(1, Ordering::Relaxed),
                        _ => assert_eq!(answer.code(), "overloaded", "{answer:?}"),
                    }
                    assert!(begun.elapsed() < PATIENCE, "it has memory enough");
                }
            });
        }
    });
    let status = server.wait();
    assert!(!status.success(), "{status}");
    let server = Server::start(&store, &[]);
    let found = entries(&server);
    let accepted = accepted.into_inner();
    assert!(found.is_multiple_of(LINES), "{found}: a batch in part");
    assert!(found >= accepted * LINES, "{found} of {accepted} batches");
    let (status, _) = server.stop();
    assert!(status.success());
    let verified = trialog().arg("verify").arg(&store).output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
}
