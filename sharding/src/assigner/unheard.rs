//! Nothing is given to a node that was not heard of for a while, as it may be about to die: what a paused rack held would go to
//! one that is paused as well, and be lost with it.
//!
//! It keeps what it has. What it was to be given goes to another node if its owner is dead, and else waits until the node is heard
//! of, or dies.

use std::collections::BTreeSet;

use crate::assignment::Assignment;
use crate::node::NodeId;
use crate::sharder::Placement;
use crate::slice::Slice;

/// A node is given nothing when it was not heard of for this part of the failure timeout.
pub(super) const UNHEARD_PER_FAILURE_TIMEOUT: u64 = 3;

/// `placement`, as far as it gives nothing to those who are `unheard` of; those who may take `instead` get what has no living owner.
/// Says, too, whether anything has to wait. What waits stays with its owner, dead or not.
pub(super) fn avoiding(
    placement: Placement,
    held: &Assignment,
    unheard: &BTreeSet<NodeId>,
    instead: &[NodeId],
) -> (Placement, bool) {
    let mut ranges: Vec<(Slice, NodeId)> = Vec::with_capacity(placement.ranges().len());
    let (mut is_changed, mut waits) = (false, false);
    let mut stand_ins = instead.iter().cycle();
    for (slice, node) in placement.ranges() {
        if !unheard.contains(node) {
            ranges.push((*slice, node.clone()));
            continue;
        }
        for (part, range) in held.ranges().overlapping(*slice) {
            let owner = &range.owner.node;
            if held.is_living(&range.owner) && owner == node {
                ranges.push((part, node.clone()));
                continue;
            }
            is_changed = true;
            let stand_in = stand_ins.next().filter(|_| !held.is_living(&range.owner));
            waits |= stand_in.is_none();
            ranges.push((part, stand_in.unwrap_or(owner).clone()));
        }
    }
    match Placement::new(ranges) {
        Ok(avoiding) if is_changed => {
            let avoiding = avoiding
                .replicated(placement.replicas().to_vec())
                .isolating(placement.isolated().to_vec())
                .because(placement.moves().to_vec());
            (avoiding, waits)
        }
        _ => (placement, false),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::assignment::{RangeAssignment, Readers};
    use crate::generation::{Generation, Incarnation};
    use crate::node::{Life, NodeEntry, NodeState};

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    /// Plan: a owns all and drains, or is dead; b, of which nothing is heard, is to get it. A living owner keeps it for the moment; of a
    /// dead one c gets it; and where there is no c, it waits.
    #[test]
    fn what_was_for_the_unheard_goes_elsewhere_or_waits() {
        let incarnation = Incarnation::new(1);
        let since = Generation {
            number: 1,
            assigner: incarnation,
        };
        let range = RangeAssignment {
            owner: Life {
                node: id("a"),
                incarnation,
            },
            since,
            providers: Vec::new(),
            readers: Readers::default(),
            awaits: Vec::new(),
        };
        let entry = NodeEntry {
            incarnation,
            process: None,
            address: "a:1".into(),
            http_address: "".into(),
            zone: "".into(),
            state: NodeState::Serving,
        };
        let held = |living: &[&str]| {
            let directory: BTreeMap<NodeId, NodeEntry> =
                living.iter().map(|name| (id(name), entry.clone())).collect();
            Assignment::new(since, vec![(Slice::FULL, range.clone())], directory).unwrap()
        };
        let to = |name: &str| Placement::new(vec![(Slice::FULL, id(name))]).unwrap();
        let unheard = BTreeSet::from([id("b")]);
        let avoid = |living: &[&str], instead: &[NodeId]| {
            let (placement, waits) = avoiding(to("b"), &held(living), &unheard, instead);
            (placement.ranges()[0].1.clone(), waits)
        };
        assert_eq!(avoid(&["a", "b", "c"], &[id("c")]), (id("a"), true));
        assert_eq!(avoid(&["b", "c"], &[id("c")]), (id("c"), false));
        assert_eq!(avoid(&["b"], &[]), (id("a"), true));
        let heard = avoiding(to("c"), &held(&["c"]), &unheard, &[id("c")]);
        assert_eq!(heard, (to("c"), false));
    }
}
