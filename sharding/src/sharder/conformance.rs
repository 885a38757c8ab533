//! What every [`Sharder`] must keep, checked on random lives of clusters: call [`check`] from the tests of your own.
//!
//! Each life is a walk of joins, drains, deaths, goodbyes and completed hand-offs, with an assignment that follows the
//! placements by the Assigner's own rules. The walks are the same each time.

use std::collections::BTreeMap;

use thiserror::Error;

use super::{ClusterView, NodeRole, NodeView, Placement, PlacementError, Sharder};
use crate::assigner::next::{self, Living};
use crate::assignment::Assignment;
use crate::generation::{Generation, Incarnation};
use crate::node::{Life, NodeId, NodeState};
use crate::range_map::RangeMap;

/// How many clusters live through how many events each.
const WALKS: u64 = 24;
const STEPS: u64 = 40;

/// Most nodes of a walk.
const NODES_MAX: u64 = 7;

/// A rule that a Sharder broke.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// The placement itself is not allowed.
    #[error("walk {walk}, step {step}: {error}")]
    Placement {
        /// In which walk.
        walk: u64,
        /// At which step.
        step: u64,
        /// What is wrong.
        error: PlacementError,
    },
    /// The same view gave two placements.
    #[error("walk {walk}, step {step}: the same view gave two different placements")]
    NotDeterministic {
        /// In which walk.
        walk: u64,
        /// At which step.
        step: u64,
    },
    /// Placing again moved something though nothing had changed.
    #[error("walk {walk}, step {step}: placed again on its own result, something moved ({when})")]
    NotStable {
        /// In which walk.
        walk: u64,
        /// At which step.
        step: u64,
        /// Whether hand-offs were still on.
        when: &'static str,
    },
}

/// Checks a Sharder.
///
/// # Errors
/// The first rule that it broke.
pub fn check(sharder: &dyn Sharder) -> Result<(), Violation> {
    (0..WALKS).try_for_each(|walk| Walk::new(walk).run(sharder))
}

/// One cluster's life.
struct Walk {
    walk: u64,
    /// State of the generator (splitmix64): the walk is a function of its number.
    random: u64,
    nodes: BTreeMap<NodeId, NodeView>,
    lives: u64,
    assignment: Option<Assignment>,
}

impl Walk {
    fn new(walk: u64) -> Self {
        Self {
            walk,
            random: walk,
            nodes: BTreeMap::new(),
            lives: 0,
            assignment: None,
        }
    }

    fn run(&mut self, sharder: &dyn Sharder) -> Result<(), Violation> {
        for step in 0..STEPS {
            self.happen();
            if !self.nodes.values().any(|node| node.role.may_take()) {
                self.join(NodeRole::Eligible);
            }
            self.place(sharder, step)?;
            if self.draw(2) == 0 {
                self.complete_handoffs();
                self.check_settled(sharder, step)?;
            }
        }
        Ok(())
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    /// Something happens to one node, or one joins.
    fn happen(&mut self) {
        let drawn = self.draw(NODES_MAX);
        let id = NodeId::new(&format!("node-{drawn}")).expect("an allowed name");
        let role = match self.draw(2) {
            0 => NodeRole::Eligible,
            _ => NodeRole::Reserve,
        };
        let action = self.draw(4);
        match self.nodes.get_mut(&id) {
            None => self.join_as(id, role),
            Some(_) if action == 0 => {
                self.nodes.remove(&id);
            }
            Some(node) if action == 1 && node.role != NodeRole::Leaving => {
                node.role = NodeRole::Leaving;
                node.state = NodeState::Draining;
            }
            Some(node) if node.role == NodeRole::Reserve => node.role = NodeRole::Eligible,
            Some(_) if action == 2 => self.join_as(id, role),
            Some(_) => {}
        }
    }

    fn join(&mut self, role: NodeRole) {
        let id = NodeId::new(&format!("node-{}", self.lives)).expect("an allowed name");
        self.join_as(id, role);
    }

    /// A new life, in place of a former one of the same name.
    fn join_as(&mut self, id: NodeId, role: NodeRole) {
        self.lives += 1;
        let first = self.assignment.is_none();
        let view = NodeView {
            life: Life {
                node: id.clone(),
                incarnation: Incarnation::new(self.lives),
            },
            state: NodeState::Joining,
            capacity_bytes: (1 + self.draw(3)) << 30,
            zone: "".into(),
            role: if first { NodeRole::Eligible } else { role },
        };
        self.nodes.insert(id, view);
    }

    fn view<'a>(&self, previous: Option<&'a Assignment>) -> ClusterView<'a> {
        ClusterView {
            previous,
            nodes: self.nodes.values().cloned().collect(),
            loads: Vec::new(),
            hot_keys: Vec::new(),
            churn_max: 1.0,
        }
    }

    fn living(&self) -> Living {
        self.nodes
            .iter()
            .map(|(id, node)| (id.clone(), node.life.incarnation))
            .collect()
    }

    /// Places, checks the placement, and follows it. Then, with its hand-offs on, nothing may move.
    fn place(&mut self, sharder: &dyn Sharder, step: u64) -> Result<(), Violation> {
        let walk = self.walk;
        let base = self.refreshed(&RangeMap::new());
        let view = self.view(base.as_ref());
        let placement = sharder.place(&view);
        if placement != sharder.place(&view) {
            return Err(Violation::NotDeterministic { walk, step });
        }
        placement
            .check(&view)
            .map_err(|error| Violation::Placement { walk, step, error })?;
        self.follow(base.as_ref(), &placement);
        self.check_still(sharder, step, "with hand-offs on")
    }

    /// With all hand-offs over it may move once more, since now all is free to; and then no more.
    fn check_settled(&mut self, sharder: &dyn Sharder, step: u64) -> Result<(), Violation> {
        self.place(sharder, step)?;
        self.complete_handoffs();
        self.check_still(sharder, step, "with no hand-off on")
    }

    fn check_still(&self, sharder: &dyn Sharder, step: u64, when: &'static str) -> Result<(), Violation> {
        let placement = sharder.place(&self.view(self.assignment.as_ref()));
        let ranges = self.assignment.iter().flat_map(|held| held.ranges().iter());
        let still = ranges.into_iter().all(|(slice, range)| {
            let mut takers = placement.overlapping(slice);
            takers.all(|(_, node)| *node == range.owner.node)
        });
        let walk = self.walk;
        still
            .then_some(())
            .ok_or(Violation::NotStable { walk, step, when })
    }

    fn refreshed(&self, done: &RangeMap<Generation>) -> Option<Assignment> {
        let held = self.assignment.as_ref()?;
        let ranges = next::refreshed(held, &self.living(), done, &RangeMap::new());
        Assignment::new(held.generation(), ranges, BTreeMap::new()).ok()
    }

    fn complete_handoffs(&mut self) {
        let ranges = self.assignment.iter().flat_map(|held| held.ranges().iter());
        let done: RangeMap<Generation> = ranges.map(|(slice, range)| (slice, range.since)).collect();
        self.assignment = self.refreshed(&done);
    }

    fn follow(&mut self, base: Option<&Assignment>, placement: &Placement) {
        let before = base.map_or(Generation::NONE, Assignment::generation);
        let generation = Generation::following(before, 0, Incarnation::new(1));
        let ranges = match base {
            Some(base) => base
                .ranges()
                .iter()
                .map(|(slice, range)| (slice, range.clone()))
                .collect(),
            None => placement
                .ranges()
                .iter()
                .map(|(slice, _)| (*slice, next::unowned(before)))
                .collect(),
        };
        let ranges = next::placed(ranges, placement, &self.living(), generation);
        self.assignment = Assignment::new(generation, ranges, BTreeMap::new()).ok();
        for (_, range) in self.assignment.iter().flat_map(|held| held.ranges().iter()) {
            if let Some(node) = self.nodes.get_mut(&range.owner.node)
                && node.role == NodeRole::Reserve
            {
                node.role = NodeRole::Eligible;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sharder::{EvenRange, Ring};
    use crate::slice::Slice;

    #[test]
    fn shipped_sharders_conform() {
        assert_eq!(check(&EvenRange), Ok(()));
        assert_eq!(check(&Ring::default()), Ok(()));
        assert_eq!(check(&Ring::new(1)), Ok(()));
    }

    /// Plan: Sharders that each break one rule. The suite must find each.
    #[test]
    fn breaches_are_found() {
        /// Gives everything to the node that is first, leaving or not.
        #[derive(Debug)]
        struct ToFirst;
        impl Sharder for ToFirst {
            fn name(&self) -> &'static str {
                "to-first"
            }
            fn place(&self, view: &ClusterView<'_>) -> Placement {
                Placement::new(vec![(Slice::FULL, view.nodes[0].life.node.clone())]).unwrap()
            }
        }
        /// Gives everything to the first that may take, whatever is on the move.
        #[derive(Debug)]
        struct ToFirstTaker;
        impl Sharder for ToFirstTaker {
            fn name(&self) -> &'static str {
                "to-first-taker"
            }
            fn place(&self, view: &ClusterView<'_>) -> Placement {
                let taker = view.nodes.iter().find(|node| node.role.may_take()).unwrap();
                Placement::new(vec![(Slice::FULL, taker.life.node.clone())]).unwrap()
            }
        }
        /// Deals the free ranges round: each placement moves all of them on by one node.
        #[derive(Debug)]
        struct Restless;
        impl Sharder for Restless {
            fn name(&self) -> &'static str {
                "restless"
            }
            fn place(&self, view: &ClusterView<'_>) -> Placement {
                let takers: Vec<&NodeView> = view.nodes.iter().filter(|node| node.role.may_take()).collect();
                let Some(previous) = view.previous else {
                    return Placement::new(vec![(Slice::FULL, takers[0].life.node.clone())]).unwrap();
                };
                let next = |life: &Life| {
                    let at = takers.iter().position(|node| node.life == *life);
                    takers[at.map_or(0, |at| at + 1) % takers.len()].life.node.clone()
                };
                let ranges = previous
                    .ranges()
                    .iter()
                    .map(|(slice, range)| match view.is_pinned(range) {
                        true => (slice, range.owner.node.clone()),
                        false => (slice, next(&range.owner)),
                    });
                Placement::new(ranges.collect()).unwrap()
            }
        }
        let placement = |violation| matches!(violation, Err(Violation::Placement { .. }));
        assert!(placement(check(&ToFirst)));
        assert!(placement(check(&ToFirstTaker)));
        assert!(matches!(check(&Restless), Err(Violation::NotStable { .. })));
    }
}
