//! `softstore scenario`: the scenarios and the figures are the `sim` crate's.

mod page;

use std::path::PathBuf;

use clap::ValueEnum;
use eyre::{Result, WrapErr, eyre};
use softstore_sim::scenario::{NAMES, Scenario, SharderName, builtin, run as run_scenario};

use crate::exit::Exit;
use crate::say;

/// A scenario's flags.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  softstore scenario dicer-chaos --sharder auto
  softstore scenario rolling-surge-16 --sharder ring --json ring.json
  softstore scenario flash-crowd --report flash-crowd.html
  softstore scenario mine.toml --sharder auto --seed 7

Shipped: dicer-chaos, dicer-chaos-lagged, zipf-16, rolling-surge-16, rolling-in-place-16, stationary, noise,
scale-1000, scale-2000, zone-loss, flash-crowd. docs/scenarios.md says what each is, what the figures mean, and how to write one.")]
pub(crate) struct ScenarioArgs {
    /// A shipped scenario's name, or a TOML file
    scenario: String,
    /// Who decides who owns what
    #[arg(long, value_enum, default_value_t = Typed::Auto)]
    sharder: Typed,
    /// What chance is drawn from: the same seed gives the same rounds
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the figures to a file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write a report with charts over the rounds, as one HTML file
    #[arg(long)]
    report: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Typed {
    /// Equal shares of the key space
    Even,
    /// A consistent-hash ring
    Ring,
    /// By load, memory and hot keys
    Auto,
}

impl From<Typed> for SharderName {
    fn from(typed: Typed) -> Self {
        match typed {
            Typed::Even => Self::Even,
            Typed::Ring => Self::Ring,
            Typed::Auto => Self::Auto,
        }
    }
}

/// Runs it.
pub(crate) fn run(args: &ScenarioArgs) -> Result<Exit> {
    let scenario = match builtin(&args.scenario) {
        Some(scenario) => scenario,
        None => from_file(&args.scenario)?,
    };
    let report = run_scenario(&scenario, args.sharder.into(), args.seed)
        .wrap_err_with(|| format!("{} cannot be run", args.scenario))?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string(&report).wrap_err("the figures cannot be written as JSON")?;
        std::fs::write(path, text).wrap_err_with(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.report {
        std::fs::write(path, page::page(&report))
            .wrap_err_with(|| format!("cannot write {}", path.display()))?;
    }
    say::result(&report)?;
    Ok(Exit::Ok)
}

fn from_file(path: &str) -> Result<Scenario> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        eyre!(
            "{path} is no shipped scenario ({}), and cannot be read as a file: {error}",
            NAMES.join(", ")
        )
    })?;
    let mut scenario: Scenario = toml::from_str(&text).wrap_err_with(|| format!("{path} is no scenario"))?;
    if scenario.name.is_empty() {
        path.clone_into(&mut scenario.name);
    }
    Ok(scenario)
}
