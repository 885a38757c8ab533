//! What every [`Sharder`] must keep, checked on random lives of clusters: call [`check`] from the tests of your own.
//!
//! Each life is a walk of joins, drains, deaths, goodbyes and completed hand-offs, with an assignment that follows the
//! placements by the Assigner's own rules. Half of the walks report no load: placed again on its own result, nothing may move at
//! all. The other half report one that never changes: there it may take some rounds to come to rest. The walks are the same
//! each time.

use std::collections::BTreeMap;

use thiserror::Error;

use super::{ClusterView, HotKey, NodeRole, NodeView, Placement, PlacementError, Sharder};
use crate::assigner::next::{self, Living, Reported};
use crate::assigner::revival::Away;
use crate::assignment::Assignment;
use crate::generation::{Generation, Incarnation};
use crate::node::{Life, NodeId, NodeState};
use crate::range_map::RangeMap;
use crate::session::SliceLoad;
use crate::slice::Slice;
use crate::slice_key::SliceKey;

/// How many clusters live through how many events each.
const WALKS: u64 = 24;
/// Of every other dead life what it held may come back.
const AWAY: Away<'static> = Away {
    may_return: &|life| life.incarnation.get().is_multiple_of(2),
    may_await: &|_| true,
};

const STEPS: u64 = 40;

/// Within so many rounds whoever looks at load must come to rest, if that does not change.
const ROUNDS_TO_REST: u64 = 16;

/// And stay there for so many.
const ROUNDS_AT_REST: u64 = 4;

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
    /// Under a load that did not change, something still moved after many rounds.
    #[error("walk {walk}: still moving after {ROUNDS_TO_REST} rounds of the same load")]
    NeverRests {
        /// In which walk.
        walk: u64,
    },
}

/// Checks a Sharder.
///
/// # Errors
/// The first rule that it broke.
pub fn check(sharder: &dyn Sharder) -> Result<(), Violation> {
    (0..WALKS).try_for_each(|walk| Walk::new(walk).run(sharder))
}

/// A key that draws a tenth of all load.
const HOT_KEY: HotKey = HotKey {
    at: SliceKey::new(0x1234_5678_9abc_def0),
    operations_per_second: 10_000.0,
};

/// What all positions but that one draw, and hold.
const OPERATIONS_PER_SECOND: f64 = 90_000.0;
const BYTES: f64 = 1e9;

/// A load that never changes, whoever owns what: falling from one end of the key space to half as much at
/// the other, and the key's on top.
fn loads_of(assignment: &Assignment, hot_key: HotKey) -> Vec<SliceLoad> {
    const SPACE: f64 = 18_446_744_073_709_551_616.0;
    let until = |position: f64| {
        let part = position / SPACE;
        // The integral of a density that falls from 4/3 to 2/3.
        part * (4.0 - part) / 3.0
    };
    let load = |slice: Slice| {
        let low = slice.low().get() as f64;
        let share = (until(low + slice.width() as f64) - until(low)).max(0.0);
        let hot = if slice.contains(hot_key.at) {
            hot_key.operations_per_second
        } else {
            0.0
        };
        let operations_per_second = share * OPERATIONS_PER_SECOND + hot;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a billion, never negative"
        )]
        let bytes = (slice.width() as f64 / SPACE * BYTES) as u64;
        SliceLoad {
            operations_per_second,
            hits_per_second: operations_per_second,
            bytes,
            bytes_per_second: operations_per_second * 100.0,
            cpu_us_per_second: operations_per_second,
            ..SliceLoad::idle(slice)
        }
    };
    assignment.ranges().iter().map(|(slice, _)| load(slice)).collect()
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
            if !self.has_load() {
                self.check_still(sharder, step, "with hand-offs on")?;
            }
            if self.draw(2) == 0 {
                self.complete_handoffs();
                if !self.has_load() {
                    self.check_settled(sharder, step)?;
                }
            }
        }
        if self.has_load() {
            self.check_rests(sharder)?;
        }
        Ok(())
    }

    /// In half of the walks that know a load it is as much as all else, and more than one node should bear.
    fn hot_key(&self) -> HotKey {
        HotKey {
            at: HOT_KEY.at,
            operations_per_second: match self.walk % 4 {
                1 => HOT_KEY.operations_per_second,
                _ => OPERATIONS_PER_SECOND,
            },
        }
    }

    /// Half of the walks know no load, as before the first reports.
    fn has_load(&self) -> bool {
        self.walk % 2 == 1
    }

    /// A cut may show how load lies in what was one range: so who looks at load may go on for some rounds, but not for ever.
    fn check_rests(&mut self, sharder: &dyn Sharder) -> Result<(), Violation> {
        let walk = self.walk;
        let mut resting = 0;
        for round in 0..ROUNDS_TO_REST + ROUNDS_AT_REST {
            self.complete_handoffs();
            let stood = self.check_still(sharder, STEPS, "").is_ok();
            resting = if stood { resting + 1 } else { 0 };
            self.place(sharder, STEPS + round)?;
        }
        (resting >= ROUNDS_AT_REST)
            .then_some(())
            .ok_or(Violation::NeverRests { walk })
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
        let id = NodeId::new(&format!("node-{}", self.lives % NODES_MAX)).expect("an allowed name");
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
            zone: format!("zone-{}", self.lives % 3).into(),
            role: if first { NodeRole::Eligible } else { role },
        };
        self.nodes.insert(id, view);
    }

    fn view<'a>(&self, previous: Option<&'a Assignment>) -> ClusterView<'a> {
        let (loads, hot_keys) = match (self.has_load(), previous) {
            (true, Some(previous)) => (loads_of(previous, self.hot_key()), vec![self.hot_key()]),
            _ => (Vec::new(), Vec::new()),
        };
        ClusterView {
            previous,
            nodes: self.nodes.values().cloned().collect(),
            loads,
            hot_keys,
            churn_max: 1.0,
        }
    }

    fn living(&self) -> Living {
        self.nodes
            .iter()
            .map(|(id, node)| (id.clone(), node.life.incarnation))
            .collect()
    }

    /// Places, checks the placement, and follows it.
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
        Ok(())
    }

    /// With all hand-offs over it may move once more, since now all is free to; and then no more.
    fn check_settled(&mut self, sharder: &dyn Sharder, step: u64) -> Result<(), Violation> {
        self.place(sharder, step)?;
        self.check_still(sharder, step, "with hand-offs on")?;
        self.complete_handoffs();
        self.check_still(sharder, step, "with no hand-off on")
    }

    fn check_still(&self, sharder: &dyn Sharder, step: u64, when: &'static str) -> Result<(), Violation> {
        let placement = sharder.place(&self.view(self.assignment.as_ref()));
        let held = self.assignment.as_ref();
        let still = held.is_some_and(|held| placement.is_as_held(held));
        let walk = self.walk;
        still
            .then_some(())
            .ok_or(Violation::NotStable { walk, step, when })
    }

    fn refreshed(&self, reported: &RangeMap<Reported>) -> Option<Assignment> {
        let held = self.assignment.as_ref()?;
        let ranges = next::refreshed(held, &self.living(), reported, &RangeMap::new(), &AWAY);
        Assignment::new(held.generation(), ranges, BTreeMap::new()).ok()
    }

    fn complete_handoffs(&mut self) {
        let ranges = self.assignment.iter().flat_map(|held| held.ranges().iter());
        let over = |since| Reported { since, is_over: true };
        let reported = ranges.map(|(slice, range)| (slice, over(range.since))).collect();
        self.assignment = self.refreshed(&reported);
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
        let ranges = next::placed(ranges, placement, &self.living(), &AWAY, generation);
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
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::sharder::{EvenRange, Ring};

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
        /// Even, until it is told of load: then restless.
        #[derive(Debug)]
        struct Nervous;
        impl Sharder for Nervous {
            fn name(&self) -> &'static str {
                "nervous"
            }
            fn place(&self, view: &ClusterView<'_>) -> Placement {
                match view.loads.is_empty() {
                    true => EvenRange.place(view),
                    false => Restless.place(view),
                }
            }
        }
        /// Even, but with another replica of everything each time.
        #[derive(Debug)]
        struct RestlessReader;
        impl Sharder for RestlessReader {
            fn name(&self) -> &'static str {
                "restless-reader"
            }
            fn place(&self, view: &ClusterView<'_>) -> Placement {
                let placement = EvenRange.place(view);
                let takers = || view.nodes.iter().filter(|node| node.role.may_take());
                let reads = |node: &&NodeView| {
                    let mut ranges = view.previous.into_iter().flat_map(|held| held.ranges().iter());
                    ranges.any(|(_, range)| range.readers.replicas.contains(&node.life))
                };
                let others = |owner: &NodeId| -> Vec<NodeId> {
                    let others = takers().filter(|node| node.life.node != *owner && !reads(node));
                    others.take(1).map(|node| node.life.node.clone()).collect()
                };
                let replicas = placement
                    .ranges()
                    .iter()
                    .map(|(slice, owner)| (*slice, others(owner)));
                let replicas = replicas.collect();
                placement.replicated(replicas)
            }
        }
        /// Remembers: each second placement is another.
        #[derive(Debug, Default)]
        struct Fickle(AtomicU64);
        impl Sharder for Fickle {
            fn name(&self) -> &'static str {
                "fickle"
            }
            fn place(&self, view: &ClusterView<'_>) -> Placement {
                Ring::new(1 + u32::try_from(self.0.fetch_add(1, Ordering::Relaxed) % 2).unwrap()).place(view)
            }
        }
        let placement = |violation| matches!(violation, Err(Violation::Placement { .. }));
        assert!(matches!(check(&Nervous), Err(Violation::NeverRests { .. })));
        assert!(matches!(
            check(&Fickle::default()),
            Err(Violation::NotDeterministic { .. })
        ));
        assert!(placement(check(&ToFirst)));
        assert!(placement(check(&ToFirstTaker)));
        assert!(matches!(check(&Restless), Err(Violation::NotStable { .. })));
        assert!(matches!(check(&RestlessReader), Err(Violation::NotStable { .. })));
    }
}
