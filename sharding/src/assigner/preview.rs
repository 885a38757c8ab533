//! [`PlanJob`]: what the Sharder would do now, without doing it.

use std::fmt;
use std::sync::Arc;

use super::explain;
use super::{Assigner, Pending};
use crate::generation::Generation;
use crate::sharder::auto::imbalance;
use crate::sharder::{ClusterSnapshot, PlacedMove, Sharder};
use crate::time::Timestamp;

/// A question to the Sharder whose answer changes nothing, to be run wherever that holds nothing up.
#[derive(Clone)]
pub struct PlanJob {
    sharder: Arc<dyn Sharder>,
    snapshot: Arc<ClusterSnapshot>,
}

/// What the Sharder would do.
#[derive(Clone, PartialEq, Debug)]
pub struct PlanReport {
    /// Which Sharder.
    pub sharder: &'static str,
    /// The assignment that it starts from.
    pub generation: Generation,
    /// What it would change.
    pub moves: Vec<PlacedMove>,
    /// How much more than its share the most loaded node bears, as a part of that share.
    pub imbalance_before: f64,
    /// And would then.
    pub imbalance_after: f64,
    /// Bytes that are held, by the last reports.
    pub bytes: f64,
}

impl Assigner {
    /// What the Sharder would do now, were nothing frozen: with the whole budget of a minute. `None` before the first
    /// assignment, or where no node may take anything.
    pub fn plan(&mut self, now: Timestamp) -> Option<PlanJob> {
        if self.assignment().is_none() || self.recovery.is_some() || !self.has_taker() {
            return None;
        }
        let base = self.base(Pending::Soon).ok()??;
        let seen = self.loads_seen(Some(&base), false, now);
        let snapshot = ClusterSnapshot {
            previous: Some(base),
            nodes: self.views(now),
            loads: seen.slices,
            hot_keys: seen.hot_keys,
            churn_max: f64::from(self.config.balance_churn_percent_per_minute) / 100.0,
        };
        Some(PlanJob {
            sharder: self.sharder.clone(),
            snapshot: Arc::new(snapshot),
        })
    }
}

impl PlanJob {
    /// Asks the Sharder.
    #[must_use]
    pub fn run(&self) -> PlanReport {
        let view = self.snapshot.view();
        let placement = self.sharder.place(&view);
        let generation = view
            .previous
            .map_or(Generation::NONE, |previous| previous.generation());
        PlanReport {
            sharder: self.sharder.name(),
            generation,
            moves: explain::moves_of(&view, &view.loads, &placement),
            imbalance_before: imbalance(&view, None),
            imbalance_after: imbalance(&view, Some(&placement)),
            bytes: self.snapshot.bytes(),
        }
    }
}

impl fmt::Debug for PlanJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlanJob")
    }
}
