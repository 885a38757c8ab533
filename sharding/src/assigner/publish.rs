//! When the next assignment is computed, and to whom it goes.
//!
//! Drains and deaths are published at once; joins, completed hand-offs and renewals are gathered for a short interval, so
//! that a hundred ranges that complete one after the other do not make a hundred assignments.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::event::{AssignerAction, Notice};
use super::explain::{self, Bytes, ChangeCause};
use super::member::Member;
use super::next::{self, Living, Ranges, Reported};
use super::revival::{self, Away, Offering};
use super::unheard::{self, UNHEARD_PER_FAILURE_TIMEOUT};
use super::{Assigner, Pending};
use crate::assignment::{Assignment, AssignmentError};
use crate::generation::Generation;
use crate::node::{Life, NodeEntry, NodeId};
use crate::range_map::RangeMap;
use crate::session::AssignerMessage;
use crate::sharder::{ClusterSnapshot, PlacedMove, Placement};
use crate::slice::Slice;
use crate::time::Timestamp;

/// A placement that is to be published.
pub(super) struct Placed<'a> {
    placement: Placement,
    /// What the Sharder was shown; none, if that was another cluster than the present one, or it was not asked.
    asked: Option<&'a ClusterSnapshot>,
}

impl<'a> Placed<'a> {
    /// It is of the cluster as the Sharder was shown it.
    pub(super) fn of_asked(placement: Placement, asked: &'a ClusterSnapshot) -> Self {
        let asked = Some(asked);
        Self { placement, asked }
    }
}

impl From<Placement> for Placed<'_> {
    fn from(placement: Placement) -> Self {
        let asked = None;
        Self { placement, asked }
    }
}

impl Assigner {
    /// When the next assignment is due; `None` if nothing waits to be published, or the Sharder is being asked.
    pub(super) fn publish_at(&self) -> Option<Timestamp> {
        match self.pending {
            _ if self.recovery.is_some() || self.round.is_some() => None,
            Pending::Nothing => None,
            Pending::Soon => Some(self.last_published.plus_ms(self.config.publish_interval_ms)),
            Pending::AtOnce => Some(Timestamp::ZERO),
        }
    }

    pub(super) fn publish_if_due(&mut self, now: Timestamp, unix_ms: u64, actions: &mut Vec<AssignerAction>) {
        self.give_up_round(now, unix_ms, actions);
        let is_due = self.publish_at().is_some_and(|at| now >= at);
        if is_due || (self.pending == Pending::Nothing && self.is_balance_due(now)) {
            self.begin_round(now, unix_ms, actions);
        }
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

    pub(super) fn living(&self) -> Living {
        let lives = self.members.iter();
        lives
            .map(|(node, member)| (node.clone(), member.life.incarnation))
            .collect()
    }

    /// Publishes what a placement makes of what is held, if that says anything new. Without a placement nobody may take
    /// anything.
    pub(super) fn publish_placed(
        &mut self,
        base: Option<Arc<Assignment>>,
        placed: Option<Placed<'_>>,
        urgency: Pending,
        now: Timestamp,
        unix_ms: u64,
        actions: &mut Vec<AssignerAction>,
    ) {
        let moves = match (&base, &placed) {
            (Some(base), Some(placed)) => self.explained(base, placed, now),
            _ => Vec::new(),
        };
        let placement = placed.map(|placed| placed.placement);
        let placement = self.given_to_the_heard(base.as_deref(), placement, now);
        match self.next_assignment(base.as_deref(), placement.as_ref(), unix_ms) {
            Ok(Some(assignment)) => {
                let is_first = self.assignment().is_none() && self.recovered.is_none();
                let cause = Self::cause_of(urgency, is_first);
                let assignment = Arc::new(assignment);
                self.note_moves(base.as_deref(), &assignment, moves, (unix_ms, cause), now);
                self.publish(assignment, now, actions);
            }
            Ok(None) => {}
            Err(error) => actions.push(AssignerAction::Notice(Notice::NotPublished(error))),
        }
        self.tell_no_taker(actions);
    }

    /// A placement that gives nothing to who was not heard of lately.
    fn given_to_the_heard(
        &mut self,
        base: Option<&Assignment>,
        placement: Option<Placement>,
        now: Timestamp,
    ) -> Option<Placement> {
        let placement = placement?;
        let Some(base) = base else {
            return Some(placement);
        };
        let quiet_ms = self.config.failure_timeout_ms / UNHEARD_PER_FAILURE_TIMEOUT;
        let is_unheard = |member: &Member| now.ms_since(member.last_heard) >= quiet_ms;
        let name = |member: &Member| member.life.node.clone();
        let members = || self.members.values();
        let unheard: BTreeSet<NodeId> = members().filter(|member| is_unheard(member)).map(name).collect();
        if unheard.is_empty() {
            return Some(placement);
        }
        let may_take = |member: &&Member| member.role().may_take() && !is_unheard(member);
        let instead: Vec<NodeId> = members().filter(may_take).map(name).collect();
        let (placement, waits) = unheard::avoiding(placement, base, &unheard, &instead);
        self.waits_for_unheard |= waits;
        Some(placement)
    }

    /// What a placement changes, with reasons.
    fn explained(
        &mut self,
        base: &Arc<Assignment>,
        Placed { placement, asked }: &Placed<'_>,
        now: Timestamp,
    ) -> Vec<PlacedMove> {
        if placement.is_as_held(base) {
            let living = self.living();
            let is_living = |life: &Life| living.get(&life.node) == Some(&life.incarnation);
            if base.ranges().iter().all(|(_, range)| is_living(&range.owner)) {
                return Vec::new();
            }
        }
        if let Some(asked) = asked {
            return explain::moves_of(&asked.members(), &asked.loads, placement);
        }
        let (snapshot, _) = self.snapshot(Some(base.clone()), false, now);
        explain::moves_of(&snapshot.members(), &snapshot.loads, placement)
    }

    /// Remembers why, and what moves with it.
    fn note_moves(
        &mut self,
        base: Option<&Assignment>,
        next: &Arc<Assignment>,
        moves: Vec<PlacedMove>,
        (unix_ms, cause): (u64, ChangeCause),
        now: Timestamp,
    ) {
        let generation = next.generation();
        let mut handed: Vec<(Slice, Life, Life)> = Vec::new();
        let mut balanced: Vec<Slice> = Vec::new();
        for (slice, range) in next
            .ranges()
            .iter()
            .filter(|(_, range)| range.since == generation)
        {
            let former = base.into_iter().flat_map(|base| base.ranges().overlapping(slice));
            let changed = former.filter(|(_, held)| held.owner != range.owner);
            for (part, held) in changed {
                let giver = self.members.get(&held.owner.node);
                let stays = giver.is_some_and(|giver| giver.life == held.owner && giver.role().may_take());
                balanced.extend(stays.then_some(part));
                handed.push((part, held.owner.clone(), range.owner.clone()));
            }
        }
        if self.sharder.reacts_to_load() && !balanced.is_empty() {
            // What has moved counts, whatever the Sharder says that it costs.
            let reports = self.members.values().flat_map(|member| &member.load.slices);
            let bytes = Bytes::new(reports);
            let moved: f64 = balanced.iter().map(|part| bytes.of(*part)).sum();
            self.balance.spend(moved / bytes.whole().max(moved).max(1.0), now);
        }
        self.loads_moved(&handed, now);
        let members = &self.members;
        let load_of = |life: &Life| {
            let member = members.get(&life.node).filter(|member| member.life == *life);
            member.map_or((0, 0), |member| {
                (member.load.bytes_imported, member.load.entries_imported)
            })
        };
        let told = (generation, unix_ms, cause);
        self.explanations.published(told, moves, next, load_of, now);
    }

    /// What is known of lives that may come back.
    pub(super) fn away<R>(&self, ask: impl FnOnce(&Away<'_>) -> R) -> R {
        let is_on = self.config.revival_ms > 0;
        let may_return = |life: &Life| is_on && self.graves.may_return(life);
        let may_await = |node: &NodeId| self.members.get(node).is_some_and(|member| member.knows_revival);
        ask(&Away {
            may_return: &may_return,
            may_await: &may_await,
        })
    }

    /// The next assignment; `None` if it would say what the present one says.
    fn next_assignment(
        &mut self,
        base: Option<&Assignment>,
        placement: Option<&Placement>,
        unix_ms: u64,
    ) -> Result<Option<Assignment>, AssignmentError> {
        let generation = Generation::following(self.highest, unix_ms, self.incarnation);
        let living = self.living();
        let directory = self.directory();
        let ranges = match (base, placement) {
            (Some(base), Some(placement)) => {
                self.away(|away| next::placed(ranges_of(base), placement, &living, away, generation))
            }
            (Some(base), None) => ranges_of(base),
            (None, Some(placement)) => first_ranges(placement, &living, generation),
            (None, None) => return Ok(None),
        };
        let stays = |life: &Life| {
            self.members
                .get(&life.node)
                .is_some_and(|member| member.role().may_take())
        };
        let stays_apart = |slice: Slice| match placement {
            Some(placement) => placement.keeps_apart(slice),
            None => slice.width() == 1,
        };
        let ranges = next::renewed(ranges, generation, stays, stays_apart);
        let ranges = revival::revived(ranges, |node| {
            let member = self.members.get(node)?;
            let (life, offers) = (&member.life, member.offers.as_ref());
            Some(Offering { life, offers })
        });
        let assignment = Assignment::new(generation, ranges, directory)?
            .under_leases(self.config.lease_ms)
            .with_revival_ms(self.config.revival_ms)
            .of_founding(self.belonging.cluster.founding);
        let unchanged = self.assignment().is_some_and(|current| {
            current.ranges() == assignment.ranges()
                && current.directory() == assignment.directory()
                && current.founding() == assignment.founding()
        });
        self.reported = still_open(&self.reported, &assignment);
        self.fenced_off.clear();
        Ok((!unchanged).then_some(assignment))
    }

    fn publish(&mut self, assignment: Arc<Assignment>, now: Timestamp, actions: &mut Vec<AssignerAction>) {
        let generation = assignment.generation();
        self.recovered = None;
        self.highest = generation;
        self.last_published = now;
        let owners = assignment.ranges().iter().map(|(_, range)| &range.owner);
        let owners: HashSet<&Life> = owners.collect();
        for member in self.members.values_mut() {
            if owners.contains(&member.life) {
                member.reserve_until = None;
            }
            member.listed_at.get_or_insert(generation);
            member.offers = None;
        }
        self.owners = owners.into_iter().cloned().collect();
        if !self.sharder.reacts_to_load() {
            // It has given all that it would.
            self.rested();
        }
        self.note_read_leases(&assignment);
        self.history.push(assignment.clone());
        let nodes: Vec<NodeId> = self.members.keys().cloned().collect();
        for node in nodes {
            self.send_update(&node, actions);
        }
        if let Some(founding) = assignment.founding() {
            actions.push(AssignerAction::Remember { founding, generation });
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
fn still_open(reported: &RangeMap<Reported>, assignment: &Assignment) -> RangeMap<Reported> {
    let parts = reported.iter().flat_map(|(slice, reported)| {
        let ranges = assignment.ranges().overlapping(slice);
        let open = ranges.filter(move |(_, range)| range.since == reported.since && range.keeps_whole());
        open.map(move |(part, _)| (part, *reported))
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
                awaits: Vec::new(),
            };
            Assignment::new(since(number), vec![(Slice::FULL, range)], BTreeMap::new()).unwrap()
        };
        let over = |number| Reported {
            since: since(number),
            is_over: true,
        };
        let (left, _) = Slice::FULL.split_before(SliceKey::new(100)).unwrap();
        let done: RangeMap<Reported> = [(left, over(2))].into_iter().collect();
        let from_a = vec![Provider {
            life: life("a"),
            since: since(1),
        }];
        let open = assignment(3, from_a);
        assert_eq!(still_open(&done, &open), done);
        assert!(still_open(&done, &assignment(4, Vec::new())).is_empty());
        let older: RangeMap<Reported> = [(left, over(1))].into_iter().collect();
        assert!(still_open(&older, &open).is_empty());
    }
}
