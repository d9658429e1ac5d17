//! Redis: a stream for each experiment, and `XADD`.

use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, InfoDict, RedisResult, Value, cmd, pipe};

use super::{Line, Place};
use crate::model::Slug;

const URL: &str = "redis://127.0.0.1:6379";

pub struct Streams {
    client: Client,
    /// For what is asked before and after.
    connection: MultiplexedConnection,
    server: String,
    keys: Rc<[String]>,
}

pub struct Connection {
    inner: MultiplexedConnection,
    keys: Rc<[String]>,
}

impl Place for Streams {
    type Line = Connection;

    async fn make(url: Option<&str>, name: String, experiments: &[Slug]) -> Result<Self> {
        let client = Client::open(url.unwrap_or(URL)).context("--peer-url is no redis://…")?;
        let connection = connect(&client).await;
        let mut connection = connection.context("can't reach a Redis server; see --help")?;
        let mut ask = cmd("CONFIG");
        ask.arg("GET").arg("appendonly").arg("appendfsync");
        let said: RedisResult<HashMap<String, String>> = ask.query_async(&mut connection).await;
        let said = said.context("can't ask Redis how durable it is (CONFIG GET appendfsync)")?;
        let of = |name| said.get(name).map_or("unknown", String::as_str);
        let (appendonly, appendfsync) = (of("appendonly"), of("appendfsync"));
        ensure!(
            appendonly == "yes" && appendfsync == "always",
            "this Redis acknowledges before it syncs (appendonly {appendonly}, appendfsync \
             {appendfsync}): start it with --appendonly yes --appendfsync always"
        );
        let info: InfoDict = cmd("INFO")
            .arg("server")
            .query_async(&mut connection)
            .await?;
        let version: Option<String> = info.get("redis_version");
        let version = version.unwrap_or_default();
        let keys = experiments.iter().map(|slug| format!("{name}:{slug}"));
        Ok(Self {
            client,
            connection,
            server: format!("Redis {version}, appendonly yes, appendfsync always"),
            keys: keys.collect(),
        })
    }

    fn server(&self) -> String {
        self.server.clone()
    }

    async fn connect(&self) -> Result<Connection> {
        Ok(Connection {
            inner: connect(&self.client).await?,
            keys: self.keys.clone(),
        })
    }

    async fn count(&mut self) -> Result<u64> {
        let mut lengths = pipe();
        for key in self.keys.iter() {
            lengths.cmd("XLEN").arg(key);
        }
        let lengths: Vec<u64> = lengths.query_async(&mut self.connection).await?;
        Ok(lengths.iter().sum())
    }

    async fn remove(&mut self) -> Result<()> {
        let mut unlink = cmd("UNLINK");
        unlink.arg(&*self.keys);
        Ok(unlink.exec_async(&mut self.connection).await?)
    }
}

impl Line for Connection {
    async fn append(&mut self, experiment: usize, bodies: Vec<Bytes>) -> Result<(), String> {
        let key = self.keys.get(experiment).map_or("", String::as_str);
        let add = |body: &Bytes| {
            let mut add = cmd("XADD");
            add.arg(key).arg("*").arg("entry").arg(&body[..]);
            add
        };
        let answer: RedisResult<Value> = match &bodies[..] {
            [body] => add(body).query_async(&mut self.inner).await,
            // All or none, as a batch is.
            bodies => {
                let mut all = pipe();
                all.atomic();
                for body in bodies {
                    all.add_command(add(body)).ignore();
                }
                all.query_async(&mut self.inner).await
            }
        };
        let code = |error: redis::RedisError| match error.code() {
            Some(code) => code.to_owned(),
            None => "connection_lost".into(),
        };
        answer.map(drop).map_err(code)
    }
}

async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    // Not half a second, which a slow disk may take: we count that ourselves.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}
