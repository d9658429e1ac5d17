//! `trialog serve`: runs the appliance.

use anyhow::Result;

use super::Outcome;

/// Run the appliance.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<Outcome> {
    Ok(Outcome::Done)
}
