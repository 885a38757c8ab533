//! Scenarios of the control plane alone: rounds of (who lives, what there is to bear), a sharder's placement in each, and what that
//! was worth. No messages and no entries: a hand-off is over when the next round begins.
//!
//! ```text
//!   description   what a scenario file says        builtin   the shipped ones
//!   fleet         who lives in each round          load      what there is to bear in each round
//!   policy        the sharders                     truth     weighs ranges
//!   measure       judges one round                 control   what the control plane sends
//!   report        what a run showed              reasons   what the planner said of its moves
//! ```
//!
//! Members and loads are functions of the scenario and the seed alone: every sharder is judged on the same rounds.

mod builtin;
pub mod control;
mod description;
mod fleet;
mod load;
mod measure;
mod policy;
mod reasons;
mod report;
mod truth;
pub mod wire;

use rustix::time::{ClockId, clock_gettime};

pub use builtin::{NAMES, builtin};
pub use description::{
    ClusterShape, DensityShape, HotKeyShape, LoadShape, Membership, Scenario, ScenarioError, Sees,
};
pub use measure::RoundFigures;
pub use policy::SharderName;
pub use reasons::{ReasonFigures, Reasons};
pub use report::{Moved, Quantiles, ScenarioReport, Times};

use description::Sees::PreviousRound;
use fleet::Fleet;
use load::Loads;
use measure::Judge;
use policy::{Owned, Policy};

/// A round that had to move less than this part of the load is not asked how many times more it moved.
const FORCED_MIN: f64 = 1e-3;

/// Runs a scenario with a sharder.
///
/// # Errors
/// If the scenario is not [valid](Scenario::validate).
pub fn run(scenario: &Scenario, sharder: SharderName, seed: u64) -> Result<ScenarioReport, ScenarioError> {
    scenario.validate()?;
    let mut fleet = Fleet::new(scenario, seed);
    let capacity_bytes: f64 = fleet.seats.iter().map(|seat| seat.capacity_bytes as f64).sum();
    let mut loads = Loads::new(&scenario.load, seed, capacity_bytes);
    let mut policy = Policy::new(sharder, &scenario.settings, scenario.sees);
    let mut owned = Owned::new();
    let mut has_owned: Vec<bool> = Vec::new();
    let (mut figures, mut times) = (Vec::new(), Vec::new());
    let mut reasons = Reasons::default();
    let mut last_reports = None;
    for round in 0..scenario.rounds {
        fleet.step(round);
        let living = fleet.seats.iter().filter(|seat| seat.is_living());
        let truth = loads.step(round, living.map(|seat| seat.capacity_load).sum());
        let now = truth.reported(scenario.load.reported_keys as usize);
        let seen = match scenario.sees {
            PreviousRound => last_reports.replace(now.clone()).unwrap_or(now),
            Sees::ThisRound => now,
        };
        let question = policy.question(&fleet.seats, &owned, seen);
        let began = thread_cpu_ms();
        let (after, moves) = policy.answer(question, &fleet.seats);
        times.push(thread_cpu_ms() - began);
        reasons.add(&moves);
        has_owned.resize(fleet.seats.len(), false);
        let judge = Judge {
            seats: &fleet.seats,
            truth: &truth,
            tolerance: scenario.settings.tolerance_low,
            pull_bytes_per_s: scenario.settings.pull_bytes_per_s,
            is_new: has_owned.iter().map(|owned| !owned).collect(),
        };
        let mut judged = judge.judge(&owned, &after);
        judged.control_bytes = control::bytes(&judged);
        figures.push(judged);
        for owner in after.iter().flat_map(|(_, owners)| owners) {
            has_owned[*owner as usize] = true;
        }
        owned = after;
    }
    Ok(report(scenario, sharder, seed, (figures, times), reasons))
}

fn report(
    scenario: &Scenario,
    sharder: SharderName,
    seed: u64,
    (figures, times): (Vec<RoundFigures>, Vec<f64>),
    reasons: Reasons,
) -> ScenarioReport {
    let counted = || figures.iter().skip(scenario.warm_up_rounds as usize);
    let forced = counted().filter(|round| round.forced_load.max(round.moved_load) > FORCED_MIN);
    let over = forced.map(|round| round.moved_load / round.forced_load.max(FORCED_MIN));
    ScenarioReport {
        scenario: scenario.name.clone(),
        sharder: sharder.as_str(),
        rounds: scenario.rounds,
        imbalance: Quantiles::of(figures.iter().map(|round| round.imbalance)),
        moved_fraction: Moved {
            membership: counted().map(|round| round.moved_by_membership).sum(),
            balancing: counted().map(|round| round.moved_to_balance).sum(),
        },
        round_ms: Quantiles::of(times.iter().copied()).into(),
        control_bytes: figures.iter().map(|round| round.control_bytes).sum(),
        seed,
        warm_up_rounds: scenario.warm_up_rounds,
        reasons,
        round_ms_each: times,
        churn_over_forced_max: over.fold(0.0, f64::max),
        figures,
    }
}

/// CPU time of this thread.
fn thread_cpu_ms() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6
}
