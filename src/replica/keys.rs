//! The API keys that all nodes share: one value in a JetStream key-value bucket.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::kv::{self, Operation, Store, UpdateErrorKind};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, StorageType};
use futures_util::StreamExt;
use tokio::runtime::Handle;
use tokio::task::block_in_place;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::jetstream::{ConnectError, JetStream, JetStreamOptions, retry};
use crate::auth::{Keyring, SharedKeys};

/// What the value is called in its bucket.
const KEYS: &str = "keys";
/// Between two tries to follow the bucket.
const PAUSE: Duration = Duration::from_secs(1);
/// The bucket says that it is there this often; silence for much longer is a connection that is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The bucket.
#[derive(Clone)]
pub struct KeyBucket {
    store: Store,
    request_timeout: Duration,
    runtime: Handle,
}

impl KeyBucket {
    /// Finds the bucket of a stream, or makes it. To be called in a runtime, in which its requests run.
    pub async fn open(
        stream: &JetStream,
        options: &JetStreamOptions,
    ) -> Result<Self, ConnectError> {
        let description = "trialog's API keys, without their secrets";
        Ok(Self {
            store: open_bucket(stream.client(), options, "keys", description).await?,
            request_timeout: options.request_timeout,
            runtime: Handle::current(),
        })
    }

    /// Gives the keyring what other nodes change, as soon as it is heard of. Never ends.
    pub async fn follow(self, keyring: Arc<Keyring>) {
        loop {
            match self.store.watch_with_history(KEYS).await {
                Ok(mut watch) => {
                    while let Ok(Some(Ok(entry))) = timeout(SILENCE_MAX, watch.next()).await {
                        if entry.operation != Operation::Put {
                            warn!(
                                "the keys that are shared were deleted: those that are known stay in force"
                            );
                            continue;
                        }
                        let keyring = keyring.clone();
                        let adopted = tokio::task::spawn_blocking(move || {
                            keyring.adopt(entry.revision, &entry.value)
                        });
                        if let Ok(Err(error)) = adopted.await {
                            warn!(%error, "keys that another node changed were not taken");
                        }
                    }
                }
                Err(error) => warn!(%error, "the keys that are shared can't be followed now"),
            }
            sleep(PAUSE).await;
        }
    }
}

impl KeyBucket {
    fn wait_for<T>(&self, asked: impl Future<Output = T>) -> Result<T, Elapsed> {
        let answered = timeout(self.request_timeout, asked);
        block_in_place(|| self.runtime.block_on(answered))
    }
}

impl SharedKeys for KeyBucket {
    fn read(&self) -> io::Result<Option<(u64, Vec<u8>)>> {
        let subject = format!("{}{KEYS}", self.store.prefix);
        // As the leader knows it: others may be behind.
        let asked = self.store.stream.get_last_raw_message_by_subject(&subject);
        let answer = self.wait_for(asked);
        match answer {
            Ok(Ok(message)) => Ok(Some((message.sequence, message.payload.to_vec()))),
            Ok(Err(error)) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn replace(&self, revision: u64, bytes: Vec<u8>) -> io::Result<Option<u64>> {
        let asked = self.store.update(KEYS, bytes.into(), revision);
        let answer = self.wait_for(asked);
        match answer {
            Ok(Ok(revision)) => Ok(Some(revision)),
            Ok(Err(error)) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(None),
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Finds the bucket of a stream that is called so, or makes it.
pub(super) async fn open_bucket(
    client: Client,
    options: &JetStreamOptions,
    name: &str,
    description: &str,
) -> Result<Store, ConnectError> {
    let context = async_nats::jetstream::new(client);
    let bucket = format!("{}-{name}", options.stream);
    let config = kv::Config {
        bucket: bucket.clone(),
        description: description.into(),
        history: 1,
        storage: StorageType::File,
        num_replicas: options.replicas,
        ..kv::Config::default()
    };
    let until = Instant::now() + options.connect_within;
    loop {
        let wait = options.request_timeout * 5;
        // Another node may have made it meanwhile.
        if let Ok(Ok(store)) = timeout(wait, context.get_key_value(bucket.as_str())).await {
            return Ok(store);
        }
        match timeout(wait, context.create_key_value(config.clone())).await {
            Ok(Ok(store)) => return Ok(store),
            Ok(Err(error)) => retry(options, until, error.to_string()).await?,
            Err(_) => retry(options, until, "no answer in time".into()).await?,
        }
    }
}
