//! [`Steps`]: which nodes' loads have taken a step, so that what was known of them counts no more.
//!
//! What nodes bear is smoothed, and a step would be learned slowly. A step is told from noise by how long it lasts: so many
//! reports on end that are far off on the same side.

use std::collections::BTreeMap;

use super::map::{Compared, Trust};
use crate::node::Life;
use crate::sharder::auto::IDLE_OPERATIONS_PER_SECOND;

/// A report that differs from what is known by more than this part of it is odd: by three standard deviations of noise of 10%.
const ODD: f64 = 0.3;

/// What is known of a node counts as so many operations per second at least: below, what a few more or fewer of them change is
/// no step. Without this, a load that has ended and decays for ever steps down with each report, and is never known.
const KNOWN_MIN: f64 = IDLE_OPERATIONS_PER_SECOND;

/// So many odd reports on end are a step in load. By noise of 10% that is one in years.
const ODD_MAX: u32 = 4;

/// Who has lately reported what is odd.
#[derive(Clone, Default, Debug)]
pub(super) struct Steps(BTreeMap<Life, Run>);

/// Odd reports on end, all on one side.
#[derive(Clone, Copy, Debug)]
struct Run {
    is_above: bool,
    reports: u32,
    /// Of what they said.
    sum: f64,
}

impl Steps {
    /// These hold something else now: what is odd by what was before is not by what is now.
    pub(super) fn forget(&mut self, life: &Life) {
        self.0.remove(life);
    }

    /// How to take what each reports, where one that is no step has such a weight.
    pub(super) fn judge(&mut self, lives: &[&Life], compared: &[Compared], weight: f64) -> Vec<Trust> {
        let before = std::mem::take(&mut self.0);
        let mut judged = Vec::with_capacity(lives.len());
        for (life, both) in lives.iter().zip(compared) {
            let run = Run::with(before.get(*life).copied(), both);
            let step = run.filter(|run| run.reports >= ODD_MAX && both.reported > 0.0);
            // The mean of what was odd is the better measure of it.
            let anew = step.map(|run| (run.sum / f64::from(run.reports) / both.reported, run.reports));
            if let Some(run) = run.filter(|_| step.is_none()) {
                self.0.insert((*life).clone(), run);
            }
            judged.push(Trust { weight, anew });
        }
        judged
    }
}

impl Run {
    fn with(before: Option<Self>, both: &Compared) -> Option<Self> {
        let off = both.reported - both.known;
        if off.abs() <= ODD * both.known.max(KNOWN_MIN) {
            return None;
        }
        let is_above = off > 0.0;
        let run = before.filter(|run| run.is_above == is_above).unwrap_or(Self {
            is_above,
            reports: 0,
            sum: 0.0,
        });
        Some(Self {
            reports: run.reports + 1,
            sum: run.sum + both.reported,
            ..run
        })
    }
}
