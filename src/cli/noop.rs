//! `trialog noop`: the reference that stores nothing, for `bench` and for other load generators.

use anyhow::Result;

use super::{Outcome, child};
use crate::bench::noop::serve;

/// Serve a constant answer on a free port of the loopback, whose address is printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  trialog noop")]
pub struct Args {
    /// End when stdin does.
    #[arg(long)]
    child: bool,
}

pub fn run(args: Args) -> Result<Outcome> {
    if args.child {
        child::when_parent_ends(|| std::process::exit(0));
    }
    serve(child::tell)?;
    Ok(Outcome::Done)
}
