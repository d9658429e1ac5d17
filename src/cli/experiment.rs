//! `trialog experiment`: create, list, show and delete, through a running server.

use anyhow::Result;
use hyper::Method;
use serde_json::{Value, json};

use super::client::Server;
use super::{Outcome, output};
use crate::model::Slug;

/// Create, list, show and delete experiments of a running server.
#[derive(Debug, clap::Subcommand)]
#[command(
    after_help = "Example:\n  trialog experiment create search-ranker --variant A --variant B"
)]
pub enum Command {
    /// Create an experiment, or change its variants.
    #[command(
        after_help = "Example:\n  trialog experiment create search-ranker --variant A --variant B"
    )]
    Create {
        /// Its unique name: a-z, 0-9, '_' and '-'.
        slug: Slug,
        /// A variant's key; may be given more than once.
        #[arg(long, value_name = "KEY")]
        variant: Vec<String>,
        /// Take entries of variants that aren't defined, too.
        #[arg(long)]
        open_variants: bool,
        /// Words for people.
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        server: Server,
    },
    /// List all experiments, one JSON object a line.
    #[command(after_help = "Example:\n  trialog experiment list | jq -r .slug")]
    List {
        #[command(flatten)]
        server: Server,
    },
    /// Show one experiment.
    #[command(after_help = "Example:\n  trialog experiment show search-ranker")]
    Show {
        /// Its name.
        slug: Slug,
        #[command(flatten)]
        server: Server,
    },
    /// Delete an experiment and all its entries.
    #[command(
        after_help = "Example:\n  trialog experiment delete search-ranker --confirm search-ranker"
    )]
    Delete {
        /// Its name.
        slug: Slug,
        /// Its name once more, since this can't be undone.
        #[arg(long, value_name = "SLUG")]
        confirm: Slug,
        #[command(flatten)]
        server: Server,
    },
}

pub fn run(command: Command) -> Result<Outcome> {
    match command {
        Command::Create {
            slug,
            variant,
            open_variants,
            description,
            server,
        } => {
            let mut definition = json!({"variants": variant, "openVariants": open_variants});
            if let (Some(description), Some(members)) = (description, definition.as_object_mut()) {
                members.insert("description".into(), description.into());
            }
            let path = format!("/experiment/{slug}");
            output::data(server.ask(Method::PUT, &path, Some(&definition))?)?;
        }
        Command::List { server } => list(&server)?,
        Command::Show { slug, server } => {
            let path = format!("/experiment/{slug}");
            output::data(server.ask(Method::GET, &path, None)?)?;
        }
        Command::Delete {
            slug,
            confirm,
            server,
        } => {
            let path = format!("/experiment/{slug}?confirm={confirm}");
            output::data(server.ask(Method::DELETE, &path, None)?)?;
        }
    }
    Ok(Outcome::Done)
}

fn list(server: &Server) -> Result<()> {
    let mut path = String::from("/experiments");
    loop {
        let page = server.ask(Method::GET, &path, None)?;
        let experiments = page.get("experiments").and_then(Value::as_array);
        let has_reader = output::list(experiments.into_iter().flatten())?;
        match page.get("next").and_then(Value::as_str) {
            Some(next) if has_reader => path = format!("/experiments?after={next}"),
            _ => return Ok(()),
        }
    }
}
