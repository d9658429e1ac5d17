//! The stream as JetStream keeps it: one subject for each shard, in files, on as many servers as is asked for.
//!
//! The stream's leader sends each message on when a quorum has stored it (`republish`), with its sequence and the one
//! before it on its subject. Nodes listen to that. It is a plain subscription: what is missed is asked for.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::kv::Store;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Republish, StorageType};
use async_nats::{Client, ConnectOptions, HeaderMap, Message, Request, ServerAddr, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::ageing::{Report, Told};
use super::announced::{Announced, Announcements};
use super::keys::open_bucket;
use super::nats_post::NatsPost;
use super::node::SHARDS_MAX;
use super::position::MessageId;
use super::stream::{PublishError, Stream, Unreachable};

mod ageing;

/// Where the number of shards stands in a stream's metadata.
const SHARDS: &str = "trialog-shards";
/// Messages of a subscription that wait to be looked at. What is beyond is dropped, and found by asking.
const UNREAD_MAX: usize = 64;
/// Behind a stream's name: the subjects on which it says what it has stored.
const STORED: &str = "-stored";
/// Bytes of a message that headers may take, of the server's max_payload.
const HEADERS_LEN_MAX: usize = 512;
/// JetStream's codes for a message that isn't expected where the subject ends.
const WRONG_LAST_SEQUENCE: [u32; 2] = [10071, 10164];
/// JetStream's code for a message that isn't there.
const NO_MESSAGE: u32 = 10037;
/// Between two tries to reach a server.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How often a server that says nothing is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(2);

/// How the stream is reached and made.
#[derive(Debug, Clone)]
pub struct JetStreamOptions {
    /// The servers, as `nats://host:port`.
    pub servers: Vec<String>,
    /// The stream's name, and how its subjects begin.
    pub stream: String,
    /// How many shards it has.
    pub shard_count: u16,
    /// How many servers keep each message.
    pub replicas: usize,
    /// How long an answer is waited for.
    pub request_timeout: Duration,
    /// How long is tried to reach the stream, at first.
    pub connect_within: Duration,
}

impl Default for JetStreamOptions {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            stream: "trialog".into(),
            shard_count: 64,
            replicas: 3,
            request_timeout: Duration::from_secs(1),
            connect_within: Duration::from_secs(30),
        }
    }
}

/// Why the stream can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// An address can't be one.
    #[error("{address:?} is no address of a NATS server, such as nats://host:4222: {error}")]
    BadAddress {
        /// The address.
        address: String,
        /// Why.
        error: std::io::Error,
    },
    /// The name can't be one.
    #[error("{0:?} can't be a stream's name: 1 to 64 of a-z, A-Z, 0-9, '_' and '-'")]
    BadName(String),
    /// No server, or no stream, in time.
    #[error("the stream {stream:?} can't be reached or made on {servers:?}: {error}")]
    Unreachable {
        /// The stream.
        stream: String,
        /// The servers.
        servers: Vec<String>,
        /// What was said last.
        error: String,
    },
    /// There is such a stream, and it isn't as it must be.
    #[error("the stream {stream:?} is there and can't be used: {what}")]
    Unfit {
        /// The stream.
        stream: String,
        /// What is wrong with it.
        what: String,
    },
}

/// The stream.
pub struct JetStream {
    client: Client,
    name: String,
    request_timeout: Duration,
    heard: Arc<[Heard]>,
    listener: JoinHandle<()>,
    /// What each node has told.
    nodes: Store,
    can_drop: bool,
    /// Whether the server was found to be too old to find messages by time.
    is_too_old: AtomicBool,
}

/// What was heard of a shard.
#[derive(Default)]
struct Heard {
    announcements: Mutex<Announcements>,
    is_new: Notify,
}

impl Heard {
    fn announcements(&self) -> MutexGuard<'_, Announcements> {
        let announcements = self.announcements.lock();
        announcements.unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Deserialize)]
struct Acknowledgement {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct Stored {
    message: Option<StoredMessage>,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct StoredMessage {
    seq: u64,
    #[serde(default)]
    time: String,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

impl JetStream {
    /// Reaches the stream, and makes it where it isn't there.
    pub async fn connect(options: JetStreamOptions) -> Result<Self, ConnectError> {
        let is_named = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let name = &options.stream;
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_named) {
            return Err(ConnectError::BadName(name.clone()));
        }
        let until = Instant::now() + options.connect_within;
        let client = reach(&options, until).await?;
        let can_drop = make(&client, &options, until).await?;
        let description = "how far trialog's nodes have noted to be";
        let nodes = open_bucket(client.clone(), &options, "nodes", description).await?;
        let shard_count = options.shard_count.clamp(1, SHARDS_MAX);
        let heard: Arc<[Heard]> = (0..shard_count).map(|_| Heard::default()).collect();
        let listener = tokio::spawn(listen(client.clone(), name.clone(), heard.clone()));
        Ok(Self {
            client,
            name: options.stream,
            request_timeout: options.request_timeout,
            heard,
            listener,
            nodes,
            can_drop,
            is_too_old: AtomicBool::new(false),
        })
    }

    /// The connection that it uses.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    fn subject(&self, shard: u16) -> String {
        format!("{}.{shard}", self.name)
    }

    /// One message of the stream, as its leader has it.
    async fn stored(&self, wanted: &Value) -> Result<Option<StoredMessage>, Unreachable> {
        let request = Request::new().payload(wanted.to_string().into());
        let subject = format!("$JS.API.STREAM.MSG.GET.{}", self.name);
        let answer = self.ask(subject, request).await?;
        match parsed(&answer)? {
            Stored {
                message: Some(message),
                ..
            } => Ok(Some(message)),
            Stored {
                error: Some(error), ..
            } if error.err_code == NO_MESSAGE => Ok(None),
            Stored { error, .. } => {
                let why = error.map(|error| error.description);
                Err(Unreachable(why.unwrap_or_default()))
            }
        }
    }

    async fn ask(&self, subject: String, request: Request) -> Result<Message, Unreachable> {
        let request = request.timeout(Some(self.request_timeout));
        // Once more around it: a request may wait for a connection, too.
        let asked = timeout(
            self.request_timeout,
            self.client.send_request(subject, request),
        );
        match asked.await {
            Ok(answered) => answered.map_err(|error| Unreachable(error.to_string())),
            Err(_) => Err(Unreachable("no answer in time".into())),
        }
    }
}

impl Drop for JetStream {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Stream for JetStream {
    type Post = NatsPost;

    async fn post(&self, run: u64) -> Result<NatsPost, Unreachable> {
        NatsPost::open(self.client.clone(), &self.name, run).await
    }

    async fn publish(
        &self,
        shard: u16,
        expected: u64,
        id: MessageId,
        message: Bytes,
    ) -> Result<u64, PublishError> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id.to_string());
        headers.insert("Nats-Expected-Stream", self.name.as_str());
        headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string());
        let request = Request::new().headers(headers).payload(message);
        let answer = self.ask(self.subject(shard), request).await;
        let answer = answer.map_err(|Unreachable(why)| PublishError::Unsettled(why))?;
        match parsed::<Acknowledgement>(&answer) {
            Ok(Acknowledgement {
                error: Some(error), ..
            }) if WRONG_LAST_SEQUENCE.contains(&error.err_code) => Err(PublishError::NotExpected),
            Ok(Acknowledgement {
                error: Some(error), ..
            }) => Err(PublishError::Unsettled(error.description)),
            // Sent before: where it stands the stream itself says.
            Ok(acknowledged) if acknowledged.duplicate || acknowledged.seq == 0 => {
                let why = "the stream says that it has it already";
                Err(PublishError::Unsettled(why.into()))
            }
            Ok(acknowledged) => Ok(acknowledged.seq),
            Err(Unreachable(why)) => Err(PublishError::Unsettled(why)),
        }
    }

    async fn next(&self, shard: u16, after: u64) -> Result<Option<(u64, Bytes)>, Unreachable> {
        let wanted = json!({"seq": after + 1, "next_by_subj": self.subject(shard)});
        let request = Request::new().payload(wanted.to_string().into());
        let subject = format!("$JS.API.DIRECT.GET.{}", self.name);
        let answer = self.ask(subject, request).await?;
        match answer.status {
            None => {}
            Some(StatusCode::NOT_FOUND) => return Ok(None),
            Some(status) => {
                let why = answer.description.unwrap_or_default();
                return Err(Unreachable(format!("status {} {why}", status.as_u16())));
            }
        }
        match number(&answer, "Nats-Sequence") {
            Some(sequence) => Ok(Some((sequence, answer.payload))),
            None => Err(Unreachable("a message without its sequence".into())),
        }
    }

    async fn last(&self, shard: u16) -> Result<u64, Unreachable> {
        let wanted = json!({"last_by_subj": self.subject(shard)});
        let last = self.stored(&wanted).await?;
        Ok(last.map_or(0, |message| message.seq))
    }

    fn announced(&self, shard: u16, after: u64) -> Announced {
        match self.heard.get(usize::from(shard)) {
            Some(heard) => heard.announcements().take(after),
            None => Announced::Nothing,
        }
    }

    async fn changed(&self, shard: u16) {
        match self.heard.get(usize::from(shard)) {
            Some(heard) => heard.is_new.notified().await,
            None => std::future::pending().await,
        }
    }

    fn message_bytes_max(&self) -> usize {
        self.client.max_payload().saturating_sub(HEADERS_LEN_MAX)
    }

    async fn tell(&self, node: u64, report: &Report) -> Result<(), Unreachable> {
        self.put_report(node, report).await
    }

    async fn told(&self) -> Result<Vec<Told>, Unreachable> {
        self.reports().await
    }

    async fn first_since(&self, shard: u16, time_ms: u64) -> Result<Option<u64>, Unreachable> {
        self.found_since(shard, time_ms).await
    }

    async fn drop_before(&self, shard: u16, sequence: u64) -> Result<u64, Unreachable> {
        self.purge(shard, sequence).await
    }

    fn can_drop(&self) -> bool {
        self.can_drop
    }
}

fn parsed<T: DeserializeOwned>(message: &Message) -> Result<T, Unreachable> {
    serde_json::from_slice(&message.payload)
        .map_err(|error| Unreachable(format!("an answer that can't be read: {error}")))
}

/// A header that is a number.
fn number(message: &Message, header: &str) -> Option<u64> {
    let value = message.headers.as_ref()?.get(header)?;
    value.as_str().parse().ok()
}

/// Keeps what the stream says it has stored. Ends with the client.
async fn listen(client: Client, name: String, heard: Arc<[Heard]>) {
    let subscribed = client.subscribe(format!("{name}{STORED}.*")).await;
    let mut subscription = match subscribed {
        Ok(subscription) => subscription,
        Err(error) => {
            warn!(%error, "nothing tells what comes: it is looked for now and then");
            return;
        }
    };
    while let Some(message) = subscription.next().await {
        let shard = message.subject.rsplit('.').next();
        let shard = shard.and_then(|shard| shard.parse::<usize>().ok());
        let Some(heard) = shard.and_then(|shard| heard.get(shard)) else {
            continue;
        };
        let sequence = number(&message, "Nats-Sequence");
        let previous = number(&message, "Nats-Last-Sequence");
        if let (Some(sequence), Some(previous)) = (sequence, previous) {
            let payload = message.payload;
            heard.announcements().push(sequence, previous, payload);
            heard.is_new.notify_one();
        }
    }
}

async fn reach(options: &JetStreamOptions, until: Instant) -> Result<Client, ConnectError> {
    let servers = options.servers.iter().map(|address| {
        let parsed = address.parse::<ServerAddr>();
        parsed.map_err(|error| ConnectError::BadAddress {
            address: address.clone(),
            error,
        })
    });
    let servers = servers.collect::<Result<Vec<_>, _>>()?;
    loop {
        let connecting = ConnectOptions::new()
            .name("trialog")
            .subscription_capacity(UNREAD_MAX)
            .connection_timeout(options.request_timeout)
            .request_timeout(Some(options.request_timeout))
            .ping_interval(PING_EVERY)
            .max_reconnects(None)
            .reconnect_delay_callback(|_| RECONNECT_PAUSE)
            .connect(servers.clone());
        match connecting.await {
            Ok(client) => return Ok(client),
            Err(error) => retry(options, until, error.to_string()).await?,
        }
    }
}

/// Finds the stream, or makes it; says whether it lets messages be dropped. A cluster that has just been started
/// takes some tries.
async fn make(
    client: &Client,
    options: &JetStreamOptions,
    until: Instant,
) -> Result<bool, ConnectError> {
    let context = async_nats::jetstream::new(client.clone());
    let shard_count = options.shard_count.to_string();
    let config = Config {
        name: options.stream.clone(),
        subjects: vec![format!("{}.*", options.stream)],
        storage: StorageType::File,
        num_replicas: options.replicas,
        // What was acknowledged goes only when a node asks for it, or somebody deletes the stream: no limit
        // drops a message, and no request takes a single one away.
        discard: DiscardPolicy::New,
        deny_delete: true,
        deny_purge: false,
        allow_direct: true,
        republish: Some(Republish {
            source: format!("{}.*", options.stream),
            destination: format!("{}{STORED}.{{{{wildcard(1)}}}}", options.stream),
            headers_only: false,
        }),
        metadata: HashMap::from([(SHARDS.to_owned(), shard_count.clone())]),
        description: Some("trialog's experiments".into()),
        ..Config::default()
    };
    let info = loop {
        let made = timeout(
            options.request_timeout * 5,
            context.get_or_create_stream(config.clone()),
        );
        match made.await {
            Ok(Ok(stream)) => break stream.cached_info().clone(),
            Ok(Err(error)) => retry(options, until, error.to_string()).await?,
            Err(_) => retry(options, until, "no answer in time".into()).await?,
        }
    };
    let there = &info.config;
    let what = if there.metadata.get(SHARDS) != Some(&shard_count) {
        let said = there.metadata.get(SHARDS);
        let said = said.map_or("no", String::as_str);
        format!("it has {said} shards, and {shard_count} are asked for")
    } else if there.storage != StorageType::File {
        "it keeps its messages in memory".into()
    } else if !there.allow_direct || !there.deny_delete {
        "it must have allow_direct and deny_delete".into()
    } else if there.republish != config.republish {
        let destination = config.republish.map(|republish| republish.destination);
        format!(
            "it must republish what it stores, whole, to {}",
            destination.unwrap_or_default()
        )
    } else if there.num_replicas != options.replicas {
        let (replicas, asked) = (there.num_replicas, options.replicas);
        format!("{replicas} servers keep each message, and {asked} are asked for")
    } else {
        // One that was made with `deny_purge` can never be changed to allow it.
        return Ok(!there.deny_purge);
    };
    let stream = options.stream.clone();
    Err(ConnectError::Unfit { stream, what })
}

/// Waits before the next try; that there is none is an error.
pub(super) async fn retry(
    options: &JetStreamOptions,
    until: Instant,
    error: String,
) -> Result<(), ConnectError> {
    if Instant::now() >= until {
        return Err(ConnectError::Unreachable {
            stream: options.stream.clone(),
            servers: options.servers.clone(),
            error,
        });
    }
    sleep(RECONNECT_PAUSE).await;
    Ok(())
}
