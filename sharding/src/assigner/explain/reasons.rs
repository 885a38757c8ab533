//! Why a placement changes what it changes: the Sharder's reasons, laid over what changes hands, and what is known where it names
//! none.

use std::cell::LazyCell;

use crate::node::NodeId;
use crate::session::SliceLoad;
use crate::sharder::{ClusterView, NodeRole, NodesByName, PlacedMove, Placement, Reason};
use crate::slice::Slice;

/// So many of the Sharder's moves that begin near a range are looked through for the one that tells of it.
const NEAR_MAX: usize = 64;

/// What `placement` changes against what is held, each with its reason: the Sharder's if it names one. `loads`: as in
/// [`ClusterView::loads`].
pub(in crate::assigner) fn moves_of(
    view: &ClusterView<'_>,
    loads: &[SliceLoad],
    placement: &Placement,
) -> Vec<PlacedMove> {
    let Some(previous) = view.previous else {
        return Vec::new();
    };
    let told = Told::new(placement.moves());
    // Sorting all that is reported is for what the Sharder has not told of.
    let bytes = LazyCell::new(|| Bytes::new(loads.iter()));
    let nodes = NodesByName::of(view);
    let role = |node: &NodeId| nodes.named(node).map(|held| held.role);
    let mut placed = placement.walk();
    let mut moves = Vec::new();
    for (slice, range) in previous.ranges().iter() {
        let from = nodes.node(&range.owner);
        for (part, node) in placed.next_in(slice) {
            if from.is_some_and(|from| from.life.node == *node) {
                continue;
            }
            let named = from.map(|from| &from.life.node);
            if let Some(told) = told.find(part, Some(node)) {
                moves.push(told);
                continue;
            }
            let reason = match from.map(|from| from.role) {
                None => Reason::LostNode,
                Some(NodeRole::Leaving) if role(node) == Some(NodeRole::Reserve) => Reason::ReserveFill,
                Some(NodeRole::Leaving) => Reason::Drain,
                Some(_) => Reason::Underused,
            };
            moves.push(PlacedMove {
                slice: part,
                from: named.cloned(),
                to: Some(node.clone()),
                reason,
                gain: 0.0,
                cost_bytes: if from.is_some() { bytes.of(part) } else { 0.0 },
                cost_misses: 0.0,
            });
        }
    }
    let only_read = |reason: Reason| {
        matches!(
            reason,
            Reason::Replicated | Reason::Dereplicated | Reason::HotKeyIsolated
        )
    };
    let of_replicas = placement.moves().iter().filter(|change| only_read(change.reason));
    moves.extend(of_replicas.cloned());
    moves
}

/// The Sharder's reasons, by range.
struct Told<'a> {
    by_low: Vec<&'a PlacedMove>,
}

impl<'a> Told<'a> {
    fn new(moves: &'a [PlacedMove]) -> Self {
        let mut by_low: Vec<&PlacedMove> = moves.iter().filter(|change| change.to.is_some()).collect();
        by_low.sort_by_key(|change| change.slice.low());
        Self { by_low }
    }

    /// The reason why a range goes to a node, with its part of gain and cost.
    fn find(&self, slice: Slice, to: Option<&NodeId>) -> Option<PlacedMove> {
        let end = self
            .by_low
            .partition_point(|change| change.slice.low() <= slice.low());
        // What moves in a round does not move in it again, but a cut of it may be told as well.
        let near = self.by_low[..end].iter().rev().take(NEAR_MAX);
        let covers = |change: &&&PlacedMove| change.slice.covers(slice) && change.to.as_ref() == to;
        let found = near.clone().find(covers).copied().or_else(|| {
            // Several pieces of the Sharder's may be one range: the first of them tells why.
            let inside = self.by_low[end.saturating_sub(1)..].iter().take(NEAR_MAX);
            inside
                .filter(|change| change.to.as_ref() == to)
                .find(|change| change.slice.intersect(slice).is_some())
                .copied()
        })?;
        let part = (slice.width() as f64 / found.slice.width() as f64).min(1.0);
        let is_part = found.slice.covers(slice);
        let scale = if is_part { part } else { 1.0 };
        Some(PlacedMove {
            slice,
            gain: found.gain * scale,
            cost_bytes: found.cost_bytes * scale,
            cost_misses: found.cost_misses * scale,
            ..found.clone()
        })
    }
}

/// Bytes over the key space, as reported.
pub(in crate::assigner) struct Bytes<'a> {
    by_last: Vec<&'a SliceLoad>,
}

impl<'a> Bytes<'a> {
    pub(in crate::assigner) fn new(loads: impl Iterator<Item = &'a SliceLoad>) -> Self {
        let mut by_last: Vec<&SliceLoad> = loads.filter(|load| load.bytes > 0).collect();
        by_last.sort_by_key(|load| load.slice.last());
        Self { by_last }
    }

    pub(in crate::assigner) fn whole(&self) -> f64 {
        self.by_last.iter().map(|load| load.bytes as f64).sum()
    }

    pub(in crate::assigner) fn of(&self, slice: Slice) -> f64 {
        let first = self
            .by_last
            .partition_point(|load| load.slice.last() < slice.low());
        let near = self.by_last[first..].iter();
        near.map_while(|load| {
            let part = load.slice.intersect(slice)?;
            Some(load.bytes as f64 * part.width() as f64 / load.slice.width() as f64)
        })
        .sum()
    }
}
