//! NATS: one JetStream stream in files, with a subject for each experiment, and acknowledged messages.

use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::{Client, ConnectOptions, Subject};
use bytes::Bytes;

use super::{Line, Place};
use crate::model::Slug;

const URL: &str = "nats://127.0.0.1:4222";
/// Behind a URL: on how many servers of a cluster each message is to be.
const REPLICAS: &str = "?replicas=";
/// The first version that can sync each message.
const VERSION_MIN: (u32, u32) = (2, 10);

pub struct JetStream {
    url: String,
    /// For what is asked before and after.
    context: Context,
    server: String,
    stream: String,
    subjects: Rc<[Subject]>,
}

pub struct Connection {
    context: Context,
    subjects: Rc<[Subject]>,
}

impl Place for JetStream {
    type Line = Connection;

    async fn make(url: Option<&str>, name: String, experiments: &[Slug]) -> Result<Self> {
        let (url, replicas) = parted(url.unwrap_or(URL))?;
        let client = connect(&url).await;
        let client = client.context("can't reach a NATS server; see --help")?;
        let version = client.server_info().version;
        ensure!(
            parsed(&version).is_some_and(|version| version >= VERSION_MIN),
            "this nats-server, {version}, can't sync each message: that takes 2.10 or later"
        );
        let context = async_nats::jetstream::new(client);
        let config = Config {
            name: name.clone(),
            subjects: vec![format!("{name}.>")],
            storage: StorageType::File,
            num_replicas: replicas,
            ..Config::default()
        };
        let made = context.create_stream(config).await;
        made.context("can't make a stream: does the server run with JetStream? see --help")?;
        let subjects = experiments.iter();
        let subjects = subjects.map(|slug| Subject::from(format!("{name}.{slug}")));
        Ok(Self {
            url,
            context,
            server: format!(
                "nats-server {version}, a stream in files on {replicas} of its servers; it can't be asked \
                 whether it syncs each message (sync_interval: always)"
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

async fn connect(url: &str) -> Result<Client> {
    Ok(ConnectOptions::new().connect(url).await?)
}

/// A URL, and on how many servers each message is to be: on one, where it doesn't say.
fn parted(url: &str) -> Result<(String, usize)> {
    let Some((url, replicas)) = url.split_once(REPLICAS) else {
        return Ok((url.to_owned(), 1));
    };
    let replicas = replicas.parse().ok().filter(|n| (1..=5).contains(n));
    let replicas = replicas.context("--peer-url: a stream has 1 to 5 replicas");
    Ok((url.to_owned(), replicas?))
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
    fn a_url_says_how_many_replicas() {
        let one = parted("nats://a:4222").unwrap();
        assert_eq!(one, ("nats://a:4222".to_owned(), 1));
        let three = parted("nats://a:4222,b:4222?replicas=3").unwrap();
        assert_eq!(three, ("nats://a:4222,b:4222".to_owned(), 3));
        for bad in ["0", "6", "", "three"] {
            assert!(
                parted(&format!("nats://a?replicas={bad}")).is_err(),
                "{bad}"
            );
        }
    }
}
