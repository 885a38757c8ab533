//! What of a placement must be, whatever becomes of the rest: who stays keeps all it has, and what has lost its owner, or is
//! about to, goes where the placement says.
//!
//! For times in which nothing is to be balanced, and for a Sharder that does not answer.

use crate::sharder::{ClusterView, EvenRange, Placement, Sharder};
use crate::slice::Slice;

/// `placement` for ranges whose owner is dead or drains, and the present owners and replicas for all others. A first
/// assignment is the placement's.
pub(super) fn only_forced(view: &ClusterView<'_>, placement: &Placement) -> Placement {
    let Some(previous) = view.previous else {
        return placement.clone();
    };
    let (mut ranges, mut replicas) = (Vec::new(), Vec::new());
    for (slice, range) in previous.ranges().iter() {
        if view.owner_stays(range) {
            ranges.push((slice, range.owner.node.clone()));
            let stay = |life: &&crate::node::Life| view.node(life).is_some_and(|node| node.role.may_take());
            let readers = range.readers.replicas.iter().filter(stay);
            replicas.push((slice, readers.map(|life| life.node.clone()).collect()));
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
            let moves = placement.moves().iter().filter(|change| !stays(change.slice));
            // What has a range of its own keeps it, until it is looked at again.
            let own = previous.ranges().iter().filter(|(slice, _)| slice.width() == 1);
            let isolated = own.map(|(slice, _)| slice.low());
            let isolated = isolated.chain(
                placement
                    .isolated()
                    .iter()
                    .copied()
                    .filter(|at| !stays(Slice::single(*at))),
            );
            forced
                .replicated(replicas)
                .isolating(isolated.collect())
                .because(moves.cloned().collect())
        }
        // Both are complete, so what is made of them is.
        Err(_) => placement.clone(),
    }
}

/// What must be, by even ranges.
pub(super) fn by_even_ranges(view: &ClusterView<'_>) -> Placement {
    only_forced(view, &EvenRange.place(view))
}
