//! `softstore freeze` and `softstore unfreeze`.

use std::time::Duration;

use eyre::Result;

use crate::control::{ClusterArgs, Control};
use crate::exit::Exit;
use crate::say;
use crate::settings::written::span;

/// For how long.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  softstore freeze --for 30m
  softstore plan                what would be done, were it not frozen
  softstore unfreeze

Nothing is moved for the load's sake any more, no hot key gets or loses replicas, and a node that joined waits to be filled. What
must move still does: what a node owns that drains or dies. `softstore status` shows it, and so does the metric
softstore_balance_frozen. A freeze replaces the one before. It lasts until it is lifted, its time is over, or the Assigner ends: one
that is started again balances.

Exit codes:
  0  frozen    2  error (stderr says what to do)")]
pub(crate) struct FreezeArgs {
    /// For how long at most: 500ms, 30s, 5m, 2h, 1d; up to 30 days. Until it is lifted, if not said.
    #[arg(long = "for", value_name = "DURATION", value_parser = span)]
    span: Option<Duration>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Where.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Load is balanced again, at once if there is anything to balance; `softstore plan` shows beforehand what that would be. It is no
error if nothing was frozen.

Exit codes:
  0  done    2  error (stderr says what to do)")]
pub(crate) struct UnfreezeArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Freezes.
pub(crate) async fn freeze(args: FreezeArgs) -> Result<Exit> {
    if args.span.is_some_and(|span| span.is_zero()) {
        eyre::bail!(
            "--for 0 freezes nothing: name a longer time, or leave it out to freeze until it is lifted"
        );
    }
    let mut control = Control::at(&args.cluster.config()?.assigner)?;
    control.freeze(args.span).await?;
    match args.span {
        Some(span) => say::remark(format_args!("nothing is balanced for {span:?}")),
        None => say::remark("nothing is balanced until `softstore unfreeze`"),
    }
    Ok(Exit::Ok)
}

/// Lifts it.
pub(crate) async fn unfreeze(args: UnfreezeArgs) -> Result<Exit> {
    let mut control = Control::at(&args.cluster.config()?.assigner)?;
    control.unfreeze().await?;
    say::remark("load is balanced again");
    Ok(Exit::Ok)
}
