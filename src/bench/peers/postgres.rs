//! PostgreSQL: one table with a key, and a prepared `INSERT` of jsonb, committed each.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, NoTls, Statement};

use super::{Line, Place};
use crate::model::Slug;

const URL: &str = "postgres://postgres@127.0.0.1:5432/postgres";

pub struct Table {
    url: String,
    /// For what is asked before and after.
    client: Client,
    server: String,
    name: String,
    experiments: Vec<String>,
}

pub struct Connection {
    client: Client,
    one: Statement,
    many: Statement,
    experiments: Vec<String>,
}

impl Place for Table {
    type Line = Connection;

    async fn make(url: Option<&str>, name: String, experiments: &[Slug]) -> Result<Self> {
        let url = url.unwrap_or(URL).to_owned();
        let client = connect(&url).await;
        let client = client.context("can't reach a PostgreSQL server; see --help")?;
        let version = show(&client, "server_version").await?;
        let fsync = show(&client, "fsync").await?;
        let synchronous_commit = show(&client, "synchronous_commit").await?;
        ensure!(
            fsync == "on" && synchronous_commit != "off",
            "this PostgreSQL acknowledges before it syncs (fsync {fsync}, synchronous_commit \
             {synchronous_commit}): start it with its defaults, which are on"
        );
        let make = format!(
            "CREATE TABLE {name} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
             experiment text NOT NULL, entry jsonb NOT NULL)"
        );
        client.batch_execute(&make).await?;
        Ok(Self {
            url,
            client,
            server: format!(
                "PostgreSQL {version}, fsync on, synchronous_commit {synchronous_commit}"
            ),
            name,
            experiments: experiments.iter().map(Slug::to_string).collect(),
        })
    }

    fn server(&self) -> String {
        self.server.clone()
    }

    async fn connect(&self) -> Result<Connection> {
        let client = connect(&self.url).await?;
        let name = &self.name;
        // The text is parsed by the server alone, as it is for a trialog.
        let one = format!("INSERT INTO {name} (experiment, entry) VALUES ($1, $2::text::jsonb)");
        let one = client
            .prepare_typed(&one, &[Type::TEXT, Type::TEXT])
            .await?;
        let many = format!(
            "INSERT INTO {name} (experiment, entry) SELECT $1, body::jsonb FROM unnest($2) body"
        );
        let types = [Type::TEXT, Type::TEXT_ARRAY];
        let many = client.prepare_typed(&many, &types).await?;
        Ok(Connection {
            client,
            one,
            many,
            experiments: self.experiments.clone(),
        })
    }

    async fn count(&mut self) -> Result<u64> {
        let count = format!("SELECT count(*) FROM {}", self.name);
        let count: i64 = self.client.query_one(&count, &[]).await?.try_get(0)?;
        Ok(u64::try_from(count)?)
    }

    async fn remove(&mut self) -> Result<()> {
        let name = &self.name;
        Ok(self
            .client
            .batch_execute(&format!("DROP TABLE {name}"))
            .await?)
    }
}

impl Line for Connection {
    async fn append(&mut self, experiment: usize, bodies: Vec<Bytes>) -> Result<(), String> {
        let experiment = self.experiments.get(experiment);
        let texts = bodies.iter().map(|body| std::str::from_utf8(body));
        let texts: Vec<&str> = texts
            .collect::<Result<_, _>>()
            .map_err(|_| "not UTF-8".to_owned())?;
        let inserted = match &texts[..] {
            [text] => self.client.execute(&self.one, &[&experiment, text]).await,
            texts => {
                self.client
                    .execute(&self.many, &[&experiment, &texts])
                    .await
            }
        };
        inserted.map(drop).map_err(|error| code(&error))
    }
}

async fn connect(url: &str) -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Ends with the client. Its error is also the one of the request that meets it.
    tokio::spawn(connection);
    Ok(client)
}

async fn show(client: &Client, setting: &str) -> Result<String> {
    let row = client.query_one(&format!("SHOW {setting}"), &[]).await?;
    Ok(row.try_get(0)?)
}

fn code(error: &Error) -> String {
    match error.code() {
        Some(state) => format!("sqlstate_{}", state.code()),
        None => "connection_lost".into(),
    }
}
