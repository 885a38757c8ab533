//! What of a placement must be, whatever becomes of the rest: who stays keeps all it has, and what has lost its owner or a
//! replica, or is about to, goes where the placement says.
//!
//! For times in which nothing is to be balanced, and for a Sharder that does not answer.

use crate::assignment::RangeAssignment;
use crate::node::{Life, NodeId};
use crate::sharder::{ClusterView, EvenRange, PlacedMove, Placement, Sharder};
use crate::slice::Slice;

/// `placement` for ranges whose owner is dead or drains, and the present owners and replicas for all others; who is dead or drains
/// is no replica, and somebody is in its place if the placement names anybody. A first
/// assignment is the placement's.
pub(super) fn only_forced(view: &ClusterView<'_>, placement: &Placement) -> Placement {
    let Some(previous) = view.previous else {
        return placement.clone();
    };
    let (mut ranges, mut replicas) = (Vec::new(), Vec::new());
    for (slice, range) in previous.ranges().iter() {
        if view.owner_stays(range) {
            ranges.push((slice, range.owner.node.clone()));
            replicas.extend(readers(view, slice, range, placement));
            continue;
        }
        ranges.extend(
            placement
                .overlapping(slice)
                .map(|(part, node)| (part, node.clone())),
        );
        let read = placement.replicas_in(slice).into_iter();
        replicas.extend(read.map(|(part, nodes)| (part, nodes.to_vec())));
    }
    match Placement::new(ranges) {
        Ok(forced) => {
            let stays = |slice| {
                let mut held = previous.ranges().overlapping(slice);
                held.all(|(_, range)| view.owner_stays(range))
            };
            let is_forced = |change: &&PlacedMove| !stays(change.slice) || change.reason.is_membership();
            let moves = placement.moves().iter().filter(is_forced);
            forced.replicated(replicas).because(moves.cloned().collect())
        }
        // Both are complete, so what is made of them is.
        Err(_) => placement.clone(),
    }
}

/// Who is to read for a range whose owner stays: who does now and stays, and in the place of each that does not, whom the
/// placement names.
fn readers(
    view: &ClusterView<'_>,
    slice: Slice,
    range: &RangeAssignment,
    placement: &Placement,
) -> Vec<(Slice, Vec<NodeId>)> {
    let replicas = &range.readers.replicas;
    let stays = |life: &&Life| view.node(life).is_some_and(|node| node.role.may_take());
    let staying: Vec<&NodeId> = replicas.iter().filter(stays).map(|life| &life.node).collect();
    let lost = replicas.len() - staying.len();
    let with_substitutes = |named: &[NodeId]| {
        let is_new = |node: &&NodeId| !staying.contains(node) && **node != range.owner.node;
        let substitutes = named.iter().filter(is_new).take(lost);
        staying.iter().copied().chain(substitutes).cloned().collect()
    };
    let parts = placement.replicas_in(slice).into_iter();
    parts
        .map(|(part, named)| (part, with_substitutes(named)))
        .collect()
}

/// What must be, by even ranges.
pub(super) fn by_even_ranges(view: &ClusterView<'_>) -> Placement {
    only_forced(view, &EvenRange.place(view))
}
