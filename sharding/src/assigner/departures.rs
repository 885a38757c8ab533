//! [`Departures`]: what the lives that have left said last of their drains, for whoever ordered them.

use std::collections::VecDeque;

use crate::node::Life;
use crate::session::DrainReport;

/// So many departures are remembered.
pub const DEPARTURES_MAX: usize = 64;

/// A life that drained and has said goodbye.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Departure {
    /// Which.
    pub life: Life,
    /// Its last word of its drain.
    pub drain: DrainReport,
}

/// The last of them, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Departures(VecDeque<Departure>);

impl Departures {
    pub(super) fn left(&mut self, life: Life, drain: DrainReport) {
        if self.0.len() >= DEPARTURES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Departure { life, drain });
    }

    pub(super) fn all(&self) -> Vec<Departure> {
        self.0.iter().cloned().collect()
    }
}
