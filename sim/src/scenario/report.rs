//! [`ScenarioReport`]: what a run showed, as JSON for programs and as lines for people.

use std::fmt;

use serde::Serialize;

use super::measure::RoundFigures;
use super::plane::Traffic;
use super::reasons::Reasons;

/// What a run showed.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ScenarioReport {
    /// The scenario's name.
    pub scenario: String,
    /// The sharder's.
    pub sharder: &'static str,
    /// Rounds run.
    pub rounds: u32,
    /// (max - mean) / max(capacity, mean) over rounds.
    pub imbalance: Quantiles,
    /// Parts of the data set's bytes, after the warm-up.
    pub moved_fraction: Moved,
    /// CPU milliseconds of the sharder's thread, each time that it is asked; through the Assigner that is several times a round.
    pub round_ms: Times,
    /// CPU milliseconds of each question that the Assigner asks the sharder: what it does to ask it, the sharder, and what it does
    /// with the answer. 0 where it was not asked.
    pub question_ms: Times,
    /// CPU milliseconds of the Assigner's longest step in each round, the sharder's not included: for so long a heartbeat may have to
    /// wait for it. 0 where it was not asked.
    pub assigner_step_ms: Times,
    /// Bytes that the control plane sends: the Assigner and the nodes to it, counted; or reckoned, see [`super::control`].
    pub control_bytes: u64,
    /// What chance was drawn from.
    #[serde(skip)]
    pub seed: u64,
    /// Rounds whose moves do not count in `moved_fraction`.
    #[serde(skip)]
    pub warm_up_rounds: u32,
    /// Why things moved, where the sharder says, over all rounds.
    #[serde(skip)]
    pub reasons: Reasons,
    /// CPU milliseconds of the Assigner, the sharder's included. 0 where it was not asked.
    #[serde(skip)]
    pub assigner_ms: Times,
    /// What the Assigner and its nodes said in each round; empty where the sharder was asked directly.
    #[serde(skip)]
    pub traffic: Vec<Traffic>,
    /// CPU milliseconds of the sharder in each round.
    #[serde(skip)]
    pub round_ms_each: Vec<f64>,
    /// The most that a round moved, over what it had to.
    #[serde(skip)]
    pub churn_over_forced_max: f64,
    /// Each round.
    #[serde(skip)]
    pub figures: Vec<RoundFigures>,
}

/// Of a figure per round.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Quantiles {
    /// Half of the rounds are no higher.
    pub p50: f64,
    /// 90% of the rounds.
    pub p90: f64,
    /// 99% of the rounds.
    pub p99: f64,
    /// The worst.
    pub max: f64,
}

/// What moved.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct Moved {
    /// Because an owner drained or died, or a node came.
    pub membership: f64,
    /// Between nodes that stayed.
    pub balancing: f64,
}

/// Milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Times {
    /// Half of the rounds took no longer.
    pub p50: f64,
    /// 99% of the rounds.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Quantiles {
    /// By nearest rank; 0 of nothing.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        // The nearest rank: the least value that so many are no higher than.
        let at = |part: f64| {
            #[expect(clippy::cast_possible_truncation, reason = "at most the number of values")]
            let rank = (part * values.len() as f64).ceil() as usize;
            values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

impl From<Quantiles> for Times {
    fn from(quantiles: Quantiles) -> Self {
        Self {
            p50: quantiles.p50,
            p99: quantiles.p99,
            max: quantiles.max,
        }
    }
}

impl fmt::Display for ScenarioReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |part: f64| 100.0 * part;
        let Quantiles { p50, p90, p99, max } = self.imbalance;
        writeln!(
            f,
            "{} with {}: {} rounds",
            self.scenario, self.sharder, self.rounds
        )?;
        writeln!(
            f,
            "  imbalance          p50 {:.2}%  p90 {:.2}%  p99 {:.2}%  max {:.2}%",
            percent(p50),
            percent(p90),
            percent(p99),
            percent(max)
        )?;
        let last = self.figures.last().copied().unwrap_or_default();
        let memory = Quantiles::of(self.figures.iter().map(|round| round.memory_imbalance));
        writeln!(
            f,
            "  bytes over budget  p50 {:.2}%  max {:.2}%  (uneven memory, of the budget)",
            percent(memory.p50),
            percent(memory.max)
        )?;
        writeln!(
            f,
            "  moved              {:.4} of the data set by membership, {:.4} to balance (after the warm-up)",
            self.moved_fraction.membership, self.moved_fraction.balancing
        )?;
        let misses: f64 = self.figures.iter().map(|round| round.predicted_misses).sum();
        writeln!(
            f,
            "  churn              at most {:.2} times what was forced, in any round; {misses:.0} predicted misses",
            self.churn_over_forced_max
        )?;
        writeln!(
            f,
            "  CPU of an answer   p50 {:.2} ms  p99 {:.2} ms  max {:.2} ms  (the sharder's, each time that it is asked)",
            self.round_ms.p50, self.round_ms.p99, self.round_ms.max
        )?;
        let round = Quantiles::of(self.round_ms_each.iter().copied());
        writeln!(
            f,
            "  CPU of a round     p50 {:.2} ms  p99 {:.2} ms  max {:.2} ms  (all its answers)",
            round.p50, round.p99, round.max
        )?;
        write!(
            f,
            "  control plane      {} bytes; {} ranges, {} nodes at the end",
            self.control_bytes, last.ranges, last.living
        )?;
        if self.traffic.is_empty() {
            return Ok(());
        }
        let sum = |of: fn(&Traffic) -> u64| self.traffic.iter().map(of).sum::<u64>();
        write!(
            f,
            "\n  Assigner           told {} bytes in {} messages, heard {} in {}; CPU of all of a round p50 {:.2} ms  p99 {:.2} ms",
            sum(|said| said.told_bytes),
            sum(|said| said.told),
            sum(|said| said.heard_bytes),
            sum(|said| said.heard),
            self.assigner_ms.p50,
            self.assigner_ms.p99
        )?;
        write!(
            f,
            "\n  CPU of a question  p50 {:.2} ms  p99 {:.2} ms  max {:.2} ms; longest step p50 {:.2} ms  p99 {:.2} ms  max {:.2} ms",
            self.question_ms.p50,
            self.question_ms.p99,
            self.question_ms.max,
            self.assigner_step_ms.p50,
            self.assigner_step_ms.p99,
            self.assigner_step_ms.max
        )
    }
}
