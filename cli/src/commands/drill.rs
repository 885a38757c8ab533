//! `softstore drill`: the flags and the work are the `drill` crate's.

use eyre::{Result, WrapErr};
use softstore_drill::{DrillArgs, DrillOptions, Scenario};

use crate::exit::Exit;

/// A drill's flags.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  softstore drill                                      three nodes, a rolling restart, with and without hand-over
  softstore drill --restart kill                       SIGKILL: nothing can be handed over
  softstore drill --scenario hot-key                   a key that takes half of all reads from one moment to the next
  softstore drill --trace load.csv --report drill.html
  softstore drill --seeds cache-0:7401,cache-1:7401    load for a cluster that its operator restarts

docs/drill.md says what each figure means and how the verdict is reached.

Exit codes:
  0  pass, or inconclusive (without hand-over little was lost, so nothing was proven)
  1  fail: --max-dip, --max-errors, --max-stale, --max-isolated-ms or --max-spread-ms is broken
  2  error: the drill could not be carried out")]
pub(crate) struct DrillCommand {
    #[command(flatten)]
    drill: DrillArgs,
}

/// Runs it.
pub(crate) async fn run(command: DrillCommand) -> Result<Exit> {
    let options = DrillOptions::try_from(command.drill)?;
    let code = match options.scenario {
        Scenario::Restart => softstore_drill::run(options)
            .await
            .map(|report| report.exit_code()),
        Scenario::HotKey => softstore_drill::run_hot_key(options)
            .await
            .map(|report| report.exit_code()),
    };
    Ok(if code.wrap_err("the drill could not be carried out")? == 0 {
        Exit::Ok
    } else {
        Exit::No
    })
}
