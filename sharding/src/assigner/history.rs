//! [`History`]: the assignments that nodes may hold, so that each session can be sent what changed: the last ones that were
//! published, and what the Assigner before this one had published, as far as that is known.
//!
//! A generation names one assignment, whoever published it: its number, and the incarnation of the Assigner that gave it out. So what
//! a node that says it holds a generation holds is known exactly if that generation is here, and whoever holds any other gets the whole
//! assignment. The recovered assignment is no base: what nodes claimed is laid over it, and nobody holds that.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::assignment::Assignment;
use crate::diff::AssignmentDiff;
use crate::generation::Generation;
use crate::session::AssignmentUpdate;

/// How many published assignments are kept as bases of diffs. A node further behind gets the full one.
const KEPT_MAX: usize = 16;

/// The last assignments that were published.
#[derive(Debug, Default)]
pub(super) struct History {
    oldest_first: VecDeque<Arc<Assignment>>,
    /// What was published last before this Assigner began, word for word. Forgotten like all else after [`KEPT_MAX`] more.
    inherited: Option<Arc<Assignment>>,
    /// Diffs to the newest by their base, computed when first asked for.
    diffs: BTreeMap<Generation, Arc<AssignmentDiff>>,
}

impl History {
    pub(super) fn current(&self) -> Option<&Arc<Assignment>> {
        self.oldest_first.back()
    }

    pub(super) fn push(&mut self, assignment: Arc<Assignment>) {
        self.diffs.clear();
        self.oldest_first.push_back(assignment);
        if self.oldest_first.len() > KEPT_MAX {
            self.oldest_first.pop_front();
            self.inherited = None;
        }
    }

    /// A recovering Assigner knows what nodes hold by the one before it: as it was fetched from one of them, or stored.
    ///
    /// Requires: nothing was published yet.
    pub(super) fn inherit(&mut self, held: Option<Arc<Assignment>>) {
        self.inherited = held;
    }

    /// What brings a node that holds `base` to the newest assignment; `None` if it holds that.
    pub(super) fn update_from(&mut self, base: Generation) -> Option<AssignmentUpdate> {
        let current = self.oldest_first.back()?;
        if base == current.generation() {
            return None;
        }
        let mut kept = self.inherited.iter().chain(&self.oldest_first);
        let Some(held) = kept.find(|kept| kept.generation() == base) else {
            return Some(AssignmentUpdate::Full(current.clone()));
        };
        let diff = self
            .diffs
            .entry(base)
            .or_insert_with(|| Arc::new(AssignmentDiff::between(held, current)));
        Some(AssignmentUpdate::Diff(diff.clone()))
    }
}
