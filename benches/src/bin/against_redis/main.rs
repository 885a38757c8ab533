//! The native client on one softstore node against redis-rs, multiplexed, on a local Redis: same machine, same run, same
//! keys and values, server and client pinned to one core each.
//!
//! ```text
//!   this program, on the client's core            on the server's core
//!   measure --in turn, several rounds--> contestant --> the same program as `--serve-node` (Assigner and a node)
//!                                                   `-> redis-server
//!   report  <-- medians
//! ```
//!
//! Both clients run as they come: one connection, their default deadlines, on the same single-threaded runtime. Beside
//! redis-rs as it comes it also measures redis-rs without its response timeout, which costs it a timer per operation.
//! Without `redis-server` there is nothing to compare with: it says so and exits 0 (2 with `SOFTSTORE_CI=1`).

mod contestant;
mod measure;
mod report;
mod server;

use std::process::ExitCode;

use clap::Parser;
use eyre::{Result, WrapErr};
use softstore_benches::workload::{keys, value};

use crate::contestant::{Redis, Softstore, fill_redis};
use crate::measure::{Plan, measure};
use crate::report::Report;
use crate::server::{Pinning, RedisServer, SoftstoreServer};

/// Compares softstore's native client with redis-rs on a local Redis.
#[derive(Debug, Parser)]
struct Arguments {
    /// Number of keys, of 24 bytes each. All are present.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// Length of the values, in bytes.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    value_bytes: u32,
    /// How often each contestant is measured, in turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// How long each measurement takes, in milliseconds; a tenth of it before that is not counted.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    millis: u64,
    /// Numbers of operations in flight.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 256], value_parser = clap::value_parser!(u32).range(1..=16_384))]
    in_flight: Vec<u32>,
    /// Percentages of operations that are gets; the others are sets.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 90], value_parser = clap::value_parser!(u32).range(0..=100))]
    get_percent: Vec<u32>,
    /// The core that the servers are pinned to.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core that this program is pinned to.
    #[arg(long, default_value_t = 1)]
    client_core: usize,
    /// One JSON object instead of the table.
    #[arg(long)]
    json: bool,
    /// Be the server: an Assigner and one node, until stdin ends.
    #[arg(long, hide = true)]
    serve_node: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("against_redis: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.serve_node {
        server::serve_node()?;
        return Ok(ExitCode::SUCCESS);
    }
    if !RedisServer::is_installed() {
        return Ok(skipped(arguments.json));
    }
    let pinning = Pinning::new(arguments.server_core, arguments.client_core);
    pinning.pin_this_process()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .wrap_err("no runtime")?;
    let report = runtime.block_on(compare(arguments, &pinning))?;
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.table());
    }
    Ok(ExitCode::SUCCESS)
}

fn skipped(json: bool) -> ExitCode {
    let why = "redis-server is not installed: nothing to compare with (Debian: apt-get install redis-server)";
    if json {
        println!("{}", serde_json::json!({ "skipped": why }));
    } else {
        println!("against_redis: skipped: {why}");
    }
    if std::env::var_os("SOFTSTORE_CI").is_some_and(|set| set == "1") {
        eprintln!("against_redis: SOFTSTORE_CI=1 says that it must be there");
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}

async fn compare(arguments: &Arguments, pinning: &Pinning) -> Result<Report> {
    let redis_server = RedisServer::start(pinning).await?;
    let softstore_server = SoftstoreServer::start(pinning).await?;
    let plan = Plan {
        keys: keys(arguments.keys).into(),
        value: value(arguments.value_bytes as usize),
        millis: arguments.millis,
    };
    let softstore = Softstore::connect(&softstore_server).await?;
    let redis = Redis::connect(&redis_server, true).await?;
    let redis_untimed = Redis::connect(&redis_server, false).await?;
    softstore_benches::cluster::fill(softstore.client(), &plan.keys, &plan.value).await?;
    fill_redis(&redis, &plan.keys, &plan.value).await?;

    let mut report = Report::new(
        arguments.keys,
        arguments.value_bytes,
        arguments.rounds,
        pinning.describe(),
    );
    for round in 0..arguments.rounds {
        for &get_percent in &arguments.get_percent {
            for &in_flight in &arguments.in_flight {
                let cell = report.cell(in_flight, get_percent);
                cell.softstore
                    .push(measure(&softstore, softstore_server.pid(), &plan, in_flight, get_percent).await?);
                cell.redis
                    .push(measure(&redis, redis_server.pid(), &plan, in_flight, get_percent).await?);
                cell.redis_untimed
                    .push(measure(&redis_untimed, redis_server.pid(), &plan, in_flight, get_percent).await?);
            }
        }
        if !arguments.json {
            eprintln!("round {} of {}", round + 1, arguments.rounds);
        }
    }
    Ok(report)
}
