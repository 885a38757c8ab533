//! [`PinnedTenants`]: a [`Sharder`] that keeps each tenant's keys on the nodes that it may use, and leaves the rest to another.
//!
//! A tenant is a hash tag: all keys with `{acme}` in them lie in one slot, so to place a tenant is to place a slot. Two
//! tenants may share a slot by chance (one pair in 16,384): the one that was pinned first decides.
//!
//! What it keeps of the trait's rules, each checked by `conformance::check` (see the tests of this example):
//! - complete: it only changes who owns what in the complete placement of the inner Sharder;
//! - to nodes that may take: it looks for one, and pins nothing if there is none, so that a tenant is served elsewhere
//!   rather than not at all;
//! - hand-offs: of a slot it leaves alone what must stay whole or where it is;
//! - pure and stable: a tenant stays with its present owner while that is one of its nodes, and it looks at nothing but the
//!   view.

use std::collections::BTreeMap;

use softstore_sharding::sharder::{ClusterView, Placement, Sharder};
use softstore_sharding::{NodeId, RangeMap, Slice, Slot};

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct PinnedTenants<S> {
    inner: S,
    /// The nodes that a slot may be on, the preferred one first.
    pins: BTreeMap<Slot, Vec<NodeId>>,
}

impl<S: Sharder> PinnedTenants<S> {
    /// One that pins nothing yet. What is not pinned goes where `inner` wants it; that should not mind if some slots are
    /// elsewhere, as the ring does not.
    #[must_use]
    pub(crate) fn over(inner: S) -> Self {
        Self {
            inner,
            pins: BTreeMap::new(),
        }
    }

    /// Pins the keys with `{tenant}` in them to these nodes, the preferred one first. Nodes that do not exist (yet) do no
    /// harm.
    #[must_use]
    pub(crate) fn pin(mut self, tenant: &str, nodes: &[NodeId]) -> Self {
        let slot = Slot::of_key(format!("{{{tenant}}}").as_bytes());
        self.pins.entry(slot).or_insert_with(|| nodes.to_vec());
        self
    }
}

impl<S: Sharder> Sharder for PinnedTenants<S> {
    fn name(&self) -> &'static str {
        "pinned-tenants"
    }

    fn place(&self, view: &ClusterView<'_>) -> Placement {
        let placement = self.inner.place(view);
        let mut ranges: RangeMap<NodeId> = placement.ranges().iter().cloned().collect();
        for (slot, nodes) in &self.pins {
            let slice = Slice::of_slot(*slot);
            if let Some(home) = home(view, slice, nodes) {
                for part in free_parts(view, slice) {
                    ranges.insert(part, home.clone());
                }
            }
        }
        let ranges = ranges.iter().map(|(slice, node)| (slice, node.clone())).collect();
        let pinned = Placement::new(ranges).expect("only owners were changed");
        pinned.replicated(placement.replicas().to_vec())
    }
}

/// Where a tenant is to live: where it does if that is allowed, else the first of its nodes that may take it.
fn home<'a>(view: &ClusterView<'_>, slice: Slice, nodes: &'a [NodeId]) -> Option<&'a NodeId> {
    let present = view.previous.into_iter().flat_map(|previous| {
        let ranges = previous.ranges().iter();
        ranges.filter(move |(range, _)| range.intersect(slice).is_some())
    });
    let mut staying = present
        .filter(|(_, range)| view.owner_stays(range))
        .filter_map(|(_, range)| nodes.iter().find(|node| **node == range.owner.node));
    let may_take = |name: &&NodeId| {
        let mut takers = view.nodes.iter().filter(|node| node.role.may_take());
        takers.any(|node| node.life.node == **name)
    };
    staying.next().or_else(|| nodes.iter().find(may_take))
}

/// The parts of `slice` that may go elsewhere now. A range whose hand-off is on stays if its owner does, and else moves whole:
/// so only if it lies in the slice whole.
fn free_parts(view: &ClusterView<'_>, slice: Slice) -> Vec<Slice> {
    let Some(previous) = view.previous else {
        return vec![slice];
    };
    let free = previous
        .ranges()
        .iter()
        .filter(|(range, held)| !held.keeps_whole() || (!view.owner_stays(held) && slice.covers(*range)));
    free.filter_map(|(range, _)| range.intersect(slice)).collect()
}
