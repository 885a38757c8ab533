//! `softstore forget`.

use eyre::Result;

use crate::control::{ClusterArgs, Control};
use crate::exit::Exit;
use crate::say;

/// Whom.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  softstore forget cache-1

A node's name is one process's at a time: another one of that name waits, and `softstore status` says so, until the first has left or
is dead. This is for a holder that is half dead: heard of, and of no use. It is taken for dead at once (with leased ownership, once
its lease is over), its ranges go to others, and what it holds is not handed over. The process that waits gets the name. A healthy
process that is forgotten by mistake comes back as a new life.

To make a healthy node leave, use softstore drain: it hands over what it holds.

Exit codes:
  0  done    2  error, or no node of that name (stderr says what to do)")]
pub(crate) struct ForgetArgs {
    /// The node's name, as `softstore status` shows it.
    node: String,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Has the holder of the name forgotten.
pub(crate) async fn run(args: ForgetArgs) -> Result<Exit> {
    let mut control = Control::at(&args.cluster.config()?.assigner)?;
    control.forget(&args.node).await?;
    say::remark(format_args!(
        "the process that held the name {} is forgotten",
        args.node
    ));
    Ok(Exit::Ok)
}
