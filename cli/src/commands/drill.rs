//! `softstore drill`: the flags and the work are the `drill` crate's.

use eyre::{Result, WrapErr};
use softstore_drill::{DrillArgs, DrillOptions};

use crate::exit::Exit;

/// A drill's flags.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  softstore drill                                      three nodes, a rolling restart, with and without hand-over
  softstore drill --restart kill                       SIGKILL: nothing can be handed over
  softstore drill --trace load.csv --report drill.html
  softstore drill --seeds cache-0:7401,cache-1:7401    load for a cluster that its operator restarts

docs/drill.md says what each figure means and how the verdict is reached.

Exit codes:
  0  pass, or inconclusive (without hand-over little was lost, so nothing was proven)
  1  fail: --max-dip, --max-errors or --max-stale is broken
  2  error: the drill could not be carried out")]
pub(crate) struct DrillCommand {
    #[command(flatten)]
    drill: DrillArgs,
}

/// Runs it.
pub(crate) async fn run(command: DrillCommand) -> Result<Exit> {
    let options = DrillOptions::try_from(command.drill)?;
    let report = softstore_drill::run(options)
        .await
        .wrap_err("the drill could not be carried out")?;
    Ok(if report.exit_code() == 0 {
        Exit::Ok
    } else {
        Exit::No
    })
}
