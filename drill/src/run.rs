//! A whole drill: prepare the load, run the arms, judge, write the reports.
//!
//! The arms that restart run first: how long the controls must replay is known only then.

use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tempfile::TempDir;

use crate::arm::{ArmRun, Load};
use crate::choreography::{Choreography, Observer, RestartPlan};
use crate::client_target::ClientTarget;
use crate::error::DrillError;
use crate::html::{self, Judged};
use crate::ideal;
use crate::judge;
use crate::options::{ArmName, DrillOptions, Scenario};
use crate::pace::Rate;
use crate::process_fleet::{FleetPlan, ProcessFleet};
use crate::progress::Progress;
use crate::record::Record;
use crate::reference::{self, Reference, References};
use crate::report::{ArmReport, Report, WorkloadReport};
use crate::request::Sequence;
use crate::slots::SlotGroups;
use crate::stall;
use crate::table;
use crate::trace;

/// What an entry may cost beyond key and value, with room to spare, when ample memory is reckoned.
const ENTRY_OVERHEAD_BYTES: u64 = 1_024;
/// Ample memory is at least this.
const MEMORY_BYTES_MIN: u64 = 256 << 20;
/// No arm runs longer: a bound for the record.
const ARM_SECONDS_MAX: u64 = 86_400;
/// Warm-up of a generated load, per key.
const WARM_UP_PER_KEY: u64 = 4;

/// Runs a drill, prints its progress on stderr and its table on stdout, and writes the reports asked for.
///
/// # Errors
/// [`DrillError`] when it could not be carried out. A cluster that does badly is not an error but a report with that verdict.
pub async fn run(options: DrillOptions) -> Result<Report, DrillError> {
    options.validate()?;
    let progress = Progress::new(options.quiet);
    let load = load(&options)?;
    let result = if options.seeds.is_empty() {
        Box::pin(run_arms(&options, &load, &progress)).await
    } else {
        Box::pin(run_standing(&options, &load, &progress))
            .await
            .map(|run| vec![run])
    };
    progress.end();
    let runs = result?;
    let (report, references) = judge_all(&options, &load, &runs);
    let judged = Judged {
        report: &report,
        runs: &runs,
        references: &references,
        rate: load.rate,
    };
    write_reports(&options, &report, || html::page(&judged))?;
    if !options.quiet {
        print(&report, &runs).map_err(|source| DrillError::System {
            what: "cannot write to stdout",
            source,
        })?;
    }
    Ok(report)
}

/// The table, and what happened in the arms.
fn print(report: &Report, runs: &[ArmRun]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", table::render(report))?;
    for run in runs {
        let arm = run.name.as_str();
        for message in &run.messages {
            writeln!(out, "{arm}: {message}")?;
        }
        let (resurrected, held_up) = (run.resurrected, run.held_up);
        if resurrected > 0 {
            writeln!(
                out,
                "{arm}: {resurrected} of the stale reads were of deleted keys"
            )?;
        }
        if held_up > 0 {
            writeln!(
                out,
                "{arm}: {held_up} requests went out late, because --in-flight others were under way"
            )?;
        }
    }
    out.flush()
}

pub(crate) fn load(options: &DrillOptions) -> Result<Load, DrillError> {
    let run_nonce = if options.seeds.is_empty() { 0 } else { unix_nanos() };
    let sequence = match &options.trace {
        None => Sequence::generated(&options.workload, options.seed, run_nonce),
        Some(path) => {
            let trace = trace::read_file(path).map_err(|source| DrillError::Trace {
                path: path.clone(),
                source,
            })?;
            Sequence::from_trace(trace, &options.workload, options.seed, run_nonce)
        }
    };
    let warm_up = options
        .warm_up_requests
        .unwrap_or_else(|| match sequence.length() {
            Some(requests) => requests * 2 / 5,
            None => u64::from(sequence.keys()) * WARM_UP_PER_KEY,
        });
    Ok(Load {
        groups: Arc::new(SlotGroups::of(&sequence)),
        warm_up: warm_up.min(sequence.length().unwrap_or(u64::MAX)),
        sequence: Arc::new(sequence),
        rate: Rate {
            per_second: options.rate_per_second,
        },
        in_flight_max: options.in_flight_max,
        load_ms: options.load_ms,
        positions_max: u64::from(options.rate_per_second) * ARM_SECONDS_MAX,
    })
}

/// Tells the keys of this run from those of earlier runs against the same cluster.
fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(1)
}

/// Enough for one node to hold everything twice.
pub(crate) fn memory_bytes(options: &DrillOptions, load: &Load) -> u64 {
    options.memory_per_node_bytes.unwrap_or_else(|| {
        let overhead = u64::from(load.sequence.keys()) * ENTRY_OVERHEAD_BYTES;
        (2 * (load.sequence.state_bytes_max() + overhead)).max(MEMORY_BYTES_MIN)
    })
}

async fn run_arms(
    options: &DrillOptions,
    load: &Load,
    progress: &Progress,
) -> Result<Vec<ArmRun>, DrillError> {
    let logs = Logs::new(options.log_dir.as_deref())?;
    let mut runs = Vec::new();
    let order = [
        ArmName::Transfer,
        ArmName::Cold,
        ArmName::Control,
        ArmName::Control2,
    ];
    for name in order.into_iter().filter(|name| options.arms.contains(name)) {
        let end = runs.iter().map(|run: &ArmRun| run.records.len() as u64).max();
        let run = Box::pin(run_arm(
            options,
            load,
            name,
            end,
            logs.path(),
            &progress.arm(name.as_str()),
        ))
        .await;
        match run {
            Ok(run) => runs.push(run),
            Err(error) => {
                logs.keep();
                return Err(error);
            }
        }
    }
    runs.sort_by_key(|run| run.name);
    Ok(runs)
}

/// Where the processes' logs go.
pub(crate) enum Logs {
    Given(PathBuf),
    Temporary(TempDir),
}

impl Logs {
    pub(crate) fn new(given: Option<&Path>) -> Result<Self, DrillError> {
        match given {
            Some(path) => {
                let made = fs::create_dir_all(path);
                made.map_err(|source| DrillError::File {
                    path: path.to_owned(),
                    source,
                })?;
                Ok(Self::Given(path.to_owned()))
            }
            None => TempDir::with_prefix("softstore-drill-")
                .map(Self::Temporary)
                .map_err(|source| DrillError::System {
                    what: "cannot make a temporary folder",
                    source,
                }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }

    /// The error names a file in it.
    pub(crate) fn keep(self) {
        if let Self::Temporary(dir) = self {
            let _ = dir.keep();
        }
    }
}

/// One arm on a cluster of its own; `end`: how many positions a control replays.
async fn run_arm(
    options: &DrillOptions,
    load: &Load,
    name: ArmName,
    end: Option<u64>,
    log_dir: &Path,
    progress: &Progress,
) -> Result<ArmRun, DrillError> {
    progress.say(&format!("starting {} nodes", options.nodes));
    let mut fleet = ProcessFleet::start_all(fleet_plan(options, load, name, log_dir)?).await?;
    let status = fleet.status()?;
    let plan = restart_plan(options);
    Choreography::new(&mut fleet, &status, &mut Quiet, plan.clone())
        .settle()
        .await?;
    let target = ClientTarget::connect(fleet.addresses()).await?;
    let positions = if name.restarts() { None } else { end };
    let arm = load.start(name, target, positions, progress.clone()).await?;
    let run = if name.restarts() {
        let lead_in = Duration::from_millis(options.lead_in_ms);
        Box::pin(arm.restart(&mut fleet, &status, plan, lead_in)).await?
    } else {
        arm.run_out().await
    };
    fleet.end().await;
    Ok(run)
}

/// Nobody listens while a cluster starts.
pub(crate) struct Quiet;

impl Observer for Quiet {
    fn signal(&mut self, _node: &str) {}
    fn returned(&mut self, _node: &str) {}
    fn filled(&mut self) {}
    fn stage(&mut self, _stage: String) {}
}

pub(crate) fn fleet_plan(
    options: &DrillOptions,
    load: &Load,
    name: ArmName,
    log_dir: &Path,
) -> Result<FleetPlan, DrillError> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(|source| DrillError::System {
            what: "cannot find this program's own file",
            source,
        })?,
    };
    Ok(FleetPlan {
        program,
        log_dir: log_dir.to_owned(),
        name: name.as_str().to_owned(),
        nodes: options.nodes,
        transfer: name != ArmName::Cold,
        rebalance_delay_ms: options.rebalance_delay_ms,
        memory_bytes: memory_bytes(options, load),
        drain_deadline_ms: options.drain_deadline_ms,
        pull_order: options.pull_order.as_str(),
        sharder: (options.scenario == Scenario::HotKey).then_some("auto"),
    })
}

pub(crate) fn restart_plan(options: &DrillOptions) -> RestartPlan {
    RestartPlan {
        mode: options.restart,
        absent: Duration::from_millis(options.absent_ms),
        pause: Duration::from_millis(options.pause_ms),
        tail: Duration::from_millis(options.tail_ms),
        // The final fill starts only after the delay.
        patience: Duration::from_millis(options.settle_timeout_ms + options.rebalance_delay_ms),
    }
}

async fn run_standing(
    options: &DrillOptions,
    load: &Load,
    progress: &Progress,
) -> Result<ArmRun, DrillError> {
    let progress = progress.arm(ArmName::Transfer.as_str());
    let target = ClientTarget::connect(options.seeds.clone()).await?;
    let arm = load.start(ArmName::Transfer, target, None, progress).await?;
    let (baseline, window) = (
        Duration::from_millis(options.baseline_ms),
        Duration::from_millis(options.duration_ms),
    );
    Ok(Box::pin(arm.watch(baseline, window)).await)
}

/// Everything that is computed from the records; with the lines of the references, for the charts.
pub(crate) fn judge_all(options: &DrillOptions, load: &Load, runs: &[ArmRun]) -> (Report, Vec<Reference>) {
    let find = |name| runs.iter().find(|run| run.name == name);
    let bases = find(ArmName::Control)
        .zip(find(ArmName::Transfer))
        .map(|(control, transfer)| References { control, transfer });
    let references = bases.map_or_else(Vec::new, |bases| reference::all(options, load, &bases));
    let leader = find(ArmName::Transfer).or_else(|| find(ArmName::Cold));
    let shared = leader.map_or(0..0, |run| run.window.clone());
    let control = find(ArmName::Control);
    let arms: Vec<_> = runs
        .iter()
        .map(|run| {
            let window = if run.name.restarts() {
                run.window.clone()
            } else {
                shared.clone()
            };
            arm_report(load, run, control, window)
        })
        .collect();
    let (verdict, reasons) = judge::verdict(&arms, options);
    let noise = judge::noise(&arms);
    let state_bytes = leader.map_or(0, |run| run.restarts.state_bytes);
    let moves = find(ArmName::Transfer).map_or(&[][..], |run| &run.restarts.moves);
    let report = Report {
        workload: workload_report(options, load),
        state_bytes,
        arms,
        references: bases.map_or_else(Vec::new, |bases| {
            let report = |reference| reference::report(reference, load, &bases);
            references.iter().map(report).collect()
        }),
        verdict,
        reasons,
        notes: moves
            .iter()
            .filter(|one| one.moved.entries > 0)
            .map(table::told)
            .chain(noise)
            .collect(),
    };
    (report, references)
}

fn arm_report(load: &Load, run: &ArmRun, control: Option<&ArmRun>, window: Range<usize>) -> ArmReport {
    let records = &run.records;
    let (dip_points, avoidable_misses) = match control {
        Some(control) => (
            judge::dip_points(&control.records, records, &window),
            judge::avoidable_misses(&control.records, records, &window),
        ),
        None => (standing_dip_points(load, records, &window), 0),
    };
    let group_of = |position: usize| {
        let request = load.sequence.at(load.warm_up + position as u64);
        load.groups.group(request.key)
    };
    ArmReport {
        name: run.name.as_str(),
        whole: judge::window(records, &(0..records.len()), load.rate),
        window: judge::window(records, &window, load.rate),
        worst_second_hit_rate: judge::worst_second_hit_rate(records, &window, load.rate),
        dip_points,
        avoidable_misses,
        stale_reads: run.stale_reads,
        errors: run.errors,
        writes_unavailable: run.writes_unavailable,
        outcome_unknown: run.outcome_unknown,
        max_stall_ms: stall::longest_ms(records, window, load.rate, group_of),
        served_again_ms: run.served_again_ms,
        moved_entries: run.restarts.moved.entries,
        moved_bytes: run.restarts.moved.bytes,
        restarts: run.restarts.restarts.clone(),
    }
}

/// A standing cluster is its own control: its time before the restart. A cache that still warms up hits more and more, which
/// would hide a loss; so both times are compared with an ideal cache without limits, and the dip is how much farther
/// the cluster stayed behind it in the window than before.
fn standing_dip_points(load: &Load, records: &[Option<Record>], window: &Range<usize>) -> f64 {
    let replayed = ideal::Replayed {
        sequence: &load.sequence,
        warm_up: load.warm_up,
        rate: load.rate,
        end: records.len(),
        overhead_bytes: 0,
    };
    let without_limits = ideal::Room {
        from_position: 0,
        bytes: u64::MAX,
    };
    let ideal = ideal::replay(replayed, &[without_limits]);
    let behind = |part: &Range<usize>| judge::dip_points(&ideal, records, part);
    behind(window) - behind(&(0..window.start))
}

fn workload_report(options: &DrillOptions, load: &Load) -> WorkloadReport {
    let spec = &options.workload;
    let generated = options.trace.is_none();
    let own = options.seeds.is_empty();
    let trace_name = options.trace.as_ref().and_then(|path| path.file_name());
    WorkloadReport {
        name: trace_name.map_or_else(
            || spec.preset.to_string(),
            |name| name.to_string_lossy().into_owned(),
        ),
        keys: load.sequence.keys(),
        zipf_alpha: generated.then_some(spec.zipf_alpha),
        mix: generated.then(|| spec.mix.to_string()),
        key_bytes: spec.key_bytes,
        value_bytes_median: spec.value_bytes_median,
        ttl_ms_min: spec.ttl_ms_min,
        ttl_ms_max: spec.ttl_ms_max,
        rate_per_second: options.rate_per_second,
        in_flight_max: options.in_flight_max,
        seed: options.seed,
        warm_up_requests: load.warm_up,
        nodes: own.then_some(options.nodes),
        restart: if own { options.restart.as_str() } else { "operator" }.to_owned(),
        absent_ms: options.absent_ms,
        rebalance_delay_ms: options.rebalance_delay_ms,
        memory_per_node_bytes: own.then(|| memory_bytes(options, load)),
        memory_ample: options.memory_is_ample(),
        drain_deadline_ms: options.drain_deadline_ms,
        pull_order: options.pull_order.as_str().to_owned(),
        load_ms: options.load_ms,
        max_dip_points: options.dip_limit(),
        max_errors: options.errors_max,
        max_stale_reads: options.stale_reads_max,
    }
}

/// The files asked for: any report as JSON, and its page.
pub(crate) fn write_reports(
    options: &DrillOptions,
    report: &impl Serialize,
    page: impl FnOnce() -> String,
) -> Result<(), DrillError> {
    let write = |path: &PathBuf, text: String| {
        fs::write(path, text).map_err(|source| DrillError::File {
            path: path.clone(),
            source,
        })
    };
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(report).map_err(|error| DrillError::File {
            path: path.clone(),
            source: error.into(),
        })?;
        write(path, json + "\n")?;
    }
    if let Some(path) = &options.report {
        write(path, page())?;
    }
    Ok(())
}
