//! [`Ring`]: consistent hashing with virtual nodes, the static baseline that people have today.
//!
//! Each node has a fixed number of points in the key space, drawn from its name; a position belongs to the first point at
//! or after it, around the end. It reacts to membership at once, knows neither load nor capacity, and has no memory but
//! one: ranges whose hand-off is on stay, as for every Sharder. So a node that restarts gets back exactly what it had,
//! and everything it had moves twice.

use std::collections::BTreeMap;

use super::{ClusterView, NodesByName, Placement, Sharder};
use crate::node::NodeId;
use crate::range_map::RangeMap;
use crate::slice::Slice;
use crate::slice_key::SliceKey;

/// Points per node of [`Ring::default`].
pub const POINTS_DEFAULT: u32 = 64;

/// Consistent hashing with virtual nodes.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    points_per_node: u32,
}

impl Default for Ring {
    fn default() -> Self {
        Self::new(POINTS_DEFAULT)
    }
}

impl Ring {
    /// A ring with this many points for each node, at least 1. More points are more even, and more ranges.
    #[must_use]
    pub fn new(points_per_node: u32) -> Self {
        Self {
            points_per_node: points_per_node.max(1),
        }
    }

    /// The points of all nodes; where two fall together, the first name keeps it.
    fn points<'a>(&self, nodes: impl Iterator<Item = &'a NodeId>) -> BTreeMap<SliceKey, &'a NodeId> {
        let mut points = BTreeMap::new();
        for node in nodes {
            for point in 0..self.points_per_node {
                let name = format!("{node}/{point}");
                let at = SliceKey::new(xxhash_rust::xxh3::xxh3_64(name.as_bytes()));
                points.entry(at).or_insert(node);
            }
        }
        points
    }
}

impl Sharder for Ring {
    fn name(&self) -> &'static str {
        "ring"
    }

    fn place(&self, view: &ClusterView<'_>) -> Placement {
        let takers = view.nodes.iter().filter(|node| node.role.may_take());
        let points = self.points(takers.map(|node| &node.life.node));
        let mut ranges: RangeMap<NodeId> = RangeMap::new();
        let mut from = Some(SliceKey::MIN);
        for (&at, &node) in &points {
            if let Some(arc) = from.and_then(|low| Slice::between(low, at)) {
                ranges.insert(arc, node.clone());
            }
            from = at.next();
        }
        let first = points.values().next().copied();
        if let (Some(arc), Some(node)) = (from.and_then(|low| Slice::between(low, SliceKey::MAX)), first) {
            ranges.insert(arc, node.clone());
        }
        for (slice, node) in whole_ranges(view, &ranges) {
            ranges.insert(slice, node);
        }
        let ranges = ranges.iter().map(|(slice, node)| (slice, node.clone())).collect();
        Placement::new(ranges).expect("the arcs of a ring with a point cover the key space")
    }
}

/// Ranges that are kept whole, and who is to own each whole: its owner while that stays, else whoever the ring gives its
/// first position.
fn whole_ranges(view: &ClusterView<'_>, ring: &RangeMap<NodeId>) -> Vec<(Slice, NodeId)> {
    let ranges = view
        .previous
        .into_iter()
        .flat_map(|previous| previous.ranges().iter());
    let nodes = NodesByName::of(view);
    ranges
        .filter(|(_, range)| range.keeps_whole())
        .filter_map(|(slice, range)| {
            let node = match nodes.owner_stays(range) {
                true => range.owner.node.clone(),
                false => ring.get(slice.low())?.1.clone(),
            };
            Some((slice, node))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::Incarnation;
    use crate::node::{Life, NodeState};
    use crate::sharder::{NodeRole, NodeView};

    fn view(names: &[&str]) -> ClusterView<'static> {
        let node = |name: &&str| NodeView {
            life: Life {
                node: NodeId::new(name).unwrap(),
                incarnation: Incarnation::new(1),
            },
            state: NodeState::Serving,
            capacity_bytes: 1,
            zone: "".into(),
            role: NodeRole::Eligible,
        };
        ClusterView {
            previous: None,
            nodes: names.iter().map(node).collect(),
            loads: Vec::new(),
            hot_keys: Vec::new(),
            churn_max: 1.0,
        }
    }

    /// Plan: a node leaves a ring of four and comes back. What the others have of their own never moves, and it gets back
    /// exactly what it had.
    #[test]
    fn membership_moves_only_the_leavers_part() {
        let ring = Ring::default();
        let whole = ring.place(&view(&["a", "b", "c", "d"]));
        let without = ring.place(&view(&["a", "b", "d"]));
        let c = NodeId::new("c").unwrap();
        for (slice, owner) in whole.ranges().iter().filter(|(_, owner)| *owner != c) {
            assert!(without.overlapping(*slice).all(|(_, now)| now == owner));
        }
        assert_eq!(
            ring.place(&view(&["d", "c", "b", "a"])),
            whole,
            "the order of the nodes does not matter"
        );
        let even = Slice::FULL.width() / 4;
        assert!(
            whole
                .widths()
                .values()
                .all(|width| *width > even / 2 && *width < even * 2)
        );
    }
}
