//! NATS: one JetStream stream in files, with a subject for each experiment, and acknowledged messages.

use std::rc::Rc;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE,
};
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::{Client, ConnectOptions, HeaderMap, Subject};
use bytes::Bytes;

use super::{Line, Place};
use crate::model::Slug;

const URL: &str = "nats://127.0.0.1:4222";
/// The first version that can sync each message.
const VERSION_MIN: (u32, u32) = (2, 10);
/// The first version that stores a batch whole or not at all (ADR-50 of NATS).
const ATOMIC_VERSION_MIN: (u32, u32) = (2, 12);

pub struct JetStream {
    url: String,
    is_atomic: bool,
    /// For what is asked before and after.
    context: Context,
    server: String,
    stream: String,
    subjects: Rc<[Subject]>,
}

pub struct Connection {
    context: Context,
    subjects: Rc<[Subject]>,
    is_atomic: bool,
}

/// What stands behind a URL.
#[derive(Debug, PartialEq)]
struct Wanted {
    /// On how many servers of a cluster each message is to be: `?replicas=3`.
    replicas: usize,
    /// Whether a batch is stored whole or not at all, with one acknowledgement: `?atomic`.
    is_atomic: bool,
}

impl Place for JetStream {
    type Line = Connection;

    async fn make(url: Option<&str>, name: String, experiments: &[Slug]) -> Result<Self> {
        let (url, wanted) = parted(url.unwrap_or(URL))?;
        let Wanted {
            replicas,
            is_atomic,
        } = wanted;
        let client = connect(&url).await;
        let client = client.context("can't reach a NATS server; see --help")?;
        let version = client.server_info().version;
        ensure!(
            parsed(&version).is_some_and(|version| version >= VERSION_MIN),
            "this nats-server, {version}, can't sync each message: that takes 2.10 or later"
        );
        ensure!(
            !is_atomic || parsed(&version).is_some_and(|version| version >= ATOMIC_VERSION_MIN),
            "--peer-url: this nats-server, {version}, knows no atomic batches: that takes 2.12 or later"
        );
        let context = async_nats::jetstream::new(client);
        let config = Config {
            name: name.clone(),
            subjects: vec![format!("{name}.>")],
            storage: StorageType::File,
            num_replicas: replicas,
            allow_atomic_publish: is_atomic,
            ..Config::default()
        };
        let made = context.create_stream(config).await;
        made.context("can't make a stream: does the server run with JetStream? see --help")?;
        let subjects = experiments.iter();
        let subjects = subjects.map(|slug| Subject::from(format!("{name}.{slug}")));
        let how = if is_atomic { ", each batch atomic" } else { "" };
        Ok(Self {
            url,
            is_atomic,
            context,
            server: format!(
                "nats-server {version}, a stream in files on {replicas} of its servers{how}; it can't be \
                 asked whether it syncs each message (sync_interval: always)"
            ),
            subjects: subjects.collect(),
            stream: name,
        })
    }

    fn server(&self) -> String {
        self.server.clone()
    }

    async fn connect(&self) -> Result<Connection> {
        Ok(Connection {
            context: async_nats::jetstream::new(connect(&self.url).await?),
            subjects: self.subjects.clone(),
            is_atomic: self.is_atomic,
        })
    }

    async fn count(&mut self) -> Result<u64> {
        let mut stream = self.context.get_stream(&self.stream).await?;
        Ok(stream.info().await?.state.messages)
    }

    async fn remove(&mut self) -> Result<()> {
        self.context.delete_stream(&self.stream).await?;
        Ok(())
    }
}

impl Line for Connection {
    async fn append(&mut self, experiment: usize, bodies: Vec<Bytes>) -> Result<(), String> {
        let subject = self.subjects.get(experiment).cloned();
        let subject = subject.unwrap_or_else(|| Subject::from_static("none"));
        if self.is_atomic {
            return self.append_atomically(subject, bodies).await;
        }
        // A batch is as many messages, each with an acknowledgement of its own.
        let mut sent = Vec::with_capacity(bodies.len());
        for body in bodies {
            let message = self.context.publish(subject.clone(), body).await;
            sent.push(message.map_err(|error| error.kind().to_string())?);
        }
        for acknowledgement in sent {
            let acknowledged = acknowledgement.await;
            acknowledged.map_err(|error| error.kind().to_string())?;
        }
        Ok(())
    }
}

impl Connection {
    /// Only the last message of a batch is answered: for all of them.
    async fn append_atomically(&self, subject: Subject, bodies: Vec<Bytes>) -> Result<(), String> {
        let batch = format!("{:032x}", fastrand::u128(..));
        let (client, count) = (self.context.client(), bodies.len());
        for (number, body) in (1..).zip(bodies) {
            let mut headers = HeaderMap::new();
            headers.insert(NATS_BATCH_ID, batch.as_str());
            headers.insert(NATS_BATCH_SEQUENCE, number.to_string());
            if number < count {
                let sent = client.publish_with_headers(subject.clone(), headers, body);
                sent.await.map_err(|error| error.to_string())?;
                continue;
            }
            headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
            let sent = self
                .context
                .publish_with_headers(subject.clone(), headers, body);
            let acknowledgement = sent.await.map_err(|error| error.kind().to_string())?;
            let acknowledged = acknowledgement.await;
            acknowledged.map_err(|error| error.kind().to_string())?;
        }
        Ok(())
    }
}

async fn connect(url: &str) -> Result<Client> {
    Ok(ConnectOptions::new().connect(url).await?)
}

/// A URL, and what stands behind it: one replica and no atomic batches, where it doesn't say.
fn parted(url: &str) -> Result<(String, Wanted)> {
    let mut wanted = Wanted {
        replicas: 1,
        is_atomic: false,
    };
    let (url, query) = url.split_once('?').unwrap_or((url, ""));
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("replicas", count)) => {
                let count = count.parse().ok().filter(|n| (1..=5).contains(n));
                wanted.replicas = count.context("--peer-url: a stream has 1 to 5 replicas")?;
            }
            None if part == "atomic" => wanted.is_atomic = true,
            _ => bail!(
                "--peer-url: behind the question mark stands replicas=N or atomic, not {part}"
            ),
        }
    }
    Ok((url.to_owned(), wanted))
}

/// The first two numbers of a version.
fn parsed(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(parsed("2.9.10").unwrap() < VERSION_MIN);
        for version in ["2.10.0", "2.15.1-RC.1", "3.0.0"] {
            assert!(parsed(version).unwrap() >= VERSION_MIN, "{version}");
        }
        assert_eq!(parsed("dev"), None);
    }

    #[test]
    fn a_url_says_how_many_replicas_and_whether_batches_are_atomic() {
        let wanted = |replicas, is_atomic| Wanted {
            replicas,
            is_atomic,
        };
        for (url, rest, expected) in [
            ("nats://a:4222", "nats://a:4222", wanted(1, false)),
            ("nats://a,b?replicas=3", "nats://a,b", wanted(3, false)),
            ("nats://a?atomic&replicas=5", "nats://a", wanted(5, true)),
        ] {
            assert_eq!(parted(url).unwrap(), (rest.to_owned(), expected), "{url}");
        }
        for bad in [
            "replicas=0",
            "replicas=6",
            "replicas=",
            "replicas",
            "atomic=1",
            "else",
        ] {
            assert!(parted(&format!("nats://a?{bad}")).is_err(), "{bad}");
        }
    }
}
