//! [`AssignmentDiff`]: what changed between two assignments.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::assignment::{Assignment, AssignmentError, RangeAssignment};
use crate::generation::Generation;
use crate::node::{NodeEntry, NodeId};
use crate::range_map::RangeMap;
use crate::slice::Slice;

/// What changed from the assignment `base` to the assignment `next`. Applies to `base` only.
#[derive(Clone, PartialEq, Debug)]
pub struct AssignmentDiff {
    /// The generation that it applies to.
    pub base: Generation,
    /// The generation that results.
    pub next: Generation,
    /// Ranges that read differently now, in order, with what they read.
    pub ranges: Vec<(Slice, RangeAssignment)>,
    /// Directory entries that are new or changed.
    pub joined: Vec<(NodeId, NodeEntry)>,
    /// Nodes that the directory no longer lists.
    pub left: Vec<NodeId>,
}

/// Why a diff was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DiffError {
    /// It applies to another assignment: ask for the full one.
    #[error("the diff applies to generation {base}, not to {held}")]
    UnknownBase {
        /// What it applies to.
        base: Generation,
        /// What it was applied to.
        held: Generation,
    },
    /// It does not lead forward.
    #[error("the diff leads from generation {base} back to {next}")]
    Backwards {
        /// What it applies to.
        base: Generation,
        /// What would result.
        next: Generation,
    },
    /// What results is no valid assignment.
    #[error(transparent)]
    Result(#[from] AssignmentError),
}

impl AssignmentDiff {
    /// What changed from `base` to `next`.
    #[must_use]
    pub fn between(base: &Assignment, next: &Assignment) -> Self {
        let mut ranges: RangeMap<RangeAssignment> = RangeMap::new();
        for (slice, range) in next.ranges().iter() {
            for (part, before) in base.ranges().overlapping(slice) {
                if before != range {
                    ranges.insert(part, range.clone());
                }
            }
        }
        ranges.coalesce(|left, right| left == right);
        let joined = next
            .directory()
            .iter()
            .filter(|(id, entry)| base.directory().get(id) != Some(entry));
        let left = base
            .directory()
            .keys()
            .filter(|id| !next.directory().contains_key(id));
        Self {
            base: base.generation(),
            next: next.generation(),
            ranges: ranges
                .iter()
                .map(|(slice, range)| (slice, range.clone()))
                .collect(),
            joined: joined.map(|(id, entry)| (id.clone(), entry.clone())).collect(),
            left: left.cloned().collect(),
        }
    }

    /// The assignment that results from applying it to `held`. Neighbours that read the same come out as one range.
    ///
    /// # Errors
    /// If it applies to another generation, leads backwards, or its result is not valid. `held` stands in each case.
    pub fn apply(&self, held: &Assignment) -> Result<Assignment, DiffError> {
        if self.base != held.generation() {
            return Err(DiffError::UnknownBase {
                base: self.base,
                held: held.generation(),
            });
        }
        if self.next <= self.base {
            return Err(DiffError::Backwards {
                base: self.base,
                next: self.next,
            });
        }
        let mut ranges: RangeMap<RangeAssignment> = held
            .ranges()
            .iter()
            .map(|(slice, range)| (slice, range.clone()))
            .collect();
        for (slice, range) in &self.ranges {
            ranges.insert(*slice, range.clone());
        }
        ranges.coalesce(|left, right| left == right);
        let mut directory: BTreeMap<NodeId, NodeEntry> = held.directory().clone();
        for id in &self.left {
            directory.remove(id);
        }
        directory.extend(self.joined.iter().cloned());
        let ranges = ranges
            .iter()
            .map(|(slice, range)| (slice, range.clone()))
            .collect();
        Ok(Assignment::new(self.next, ranges, directory)?)
    }
}
