//! [`AssignmentDiff`]: what changed between two assignments.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::assignment::{Assignment, AssignmentError, RangeAssignment};
use crate::generation::Generation;
use crate::identity::Founding;
use crate::node::{NodeEntry, NodeId};
use crate::planted::{self, Bug};
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
    /// As in [`Assignment::lease_ms`], of what results.
    pub lease_ms: Option<u64>,
    /// As in [`Assignment::founding`], of what results.
    pub founding: Option<Founding>,
    /// As in [`Assignment::revival_ms`], of what results.
    pub revival_ms: u64,
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
        let ranges = changed(base, next);
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
            ranges,
            joined: joined.map(|(id, entry)| (id.clone(), entry.clone())).collect(),
            left: left.cloned().collect(),
            lease_ms: next.lease_ms(),
            founding: next.founding(),
            revival_ms: next.revival_ms(),
        }
    }

    /// The assignment that results from applying it to `held`. Neighbours that read the same come out as one range.
    ///
    /// # Errors
    /// If it applies to another generation, leads backwards, or its result is not valid. `held` stands in each case.
    pub fn apply(&self, held: &Assignment) -> Result<Assignment, DiffError> {
        if self.base != held.generation() && !planted::is(Bug::DiffOnWrongBase) {
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
        let held_ranges = held.ranges().iter();
        let mut ranges =
            RangeMap::of_disjoint(held_ranges.map(|(slice, range)| (slice, range.clone())).collect());
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
        let next = Assignment::new(self.next, ranges, directory)?;
        let next = next.under_leases(self.lease_ms).with_revival_ms(self.revival_ms);
        Ok(next.of_founding(self.founding))
    }
}

/// What reads differently now, in order; neighbours that read the same as one. Walks both maps at once.
fn changed(base: &Assignment, next: &Assignment) -> Vec<(Slice, RangeAssignment)> {
    let mut changed: Vec<(Slice, RangeAssignment)> = Vec::new();
    let mut held = base.ranges().iter().peekable();
    for (slice, range) in next.ranges().iter() {
        while let Some((before_slice, before)) = held.peek() {
            let Some(part) = before_slice.intersect(slice) else {
                break;
            };
            if *before != range {
                add(&mut changed, part, range);
            }
            if before_slice.last() > slice.last() {
                break;
            }
            held.next();
        }
    }
    changed
}

/// Adds what comes next, to the last one if that reads the same.
fn add(changed: &mut Vec<(Slice, RangeAssignment)>, slice: Slice, range: &RangeAssignment) {
    match changed.last_mut() {
        Some((left, reads)) if left.touches(slice) && reads == range => {
            *left = Slice::between(left.low(), slice.last()).unwrap_or(*left);
        }
        _ => changed.push((slice, range.clone())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::assignment::{Provider, Readers};
    use crate::generation::Incarnation;
    use crate::node::{Life, NodeState};
    use crate::slice_key::SliceKey;

    fn life(number: u8) -> Life {
        Life {
            node: NodeId::new(&format!("n{number}")).unwrap(),
            incarnation: Incarnation::new(1 + u64::from(number)),
        }
    }

    fn generation(number: u64) -> Generation {
        Generation {
            number,
            assigner: Incarnation::new(1),
        }
    }

    fn entry(number: u8, address: u8) -> NodeEntry {
        NodeEntry {
            incarnation: life(number).incarnation,
            process: None,
            address: format!("host:{address}").into(),
            http_address: "".into(),
            zone: "".into(),
            state: NodeState::Serving,
        }
    }

    /// Cuts at multiples of 16ths; per part an owner, a `since`, whether it has a provider, and readers; a directory.
    fn assignments(number: u64) -> impl Strategy<Value = Assignment> {
        let parts = prop::collection::btree_map(0_u64..16, (0_u8..3, 1_u64..4, any::<bool>(), 0_u8..4), 1..8);
        let directory = prop::collection::btree_map(0_u8..4, 0_u8..2, 0..4);
        let lease_ms = prop::option::of(1_u64..3);
        (parts, directory, lease_ms).prop_map(move |(parts, directory, lease_ms)| {
            let mut lows: Vec<(u64, (u8, u64, bool, u8))> = parts.into_iter().collect();
            lows[0].0 = 0;
            let highs: Vec<Option<SliceKey>> = lows
                .iter()
                .map(|(low, _)| Some(SliceKey::new(low << 60)))
                .collect();
            let ranges = lows
                .iter()
                .enumerate()
                .map(|(index, (low, (owner, since, moving, readers)))| {
                    let high = highs.get(index + 1).copied().flatten();
                    let slice = Slice::new(SliceKey::new(low << 60), high).unwrap();
                    let provider = Provider {
                        life: life(9),
                        since: generation(0),
                    };
                    let range = RangeAssignment {
                        owner: life(*owner),
                        since: generation(*since),
                        providers: moving.then_some(provider).into_iter().collect(),
                        readers: Readers {
                            replicas: (*readers > 1).then(|| life(7)).into_iter().collect(),
                            leases_out: readers % 2 == 1,
                        },
                        awaits: Vec::new(),
                    };
                    (slice, range)
                });
            let directory = directory
                .into_iter()
                .map(|(number, address)| (life(number).node, entry(number, address)))
                .collect();
            let assignment = Assignment::new(generation(number), ranges.collect(), directory);
            assignment.unwrap().under_leases(lease_ms)
        })
    }

    /// The same, with neighbours that read the same as one range.
    fn coalesced(assignment: &Assignment) -> Assignment {
        let ranges = assignment
            .ranges()
            .iter()
            .map(|(slice, range)| (slice, range.clone()));
        let mut ranges: RangeMap<RangeAssignment> = ranges.collect();
        ranges.coalesce(|left, right| left == right);
        let ranges = ranges
            .iter()
            .map(|(slice, range)| (slice, range.clone()))
            .collect();
        Assignment::new(assignment.generation(), ranges, assignment.directory().clone()).unwrap()
    }

    proptest! {
        /// What changed, applied to the base, gives the next; applied to anything else or led backwards it is refused.
        #[test]
        fn a_diff_leads_from_its_base_to_the_next(base in assignments(100), next in assignments(101)) {
            let diff = AssignmentDiff::between(&base, &next);
            let applied = diff.apply(&base).unwrap();
            prop_assert_eq!(applied.generation(), next.generation());
            prop_assert_eq!(coalesced(&applied), coalesced(&next));
            for (slice, _) in &diff.ranges {
                let differs = base.ranges().overlapping(*slice).any(|(part, before)| {
                    next.ranges().overlapping(part).any(|(_, after)| before != after)
                });
                prop_assert!(differs, "{} is told though nothing changed", slice);
            }
            let unknown = DiffError::UnknownBase { base: base.generation(), held: next.generation() };
            prop_assert_eq!(diff.apply(&next), Err(unknown));
            let back = AssignmentDiff::between(&next, &base);
            let backwards = DiffError::Backwards { base: next.generation(), next: base.generation() };
            prop_assert_eq!(back.apply(&next), Err(backwards));
        }
    }

    #[test]
    fn a_diff_whose_result_is_impossible_is_refused() {
        let held = Assignment::new(
            generation(5),
            vec![(
                Slice::FULL,
                RangeAssignment {
                    owner: life(1),
                    since: generation(5),
                    providers: Vec::new(),
                    readers: Readers::default(),
                    awaits: Vec::new(),
                },
            )],
            BTreeMap::new(),
        )
        .unwrap();
        let mut diff = AssignmentDiff::between(&held, &held);
        diff.next = generation(6);
        diff.ranges = held
            .ranges()
            .iter()
            .map(|(slice, range)| (slice, range.clone()))
            .collect();
        diff.ranges[0].1.since = generation(7);
        assert!(matches!(diff.apply(&held), Err(DiffError::Result(_))));
    }
}
