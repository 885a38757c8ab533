//! `softstore del`.

use std::ffi::OsString;

use eyre::Result;
use serde::Serialize;

use crate::announce::print;
use crate::cache::{connect, key, unwritten};
use crate::control::ClusterArgs;
use crate::exit::Exit;

/// Which key.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  softstore del greeting

Exit codes:
  0  deleted    1  it was absent    2  error; it says whether the key may be deleted")]
pub(crate) struct DelArgs {
    /// The key.
    key: OsString,
    /// Print JSON: `{"deleted":true}` or false.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Serialize)]
struct DelJson {
    deleted: bool,
}

/// Deletes it.
pub(crate) async fn run(args: DelArgs) -> Result<Exit> {
    let client = connect(&args.cluster).await?;
    let deleted = client.delete_reporting(key(&args.key)).await;
    let deleted = deleted.map_err(unwritten)?;
    if args.json {
        print(&DelJson { deleted })?;
    }
    Ok(if deleted { Exit::Ok } else { Exit::No })
}
