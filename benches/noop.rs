//! The reference: a hyper server that reads the body and answers a constant. It stores nothing.
//! `benches/ingest.sh` starts it beside trialog; it prints its address and serves until killed.

use std::convert::Infallible;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

const ANSWER: &[u8] = br#"{"success":true,"logId":"log_01M877FZH5ANHS4TWFCB9YMZ05"}"#;

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await;
    std::hint::black_box(body.map(|body| body.to_bytes()).is_ok());
    Ok(Response::new(Full::new(Bytes::from_static(ANSWER))))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    // `cargo test` runs benches once to see that they work; there is nothing to see here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new();
            let served = connection.serve_connection(TokioIo::new(stream), service_fn(answer));
            // A load generator that leaves cuts its connections.
            let _cut = served.await;
        });
    }
}
