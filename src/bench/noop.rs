//! The reference: a hyper server that reads the body and answers a constant. It stores nothing, so
//! nothing behind HTTP can be faster.

use std::convert::Infallible;
use std::net::Ipv4Addr;

use anyhow::Result;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

const ANSWER: &[u8] = br#"{"success":true,"logId":"log_01M877FZH5ANHS4TWFCB9YMZ05"}"#;

/// Serves on a free port of the loopback, which it tells `listening`, for as long as the process
/// lives.
pub fn serve(listening: impl FnOnce(std::net::SocketAddr) -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        listening(listener.local_addr()?)?;
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
    })
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await;
    std::hint::black_box(body.map(|body| body.to_bytes()).is_ok());
    Ok(Response::new(Full::new(Bytes::from_static(ANSWER))))
}
