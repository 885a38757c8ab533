//! [`Reasons`]: what the planner said of its moves, added up by reason. What they really cost is judged elsewhere (`measure`).

use std::collections::BTreeMap;

use softstore_sharding::sharder::auto::Reason;

/// Moves by reason.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Reasons(BTreeMap<Reason, ReasonFigures>);

/// All moves of one reason.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct ReasonFigures {
    /// How many.
    pub count: u64,
    /// By how many load units less nodes are above their fair shares, as predicted.
    pub gain_load: f64,
    /// Bytes to be pulled, as predicted.
    pub cost_bytes: f64,
    /// Hits that may be lost meanwhile, in load units times seconds, as predicted: an upper bound.
    pub cost_misses: f64,
}

impl Reasons {
    /// Adds a change.
    pub(super) fn note(&mut self, reason: Reason, gain_load: f64, cost_bytes: f64, cost_misses: f64) {
        let sum = self.0.entry(reason).or_default();
        sum.count += 1;
        sum.gain_load += gain_load;
        sum.cost_bytes += cost_bytes;
        sum.cost_misses += cost_misses;
    }

    /// In a fixed order. Empty for a sharder that does not say.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, ReasonFigures)> {
        self.0.iter().map(|(reason, figures)| (*reason, *figures))
    }
}
