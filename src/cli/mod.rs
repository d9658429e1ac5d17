//! The command line: one small file for each subcommand, glue only. Data goes to stdout, words to
//! stderr.

mod backup;
mod bench;
mod child;
mod client;
mod client_tls;
mod completions;
mod events;
mod experiment;
mod first;
mod human;
mod inspect;
mod journal;
mod key;
mod noop;
mod output;
mod output_file;
mod place;
mod progress;
mod reload;
mod replay;
mod report;
#[cfg(feature = "archive")]
mod restore;
mod send;
mod serve;
mod settings;
mod supervisor;
mod tail;
mod tls_files;
mod verify;
mod words;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The log store for AI experiments: every execution of a variant, durable when acknowledged.
#[derive(Debug, Parser)]
#[command(
    name = "trialog",
    version,
    propagate_version = true,
    after_help = "Example:\n  trialog serve --data trialog-data"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Args>),
    #[command(subcommand)]
    Experiment(experiment::Command),
    #[command(subcommand)]
    Key(key::Command),
    Replay(replay::Args),
    Report(report::Args),
    Tail(tail::Args),
    Verify(verify::Args),
    Inspect(inspect::Args),
    Backup(backup::Args),
    #[cfg(feature = "archive")]
    Restore(restore::Args),
    Bench(Box<bench::Args>),
    Completions(completions::Args),
    Man(completions::ManArgs),
    #[command(hide = true)]
    Noop(noop::Args),
}

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done: exit code 0.
    Done,
    /// Done, and what was found isn't as it should be: exit code 1.
    FoundDamage,
}

/// Runs a command to its exit code: 0 done, 1 found damage or failed, 2 wrong usage.
pub fn run(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Serve(args) => serve::run(*args),
        Command::Experiment(command) => experiment::run(command),
        Command::Key(command) => key::run(command),
        Command::Replay(args) => replay::run(args),
        Command::Report(args) => report::run(args),
        Command::Tail(args) => tail::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Backup(args) => backup::run(args),
        #[cfg(feature = "archive")]
        Command::Restore(args) => restore::run(args),
        Command::Bench(args) => bench::run(*args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => completions::man(args),
        Command::Noop(args) => noop::run(args),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::FoundDamage) => ExitCode::FAILURE,
        Err(error) => {
            output::words(format_args!("trialog: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
