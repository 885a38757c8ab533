//! `simulate`: runs many seeds of the simulation and judges them.
//!
//! Exit status 0: nothing was found. 1: an invariant was broken; the seed and a command that replays a smaller run of it are
//! printed. 2: anything else (bad arguments, a file that cannot be written, a panic).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use serde::Serialize;
use softstore_sharding::planted::Bug;
use softstore_sim::{Counters, Mode, SimConfig, SimReport, run, shrink};

/// Simulates clusters with faults, one per seed, and checks what their clients saw.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed. Default: 1.
    #[arg(long)]
    from: Option<u64>,
    /// Who owns what a cut-off node had.
    #[arg(long, value_enum, default_value_t = Ownership::Available)]
    mode: Ownership,
    /// How long faults and clients are at work in each run, in virtual milliseconds.
    #[arg(long, default_value_t = SimConfig::default().active_ms)]
    active_ms: u64,
    /// At most this many clients.
    #[arg(long)]
    clients: Option<usize>,
    /// Only the drawn faults with these numbers, separated by commas; empty for none.
    #[arg(long)]
    faults: Option<String>,
    /// Print every event to standard error (use with --seeds 1).
    #[arg(long)]
    trace: bool,
    /// Print what was found as it is, without looking for a smaller run that shows it.
    #[arg(long)]
    no_shrink: bool,
    /// Make a deliberate mistake, and stop at its first violation. Needs a build with the feature `planted-bugs`.
    #[arg(long)]
    plant: Option<String>,
    /// Name the deliberate mistakes, one a line.
    #[arg(long)]
    list_plants: bool,
    /// Print, as a table in Markdown, which seed is the first to find each deliberate mistake, and what it breaks there.
    /// Needs the same build; `--seeds`, `--from` and `--mode` are not looked at.
    #[arg(long)]
    table_of_plants: bool,
    /// Search each deliberate mistake (or that of --plant) from so many random beginnings, drawn from --from or else the time
    /// of day, and tell how many seeds each search needed. Exit status 1 if one found nothing within the seeds that the
    /// mistake states. Needs the same build.
    #[arg(long, value_name = "COUNT")]
    plants_from_random: Option<usize>,
    /// Begin no seed after this many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Write the totals to a file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ownership {
    /// It goes on serving.
    Available,
    /// It serves under a lease.
    Leased,
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

#[derive(Default)]
struct Sum {
    seeds: u64,
    counters: Counters,
    simulated_ms: u64,
    violations: u64,
    cut_off: u64,
    loose_operations: u64,
    believed: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list_plants {
        for bug in Bug::ALL {
            println!("{}", bug.name());
        }
        return ExitCode::SUCCESS;
    }
    let work = || {
        if arguments.table_of_plants {
            table_of_plants()
        } else if let Some(count) = arguments.plants_from_random {
            plants_from_random(count, &arguments)
        } else {
            simulate(&arguments)
        }
    };
    // Also a panic outside the runs themselves, as when nobody reads what is printed, is no verdict.
    match std::panic::catch_unwind(work) {
        Ok(Ok(0)) => ExitCode::SUCCESS,
        Ok(Ok(_)) => ExitCode::from(1),
        Ok(Err(error)) => {
            eprintln!("simulate: {error}");
            ExitCode::from(2)
        }
        Err(_) => ExitCode::from(2),
    }
}

/// Runs the seeds. How many violations there were, or what kept it from running.
fn simulate(arguments: &Arguments) -> Result<u64, String> {
    let config = config_of(arguments)?;
    if let Some(name) = &arguments.plant {
        plant(name)?;
    }
    let began = Instant::now();
    let mut sum = Sum::default();
    let from = arguments.from.unwrap_or(1);
    let past_last = from.checked_add(arguments.seeds);
    for seed in from..past_last.ok_or("the last seed is above 2^64")? {
        if arguments
            .seconds
            .is_some_and(|seconds| began.elapsed().as_secs() >= seconds)
        {
            break;
        }
        let report = std::panic::catch_unwind(|| run(seed, &config)).map_err(|_| {
            let command = replay(seed, &config, arguments.plant.as_deref());
            format!("seed {seed} panicked\nreplay: {command}")
        })?;
        sum.add(&report);
        if let Some(first) = report.violations.first() {
            let count = report.violations.len();
            println!(
                "seed {seed}: {} broken: {} (of {count})",
                first.invariant, first.what
            );
            let smaller = if arguments.no_shrink {
                config.clone()
            } else {
                shrink::shrink(seed, &config, first.invariant)
            };
            println!("replay: {}", replay(seed, &smaller, arguments.plant.as_deref()));
            if arguments.plant.is_some() {
                break;
            }
        }
    }
    tell(&sum, began.elapsed().as_secs_f64(), arguments)?;
    Ok(sum.violations)
}

impl Sum {
    fn add(&mut self, report: &SimReport) {
        self.seeds += 1;
        self.counters.add(&report.counters);
        self.simulated_ms += report.simulated_ms;
        self.violations += report.violations.len() as u64;
        self.cut_off += report.cut_off;
        self.loose_operations += report.loose_operations;
        self.believed += report.believed;
    }
}

fn config_of(arguments: &Arguments) -> Result<SimConfig, String> {
    let numbers = |text: &String| -> Result<BTreeSet<usize>, String> {
        let numbers = text.split(',').filter(|number| !number.is_empty());
        let parsed = numbers.map(|number| number.trim().parse());
        parsed
            .collect::<Result<_, _>>()
            .map_err(|_| format!("--faults {text}: numbers separated by commas are expected"))
    };
    Ok(SimConfig {
        active_ms: arguments.active_ms,
        mode: match arguments.mode {
            Ownership::Available => Mode::Available,
            Ownership::Leased => Mode::Leased,
        },
        clients_max: arguments.clients,
        faults_kept: arguments.faults.as_ref().map(numbers).transpose()?,
        trace: arguments.trace,
        ..SimConfig::default()
    })
}

#[cfg(feature = "planted-bugs")]
fn bug_named(name: &str) -> Result<Bug, String> {
    let bug = Bug::ALL.iter().find(|bug| bug.name() == name);
    bug.copied()
        .ok_or_else(|| format!("--plant {name}: no such bug; --list-plants names them"))
}

#[cfg(feature = "planted-bugs")]
fn plant(name: &str) -> Result<(), String> {
    softstore_sharding::planted::plant(Some(bug_named(name)?));
    Ok(())
}

/// Searches from random beginnings. How many searches found nothing.
#[cfg(feature = "planted-bugs")]
fn plants_from_random(count: usize, arguments: &Arguments) -> Result<u64, String> {
    use softstore_sim::plants;
    let time_of_day = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    };
    let drawn_from = arguments.from.unwrap_or_else(time_of_day);
    let beginnings = plants::beginnings(drawn_from, count);
    println!("beginnings drawn from {drawn_from}: {beginnings:?}; the same again with --from {drawn_from}");
    let bugs = match &arguments.plant {
        Some(name) => vec![bug_named(name)?],
        None => Bug::ALL.to_vec(),
    };
    let began = Instant::now();
    let searched = plants::from_each(&bugs, &beginnings, |bug, from, found| match found {
        Some(found) => eprintln!("{} from {from}: seed {}", bug.name(), found.seed),
        None => println!(
            "{} is not found in {} seeds from {from}",
            bug.name(),
            bug.seeds_max()
        ),
    });
    println!("| bug | seeds needed | median | breaks |\n|---|---|---|---|");
    let mut missed = 0;
    for (bug, searches) in searched {
        println!("{}", plants::row_of_searches(bug, &searches));
        missed += searches.iter().filter(|search| search.is_none()).count() as u64;
    }
    let seconds = began.elapsed().as_secs();
    println!(
        "{missed} of {} searches found nothing, in {seconds} s",
        bugs.len() * count
    );
    Ok(missed)
}

#[cfg(not(feature = "planted-bugs"))]
fn plants_from_random(_: usize, _: &Arguments) -> Result<u64, String> {
    Err("--plants-from-random needs a build with `--features planted-bugs`".to_owned())
}

/// The first seed that finds each planted bug, of as many as any may need. Always 0: these violations are wanted.
#[cfg(feature = "planted-bugs")]
fn table_of_plants() -> Result<u64, String> {
    use softstore_sim::plants;
    let searched = plants::for_each(|bug| plants::first_of(bug, 1..=plants::SEEDS_MAX));
    println!("| bug | what it gets wrong | first seed | breaks |\n|---|---|---|---|");
    for (bug, found) in searched {
        match found {
            Some(found) => println!("{}", plants::row(bug, found)),
            None => println!(
                "| {} | {} | not found in {} | |",
                bug.name(),
                bug.what(),
                plants::SEEDS_MAX
            ),
        }
    }
    Ok(0)
}

#[cfg(not(feature = "planted-bugs"))]
fn table_of_plants() -> Result<u64, String> {
    Err("--table-of-plants needs a build with `--features planted-bugs`".to_owned())
}

#[cfg(not(feature = "planted-bugs"))]
fn plant(_: &str) -> Result<(), String> {
    Err("--plant needs a build with `--features planted-bugs`".to_owned())
}

/// A command that runs a seed again, with all that happens in it told on standard error.
fn replay(seed: u64, config: &SimConfig, planted: Option<&str>) -> String {
    let features = planted.map_or("", |_| " --features planted-bugs");
    let mut command = format!(
        "cargo run --release -p softstore-sim{features} --bin simulate -- --seeds 1 --from {seed} --active-ms {}",
        config.active_ms
    );
    let mut add = |text: String| command.write_str(&text).expect("a String takes every text");
    if config.mode == Mode::Leased {
        add(" --mode leased".to_owned());
    }
    if let Some(clients) = config.clients_max {
        add(format!(" --clients {clients}"));
    }
    if let Some(kept) = &config.faults_kept {
        let numbers: Vec<String> = kept.iter().map(usize::to_string).collect();
        add(format!(" --faults '{}'", numbers.join(",")));
    }
    if let Some(bug) = planted {
        add(format!(" --plant {bug}"));
    }
    add(" --no-shrink --trace".to_owned());
    command
}

fn tell(sum: &Sum, wall_seconds: f64, arguments: &Arguments) -> Result<(), String> {
    let totals = Totals {
        seeds: sum.seeds,
        handoffs: sum.counters.handoffs,
        operations: sum.counters.operations,
        violations: sum.violations,
        simulated_seconds: sum.simulated_ms as f64 / 1_000.0,
        wall_seconds,
    };
    println!(
        "{} seeds, {} hand-offs, {} operations, {} violations, {:.0} s simulated in {:.1} s ({:.0} a second)",
        totals.seeds,
        totals.handoffs,
        totals.operations,
        totals.violations,
        totals.simulated_seconds,
        totals.wall_seconds,
        totals.simulated_seconds / totals.wall_seconds.max(f64::EPSILON)
    );
    println!(
        "{} lives served on after they had been given up, and carried out {} operations where a newer owner served; \
         {} were believed again by an Assigner that met nobody who knew",
        sum.cut_off, sum.loose_operations, sum.believed
    );
    println!("{:?}", sum.counters);
    let Some(path) = &arguments.json else {
        return Ok(());
    };
    let text = serde_json::to_string(&totals).expect("plain numbers");
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
