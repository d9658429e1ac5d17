//! HTTP/2 by prior knowledge: one connection, many requests at the same time.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;

use crate::server::Server;

const STREAMS: usize = 400;

type Sender = SendRequest<Full<Bytes>>;

async fn connect(server: &Server) -> Sender {
    let stream = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    let io = TokioIo::new(stream);
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (sender, connection) = shaken.unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(
    sender: &Sender,
    server: &Server,
    method: &str,
    path: &str,
    body: impl Into<Bytes>,
) -> Response<Incoming> {
    let request = Request::builder()
        .method(method)
        .uri(format!("{}{path}", server.url()))
        .header("x-api-key", &server.key)
        .body(Full::new(body.into()))
        .unwrap();
    let mut sender = sender.clone();
    sender.ready().await.unwrap();
    sender.send_request(request).await.unwrap()
}

async fn json(response: Response<Incoming>) -> Value {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn many_streams_on_one_connection_are_answered_each() {
    let dir = tempfile::tempdir().unwrap();
    let server = &Server::start(&dir.path().join("s"), &[]);
    let sender = &connect(server).await;
    let posts = (0..STREAMS).map(|n| async move {
        let body = format!(r#"{{"variantKey":"B","n":{n}}}"#);
        let response = ask(sender, server, "POST", "/experiment/demo/log", body.clone()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["trialog-durability"], "sync");
        let request_id = response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        let id = json(response).await["logId"]
            .as_str()
            .expect("a logId")
            .to_owned();
        (body, id, request_id)
    });
    let answered = join_all(posts).await;
    let distinct = |all: Vec<&String>| {
        all.into_iter()
            .collect::<std::collections::HashSet<_>>()
            .len()
    };
    assert_eq!(
        distinct(answered.iter().map(|(_, id, _)| id).collect()),
        STREAMS
    );
    assert_eq!(
        distinct(answered.iter().map(|(_, _, id)| id).collect()),
        STREAMS
    );
    let gets = answered.iter().map(|(body, id, _)| async move {
        let path = format!("/experiment/demo/log/{id}");
        let response = ask(sender, server, "GET", &path, "").await;
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert!(text.ends_with(&body.as_bytes()[1..]), "{body}");
    });
    join_all(gets).await;
    let described = ask(sender, server, "GET", "/experiment/demo", "").await;
    assert_eq!(json(described).await["count"], STREAMS);
}

#[tokio::test]
async fn what_is_refused_on_one_stream_leaves_the_others_alone() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--max-body", "1024"];
    let server = &Server::start(&dir.path().join("s"), &args);
    let sender = &connect(server).await;
    let large = "x".repeat(1 << 20);
    let good = r#"{"variantKey":"A"}"#;
    for (method, path, body, status, code) in [
        ("POST", "/experiment/demo/log", "{", 400, "json_syntax"),
        (
            "POST",
            "/experiment/demo/log",
            &large,
            413,
            "body_too_large",
        ),
        (
            "POST",
            "/experiment/none/log",
            &large,
            404,
            "experiment_not_found",
        ),
        (
            "GET",
            "/experiment/demo/log",
            &large,
            405,
            "method_not_allowed",
        ),
        ("PUT", "/experiment/demo/", good, 400, "bad_slug"),
    ] {
        let response = ask(sender, server, method, path, body.to_owned()).await;
        assert_eq!(response.status(), status, "{method} {path}");
        assert_eq!(json(response).await["error"]["code"], code);
        let response = ask(sender, server, "POST", "/experiment/demo/log", good).await;
        assert_eq!(response.status(), 200);
    }
    let head = ask(sender, server, "HEAD", "/experiment/demo", "").await;
    assert_eq!(head.status(), 200);
    assert_ne!(head.headers()["content-length"], "0");
    assert!(
        head.into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
    let described = ask(sender, server, "GET", "/experiment/demo", "").await;
    assert_eq!(json(described).await["count"], 5);
}

#[tokio::test]
async fn a_tail_and_downloads_share_a_connection_with_what_they_are_of() {
    let dir = tempfile::tempdir().unwrap();
    let server = &Server::start(&dir.path().join("s"), &["--segment-bytes", "20000"]);
    let sender = &connect(server).await;
    let tail = ask(sender, server, "GET", "/experiment/demo/tail", "").await;
    assert_eq!(tail.headers()["content-type"], "text/event-stream");
    let mut events = tail.into_body();
    let mut text = String::new();
    for n in 0..200 {
        let body = format!(
            r#"{{"variantKey":"A","n":{n},"input":{{"p":"{}"}}}}"#,
            "x".repeat(300)
        );
        let answer = ask(sender, server, "POST", "/experiment/demo/log", body).await;
        let id = json(answer).await["logId"].as_str().unwrap().to_owned();
        let event = format!("id: {id}\ndata: {{\"logId\":\"{id}\"");
        while !text.contains(&event) {
            let frame = events.frame().await.expect("it goes on").unwrap();
            text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
        }
    }
    assert_eq!(text.matches("\ndata: ").count(), 200, "each once");
    drop(events);

    let list = "/experiment/demo/segments";
    let until = std::time::Instant::now() + crate::server::PATIENCE;
    loop {
        let listed = json(ask(sender, server, "GET", list, "").await).await;
        if listed["segments"][1]["state"] == "sealed" {
            break;
        }
        assert!(std::time::Instant::now() < until, "{listed}");
    }
    let stored = crate::offline::segments(&server.dir.join("experiments/demo"));
    let numbers = [0, 1, 0, 1, 1, 0];
    let downloads = numbers.map(|number| async move {
        let answer = ask(sender, server, "GET", &format!("{list}/{number}"), "").await;
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap().to_bytes()
    });
    let downloads = join_all(downloads.into_iter()).await;
    for (number, downloaded) in numbers.into_iter().zip(downloads) {
        assert!(downloaded == std::fs::read(&stored[number]).unwrap());
    }
}

#[tokio::test]
async fn a_key_is_needed_and_sent_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = &Server::start(&dir.path().join("s"), &[]);
    let mut sender = connect(server).await;
    let url = format!("{}/experiments", server.url());
    for (keys, status) in [
        (vec![], 401),
        (vec![&server.key], 200),
        (vec![&server.key; 2], 401),
    ] {
        let mut request = Request::get(&url);
        for key in keys {
            request = request.header("x-api-key", key);
        }
        let request = request.body(Full::default()).unwrap();
        sender.ready().await.unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), status);
    }
}

/// All at the same time: every request is on its way before the first is waited for.
async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures
        .map(|future| (Some(Box::pin(future)), None))
        .collect();
    std::future::poll_fn(|cx| {
        for (future, result) in &mut waiting {
            if let Some(running) = future
                && let std::task::Poll::Ready(done) = running.as_mut().poll(cx)
            {
                *result = Some(done);
                *future = None;
            }
        }
        match waiting.iter().all(|(_, result)| result.is_some()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    waiting
        .into_iter()
        .filter_map(|(_, result)| result)
        .collect()
}

#[tokio::test]
async fn a_revoked_key_is_refused_on_the_next_request_of_an_open_connection() {
    let dir = tempfile::tempdir().unwrap();
    let server = &Server::start(&dir.path().join("s"), &[]);
    let sender = connect(server).await;
    let (id, key) = server.make_key(r#"{"name":"t","scopes":["read"]}"#);
    let ask_with_it = || async {
        let request = Request::get(format!("{}/experiment/demo", server.url()))
            .header("x-api-key", &key)
            .body(Full::default())
            .unwrap();
        let mut sender = sender.clone();
        sender.ready().await.unwrap();
        sender.send_request(request).await.unwrap().status()
    };
    assert_eq!(ask_with_it().await, 200);
    let path = format!("/keys/{id}");
    let revoked = ask(&sender, server, "DELETE", &path, "").await;
    assert_eq!(revoked.status(), 200);
    assert_eq!(ask_with_it().await, 401);
}
