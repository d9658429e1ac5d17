//! What nodes say to each other, as NATS carries it: by the stream's connection, on subjects beside the stream's
//! own. Nothing of it is stored.
//!
//! | subject | |
//! | --- | --- |
//! | `<stream>-nodes.alive.<run>` | a node says that it lives |
//! | `<stream>-nodes.to.<run>` | requests that are passed on to a node |
//! | `<stream>-nodes.answer.<run>.<number>` | what became of a node's bundle |
//!
//! Each has three parts or more, so that a stream of trialog's, which takes two, never stores them, whatever it
//! is called.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::debug;

use super::post::{Heard, NotSaid, Post, To};
use super::stream::Unreachable;

/// So long is waited for room in the connection's queue. It is full where no server has been reached for a while.
const ROOM_WITHIN: Duration = Duration::from_millis(100);
/// Bytes of what is said that NATS may need.
const HEADERS_LEN_MAX: usize = 512;

/// A node's ear and mouth.
#[derive(Clone)]
pub struct NatsPost {
    client: Client,
    prefix: Arc<str>,
    run: u64,
    heard: Arc<Mutex<SelectAll<Subscriber>>>,
}

impl NatsPost {
    /// Begins to hear.
    pub async fn open(client: Client, stream: &str, run: u64) -> Result<Self, Unreachable> {
        let prefix = format!("{stream}-nodes");
        let mut subscribed = Vec::new();
        for subject in [
            format!("{prefix}.alive.*"),
            format!("{prefix}.to.{run:016x}"),
            format!("{prefix}.answer.{run:016x}.*"),
        ] {
            let subscription = client.subscribe(subject).await;
            subscribed.push(subscription.map_err(|error| Unreachable(error.to_string()))?);
        }
        Ok(Self {
            client,
            prefix: prefix.into(),
            run,
            heard: Arc::new(Mutex::new(select_all(subscribed))),
        })
    }

    fn answers(&self, run: u64, number: u64) -> String {
        format!("{}.answer.{run:016x}.{number}", self.prefix)
    }
}

impl Post for NatsPost {
    async fn say(&self, to: To, words: Bytes) -> Result<(), NotSaid> {
        let (prefix, own) = (&self.prefix, self.run);
        let said = async {
            match to {
                To::All => {
                    let subject = format!("{prefix}.alive.{own:016x}");
                    self.client.publish(subject, words).await
                }
                // Where nobody is there, the server says so to whom the answer would go.
                To::Run { run, number } => {
                    let subject = format!("{prefix}.to.{run:016x}");
                    let answers = self.answers(own, number);
                    self.client
                        .publish_with_reply(subject, answers, words)
                        .await
                }
                To::Asker { run, number } => {
                    let subject = self.answers(run, number);
                    self.client.publish(subject, words).await
                }
            }
        };
        // What has found no room is in no queue.
        match timeout(ROOM_WITHIN, said).await {
            Ok(said) => said.map_err(|error| NotSaid(error.to_string())),
            Err(_) => Err(NotSaid("no server is reached".into())),
        }
    }

    async fn hear(&self) -> Heard {
        let mut heard = self.heard.lock().await;
        while let Some(message) = heard.next().await {
            if message.status != Some(StatusCode::NO_RESPONDERS) {
                return Heard::Words(message.payload);
            }
            let number = message.subject.rsplit('.').next();
            match number.and_then(|number| number.parse().ok()) {
                Some(number) => return Heard::Nobody { number },
                None => debug!(subject = %message.subject, "nobody heard something unknown"),
            }
        }
        // The connection has ended, and with it the node.
        std::future::pending().await
    }

    fn words_bytes_max(&self) -> usize {
        self.client.max_payload().saturating_sub(HEADERS_LEN_MAX)
    }
}
