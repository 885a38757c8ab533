//! `softstore get`.

use std::ffi::OsString;

use eyre::Result;
use serde_json::{Map, Value};
use softstore_client::Found;

use crate::announce::print;
use crate::cache::{connect, key, print_value, put_bytes, unread, version_text};
use crate::control::ClusterArgs;
use crate::exit::Exit;

/// Which key.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  softstore get greeting
  softstore get picture > picture.png          the value's bytes and nothing else
  softstore get greeting --json                {\"found\":true,\"value\":..,\"version\":\"..\",\"ttl_ms\":..}

With --json, a value that is no text stands in hexadecimal under value_hex; ttl_ms is null if it does not expire. The version is
a string, since many programs round large numbers; `set --if-version` takes it with or without its quotes.

Exit codes:
  0  found    1  not found    2  error, such as an owner that does not answer")]
pub(crate) struct GetArgs {
    /// The key.
    key: OsString,
    /// Print JSON: also the version, and what is left of the time to live.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Reads it.
pub(crate) async fn run(args: GetArgs) -> Result<Exit> {
    let client = connect(&args.cluster).await?;
    let found = client.get_with_version(key(&args.key)).await.map_err(unread)?;
    if args.json {
        print(&to_json(found.as_ref()))?;
    } else if let Some(found) = &found {
        print_value(&found.value)?;
    }
    Ok(if found.is_some() { Exit::Ok } else { Exit::No })
}

fn to_json(found: Option<&Found>) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("found".to_owned(), found.is_some().into());
    if let Some(found) = found {
        put_bytes(&mut object, "value", &found.value);
        let ttl_ms = found
            .ttl
            .map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        object.insert("version".to_owned(), version_text(found.version).into());
        object.insert("ttl_ms".to_owned(), ttl_ms.into());
    }
    object
}
