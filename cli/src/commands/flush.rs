//! `softstore flush`.

use eyre::Result;

use crate::cache::{connect, unwritten};
use crate::control::ClusterArgs;
use crate::exit::Exit;

/// Of which cluster.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  softstore flush --seeds cache-0:7401

Every entry of every node is dropped, at once and without asking again. There is no way back: the database behind the
cache will feel it. Entries written while it runs may be dropped or not.

Exit codes:
  0  flushed    2  error: some or all may be left; flushing again is harmless")]
pub(crate) struct FlushArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Flushes it.
pub(crate) async fn run(args: FlushArgs) -> Result<Exit> {
    let client = connect(&args.cluster).await?;
    client.flush_all().await.map_err(unwritten)?;
    Ok(Exit::Ok)
}
