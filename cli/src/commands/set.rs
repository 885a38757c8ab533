//! `softstore set`.

use std::ffi::OsString;
use std::time::Duration;

use eyre::Result;
use serde::Serialize;
use softstore_client::{SetOptions, SetOutcome, Version};

use crate::announce::print;
use crate::cache::{ValueArgs, connect, key, ttl, unwritten, version, version_text};
use crate::control::ClusterArgs;
use crate::exit::Exit;
use crate::say;

/// Which key, which value, and when.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "\
softstore set [OPTIONS] <KEY> <VALUE>
       softstore set [OPTIONS] <KEY> --file <FILE>",
    after_help = "\
Examples:
  softstore set greeting hello --ttl 5m
  softstore set picture --file picture.png
  date | softstore set now -
  softstore set lock mine --if-absent --ttl 30s

Exit codes:
  0  stored    1  the condition did not hold, nothing changed    2  error; it says whether the value may be stored"
)]
pub(crate) struct SetArgs {
    /// The key.
    key: OsString,
    #[command(flatten)]
    value: ValueArgs,
    /// How long it lives: 500ms, 30s, 5m, 2h, 1d; more than 0. Default: until it is evicted.
    #[arg(long, value_name = "SPAN", value_parser = ttl)]
    ttl: Option<Duration>,
    /// Only if the key is absent.
    #[arg(long, group = "condition")]
    if_absent: bool,
    /// Only if the key is present.
    #[arg(long, group = "condition")]
    if_present: bool,
    /// Only if the key has this version, as `get --json` shows it.
    #[arg(long, group = "condition", value_name = "VERSION", value_parser = version)]
    if_version: Option<Version>,
    /// Print JSON: whether it is stored, and the version that is now there, as a string (null: absent).
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Serialize)]
struct SetJson {
    stored: bool,
    version: Option<String>,
}

/// Writes it.
pub(crate) async fn run(args: SetArgs) -> Result<Exit> {
    let options = options(&args);
    let value = args.value.read()?;
    let client = connect(&args.cluster).await?;
    let outcome = client.set_with(key(&args.key), value, options).await;
    let outcome = outcome.map_err(unwritten)?;
    let version = match outcome {
        SetOutcome::Stored(version) => Some(version),
        SetOutcome::ConditionFailed { present } => present,
    };
    if args.json {
        print(&SetJson {
            stored: outcome.is_stored(),
            version: version.map(version_text),
        })?;
    } else if !outcome.is_stored() {
        let present = version.map_or("the key is absent".to_owned(), |version| {
            format!("the key is present, version {}", version.get())
        });
        say::remark(format_args!("softstore: not stored: {present}"));
    }
    Ok(if outcome.is_stored() { Exit::Ok } else { Exit::No })
}

fn options(args: &SetArgs) -> SetOptions {
    let mut options = SetOptions::new();
    if let Some(ttl) = args.ttl {
        options = options.ttl(ttl);
    }
    // At most one of the three: clap sees to it.
    match args.if_version {
        Some(version) => options.if_version(version),
        None if args.if_absent => options.if_absent(),
        None if args.if_present => options.if_present(),
        None => options,
    }
}
