//! What of a placement must be, whatever becomes of the rest: who stays keeps all it has, and what has lost its owner or a
//! replica, or is about to, goes where the placement says.
//!
//! For times in which nothing is to be balanced, and for a Sharder that does not answer.

use crate::assignment::{Assignment, RangeAssignment};
use crate::node::{Life, NodeId};
use crate::sharder::{ClusterView, EvenRange, NodesByName, PlacedMove, Placement, Sharder};
use crate::slice::Slice;
use crate::slice_key::SliceKey;

/// `placement` for ranges whose owner is dead or drains, and the present owners and replicas for all others; who is dead or drains
/// is no replica, and somebody is in its place if the placement names anybody. A first
/// assignment is the placement's.
pub(super) fn only_forced(view: &ClusterView<'_>, placement: &Placement) -> Placement {
    let Some(previous) = view.previous else {
        return placement.clone();
    };
    let nodes = NodesByName::of(view);
    let mut kept = Kept::default();
    for (slice, range) in previous.ranges().iter() {
        if nodes.owner_stays(range) {
            kept.ranges.push((slice, range.owner.node.clone()));
            kept.replicas.extend(readers(&nodes, slice, range, placement));
            continue;
        }
        let parts = placement.overlapping(slice);
        kept.ranges.extend(parts.map(|(part, node)| (part, node.clone())));
        let read = placement.replicas_in(slice).into_iter();
        let read = read.filter(|(_, nodes)| !nodes.is_empty());
        kept.replicas
            .extend(read.map(|(part, nodes)| (part, nodes.to_vec())));
    }
    match Placement::new(kept.ranges) {
        Ok(forced) => {
            let stays = |slice| {
                let mut held = previous.ranges().overlapping(slice);
                held.all(|(_, range)| nodes.owner_stays(range))
            };
            let is_forced = |change: &&PlacedMove| !stays(change.slice) || change.reason.is_membership();
            let moves = placement.moves().iter().filter(is_forced);
            let named = placement.isolated().iter().copied();
            let isolated = named.filter(|at| !stays(Slice::single(*at)));
            forced
                .replicated(kept.replicas)
                .isolating(isolated.chain(apart(previous)).collect())
                .because(moves.cloned().collect())
        }
        // Both are complete, so what is made of them is.
        Err(_) => placement.clone(),
    }
}

/// Who is to read for a range whose owner stays: who does now and stays, and in the place of each that does not, whom the
/// placement names.
fn readers(
    nodes: &NodesByName<'_>,
    slice: Slice,
    range: &RangeAssignment,
    placement: &Placement,
) -> Vec<(Slice, Vec<NodeId>)> {
    let replicas = &range.readers.replicas;
    if replicas.is_empty() {
        return Vec::new();
    }
    let stays = |life: &&Life| nodes.node(life).is_some_and(|node| node.role.may_take());
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
    // Where every owner stays they have nothing to say.
    as_held(view).unwrap_or_else(|| only_forced(view, &EvenRange.place(view)))
}

/// The present owners and replicas; `None` if one of the owners does not stay, or there are none.
fn as_held(view: &ClusterView<'_>) -> Option<Placement> {
    let nodes = NodesByName::of(view);
    let mut kept = Kept::default();
    for (slice, range) in view.previous?.ranges().iter() {
        if !nodes.owner_stays(range) {
            return None;
        }
        kept.keep(slice, range, &nodes);
    }
    let placement = Placement::new(kept.ranges).ok()?.replicated(kept.replicas);
    Some(placement.isolating(apart(view.previous?).collect()))
}

/// The positions that have ranges of their own: they keep them until the Sharder is asked again.
fn apart(held: &Assignment) -> impl Iterator<Item = SliceKey> {
    let ranges = held.ranges().iter().map(|(slice, _)| slice);
    ranges.filter(|slice| slice.width() == 1).map(Slice::low)
}

/// What a placement is made of.
#[derive(Default)]
struct Kept {
    ranges: Vec<(Slice, NodeId)>,
    replicas: Vec<(Slice, Vec<NodeId>)>,
}

impl Kept {
    /// A range stays with its owner, and with those of its replicas that may read.
    fn keep(&mut self, slice: Slice, range: &RangeAssignment, nodes: &NodesByName<'_>) {
        self.ranges.push((slice, range.owner.node.clone()));
        let stay = |life: &&Life| nodes.node(life).is_some_and(|node| node.role.may_take());
        let readers = range.readers.replicas.iter().filter(stay);
        let readers: Vec<NodeId> = readers.map(|life| life.node.clone()).collect();
        if !readers.is_empty() {
            self.replicas.push((slice, readers));
        }
    }
}
