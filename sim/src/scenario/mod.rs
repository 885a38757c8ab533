//! Scenarios of the control plane alone: rounds of (who lives, what there is to bear), what the Assigner publishes in each, and what
//! that was worth. No entries and no clients: a hand-off is over when the next round begins.
//!
//! ```text
//!   description   what a scenario file says        builtin   the shipped ones
//!   fleet         who lives in each round          load      what there is to bear in each round
//!   policy        the sharders                     truth     weighs ranges
//!   plane         the Assigner and its nodes       wire      how long messages are
//!   measure       judges one round                 control   what the control plane sends, where nobody talks
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
mod plane;
mod policy;
mod reasons;
mod report;
mod truth;
pub mod wire;

use rustix::time::{ClockId, clock_gettime};

pub use builtin::{NAMES, builtin};
pub use description::{
    ClusterShape, DensityShape, HotKeyShape, LoadShape, Membership, Scenario, ScenarioError, Sees, shipped,
};
pub use measure::RoundFigures;
pub use plane::{BEATS, OPERATIONS_PER_LOAD_UNIT, Traffic};
pub use policy::SharderName;
pub use reasons::{ReasonFigures, Reasons};
pub use report::{Moved, Quantiles, ScenarioReport, Times};

use softstore_sharding::sharder::auto::Standing;

use description::Sees::PreviousRound;
use fleet::{Fleet, Seat};
use load::Loads;
use measure::Judge;
use plane::Plane;
use policy::{Owned, Policy};
use truth::Truth;

/// A round that had to move less than this part of the load is not asked how many times more it moved.
const FORCED_MIN: f64 = 1e-3;

/// Runs a scenario with a sharder.
///
/// # Errors
/// If the scenario is not [valid](Scenario::validate), or the Assigner refuses what the sharder says.
pub fn run(scenario: &Scenario, sharder: SharderName, seed: u64) -> Result<ScenarioReport, ScenarioError> {
    scenario.validate()?;
    let mut fleet = Fleet::new(scenario, seed);
    let capacity_bytes: f64 = fleet.seats.iter().map(|seat| seat.capacity_bytes as f64).sum();
    let mut loads = Loads::new(&scenario.load, seed, capacity_bytes);
    let mut owned = fleet.dealt();
    let mut has_owned: Vec<bool> = Vec::new();
    let mut run = Run::default();
    let mut decider = None;
    let mut last_truth: Option<Truth> = None;
    for round in 0..scenario.rounds {
        fleet.step(round);
        let living = fleet.seats.iter().filter(|seat| seat.is_living());
        let truth = loads.step(round, living.map(|seat| seat.capacity_load).sum());
        let seen = match scenario.sees {
            PreviousRound => last_truth.replace(truth.clone()).unwrap_or_else(|| truth.clone()),
            Sees::ThisRound => truth.clone(),
        };
        let decider = decider.get_or_insert_with(|| Decider::new(scenario, sharder, &fleet.seats, &owned));
        let after = decider.decide(scenario, &fleet.seats, &owned, &seen, &mut run)?;
        has_owned.resize(fleet.seats.len(), false);
        let judge = Judge {
            seats: &fleet.seats,
            truth: &truth,
            tolerance: scenario.settings.tolerance_low,
            pull_bytes_per_s: scenario.settings.pull_bytes_per_s,
            is_new: has_owned.iter().map(|owned| !owned).collect(),
        };
        let mut judged = judge.judge(&owned, &after);
        let said = run.traffic.last();
        judged.control_bytes = said.map_or_else(
            || control::bytes(&judged),
            |said| said.told_bytes + said.heard_bytes,
        );
        run.figures.push(judged);
        for owner in after.iter().flat_map(|(_, owners)| owners) {
            has_owned[*owner as usize] = true;
        }
        owned = after;
    }
    Ok(report(scenario, sharder, seed, run))
}

/// What a run has shown so far, by round.
#[derive(Default)]
struct Run {
    figures: Vec<RoundFigures>,
    /// Each time that the sharder was asked.
    sharder_ms: Vec<f64>,
    sharder_ms_each: Vec<f64>,
    assigner_ms: Vec<f64>,
    question_ms: Vec<f64>,
    step_ms_max: Vec<f64>,
    /// Empty where nobody talks.
    traffic: Vec<Traffic>,
    reasons: Reasons,
}

/// Who is asked who is to own what.
enum Decider {
    Assigner(Box<Plane>),
    Sharder(Policy),
}

impl Decider {
    fn new(scenario: &Scenario, sharder: SharderName, seats: &[Seat], owned: &Owned) -> Self {
        if !scenario.assigner {
            return Self::Sharder(Policy::new(sharder, &scenario.settings, scenario.sees));
        }
        let is_first = |seat: &&Seat| seat.standing == Standing::Eligible;
        let expected = seats.iter().filter(is_first).count();
        let wait_rounds = match scenario.membership {
            // The spare is there from the first round on.
            Membership::Rolling {
                surge: true,
                every_rounds,
            } => scenario.warm_up_rounds + every_rounds,
            Membership::Rolling {
                surge: false,
                every_rounds,
            } => every_rounds,
            _ => 0,
        };
        let held = (!owned.is_empty()).then(|| plane::dealt(seats, owned)).flatten();
        let sharder = sharder.shipped(&scenario.settings);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 1, by the settings' own check"
        )]
        let churn_percent = (100.0 * scenario.settings.churn_budget).ceil() as u32;
        Self::Assigner(Box::new(Plane::new(
            sharder,
            expected,
            wait_rounds,
            churn_percent,
            held,
        )))
    }

    fn decide(
        &mut self,
        scenario: &Scenario,
        seats: &[Seat],
        owned: &Owned,
        seen: &Truth,
        run: &mut Run,
    ) -> Result<Owned, ScenarioError> {
        let keys_max = scenario.load.reported_keys as usize;
        match self {
            Self::Assigner(plane) => {
                let decided = plane
                    .round(seats, seen, keys_max)
                    .map_err(ScenarioError::Refused)?;
                run.sharder_ms_each.push(decided.sharder_ms.iter().sum());
                run.sharder_ms.extend(decided.sharder_ms);
                for change in &decided.moves {
                    // The Assigner counts operations.
                    let units = |operations: f64| operations / OPERATIONS_PER_LOAD_UNIT;
                    let (gain, misses) = (units(change.gain), units(change.cost_misses));
                    run.reasons.note(change.reason, gain, change.cost_bytes, misses);
                }
                run.assigner_ms.push(decided.assigner_ms);
                run.question_ms.extend(decided.question_ms);
                run.step_ms_max.push(decided.step_ms_max);
                run.traffic.push(decided.traffic);
                Ok(decided.owned)
            }
            Self::Sharder(policy) => {
                let question = policy.question(seats, owned, seen.reported(keys_max));
                let began = thread_cpu_ms();
                let (after, moves) = policy.answer(question, seats);
                run.sharder_ms.push(thread_cpu_ms() - began);
                run.sharder_ms_each.extend(run.sharder_ms.last());
                for change in &moves {
                    run.reasons.note(
                        change.reason,
                        change.gain_load,
                        change.cost_bytes,
                        change.cost_misses,
                    );
                }
                Ok(after)
            }
        }
    }
}

fn report(scenario: &Scenario, sharder: SharderName, seed: u64, run: Run) -> ScenarioReport {
    let figures = run.figures;
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
        round_ms: Quantiles::of(run.sharder_ms.iter().copied()).into(),
        question_ms: Quantiles::of(run.question_ms.into_iter()).into(),
        assigner_step_ms: Quantiles::of(run.step_ms_max.into_iter()).into(),
        control_bytes: figures.iter().map(|round| round.control_bytes).sum(),
        seed,
        warm_up_rounds: scenario.warm_up_rounds,
        reasons: run.reasons,
        assigner_ms: Quantiles::of(run.assigner_ms.into_iter()).into(),
        traffic: run.traffic,
        round_ms_each: run.sharder_ms_each,
        churn_over_forced_max: over.fold(0.0, f64::max),
        figures,
    }
}

/// CPU time of this thread.
fn thread_cpu_ms() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6
}
