//! `--journal`: where an entry is before it is acknowledged.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Result, ensure};

use crate::experiment::folder::NOTES_DIR;

/// Where an entry is before it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// In this store's own journal.
    Local,
    /// On most servers of a NATS JetStream cluster.
    #[cfg(feature = "nats")]
    Nats(Vec<String>),
}

impl FromStr for Where {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "local" {
            return Ok(Self::Local);
        }
        match text.strip_prefix("nats://") {
            Some(servers) => nats(servers),
            None => Err("it is local, or nats://HOST:PORT,HOST:PORT,…".into()),
        }
    }
}

/// A store that follows a stream takes nothing by itself: its log would be another one than the other nodes'.
pub fn check_local(dir: &Path) -> Result<()> {
    ensure!(
        !dir.join(NOTES_DIR).exists(),
        "{} is a node of a replicated store, or a copy of one: start it with the --journal nats://… that it had, \
         or send its entries to another store with `trialog replay --to`",
        dir.display()
    );
    Ok(())
}

#[cfg(not(feature = "nats"))]
fn nats(_: &str) -> Result<Where, String> {
    Err(
        "this trialog was built without the feature `nats`: use local, or build it with \
         `cargo build --release --features nats`"
            .into(),
    )
}

#[cfg(feature = "nats")]
pub use replicated::{StreamArgs, join};

#[cfg(feature = "nats")]
fn nats(servers: &str) -> Result<Where, String> {
    let servers: Vec<String> = servers.split(',').map(str::to_owned).collect();
    match servers.iter().any(String::is_empty) {
        true => Err("between its commas are HOST:PORT, of each NATS server".into()),
        false => Ok(Where::Nats(servers)),
    }
}

#[cfg(feature = "nats")]
mod replicated {
    use std::sync::Arc;
    use std::time::Duration;

    use anyhow::Result;
    use tokio::time::{Instant, sleep};
    use tracing::debug;

    use super::super::human::seconds;
    use crate::auth::{Keyring, KeyringError};
    use crate::experiment::Store;
    use crate::replica::{JetStream, JetStreamOptions, KeyBucket, Pace, Replica, ReplicaOptions};

    /// Between two looks for the keys.
    const PAUSE: Duration = Duration::from_millis(100);

    /// Which stream.
    #[derive(Debug, clap::Args)]
    pub struct StreamArgs {
        /// With --journal nats://…: the stream's name. All nodes of a store name the same; the first one makes it.
        #[arg(
            long,
            env = "TRIALOG_JOURNAL_STREAM",
            value_name = "NAME",
            default_value = "trialog"
        )]
        journal_stream: String,
        /// With --journal nats://…: on how many servers each entry is to be, when the stream is made.
        #[arg(long, env = "TRIALOG_JOURNAL_REPLICAS", value_name = "COUNT", default_value_t = 3,
            value_parser = clap::value_parser!(u8).range(1..=5))]
        journal_replicas: u8,
        /// With --journal nats://…: how many subjects experiments are spread over. The same on all nodes, for ever.
        #[arg(long, env = "TRIALOG_JOURNAL_SHARDS", value_name = "COUNT", default_value_t = 64,
            value_parser = clap::value_parser!(u16).range(1..=4096))]
        journal_shards: u16,
        /// With --journal nats://…: for so long the stream keeps each message at least, and for longer what a node
        /// still needs that was heard of in this time; `all`: for ever. The shortest one of all nodes counts.
        #[arg(long, env = "TRIALOG_JOURNAL_RETENTION", value_name = "TIME", default_value = "7d",
            value_parser = kept)]
        journal_retention: Kept,
    }

    /// How long the stream keeps messages at least; `None`: for ever.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Kept(Option<Duration>);

    fn kept(text: &str) -> Result<Kept, String> {
        if text == "all" {
            return Ok(Kept(None));
        }
        let parse = seconds(Duration::from_secs(1), Duration::from_secs(10 * 31_536_000));
        let time = parse(text).map_err(|error| format!("it is all, or a time: {error}"))?;
        Ok(Kept(Some(time)))
    }

    /// A node of a replicated store.
    pub struct Joined {
        /// The node.
        pub replica: Replica,
        /// Where the keys are that it shares with the others.
        pub keys: KeyBucket,
        /// Whether there were keys.
        pub has_keys: bool,
    }

    /// Makes a store one of the nodes of a stream: it follows the stream from now on, and has its keys.
    pub async fn join(
        servers: &[String],
        args: &StreamArgs,
        store: &Arc<Store>,
        keyring: &mut Keyring,
    ) -> Result<Joined> {
        let options = JetStreamOptions {
            servers: servers.iter().map(|at| format!("nats://{at}")).collect(),
            stream: args.journal_stream.clone(),
            shard_count: args.journal_shards,
            replicas: args.journal_replicas.into(),
            ..JetStreamOptions::default()
        };
        let stream = JetStream::connect(options.clone()).await?;
        let keys = KeyBucket::open(&stream, &options).await?;
        let begun = Instant::now();
        let has_keys = loop {
            match keyring.share(Box::new(keys.clone())) {
                // The cluster may be electing who answers.
                Err(KeyringError::NotReached(error))
                    if begun.elapsed() < options.connect_within =>
                {
                    debug!(%error, "the keys that are shared can't be read yet");
                    sleep(PAUSE).await;
                }
                shared => break shared?,
            }
        };
        let Kept(retention) = args.journal_retention;
        let pace = Pace::default();
        let following = ReplicaOptions {
            stream: options.stream,
            shard_count: options.shard_count,
            retention,
            pace: retention.map_or(pace, |retention| pace.for_retention(retention)),
            passes_on: true,
        };
        let replica = Replica::start(store.clone(), Arc::new(stream), following).await?;
        Ok(Joined {
            replica,
            keys,
            has_keys,
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_stream_keeps_all_or_for_a_time() {
            assert_eq!(kept("all"), Ok(Kept(None)));
            let week = Duration::from_secs(7 * 86_400);
            assert_eq!(kept("7d"), Ok(Kept(Some(week))));
            for bad in ["", "0", "none", "7 days", "100000d"] {
                assert!(kept(bad).is_err(), "{bad}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_local_or_a_list_of_servers() {
        assert_eq!("local".parse(), Ok(Where::Local));
        for bad in ["", "remote", "http://a", "nats://", "nats://a,,b"] {
            assert!(bad.parse::<Where>().is_err(), "{bad}");
        }
        let servers = "nats://a:4222,user:password@b".parse::<Where>();
        #[cfg(feature = "nats")]
        assert_eq!(
            servers,
            Ok(Where::Nats(vec!["a:4222".into(), "user:password@b".into()]))
        );
        #[cfg(not(feature = "nats"))]
        assert!(servers.unwrap_err().contains("--features nats"));
    }
}
