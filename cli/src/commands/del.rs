//! Interim.
use eyre::Result;
use crate::exit::Exit;
#[derive(Debug, clap::Args)]
#[command(after_help = "Example")]
pub(crate) struct DelArgs {}
pub(crate) async fn run(_: DelArgs) -> Result<Exit> { Ok(Exit::Ok) }
