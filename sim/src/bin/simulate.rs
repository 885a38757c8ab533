//! `simulate`: runs many seeds of the simulation and judges them.
//!
//! Exit code 0: nothing was found. 1: an invariant was broken; the seed and the command that replays it are printed.
//! 2: anything else (bad arguments, a file that cannot be written).

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use serde::Serialize;
use softstore_sim::{Counters, SimConfig, run};

/// Simulates clusters with faults, one per seed, and checks what their clients saw.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How long faults and clients are at work in each run, in virtual milliseconds.
    #[arg(long, default_value_t = SimConfig::default().active_ms)]
    active_ms: u64,
    /// Print every event to standard error (use with --seeds 1).
    #[arg(long)]
    trace: bool,
    /// Write the totals to a file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Totals {
    seeds: u64,
    handoffs: u64,
    operations: u64,
    violations: u64,
    simulated_seconds: f64,
    wall_seconds: f64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = SimConfig {
        active_ms: arguments.active_ms,
        trace: arguments.trace,
        ..SimConfig::default()
    };
    let began = Instant::now();
    let (mut counters, mut simulated_ms, mut violations, mut excused) =
        (Counters::default(), 0_u64, 0, 0_u64);
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        let report = run(seed, &config);
        counters.add(&report.counters);
        simulated_ms += report.simulated_ms;
        if report.is_excused {
            excused += 1;
            println!("seed {seed}: not judged, since faults made a living node seem dead");
        }
        violations += report.violations.len() as u64;
        if let Some(first) = report.violations.first() {
            println!(
                "seed {seed}: {} broken: {} (of {})",
                first.invariant,
                first.what,
                report.violations.len()
            );
            let active_ms = arguments.active_ms;
            println!(
                "replay: cargo run --release -p softstore-sim --bin simulate -- --seeds 1 --from {seed} --active-ms {active_ms} --trace"
            );
        }
    }
    let totals = Totals {
        seeds: arguments.seeds,
        handoffs: counters.handoffs,
        operations: counters.operations,
        violations,
        simulated_seconds: simulated_ms as f64 / 1_000.0,
        wall_seconds: began.elapsed().as_secs_f64(),
    };
    println!(
        "{} seeds, {} hand-offs, {} operations, {} violations, {:.0} s simulated in {:.1} s; {excused} seeds not judged",
        totals.seeds,
        totals.handoffs,
        totals.operations,
        totals.violations,
        totals.simulated_seconds,
        totals.wall_seconds
    );
    println!("{counters:?}");
    if let Some(path) = arguments.json {
        let text = serde_json::to_string(&totals).expect("plain numbers");
        if let Err(error) = std::fs::write(&path, text) {
            eprintln!("cannot write {}: {error}", path.display());
            return ExitCode::from(2);
        }
    }
    if violations > 0 {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    }
}
