//! `softstore plan`.

use eyre::{Result, WrapErr};
use serde::Serialize;
use softstore_proto::v1::PlanReply;

use crate::commands::moves::{MoveJson, bytes, table};
use crate::control::{ClusterArgs, Control};
use crate::exit::Exit;
use crate::say;

/// How to show it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  softstore plan

Asks the Assigner's sharder what it would do by what it knows now, with a whole minute's budget, and does nothing of it. Works
also while balancing is frozen: that is how to see what unfreezing would do.

Columns: REASON as in docs/sharder.md. GAIN is operations per second less that nodes bear above their fair shares, 0 or negative for
what has to be done. BYTES is what would be pulled, MISSES the most reads that may miss until it has arrived. Imbalance is how much
more than its share by capacity the most loaded node bears.

Exit codes:
  0  shown    2  error, or there is no assignment yet (stderr says what to do)")]
pub(crate) struct PlanArgs {
    /// Print JSON, one object on one line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// A plan as `--json` prints it. Stable.
#[derive(Debug, PartialEq, Serialize)]
struct PlanJson {
    sharder: String,
    generation: String,
    /// How much more than its share the most loaded node bears, as a part of that share.
    imbalance_before: f64,
    imbalance_after: f64,
    /// What the nodes hold.
    bytes: f64,
    moved_bytes: f64,
    moves_total: u64,
    /// At most 256.
    moves: Vec<MoveJson>,
}

impl From<PlanReply> for PlanJson {
    fn from(plan: PlanReply) -> Self {
        let generation = plan.generation.unwrap_or_default();
        Self {
            sharder: plan.sharder,
            generation: format!("{}.{:x}", generation.number, generation.assigner),
            imbalance_before: plan.imbalance_before,
            imbalance_after: plan.imbalance_after,
            bytes: plan.bytes,
            moved_bytes: plan.moved_bytes,
            moves_total: plan.moves_total,
            moves: plan.moves.into_iter().map(MoveJson::from).collect(),
        }
    }
}

/// Shows it.
pub(crate) async fn run(args: PlanArgs) -> Result<Exit> {
    let mut control = Control::at(&args.cluster.config()?.assigner)?;
    let plan = PlanJson::from(control.plan().await?);
    if args.json {
        say::result(serde_json::to_string(&plan).wrap_err("the plan as JSON")?)?;
    } else {
        say::result(to_text(&plan))?;
    }
    Ok(Exit::Ok)
}

fn to_text(plan: &PlanJson) -> String {
    let summary = format!(
        "{} at generation {}: {} moves, {} of {}; imbalance {:.1}% -> {:.1}%",
        plan.sharder,
        plan.generation,
        plan.moves_total,
        bytes(plan.moved_bytes),
        bytes(plan.bytes),
        plan.imbalance_before * 100.0,
        plan.imbalance_after * 100.0
    );
    if plan.moves.is_empty() {
        return summary;
    }
    format!("{}\n\n{summary}", table(&plan.moves, plan.moves_total, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use softstore_proto::v1::Move;

    #[test]
    fn a_plan_says_what_would_move_and_what_that_gains() {
        let plan = PlanReply {
            sharder: "auto".into(),
            moves: vec![Move {
                reason: "hot key isolated".into(),
                ..Move::default()
            }],
            moves_total: 1,
            imbalance_before: 0.421,
            imbalance_after: 0.02,
            bytes: 4_096.0,
            moved_bytes: 1_024.0,
            ..PlanReply::default()
        };
        let text = to_text(&plan.into());
        assert!(text.contains("hot key isolated"), "{text}");
        let summary = "auto at generation 0.0: 1 moves, 1.0 KiB of 4.0 KiB; imbalance 42.1% -> 2.0%";
        assert!(text.ends_with(summary), "{text}");
        assert!(!to_text(&PlanReply::default().into()).contains("REASON"));
    }
}
