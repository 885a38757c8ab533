//! [`History`]: the last assignments that were published, so that each session can be sent what changed.

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
        }
    }

    /// What brings a node that holds `base` to the newest assignment; `None` if it holds that.
    pub(super) fn update_from(&mut self, base: Generation) -> Option<AssignmentUpdate> {
        let current = self.oldest_first.back()?;
        if base == current.generation() {
            return None;
        }
        let Some(held) = self.oldest_first.iter().find(|kept| kept.generation() == base) else {
            return Some(AssignmentUpdate::Full(current.clone()));
        };
        let diff = self
            .diffs
            .entry(base)
            .or_insert_with(|| Arc::new(AssignmentDiff::between(held, current)));
        Some(AssignmentUpdate::Diff(diff.clone()))
    }
}
