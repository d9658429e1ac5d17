//! `trialog completions` and `trialog man`: what packages install beside the binary.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Outcome};

const NAME: &str = "trialog";

/// Print what makes a shell complete trialog's commands and flags.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  trialog completions bash > /usr/share/bash-completion/completions/trialog"
)]
pub struct Args {
    /// The shell.
    shell: Shell,
}

/// Write the manual pages: one for trialog, and one for each command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  trialog man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// The folder to write them to.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub fn run(args: Args) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut script);
    match io::stdout().lock().write_all(&script) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Outcome::Done),
    }
}

pub fn man(args: ManArgs) -> Result<Outcome> {
    let dir = &args.dir;
    clap_mangen::generate_to(Cli::command(), dir)
        .with_context(|| format!("can't write the manual pages to {}", dir.display()))?;
    Ok(Outcome::Done)
}
