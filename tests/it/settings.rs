//! Settings, signals and log lines of the real server.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::client::Client;
use crate::server::{EXAMPLE, Server, arg, run, trialog};

const LOG: &str = "/experiment/demo/log";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn send_signal(server: &Server, signal: Signal) {
    let pid = Pid::from_raw(server.pid() as i32).expect("not zero");
    kill_process(pid, signal).expect("it runs");
}

/// An entry whose body has so many bytes.
fn entry_of(len: usize) -> String {
    let rest = r#"{"variantKey":"A","x":""}"#.len();
    format!(r#"{{"variantKey":"A","x":"{}"}}"#, "x".repeat(len - rest))
}

/// A server with a file of settings that says this.
fn with_file(dir: &Path, text: &str, args: &[&str]) -> Server {
    let path = dir.join("trialog.toml");
    fs::write(&path, text).unwrap();
    let all = [&["--config", arg(&path)], args].concat();
    Server::start(&dir.join("s"), &all)
}

#[test]
fn print_config_says_where_each_setting_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trialog.toml");
    fs::write(
        &path,
        "# mine\nmax-body = \"2MiB\"\nmailbox = 5\nthreads = 3\n",
    )
    .unwrap();
    let output = trialog()
        .args(["serve", "--print-config", "--threads", "2"])
        .env("TRIALOG_CONFIG", &path)
        .env("TRIALOG_MAILBOX", "7")
        .env(
            "TRIALOG_BOOTSTRAP_KEY",
            "sesame-sesame-sesame-sesame-sesame",
        )
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    for line in [
        format!("max_body = \"2MiB\" # file {}:2", path.display()),
        "mailbox = 7 # environment TRIALOG_MAILBOX".into(),
        "threads = 2 # flag --threads".into(),
        "max_batch = \"64MiB\" # default".into(),
        "# tls_cert is not set".into(),
        "insecure = false # default".into(),
    ] {
        assert!(printed.lines().any(|one| one == line), "{line}: {printed}");
    }
    assert!(!printed.contains("sesame"), "{printed}");
    assert!(!dir.path().join("trialog-data").exists(), "it only prints");
    // It is a file that says the same.
    fs::write(&path, &printed).unwrap();
    let again = run(&["serve", "--print-config", "--config", arg(&path)]);
    let again = String::from_utf8(again.stdout).unwrap();
    let values = |text: &str| -> Vec<String> {
        let value = |line: &str| line.split(" # ").next().unwrap().to_owned();
        text.lines().map(value).collect()
    };
    assert_eq!(values(&printed), values(&again));
}

#[test]
fn a_misspelt_setting_stops_the_start_and_names_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trialog.toml");
    fs::write(&path, "max_bdy = 1\n").unwrap();
    let data = dir.path().join("s");
    let serve = |name: &str, value: &str| {
        let mut command = trialog();
        command.args(["serve", "--listen", "127.0.0.1:0", "--data", arg(&data)]);
        let output = command.env(name, value).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(!data.exists(), "nothing is begun");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = serve("TRIALOG_CONFIG", arg(&path));
    let words = ":1: unknown setting max_bdy: did you mean max_body?\n";
    assert!(said.ends_with(words) && said.lines().count() == 1, "{said}");
    let said = serve("TRIALOG_MAX_BDY", "1");
    let words =
        "unknown variable TRIALOG_MAX_BDY in the environment: did you mean TRIALOG_MAX_BODY?\n";
    assert!(said.ends_with(words) && said.lines().count() == 1, "{said}");
}

#[test]
fn without_tls_only_this_machine_is_listened_to_unless_told() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("s");
    let output = run(&["serve", "--listen", "0.0.0.0:0", "--data", arg(&data)]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("without TLS keys and entries would go over"),
        "{said}"
    );
    assert!(
        said.contains("--insecure") && said.contains("--tls-cert"),
        "{said}"
    );
    assert!(!data.exists(), "nothing is begun");
    let mut command = trialog();
    let wide = [
        "serve",
        "--listen",
        "0.0.0.0:0",
        "--print-config",
        "--insecure",
    ];
    let printed = command.args(wide).output().unwrap().stdout;
    let printed = String::from_utf8(printed).unwrap();
    assert!(
        printed.contains("insecure = true # flag --insecure\n"),
        "{printed}"
    );
    let server = with_file(dir.path(), "insecure = true", &[]);
    assert_eq!(server.ask("GET", "/health", "").status, 200);
}

#[test]
fn a_hang_up_changes_limits_and_what_cannot_change_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = with_file(
        dir.path(),
        "max_body = 2000\nmax_nesting = 1\nlog_level = 'info'",
        &[],
    );
    let mut client = server.connect();
    let mut status = |len: usize| {
        let key = ("x-api-key", server.key.as_str());
        let sent = client.send("POST", LOG, &[key], entry_of(len).as_bytes());
        sent.unwrap().status
    };
    assert_eq!((status(2000), status(2001)), (200, 413));
    let nested = r#"{"variantKey":"A","x":[]}"#;
    assert_eq!(server.ask("POST", LOG, nested).status, 400);
    let path = dir.path().join("trialog.toml");
    fs::write(
        &path,
        "max_body = '3000B'\nmax_nesting = 2\nmailbox = 5\nlog_level = 'debug'",
    )
    .unwrap();
    send_signal(&server, Signal::HUP);
    server.wait_until_said("settings read again");
    let said = server.said();
    let warned = said.lines().find(|line| line.contains("needs a restart"));
    assert!(
        warned.is_some_and(|line| line.contains("mailbox")),
        "{said}"
    );
    // On the connection that was open.
    assert_eq!((status(3000), status(3001)), (200, 413));
    assert_eq!(server.ask("POST", LOG, nested).status, 200);
    server.wait_until_said("request refused");
}

#[test]
fn a_broken_file_leaves_everything_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let server = with_file(dir.path(), "max_body = 2000", &[]);
    let path = dir.path().join("trialog.toml");
    fs::write(&path, "max_body = 3000\nlog_level = 'loud'").unwrap();
    send_signal(&server, Signal::HUP);
    let line = server.wait_until_said("the settings stay as they were");
    assert!(
        line.contains("ERROR") && line.contains("trialog.toml:2: "),
        "{line}"
    );
    assert_eq!(server.ask("POST", LOG, &entry_of(2001)).status, 413);
    assert_eq!(server.ask("POST", LOG, &entry_of(2000)).status, 200);
}

#[test]
fn a_signal_turns_debug_lines_on_and_off() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &[]);
    let ask = |id: &str| {
        let headers = [("x-api-key", server.key.as_str()), ("x-request-id", id)];
        let mut client = server.connect();
        assert_eq!(
            client
                .send("POST", LOG, &headers, EXAMPLE.as_bytes())
                .unwrap()
                .status,
            200
        );
    };
    ask("before");
    send_signal(&server, Signal::USR1);
    server.wait_until_said("debug lines are on");
    ask("meanwhile");
    let line = server.wait_until_said("meanwhile");
    assert!(
        line.contains("/experiment/{slug}/log") && line.contains("DEBUG"),
        "{line}"
    );
    send_signal(&server, Signal::USR1);
    // It is told at info, which is on still.
    server.wait_until_said("debug lines are off");
    ask("afterwards");
    let (_, said) = server.end();
    assert!(
        !said.contains("before\"") && !said.contains("afterwards"),
        "{said}"
    );
}

#[test]
fn json_lines_have_the_ids_of_request_and_trace() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("s");
    let mut command = trialog();
    command.args(["serve", "--listen", "127.0.0.1:0", "--data", arg(&dir)]);
    command.args(["--min-free=0", "--log-format=json", "--log-level=debug"]);
    let mut child = command
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id() as i32).unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let mut lines = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).expect("JSON"));
    let listening = lines.find(|line| line["message"] == "listening").unwrap();
    let address: SocketAddr = listening["address"].as_str().unwrap().parse().unwrap();
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let headers = [("traceparent", parent.as_str()), ("x-request-id", "r-1")];
    let answer = Client::connect(address)
        .unwrap()
        .send("GET", "/experiments", &headers, b"");
    assert_eq!(answer.unwrap().status, 401);
    for (level, message) in [("DEBUG", "request refused"), ("DEBUG", "request answered")] {
        let line = lines.find(|line| line["message"] == message).unwrap();
        assert_eq!(line["request_id"], "r-1", "{line}");
        assert_eq!(line["trace_id"], TRACE, "{line}");
        assert_eq!(line["level"], level, "{line}");
    }
    kill_process(pid, Signal::TERM).unwrap();
    assert!(lines.any(|line| line["message"] == "bye"));
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_slow_request_is_told_without_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &["--slow-request", "100"]);
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let mut client = server.connect();
    let head = format!(
        "POST {LOG} HTTP/1.1\r\nhost: t\r\nx-api-key: {}\r\nx-request-id: slow-1\r\n\
         traceparent: {parent}\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        server.key,
        EXAMPLE.len()
    );
    client.send_raw(head.as_bytes()).unwrap();
    // It is being worked on when it asks for the body; which is late by more than is allowed.
    assert_eq!(client.read_head().unwrap().status, 100);
    std::thread::sleep(std::time::Duration::from_millis(300));
    client.send_raw(EXAMPLE.as_bytes()).unwrap();
    assert_eq!(client.read_answer(false).unwrap().status, 200);
    let line = server.wait_until_said("slow request");
    for words in [
        "slow-1",
        TRACE,
        "POST",
        "/experiment/{slug}/log",
        "status=200",
        "ms=",
    ] {
        assert!(line.contains(words), "{words}: {line}");
    }
    assert!(!line.contains("demo"), "{line}");
    assert!(
        !line.contains(&server.key) && !line.contains("AI advancements"),
        "{line}"
    );
}
