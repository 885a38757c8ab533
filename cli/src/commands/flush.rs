//! Interim.
use eyre::Result;
use crate::exit::Exit;
#[derive(Debug, clap::Args)]
#[command(after_help = "Example")]
pub(crate) struct FlushArgs {}
pub(crate) async fn run(_: FlushArgs) -> Result<Exit> { Ok(Exit::Ok) }
