//! Interim.
use eyre::Result;
use crate::exit::Exit;
#[derive(Debug, clap::Args)]
#[command(after_help = "Example")]
pub(crate) struct SetArgs {}
pub(crate) async fn run(_: SetArgs) -> Result<Exit> { Ok(Exit::Ok) }
