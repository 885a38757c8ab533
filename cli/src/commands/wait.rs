//! `softstore wait`.

use std::time::{Duration, Instant};

use eyre::Result;
use softstore_proto::v1::ClusterStatus;
use softstore_proto::v1::balance_status::Hold;

use crate::control::{ClusterArgs, Control, POLL};
use crate::exit::Exit;
use crate::say;
use crate::settings::written::span;

/// What to wait for.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  softstore wait --settled && systemctl restart softstore-node@cache-1
  softstore wait --filled --timeout 5m

Settled: every range has an owner that answers for it: it was heard of lately, can be reached where it says that it listens,
and says itself that it serves all it owns; nothing is being handed over, no node joins or drains.
Filled: settled, and every node that joined later has its share: it owns something, and the sharder would give it no more.
While no Assigner answers, it keeps asking until the timeout. It knows of a new process only once that has joined: after a
start, first wait until the node's own /readyz answers 200.

Exit codes:
  0  it is so    1  it was not so within the timeout (stderr says why)    2  error")]
pub(crate) struct WaitArgs {
    /// Wait until all serve and nothing moves. This is the default.
    #[arg(long)]
    settled: bool,
    /// Wait until, besides, no node waits to be filled.
    #[arg(long, conflicts_with = "settled")]
    filled: bool,
    /// How long to wait at most: 500ms, 30s, 5m.
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "60s")]
    timeout: Duration,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Waits.
pub(crate) async fn run(args: WaitArgs) -> Result<Exit> {
    let mut control = Control::at(&args.cluster.config()?.assigner)?;
    let end = Instant::now() + args.timeout;
    let mut told = String::new();
    loop {
        let because = match control.status().await {
            Ok(status) => waits_for(&status, args.filled),
            Err(error) => Some(crate::exit::in_one_line(&error)),
        };
        let Some(because) = because else {
            return Ok(Exit::Ok);
        };
        if because != told {
            say::remark(format_args!("waiting: {because}"));
            told = because;
        }
        if Instant::now() >= end {
            say::remark(format_args!(
                "softstore: not {} within {:?}",
                if args.filled { "filled" } else { "settled" },
                args.timeout
            ));
            return Ok(Exit::No);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What is still missing; nothing if it is so.
fn waits_for(status: &ClusterStatus, filled: bool) -> Option<String> {
    if !status.settled {
        let because = match status.unsettled_because.as_str() {
            "" => "the cluster is not settled",
            because => because,
        };
        return Some(because.to_owned());
    }
    let empty = status.nodes.iter().filter(|node| node.waiting_to_fill);
    let names: Vec<_> = empty
        .filter_map(|node| Some(node.life.as_ref()?.node.as_str()))
        .collect();
    let waiting = filled && (status.waiting_to_fill > 0 || !names.is_empty());
    waiting.then(|| match hold(status) {
        None => format!("to be filled: {}", names.join(", ")),
        Some(hold) => format!("to be filled: {}; meanwhile {hold}", names.join(", ")),
    })
}

/// What holds filling up, if anything does that may last.
fn hold(status: &ClusterStatus) -> Option<&'static str> {
    match status.balance.as_ref()?.hold() {
        Hold::Frozen => Some("balancing is frozen (softstore unfreeze lifts it)"),
        Hold::QuietHours => Some("these are quiet hours, in which nothing is balanced"),
        Hold::Doubted => Some("a node cannot be relied on (softstore status says which, and why)"),
        Hold::NoReport => Some("a node has not reported its load"),
        Hold::SharderOverdue => Some("the sharder takes too long"),
        Hold::Unspecified | Hold::ChurnSpent | Hold::LoadChanging => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filled_asks_for_more_than_settled() {
        let mut status = ClusterStatus {
            unsettled_because: "a drains".into(),
            ..ClusterStatus::default()
        };
        assert_eq!(waits_for(&status, false).as_deref(), Some("a drains"));
        (status.settled, status.waiting_to_fill) = (true, 1);
        assert_eq!(waits_for(&status, false), None);
        assert!(waits_for(&status, true).is_some());
        status.waiting_to_fill = 0;
        assert_eq!(waits_for(&status, true), None);
    }
}
