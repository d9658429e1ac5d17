//! Keys, and what is in entries, are in nothing that the server says, however much it says.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::server::{Client, EXAMPLE, Server, arg, trialog};

#[tokio::test]
async fn no_key_is_ever_logged() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("s"), &["--log-level", "trace"]);
    let (id, made) = server.make_key(r#"{"name":"t","scopes":["ingest"],"experiments":["demo"]}"#);
    let wrong = "tl_wrongwrong_wrongwrongwrongwrongwrong";
    let keys = [server.key.clone(), made, wrong.to_owned()];
    for key in &keys {
        server.ask_as(key, "GET", "/experiments");
        server.ask_as(key, "POST", "/experiment/demo/log");
        server.ask_as(key, "BREW", "/nothing");
        let mut client = server.connect();
        client
            .send(
                "POST",
                "/experiment/demo/log",
                &[("x-api-key", key)],
                EXAMPLE.as_bytes(),
            )
            .unwrap();
        // A head that can't be read, and one that ends early.
        client
            .send_raw(format!("GET / HTTP/1.1\r\nx-api-key: {key}\r\n:\r\n\r\n").as_bytes())
            .unwrap();
        client.read_answer(false).unwrap();
        let client = &mut server.connect();
        client
            .send_raw(format!("GET / HTTP/1.1\r\nx-api-key: {key}\r\n").as_bytes())
            .unwrap();
        client.end_sending();
        assert!(client.is_closed());
        ask_by_http2(&server, key).await;
    }
    // Entries that are refused, for each reason there is: their words are in no error either.
    for body in [
        r#"{"variantKey":"A","input":"Elbereth"}"#,
        r#"{"variantKey":"A","input":{"x":"Elbereth}}"#,
        r#"{"input":{"x":"Elbereth"}}"#,
        r#"{"variantKey":"Elbereth"}"#,
        r#"{"variantKey":["Elbereth"]}"#,
        r#"{"variantKey":"A","input":{"Elbereth":"\ud800"}}"#,
        r#"["Elbereth"]"#,
        "Elbereth",
    ] {
        for path in ["/experiment/demo/log", "/experiment/demo/logs"] {
            let refused = server.ask("POST", path, body);
            assert_eq!(refused.status, 400, "{body}");
            let told = String::from_utf8(refused.body).unwrap();
            assert!(!told.contains("Elbereth"), "an error says {told}");
        }
    }
    let metrics = server.ask("GET", "/metrics", "");
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(metrics.contains(r#"trialog_entries_total{experiment="demo"}"#));
    let revoked = server.ask("DELETE", &format!("/keys/{id}"), "");
    assert_eq!(revoked.status, 200);
    let (status, said) = server.end();
    assert!(status.success());
    assert!(
        said.contains("TRACE") && said.contains("DEBUG"),
        "it was told to say everything"
    );
    for key in &keys {
        let secret = key.rsplit('_').next().unwrap();
        assert!(!said.contains(secret), "a key was logged");
        assert!(!metrics.contains(secret), "a key is in the metrics");
    }
    for words in ["Elbereth", "latency_ms", "session_abc_123"] {
        assert!(!said.contains(words), "of an entry {words} was logged");
        assert!(
            !metrics.contains(words),
            "of an entry {words} is in the metrics"
        );
    }
    assert!(
        !said.contains("latest AI advancements"),
        "an entry was logged"
    );
}

#[test]
fn nor_in_json_of_slow_requests_nor_where_somebody_has_to_wait() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("s");
    let mut command = trialog();
    command.args(["serve", "--listen", "127.0.0.1:0", "--data", arg(&dir)]);
    command.args(["--min-free=0", "--log-format=json", "--slow-request=1"]);
    command.args(["--key-rate=3", "--max-key-failures=2"]);
    command.stderr(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let pid = Pid::from_raw(child.id() as i32).unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).expect("JSON"));
    let listening = lines.find(|line| line["message"] == "listening").unwrap();
    let address = listening["address"].as_str().unwrap().parse().unwrap();
    let key = std::fs::read_to_string(dir.join("admin.key")).unwrap();
    let key = key.trim();
    kill_process(pid, Signal::USR1).unwrap();
    let is_debug_on = |line: &Value| {
        line["message"]
            .as_str()
            .unwrap()
            .contains("debug lines are on")
    };
    assert!(lines.any(|line| is_debug_on(&line)));

    let mut client = Client::connect(address).unwrap();
    let log = "/experiment/demo/log";
    let head = format!(
        "POST {log} HTTP/1.1\r\nhost: t\r\nx-api-key: {key}\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\n\r\n",
        EXAMPLE.len()
    );
    client.send_raw(head.as_bytes()).unwrap();
    assert_eq!(client.read_head().unwrap().status, 100);
    // The request takes this long.
    std::thread::sleep(Duration::from_millis(5));
    client.send_raw(EXAMPLE.as_bytes()).unwrap();
    assert_eq!(client.read_answer(false).unwrap().status, 200);
    let wrong = "tl_wrongwrong_wrongwrongwrongwrongwrong";
    for (key, code) in [(key, "rate_limited"), (wrong, "too_many_failures")] {
        let mut send = || {
            let headers = [("x-api-key", key)];
            let answer = client.send("POST", log, &headers, EXAMPLE.as_bytes());
            let answer = answer.unwrap();
            let told = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(!told.contains(key), "{told}");
            (answer.status, told)
        };
        let waits = (0..100).map(|_| send()).find(|(status, _)| *status == 429);
        let (_, told) = waits.expect("more than is allowed");
        assert!(told.contains(code), "{told}");
    }
    kill_process(pid, Signal::TERM).unwrap();
    let said = lines
        .map(|line| line.to_string() + "\n")
        .collect::<String>();
    assert!(child.wait().unwrap().success());
    for words in ["slow request", "DEBUG", "\"status\":429", "bye"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    for secret in [key, wrong] {
        let secret = secret.rsplit('_').next().unwrap();
        assert!(!said.contains(secret), "a key was logged");
    }
    for words in ["latest AI advancements", "latency_ms", "session_abc_123"] {
        assert!(!said.contains(words), "of an entry {words} was logged");
    }
}

async fn ask_by_http2(server: &Server, key: &str) {
    let stream = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    let io = TokioIo::new(stream);
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (mut sender, connection) = shaken.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("{}/experiment/demo/log", server.url()))
        .header("x-api-key", key)
        .body(Full::new(Bytes::from_static(EXAMPLE.as_bytes())))
        .unwrap();
    sender.ready().await.unwrap();
    sender.send_request(request).await.unwrap();
}
