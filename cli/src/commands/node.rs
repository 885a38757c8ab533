//! `softstore node`.

use std::sync::Arc;

use eyre::{Result, WrapErr};
use softstore_server::node::{DrainOutcome, Node};
use tracing::{info, warn};

use crate::allocator::Jemalloc;
use crate::announce::{NodeAnnouncement, print};
use crate::exit::Exit;
use crate::logging::{self, LogArgs};
use crate::open_files;
use crate::settings::file::{FileArgs, layered};
use crate::settings::node::NodeSettings;
use crate::stop::{Stop, StopReason};

/// A node's flags.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  softstore node --id cache-0 --memory 4GiB
  softstore node --listen 10.0.0.7:7401 --assigner 10.0.0.5:7400 --insecure
  SOFTSTORE_MEMORY_BYTES=4GiB softstore node --config /etc/softstore.toml

On SIGTERM or SIGINT it drains: it hands over all it owns, answers what it has accepted, and exits, at the latest after
drain_deadline_ms. A second signal ends it at once. It stops being ready (/readyz) when the drain begins.

Exit codes:
  0  drained and stopped    2  error (stderr says what to do)    130, 143  a second signal")]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    settings: NodeSettings,
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    process: ProcessArgs,
}

/// How a server stands to the process that started it.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct ProcessArgs {
    /// Print one line of JSON on stdout once it listens: who and where it is.
    #[arg(long)]
    pub(crate) announce: bool,
    /// Exit when stdin ends, without a drain: so a child goes with its parent, however that dies.
    #[arg(long)]
    pub(crate) exit_with_parent: bool,
}

/// Runs until it is drained, by a signal or by the Assigner's order.
pub(crate) async fn run(args: NodeArgs) -> Result<Exit> {
    let config = layered(args.settings, &args.file, |file| file.node)?;
    config.validate()?;
    logging::start(&args.log)?;
    open_files::raise_limit();
    let mut stop = Stop::listen(args.process.exit_with_parent)?;
    let allocator = Arc::new(Jemalloc::set_up());
    let node = Node::start_with_allocator(config, allocator)
        .await
        .wrap_err("cannot start the node")?;
    if args.process.announce {
        print(&NodeAnnouncement {
            id: node.id().to_string(),
            pid: std::process::id(),
            grpc: node.grpc_addr().to_string(),
            http: node
                .http_addr()
                .map(|address| address.to_string())
                .unwrap_or_default(),
        })?;
    }
    let outcome = tokio::select! {
        outcome = node.drained_by_order() => Some(outcome),
        reason = stop.wanted() => {
            info!(?reason, "stopping");
            tokio::select! {
                outcome = stop_for(reason, &node) => outcome,
                () = stop.exit_at_second_signal() => None,
            }
        }
    };
    tell(outcome);
    Ok(Exit::Ok)
}

/// Ends the node as the reason asks for; how its drain ended, if it was one.
async fn stop_for(reason: StopReason, node: &Node) -> Option<DrainOutcome> {
    match reason {
        StopReason::Terminate | StopReason::Interrupt => Some(node.drain().await),
        // The whole cluster goes with its parent: there is nobody to hand over to.
        StopReason::ParentGone => {
            node.shutdown().await;
            None
        }
    }
}

fn tell(outcome: Option<DrainOutcome>) {
    match outcome {
        Some(DrainOutcome::Drained) => info!("drained: all was handed over"),
        Some(DrainOutcome::NoTaker) => info!("ended without a hand-over: no other node could take over"),
        Some(DrainOutcome::NoAssigner) => {
            warn!("ended with what it still held: no Assigner came to say who takes over");
        }
        Some(DrainOutcome::Deadline) => warn!("ended with what it still held: the drain deadline came"),
        None => info!("ended without a drain"),
    }
}
