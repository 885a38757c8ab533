//! For how long is a slice without service when it moves, and when its owner is killed? In both modes of ownership, with real
//! processes on loopback.
//!
//! ```text
//!   this program: client, one task per probed key          the same program as `--be assigner` and `--be node`
//!   probes  --set and get in turn, every millisecond-->    nodes
//!   rounds  --drain, start, kill-->                        nodes, the Assigner
//!   report  <-- per slice that changed hands: the longest time between two operations that were acknowledged
//!   cluster <-- starts and ends the processes
//! ```
//!
//! What is measured is what an application sees: the client's retries, its pauses, and its way to the new owner are in it. The
//! same without a move (`calm`) says how much of it is the probing and the machine.

mod cluster;
mod probes;
mod report;
mod rounds;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use eyre::{Result, WrapErr};
use softstore_server::config::Ownership;

use crate::report::Report;

/// Measures the time without service for a slice.
#[derive(Debug, Parser)]
struct Arguments {
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=16))]
    nodes: u32,
    /// Keys that are probed, spread evenly over the key space.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    keys: u32,
    /// Time between two operations on a key, in milliseconds.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    every_ms: u64,
    /// Entries that are there to be moved, of 24 + 100 bytes.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    entries: u64,
    /// How often a node drains and comes back, per mode.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    drains: u32,
    /// How often a node is killed and comes back, per mode.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    kills: u32,
    /// How often the Assigner is killed and another started at once, per mode.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    assigner_kills: u32,
    /// Modes to measure.
    #[arg(long, value_delimiter = ',', default_values_t = [Ownership::Available, Ownership::Leased])]
    ownership: Vec<Ownership>,
    /// One JSON object instead of the table.
    #[arg(long)]
    json: bool,
    /// Be a part of the cluster, until stdin ends.
    #[arg(long, hide = true)]
    be: Option<Part>,
    /// The node's name.
    #[arg(long, hide = true, default_value = "n1")]
    id: String,
    /// The Assigner's address; where it is to listen, or where nodes find it.
    #[arg(long, hide = true, default_value = "127.0.0.1:0")]
    assigner: String,
}

/// What this program may be besides itself.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    Assigner,
    Node,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("service_gaps: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let mode = arguments.ownership.first().copied().unwrap_or_default();
    match arguments.be {
        Some(Part::Assigner) => return cluster::be_assigner(&arguments.assigner, arguments.nodes, mode),
        Some(Part::Node) => return cluster::be_node(&arguments.id, &arguments.assigner),
        None => {}
    }
    // One thread: the probes shall not take the nodes' processors from them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .wrap_err("no runtime")?;
    let mut report = Report::new(arguments.nodes, arguments.keys, arguments.every_ms);
    for &ownership in &arguments.ownership {
        let gaps = runtime.block_on(rounds::measure(arguments, ownership))?;
        report.push(ownership, &gaps);
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.table());
    }
    Ok(())
}
