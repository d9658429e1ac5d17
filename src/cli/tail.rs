//! `trialog tail`: follows an experiment of a running server.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Result, anyhow};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::client::{Server, refusal};
use super::events::{Event, Events};
use super::{Outcome, output};
use crate::model::{LogId, Slug};

/// Longer than a server is ever silent: then it has gone without a word.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Print an experiment's entries as they become durable, one JSON object a line.
///
/// When the connection breaks it comes back by itself, and goes on behind the last entry that was
/// printed: none is left out and none is printed twice.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  trialog tail search-ranker --variant A | jq .metrics.latency_ms"
)]
pub struct Args {
    /// The experiment.
    slug: Slug,
    /// Only entries of this variant.
    #[arg(long, value_name = "KEY")]
    variant: Option<String>,
    /// Begin behind this log id, and not with what comes from now on.
    #[arg(long, value_name = "ID", conflicts_with = "from_start")]
    after: Option<LogId>,
    /// Begin with the first entry there is.
    #[arg(long)]
    from_start: bool,
    #[command(flatten)]
    server: Server,
}

/// Why a connection has ended.
enum Ended {
    /// Nobody reads what is printed.
    Unread,
    /// It can be tried again.
    Broken(anyhow::Error),
    /// Trying again would change nothing.
    Refused(anyhow::Error),
}

pub fn run(args: Args) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::select! {
            followed = follow(&args) => followed,
            interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
        }
    })?;
    Ok(Outcome::Done)
}

async fn follow(args: &Args) -> Result<()> {
    let mut following = Following {
        args,
        last_id: match args.from_start {
            true => Some(LogId::MIN.to_string()),
            false => args.after.map(|id| id.to_string()),
        },
        has_begun: false,
        pause: PAUSE_MIN,
    };
    loop {
        match following.connection().await {
            Ended::Unread => return Ok(()),
            Ended::Refused(error) => return Err(error),
            // Most likely the address is wrong.
            Ended::Broken(error) if !following.has_begun => return Err(error),
            Ended::Broken(error) => {
                let seconds = following.pause.as_secs_f32();
                output::words(format_args!(
                    "trialog: {error:#}; again in {seconds} s, from where it was"
                ));
                sleep(following.pause).await;
                following.pause = (following.pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

struct Following<'a> {
    args: &'a Args,
    /// Where to go on.
    last_id: Option<String>,
    has_begun: bool,
    pause: Duration,
}

impl Following<'_> {
    async fn connection(&mut self) -> Ended {
        let mut path = format!("/experiment/{}/tail", self.args.slug);
        if let Some(variant) = &self.args.variant {
            path += &format!("?variant={}", escaped(variant));
        }
        let mut headers = vec![("accept", "text/event-stream")];
        if let Some(id) = &self.last_id {
            headers.push(("last-event-id", id));
        }
        let response = match self
            .args
            .server
            .send(Method::GET, &path, &headers, None)
            .await
        {
            Ok(response) => response,
            Err(error) => return Ended::Broken(error),
        };
        let status = response.status();
        if status != StatusCode::OK {
            let refused = match refusal(response).await {
                Ok(refused) | Err(refused) => refused,
            };
            return match status.is_server_error() {
                true => Ended::Broken(refused),
                false => Ended::Refused(refused),
            };
        }
        self.has_begun = true;
        self.print(response).await
    }

    async fn print(&mut self, response: Response<Incoming>) -> Ended {
        let mut body = response.into_body();
        let mut events = Events::default();
        loop {
            let frame = match timeout(SILENCE_MAX, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Ended::Broken(error.into()),
                Ok(None) => return Ended::Broken(anyhow!("the connection has ended")),
                Err(_) => return Ended::Broken(anyhow!("the server is silent")),
            };
            self.pause = PAUSE_MIN;
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            let mut lines = Vec::new();
            let mut end = None;
            events.read(&bytes, |event| {
                if event.name.is_empty() {
                    lines.extend_from_slice(event.data.as_bytes());
                    lines.push(b'\n');
                } else {
                    end = end.take().or_else(|| note(&event));
                }
            });
            if let Err(error) = print(&lines) {
                return match error.kind() {
                    io::ErrorKind::BrokenPipe => Ended::Unread,
                    _ => Ended::Refused(error.into()),
                };
            }
            // Only what was printed is behind us.
            if let Some(id) = events.last_id() {
                self.last_id = Some(id.to_owned());
            }
            if let Some(end) = end {
                return end;
            }
        }
    }
}

fn print(lines: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(lines)?;
    stdout.flush()
}

/// What the server says beside entries: to stderr, unless it is the end.
fn note(event: &Event<'_>) -> Option<Ended> {
    let data: Value = serde_json::from_str(event.data).unwrap_or_default();
    let text = |path| data.pointer(path).and_then(Value::as_str);
    match event.name {
        "lagged" => output::words("trialog: entries come faster than they are printed"),
        "lost" => output::words(format_args!(
            "trialog: entries are damaged behind {}: see `trialog verify`",
            text("/after").unwrap_or("the beginning")
        )),
        "end" => {
            let error = anyhow!("{}", text("/error/message").unwrap_or("the server ends"));
            return Some(match text("/error/code") {
                Some("experiment_not_found" | "api_key_invalid") => Ended::Refused(error),
                _ => Ended::Broken(error),
            });
        }
        _ => {}
    }
    None
}

/// As it stands in a query.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}
