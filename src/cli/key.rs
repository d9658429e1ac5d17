//! `trialog key`: create, list and revoke keys, through a running server.

use anyhow::{Context, Result};
use hyper::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::client::Server;
use super::{Outcome, output};

/// Create, list and revoke API keys of a running server.
#[derive(Debug, clap::Subcommand)]
#[command(
    after_help = "Example:\n  trialog key create --name ci --scope ingest --experiment 'search-*'"
)]
pub enum Command {
    /// Create a key and print it: it is shown this once.
    #[command(
        after_help = "Example:\n  trialog key create --name ci --scope ingest --experiment 'search-*'"
    )]
    Create {
        /// What it is for.
        #[arg(long)]
        name: String,
        /// What it may do; may be given more than once.
        #[arg(long = "scope", required = true, value_parser = ["ingest", "read", "admin"])]
        scopes: Vec<String>,
        /// Experiments it is restricted to, such as 'search-*'; may be given more than once.
        #[arg(long = "experiment", value_name = "GLOB")]
        experiments: Vec<String>,
        /// When it ends (RFC 3339).
        #[arg(long, value_name = "TIME")]
        expires_at: Option<Timestamp>,
        #[command(flatten)]
        server: Server,
    },
    /// List all keys, one JSON object a line, without their secrets.
    #[command(after_help = "Example:\n  trialog key list | jq -r '.id + \" \" + .name'")]
    List {
        #[command(flatten)]
        server: Server,
    },
    /// Revoke a key: in force on the next request.
    #[command(after_help = "Example:\n  trialog key revoke h3k9x2mq7rtw")]
    Revoke {
        /// The key's id, as `list` shows it.
        id: String,
        #[command(flatten)]
        server: Server,
    },
}

pub fn run(command: Command) -> Result<Outcome> {
    match command {
        Command::Create {
            name,
            scopes,
            experiments,
            expires_at,
            server,
        } => {
            let mut request = json!({"name": name, "scopes": scopes});
            if let Some(members) = request.as_object_mut() {
                if !experiments.is_empty() {
                    members.insert("experiments".into(), experiments.into());
                }
                if let Some(time) = expires_at {
                    members.insert("expiresAt".into(), time.to_string().into());
                }
            }
            let made = server.ask(Method::POST, "/keys", Some(&request))?;
            let key = made.get("key").and_then(Value::as_str);
            output::data(key.context("the server's answer has no key")?)?;
        }
        Command::List { server } => {
            let answer = server.ask(Method::GET, "/keys", None)?;
            let keys = answer.get("keys").and_then(Value::as_array);
            output::list(keys.into_iter().flatten())?;
        }
        Command::Revoke { id, server } => {
            let path = format!("/keys/{id}");
            output::data(server.ask(Method::DELETE, &path, None)?)?;
        }
    }
    Ok(Outcome::Done)
}
