//! Interim.
use eyre::Result;
use crate::exit::Exit;
#[derive(Debug, clap::Args)]
#[command(after_help = "Example")]
pub(crate) struct DrillCommand {}
pub(crate) async fn run(_: DrillCommand) -> Result<Exit> { Ok(Exit::Ok) }
