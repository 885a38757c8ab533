//! Interim.
use eyre::Result;
use crate::exit::Exit;
#[derive(Debug, clap::Args)]
#[command(after_help = "Example")]
pub(crate) struct GetArgs {}
pub(crate) async fn run(_: GetArgs) -> Result<Exit> { Ok(Exit::Ok) }
