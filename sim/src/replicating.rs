//! [`Replicating`]: the simulation's Sharder: even ranges, with random slices replicated to random nodes, some one key wide and
//! some wide. From time to time it thinks otherwise.
//!
//! Like every Sharder it sees no time: it is told which turn it is. Within a turn the same view gives the same placement.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use softstore_sharding::sharder::{ClusterView, EvenRange, Placement, Sharder};
use softstore_sharding::{NodeId, RangeMap, Slice, SliceKey};

use crate::plan::Replication;
use crate::random::Random;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Replicating {
    how: Replication,
    /// The positions of the keys, in order.
    keys: Vec<SliceKey>,
    turn: Arc<AtomicU64>,
}

impl Replicating {
    /// `turn` is counted by whoever knows the time.
    pub(crate) fn new(how: Replication, mut keys: Vec<SliceKey>, turn: Arc<AtomicU64>) -> Self {
        keys.sort_unstable();
        Self { how, keys, turn }
    }

    /// What is to be replicated, and the draws from which the replicas follow. Each slice changes in turns of its own.
    fn wanted(&self) -> RangeMap<u64> {
        let turn = self.turn.load(Ordering::Relaxed);
        let draws = |index: u64| {
            let own_turn = (turn + index) / (1 + index % 4);
            Random::new(self.how.seed ^ (index << 32) ^ own_turn).fork()
        };
        let mut wanted = RangeMap::new();
        for index in 0..self.how.wide {
            let mut random = draws(index + 1_000);
            let at = self.keys[random.index(self.keys.len())].get();
            let half = u64::MAX >> random.between(3, 10);
            let (low, last) = (at.saturating_sub(half), at.saturating_add(half));
            if let Some(slice) = Slice::between(SliceKey::new(low), SliceKey::new(last))
                && random.chance(800)
            {
                wanted.insert(slice, random.bits());
            }
        }
        for (index, &at) in (0..).zip(&self.keys) {
            let mut random = draws(index);
            if random.chance(self.how.keys_per_mille) {
                wanted.insert(Slice::single(at), random.bits());
            }
        }
        wanted
    }
}

impl Sharder for Replicating {
    fn name(&self) -> &'static str {
        "replicating"
    }

    fn place(&self, view: &ClusterView<'_>) -> Placement {
        let placement = EvenRange.place(view);
        let takers = || {
            let takers = view.nodes.iter().filter(|node| node.role.may_take());
            takers.map(|node| &node.life.node)
        };
        let mut replicas: RangeMap<Vec<NodeId>> = RangeMap::new();
        for (slice, &draw) in self.wanted().iter() {
            for (part, owner) in placement.overlapping(slice) {
                let mut random = Random::new(draw);
                // Drawn for each node by itself, so that a change of membership changes no other node's share.
                let chosen = takers().filter(|node| random.chance(600) && *node != owner);
                replicas.insert(part, chosen.cloned().collect());
            }
        }
        // What is being handed over is not cut.
        let ranges = view
            .previous
            .into_iter()
            .flat_map(|previous| previous.ranges().iter());
        for (slice, range) in ranges.filter(|(_, range)| !range.providers.is_empty()) {
            let owner = placement.overlapping(slice).next().map(|(_, owner)| owner);
            let before = &range.readers.replicas;
            let stay =
                takers().filter(|node| before.iter().any(|life| life.node == **node) && Some(*node) != owner);
            replicas.insert(slice, stay.cloned().collect());
        }
        // Some keys have ranges of their own, whoever reads them.
        let isolated = self.wanted();
        let isolated = isolated
            .iter()
            .filter(|(slice, draw)| slice.width() == 1 && **draw % 2 == 0);
        let isolated = isolated.map(|(slice, _)| slice.low()).collect();
        let replicas = replicas.iter().map(|(slice, nodes)| (slice, nodes.clone()));
        placement.replicated(replicas.collect()).isolating(isolated)
    }
}

#[cfg(test)]
mod tests {
    use softstore_sharding::sharder::{NodeRole, NodeView};
    use softstore_sharding::{Incarnation, Life, NodeState};

    use super::*;

    /// Plan: a few nodes, one of which leaves; over many turns every placement keeps the rules, the same turn gives the same
    /// one, and there are narrow slices and wide ones with replicas.
    #[test]
    fn it_keeps_the_rules_and_replicates() {
        let how = Replication {
            seed: 7,
            change_us: 1,
            keys_per_mille: 500,
            wide: 3,
        };
        let keys: Vec<SliceKey> = (0..20u32)
            .map(|key| SliceKey::of_key(&key.to_le_bytes()))
            .collect();
        let turn = Arc::new(AtomicU64::new(0));
        let sharder = Replicating::new(how, keys, turn.clone());
        let nodes: Vec<NodeView> = (0..4)
            .map(|index| NodeView {
                life: Life {
                    node: NodeId::new(&format!("n{index}")).unwrap(),
                    incarnation: Incarnation::new(1),
                },
                state: NodeState::Serving,
                capacity_bytes: 1,
                zone: "".into(),
                role: if index == 3 {
                    NodeRole::Leaving
                } else {
                    NodeRole::Eligible
                },
            })
            .collect();
        let view = ClusterView {
            previous: None,
            nodes,
            loads: Vec::new(),
            hot_keys: Vec::new(),
            churn_max: 1.0,
        };
        let (mut narrow, mut wide) = (0, 0);
        for index in 0..50 {
            turn.store(index, Ordering::Relaxed);
            let placement = sharder.place(&view);
            assert_eq!(placement.check(&view), Ok(()));
            assert_eq!(placement, sharder.place(&view));
            let is_narrow = |slice: Slice| slice.width() == 1;
            narrow += placement
                .replicas()
                .iter()
                .filter(|(slice, _)| is_narrow(*slice))
                .count();
            wide += placement
                .replicas()
                .iter()
                .filter(|(slice, _)| !is_narrow(*slice))
                .count();
        }
        assert!(narrow > 100 && wide > 20, "{narrow} narrow, {wide} wide");
    }
}
