//! The scenario from its options to its report: two clusters one after the other, the hot arm first, then control.

use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::arm::Load;
use crate::choreography::Choreography;
use crate::client_target::ClientTarget;
use crate::error::DrillError;
use crate::fleet::Fleet;
use crate::hot_key::Crowd;
use crate::hot_key::arm::{self, HotPlan, HotRun};
use crate::hot_key::assignments::NodeWatch;
use crate::hot_key::counters::MetricsPages;
use crate::hot_key::html;
use crate::hot_key::judge::{self, Arms};
use crate::hot_key::report::HotKeyReport;
use crate::hot_key::table;
use crate::options::{ArmName, DrillOptions};
use crate::process_fleet::ProcessFleet;
use crate::progress::Progress;
use crate::request::{KeyIndex, Sequence};
use crate::run::{self, Logs, Quiet};

/// Runs the scenario `hot-key`, prints its progress on stderr and its table on stdout, and writes the reports asked for.
///
/// # Errors
/// [`DrillError`] when it could not be carried out. A cluster that does badly is not an error but a report with that verdict.
pub async fn run(options: DrillOptions) -> Result<HotKeyReport, DrillError> {
    options.validate()?;
    let progress = Progress::new(options.quiet);
    let case = Case::new(&options)?;
    let result = Box::pin(run_arms(&options, &case, &progress)).await;
    progress.end();
    let [hot, control] = result?;
    let arms = Arms {
        hot: &hot,
        control: &control,
    };
    let memory_bytes = run::memory_bytes(&options, &case.hot);
    let report = judge::report(&options, &case.hot, memory_bytes, &case.hot_positions, arms);
    let rate = case.hot.rate;
    run::write_reports(&options, &report, || html::page(&report, arms, rate))?;
    if !options.quiet {
        print(&report, arms).map_err(|source| DrillError::System {
            what: "cannot write to stdout",
            source,
        })?;
    }
    Ok(report)
}

/// What both arms replay.
pub(crate) struct Case {
    pub(crate) hot: Load,
    pub(crate) control: Load,
    pub(crate) key: KeyIndex,
    /// Measured positions in which the key is hot.
    pub(crate) hot_positions: Range<u64>,
    pub(crate) positions: u64,
}

impl Case {
    pub(crate) fn new(options: &DrillOptions) -> Result<Self, DrillError> {
        let load = run::load(options)?;
        let count = |ms: u64| ms * u64::from(options.rate_per_second) / 1_000;
        let start = count(options.lead_in_ms);
        let end = start + count(options.hot_key.hot_ms);
        // The least popular of all.
        let key = KeyIndex(options.workload.keys - 1);
        let with_crowd = |hot: Range<u64>| {
            let (share, mix) = (options.hot_key.share, options.workload.mix);
            let crowd = Crowd::new(key, share, mix, load.warm_up, hot, options.seed);
            let sequence = Sequence::generated(&options.workload, options.seed, 0);
            Load {
                sequence: Arc::new(sequence.with_crowd(crowd)),
                ..load.clone()
            }
        };
        Ok(Self {
            hot: with_crowd(load.warm_up + start..load.warm_up + end),
            control: with_crowd(0..0),
            key,
            hot_positions: start..end,
            positions: end + count(options.hot_key.cool_ms),
        })
    }

    /// What is done in an arm on these nodes.
    pub(crate) fn plan(&self, options: &DrillOptions, name: ArmName, nodes: Vec<String>) -> HotPlan {
        let hot = if name == ArmName::Hot {
            self.hot_positions.clone()
        } else {
            0..0
        };
        HotPlan {
            key: self.key,
            positions: self.positions,
            hot,
            writes_per_second: options.hot_key.writes_per_second,
            nodes,
        }
    }
}

async fn run_arms(
    options: &DrillOptions,
    case: &Case,
    progress: &Progress,
) -> Result<[HotRun; 2], DrillError> {
    let logs = Logs::new(options.log_dir.as_deref())?;
    let run = async |name: ArmName, load| {
        let progress = progress.arm(name.as_str());
        Box::pin(run_arm(options, case, (name, load), logs.path(), progress)).await
    };
    let both = async {
        let hot = run(ArmName::Hot, &case.hot).await?;
        Ok([hot, run(ArmName::Control, &case.control).await?])
    };
    let result = both.await;
    if result.is_err() {
        logs.keep();
    }
    result
}

/// One arm on a cluster of its own.
async fn run_arm(
    options: &DrillOptions,
    case: &Case,
    (name, load): (ArmName, &Load),
    log_dir: &Path,
    progress: Progress,
) -> Result<HotRun, DrillError> {
    progress.say(&format!("starting {} nodes", options.nodes));
    let mut fleet = ProcessFleet::start_all(run::fleet_plan(options, load, name, log_dir)?).await?;
    let status = fleet.status()?;
    Choreography::new(&mut fleet, &status, &mut Quiet, run::restart_plan(options))
        .settle()
        .await?;
    let addresses = fleet.addresses();
    let target = ClientTarget::connect(addresses.clone()).await?;
    let key_bytes = load.sequence.key_bytes(case.key);
    let eyes = (
        NodeWatch::new(addresses, &key_bytes),
        MetricsPages(fleet.http_addresses()),
    );
    let plan = case.plan(options, name, fleet.members());
    let run = arm::run(load, name, &plan, target, eyes, progress).await?;
    fleet.end().await;
    Ok(run)
}

/// The table, and what happened in the arms.
fn print(report: &HotKeyReport, arms: Arms<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", table::render(report))?;
    for run in [&arms.hot.run, &arms.control.run] {
        let arm = run.name.as_str();
        for message in &run.messages {
            writeln!(out, "{arm}: {message}")?;
        }
        if run.held_up > 0 {
            writeln!(
                out,
                "{arm}: {} requests went out late, because --in-flight others were under way",
                run.held_up
            )?;
        }
    }
    out.flush()
}
