//! When the next assignment is computed, and to whom it goes.
//!
//! Drains and deaths are published at once; joins, completed hand-offs and renewals are gathered for a short interval, so
//! that a hundred ranges that complete one after the other do not make a hundred assignments.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::event::{AssignerAction, Notice};
use super::next::{self, Living, Ranges};
use super::{Assigner, Pending};
use crate::assignment::{Assignment, AssignmentError};
use crate::generation::Generation;
use crate::node::{Life, NodeEntry, NodeId};
use crate::range_map::RangeMap;
use crate::session::AssignerMessage;
use crate::sharder::{ClusterView, EvenRange, HotKey, Placement, Sharder};
use crate::time::Timestamp;

impl Assigner {
    /// When the next assignment is due; `None` if nothing waits to be published.
    pub(super) fn publish_at(&self) -> Option<Timestamp> {
        match self.pending {
            _ if self.recovery.is_some() => None,
            Pending::Nothing => None,
            Pending::Soon => Some(self.last_published.plus_ms(self.config.publish_interval_ms)),
            Pending::AtOnce => Some(Timestamp::ZERO),
        }
    }

    pub(super) fn publish_if_due(&mut self, now: Timestamp, unix_ms: u64, actions: &mut Vec<AssignerAction>) {
        if self.publish_at().is_none_or(|at| now < at) {
            return;
        }
        self.pending = Pending::Nothing;
        match self.compute(unix_ms, actions) {
            Ok(Some(assignment)) => self.publish(Arc::new(assignment), now, actions),
            Ok(None) => {}
            Err(error) => actions.push(AssignerAction::Notice(Notice::NotPublished(error))),
        }
        self.tell_no_taker(actions);
    }

    pub(super) fn directory(&self) -> BTreeMap<NodeId, NodeEntry> {
        self.members
            .iter()
            .map(|(node, member)| (node.clone(), member.entry()))
            .collect()
    }

    /// Whether any node may be given something.
    pub(super) fn has_taker(&self) -> bool {
        self.members.values().any(|member| member.role().may_take())
    }

    /// The next assignment; `None` if it would say what the present one says.
    fn compute(
        &mut self,
        unix_ms: u64,
        actions: &mut Vec<AssignerAction>,
    ) -> Result<Option<Assignment>, AssignmentError> {
        let generation = Generation::following(self.highest, unix_ms, self.incarnation);
        let living: Living = self
            .members
            .iter()
            .map(|(node, member)| (node.clone(), member.life.incarnation))
            .collect();
        let directory = self.directory();
        let current = self.assignment().cloned();
        let previous = self.recovered.as_ref().or(current.as_deref());
        let base = match previous {
            None => None,
            Some(previous) => {
                let ranges = next::refreshed(previous, &living, &self.done, &self.fenced_off);
                Some(Assignment::new(previous.generation(), ranges, directory.clone())?)
            }
        };
        let placement = self.place(base.as_ref(), actions);
        let ranges = match (base, placement) {
            (Some(base), Some(placement)) => next::placed(ranges_of(&base), &placement, &living, generation),
            (Some(base), None) => ranges_of(&base),
            (None, Some(placement)) => first_ranges(&placement, &living, generation),
            (None, None) => return Ok(None),
        };
        let stays = |life: &Life| {
            self.members
                .get(&life.node)
                .is_some_and(|member| member.role().may_take())
        };
        let ranges = next::renewed(ranges, generation, stays);
        let assignment = Assignment::new(generation, ranges, directory)?.under_leases(self.config.lease_ms);
        let unchanged = current.is_some_and(|current| {
            current.ranges() == assignment.ranges() && current.directory() == assignment.directory()
        });
        self.done = still_open(&self.done, &assignment);
        self.fenced_off.clear();
        Ok((!unchanged).then_some(assignment))
    }

    /// Asks the Sharder; one that breaks the rules is overruled by even ranges, since drains must go on. `None` if nobody
    /// may take anything.
    fn place(&self, previous: Option<&Assignment>, actions: &mut Vec<AssignerAction>) -> Option<Placement> {
        if !self.has_taker() {
            return None;
        }
        let loads = self
            .members
            .values()
            .flat_map(|member| member.load.slices.iter().copied());
        let hot_keys = self.hot_keys().into_iter().map(|(_, load)| HotKey {
            at: load.at,
            operations_per_second: load.operations_per_second,
        });
        let view = ClusterView {
            previous,
            nodes: self.members.values().map(|member| member.view()).collect(),
            loads: loads.collect(),
            hot_keys: hot_keys.collect(),
        };
        let placement = self.sharder.place(&view);
        if let Err(error) = placement.check(&view) {
            let reason = format!("{}: {error}", self.sharder.name());
            actions.push(AssignerAction::Notice(Notice::PlacementRefused(reason)));
            return Some(EvenRange.place(&view));
        }
        Some(placement)
    }

    fn publish(&mut self, assignment: Arc<Assignment>, now: Timestamp, actions: &mut Vec<AssignerAction>) {
        let generation = assignment.generation();
        self.recovered = None;
        self.highest = generation;
        self.last_published = now;
        for (_, range) in assignment.ranges().iter() {
            if let Some(member) = self.members.get_mut(&range.owner.node)
                && member.life == range.owner
            {
                member.reserve_until = None;
            }
        }
        for member in self.members.values_mut() {
            member.listed_at.get_or_insert(generation);
        }
        self.history.push(assignment.clone());
        let nodes: Vec<NodeId> = self.members.keys().cloned().collect();
        for node in nodes {
            self.send_update(&node, actions);
        }
        actions.push(AssignerAction::Published(assignment));
    }

    /// Brings a node with a session up to the newest assignment, if that lists it. (One that does not list the node yet
    /// would tell it that it is dead.)
    pub(super) fn send_update(&mut self, node: &NodeId, actions: &mut Vec<AssignerAction>) {
        let Some(member) = self.members.get_mut(node) else {
            return;
        };
        let Some(current) = self
            .history
            .current()
            .filter(|current| current.is_living(&member.life))
        else {
            return;
        };
        let (Some(session), generation) = (member.session, current.generation()) else {
            return;
        };
        if let Some(update) = self.history.update_from(member.sent) {
            member.sent = generation;
            let message = AssignerMessage::Update(update);
            actions.push(AssignerAction::Send { session, message });
        }
    }

    /// Ends the drains of nodes whose ranges nobody can take: the last node's, or a whole cluster's that stops.
    fn tell_no_taker(&mut self, actions: &mut Vec<AssignerAction>) {
        if self.has_taker() {
            return;
        }
        for member in self.members.values_mut() {
            if let Some(session) = member.session
                && !member.told_no_taker
            {
                member.told_no_taker = true;
                let message = AssignerMessage::NoTaker;
                actions.push(AssignerAction::Send { session, message });
                actions.push(AssignerAction::Notice(Notice::NoTaker(member.life.clone())));
            }
        }
    }
}

/// The reports that stay of use: on parts of ranges whose hand-off is still on. A range may end part by part (a flush ends
/// the pull of its slice alone), and what was reported before an assignment is not reported again.
fn still_open(done: &RangeMap<Generation>, assignment: &Assignment) -> RangeMap<Generation> {
    let parts = done.iter().flat_map(|(slice, since)| {
        let ranges = assignment.ranges().overlapping(slice);
        let open = ranges.filter(move |(_, range)| range.since == *since && !range.providers.is_empty());
        open.map(move |(part, _)| (part, *since))
    });
    parts.collect()
}

fn ranges_of(assignment: &Assignment) -> Ranges {
    assignment
        .ranges()
        .iter()
        .map(|(slice, range)| (slice, range.clone()))
        .collect()
}

/// The very first assignment: all ranges begin cold.
fn first_ranges(placement: &Placement, living: &Living, generation: Generation) -> Ranges {
    let ranges = placement.ranges().iter();
    ranges
        .map(|(slice, node)| {
            let mut range = next::unowned(generation);
            // There was none before it, by all that was heard, so nobody has let others read. (Who was not heard: a read lease
            // is over sooner than the wait for such nodes.)
            range.readers.leases_out = false;
            if let Some(&incarnation) = living.get(node) {
                range.owner = Life {
                    node: node.clone(),
                    incarnation,
                };
            }
            (*slice, range)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::{Provider, RangeAssignment, Readers};
    use crate::generation::Incarnation;
    use crate::slice::Slice;
    use crate::slice_key::SliceKey;

    /// Half of a range is reported as ended (a flush), an assignment is published, then the other half is: what was
    /// reported first must still be known, and be forgotten with the hand-off.
    #[test]
    fn reports_on_parts_outlast_an_assignment() {
        let since = |number| Generation {
            number,
            assigner: Incarnation::new(1),
        };
        let life = |name: &str| Life {
            node: NodeId::new(name).unwrap(),
            incarnation: Incarnation::new(1),
        };
        let assignment = |number, providers| {
            let (owner, since_of_b) = (life("b"), since(2));
            let range = RangeAssignment {
                owner,
                since: since_of_b,
                providers,
                readers: Readers::default(),
            };
            Assignment::new(since(number), vec![(Slice::FULL, range)], BTreeMap::new()).unwrap()
        };
        let (left, _) = Slice::FULL.split_before(SliceKey::new(100)).unwrap();
        let done: RangeMap<Generation> = [(left, since(2))].into_iter().collect();
        let from_a = vec![Provider {
            life: life("a"),
            since: since(1),
        }];
        let open = assignment(3, from_a);
        assert_eq!(still_open(&done, &open), done);
        assert!(still_open(&done, &assignment(4, Vec::new())).is_empty());
        let older: RangeMap<Generation> = [(left, since(1))].into_iter().collect();
        assert!(still_open(&older, &open).is_empty());
    }
}
