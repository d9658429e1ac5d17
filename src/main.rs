//! The command `trialog`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    trialog::cli::run(trialog::cli::Cli::parse())
}
