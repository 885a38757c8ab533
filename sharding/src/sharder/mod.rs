//! The [`Sharder`]: the pluggable policy inside the Assigner, a pure function from a view of the cluster to a placement.
//!
//! A Sharder says only which node is to own which range. What that means (a new `since`, providers, renewals, merges) is
//! the Assigner's work. Nor does a Sharder see time: the Assigner tells it each node's [`NodeRole`].
//!
//! ```text
//!   ClusterView --Sharder::place--> Placement --Assigner--> Assignment
//!
//!   snapshot      a view that owns what it shows, to be placed on another thread
//!   by_name       a view's nodes, for many look-ups
//!   auto          keeps nodes equally busy: load, memory, hot keys
//!   even_range    capacity-weighted even ranges, moves the minimum
//!   ring          consistent hashing with virtual nodes: the static baseline
//!   conformance   what every Sharder must keep, as a function to call from its tests
//! ```

pub mod auto;
mod by_name;
pub mod conformance;
pub mod even_range;
pub mod ring;
mod snapshot;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use thiserror::Error;

use crate::assignment::{Assignment, REPLICAS_MAX, RangeAssignment};
use crate::node::{Life, NodeId, NodeState};
use crate::session::SliceLoad;
use crate::slice::Slice;
use crate::slice_key::SliceKey;
use crate::slice_map::{SliceMap, SliceMapError};

pub use auto::{AutoSharder, Reason};
pub use by_name::NodesByName;
pub use even_range::EvenRange;
pub use ring::Ring;
pub use snapshot::ClusterSnapshot;

/// Decides who is to own what.
///
/// Requires of the caller: at least one node of the view [may take](NodeRole::may_take).
///
/// The implementor MUST:
/// - cover the key space exactly once, in order;
/// - give a range only to a node that may take, or leave it with its present, living and not draining owner;
/// - replicate a range only to nodes that may take, each once, and not to its owner;
/// - neither move, split nor merge a range that lists providers while its owner stays ([`ClusterView::is_pinned`]), and
///   move it whole when its owner leaves;
/// - be pure: the same view gives the same placement; and stable: placed again on its own result, nothing moves (who looks at
///   load may take some rounds to come to rest under one that does not change).
///
/// [`conformance::check`] tests these.
///
/// It SHOULD keep to [`ClusterView::churn_max`]. The Assigner asks it on a thread of its own, so that heartbeats are answered
/// meanwhile; but not for longer than `place_timeout_ms`.
pub trait Sharder: Send + Sync + Debug {
    /// Its name in configuration and status.
    fn name(&self) -> &'static str;

    /// Whether load alone may change what it places. Default false: then it is asked when membership or a hand-off has changed
    /// something. If true it is asked every `balance_interval_ms`, and when something has lost its owner or is about to; of what it
    /// answers then only that is taken.
    fn reacts_to_load(&self) -> bool {
        false
    }

    /// The placement that the cluster should have.
    fn place(&self, view: &ClusterView<'_>) -> Placement;
}

/// All that a Sharder may know.
#[derive(Clone, Debug)]
pub struct ClusterView<'a> {
    /// The present assignment; `None` before the first.
    pub previous: Option<&'a Assignment>,
    /// The living nodes, by name. A range whose owner is not among them has a dead owner.
    pub nodes: Vec<NodeView>,
    /// Load and bytes per slice, as owners and replicas last reported them. May be empty, and may not fit the present ranges.
    /// Where several overlap, what draws on the range is their sum; each is even within itself.
    pub loads: Vec<SliceLoad>,
    /// The hottest keys that nodes reported, hottest first, each once. Their load is part of [`ClusterView::loads`].
    pub hot_keys: Vec<HotKey>,
    /// Most of the data set's bytes that balancing may move now, as a part of them, 0 or more. What must move, because its
    /// owner drains or is dead, moves all the same.
    pub churn_max: f64,
}

/// A single position that draws much load.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct HotKey {
    /// Which.
    pub at: SliceKey,
    /// Operations per second, decayed.
    pub operations_per_second: f64,
}

/// What a Sharder may know of one node.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeView {
    /// Its present life.
    pub life: Life,
    /// What it is doing.
    pub state: NodeState,
    /// Its store's budget in bytes.
    pub capacity_bytes: u64,
    /// Its failure domain; empty if none.
    pub zone: Arc<str>,
    /// What it may be given.
    pub role: NodeRole,
}

/// What a node may be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeRole {
    /// Anything.
    Eligible,
    /// It joined empty after the first assignment and still waits: it takes whole what drains or dies, and nothing else.
    /// (A Sharder that reacts to membership at once may treat it as eligible.)
    Reserve,
    /// It drains: it is given nothing new, and what it owns goes elsewhere.
    Leaving,
}

impl NodeRole {
    /// Whether it may be given something.
    #[must_use]
    pub fn may_take(self) -> bool {
        self != Self::Leaving
    }
}

impl ClusterView<'_> {
    /// The node that lives this life. Looks at one after the other; see [`NodesByName`].
    #[must_use]
    pub fn node(&self, life: &Life) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.life == *life)
    }

    /// Whether the owner of a range stays: it lives and does not drain.
    #[must_use]
    pub fn owner_stays(&self, range: &RangeAssignment) -> bool {
        self.node(&range.owner).is_some_and(|node| node.role.may_take())
    }

    /// Whether a range must stay as it is: it [is kept whole](RangeAssignment::keeps_whole), and its owner stays.
    #[must_use]
    pub fn is_pinned(&self, range: &RangeAssignment) -> bool {
        range.keeps_whole() && self.owner_stays(range)
    }

    /// The present ranges that must stay as they are, with their owners.
    #[must_use]
    pub fn pinned(&self) -> Vec<(Slice, NodeId)> {
        let ranges = self
            .previous
            .into_iter()
            .flat_map(|previous| previous.ranges().iter());
        let nodes = NodesByName::of(self);
        ranges
            .filter(|(_, range)| nodes.is_pinned(range))
            .map(|(slice, range)| (slice, range.owner.node.clone()))
            .collect()
    }
}

/// Who is to own what, complete and in order, and who is to read some of it besides.
#[derive(Clone, PartialEq, Debug)]
pub struct Placement {
    ranges: Vec<(Slice, NodeId)>,
    /// In order; what is not named is not replicated.
    replicas: Vec<(Slice, Vec<NodeId>)>,
    /// In order, each once.
    isolated: Vec<SliceKey>,
    moves: Vec<PlacedMove>,
}

/// Why something is to change hands.
#[derive(Clone, PartialEq, Debug)]
pub struct PlacedMove {
    /// Which range.
    pub slice: Slice,
    /// Who gives it up; `None` if nobody had it, or nobody gives anything up.
    pub from: Option<NodeId>,
    /// Who takes it; `None` if nobody does.
    pub to: Option<NodeId>,
    /// Why.
    pub reason: Reason,
    /// By how many operations per second less the nodes should be above their fair shares, all together. Negative for what
    /// had to be done.
    pub gain: f64,
    /// Bytes to be pulled.
    pub cost_bytes: f64,
    /// Most reads that may miss until they have arrived.
    pub cost_misses: f64,
}

/// Why a placement is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlacementError {
    /// It does not cover the key space exactly once.
    #[error(transparent)]
    Ranges(#[from] SliceMapError),
    /// It gives a range to a node that is dead, draining or unknown.
    #[error("{slice} was given to {node}, which may take nothing")]
    NotATaker {
        /// Which range.
        slice: Slice,
        /// To whom.
        node: NodeId,
    },
    /// It replicates a range to a node that may take nothing, to its owner, to one node twice, or to too many.
    #[error(
        "{0} was replicated to a node that may take nothing, to its owner, to one twice, or to more than {REPLICAS_MAX}"
    )]
    Replicas(Slice),
    /// Two of the ranges that it replicates overlap, or are out of order.
    #[error("{0} was replicated twice, or out of order")]
    ReplicatedTwice(Slice),
    /// It moves or cuts a range whose hand-off is on.
    #[error("{0} was moved or cut while its hand-off is on")]
    Pinned(Slice),
}

impl Placement {
    /// Joins neighbours that go to the same node, and takes the result.
    ///
    /// # Errors
    /// If the ranges do not cover the key space exactly once, in order.
    pub fn new(ranges: Vec<(Slice, NodeId)>) -> Result<Self, SliceMapError> {
        let mut joined: Vec<(Slice, NodeId)> = Vec::with_capacity(ranges.len());
        for (slice, node) in ranges {
            match joined.last_mut() {
                Some((left, owner)) if *owner == node && left.touches(slice) => {
                    *left = Slice::between(left.low(), slice.last()).unwrap_or(*left);
                }
                _ => joined.push((slice, node)),
            }
        }
        let map = SliceMap::new(joined)?;
        Ok(Self {
            ranges: map.iter().map(|(slice, node)| (slice, node.clone())).collect(),
            replicas: Vec::new(),
            isolated: Vec::new(),
            moves: Vec::new(),
        })
    }

    /// The same, with the reasons for what it changes. What is not named is told by the Assigner, as far as that knows.
    #[must_use]
    pub fn because(self, moves: Vec<PlacedMove>) -> Self {
        Self { moves, ..self }
    }

    /// Why it changes what it changes; may be empty.
    #[must_use]
    pub fn moves(&self) -> &[PlacedMove] {
        &self.moves
    }

    /// Whether it places everything where `held` has it.
    #[must_use]
    pub fn is_as_held(&self, held: &Assignment) -> bool {
        let mut placed = self.walk();
        let is_placed = held.ranges().iter().all(|(slice, range)| {
            let owned = placed.next_in(slice).all(|(_, node)| *node == range.owner.node);
            if range.readers.replicas.is_empty() && !self.is_replicated_in(slice) {
                return owned;
            }
            let read = |(_, nodes): &(Slice, &[NodeId])| {
                let replicas = range.readers.replicas.iter().map(|life| &life.node);
                replicas.eq(nodes.iter())
            };
            owned && self.replicas_in(slice).iter().all(read)
        });
        is_placed && self.is_cut_as_held(held)
    }

    /// Whether the positions with ranges of their own are those that `held` has, as far as that can be.
    fn is_cut_as_held(&self, held: &Assignment) -> bool {
        let is_own = |at: &SliceKey| {
            let (slice, range) = held.ranges().get_with_slice(*at);
            slice.width() == 1 || range.keeps_whole()
        };
        let ranges: Vec<(Slice, &RangeAssignment)> = held.ranges().iter().collect();
        let could_merge = |pair: &[(Slice, &RangeAssignment)]| {
            let [(left, before), (right, after)] = pair else {
                return false;
            };
            before == after && !before.keeps_whole() && !self.keeps_apart(*left) && !self.keeps_apart(*right)
        };
        self.isolated.iter().all(is_own) && !ranges.windows(2).any(could_merge)
    }

    /// The same, with ranges of their own for some positions, wherever they go and whoever reads them.
    #[must_use]
    pub fn isolating(self, mut isolated: Vec<SliceKey>) -> Self {
        isolated.sort_unstable();
        isolated.dedup();
        Self { isolated, ..self }
    }

    /// The positions with ranges of their own, in order.
    #[must_use]
    pub fn isolated(&self) -> &[SliceKey] {
        &self.isolated
    }

    /// Whether a slice is a position that is to have a range of its own.
    #[must_use]
    pub fn keeps_apart(&self, slice: Slice) -> bool {
        slice.width() == 1 && self.isolated.binary_search(&slice.low()).is_ok()
    }

    /// Whether a slice holds a position that is to have a range of its own, and others.
    #[must_use]
    pub fn isolates_in(&self, slice: Slice) -> bool {
        let first = self.isolated.partition_point(|at| *at < slice.low());
        let inside = self.isolated.get(first).is_some_and(|at| slice.contains(*at));
        inside && slice.width() > 1
    }

    /// `slice`, cut so that the positions in it that are to have ranges of their own have them.
    #[must_use]
    pub fn cut(&self, slice: Slice) -> Vec<Slice> {
        let first = self.isolated.partition_point(|at| *at < slice.low());
        let inside = self.isolated[first..]
            .iter()
            .take_while(|at| slice.contains(**at));
        let mut parts = Vec::new();
        let mut rest = Some(slice);
        for at in inside {
            let own = Slice::single(*at);
            parts.extend(rest.and_then(|rest| Slice::new(rest.low(), Some(*at))));
            parts.push(own);
            rest = own
                .high_excluded()
                .and_then(|high| Slice::between(high, slice.last()));
        }
        parts.extend(rest);
        parts
    }

    /// The same, with replicas for some slices: nodes that serve reads of it beside its owner. In order; an empty list is the
    /// same as none.
    #[must_use]
    pub fn replicated(self, mut replicas: Vec<(Slice, Vec<NodeId>)>) -> Self {
        replicas.retain(|(_, nodes)| !nodes.is_empty());
        for (_, nodes) in &mut replicas {
            nodes.sort_unstable();
        }
        Self { replicas, ..self }
    }

    /// Who is to own what, in order; neighbours differ.
    #[must_use]
    pub fn ranges(&self) -> &[(Slice, NodeId)] {
        &self.ranges
    }

    /// Which slices are to be replicated, and to whom beside their owner, in order.
    #[must_use]
    pub fn replicas(&self) -> &[(Slice, Vec<NodeId>)] {
        &self.replicas
    }

    /// The parts of `slice`, in order and complete, with the replicas of each.
    #[must_use]
    pub fn replicas_in(&self, slice: Slice) -> Vec<(Slice, &[NodeId])> {
        let first = self
            .replicas
            .partition_point(|(held, _)| held.last() < slice.low());
        let mut parts: Vec<(Slice, &[NodeId])> = Vec::new();
        let mut next = Some(slice.low());
        for (held, nodes) in &self.replicas[first..] {
            let (Some(from), Some(part)) = (next, held.intersect(slice)) else {
                break;
            };
            parts.extend(Slice::new(from, Some(part.low())).map(|gap| (gap, &[][..])));
            parts.push((part, nodes));
            next = part.high_excluded().filter(|high| slice.contains(*high));
        }
        let rest = next.and_then(|from| Slice::between(from, slice.last()));
        parts.extend(rest.map(|rest| (rest, &[][..])));
        parts
    }

    /// The parts of `slice`, in order, with who is to own each.
    pub fn overlapping(&self, slice: Slice) -> impl Iterator<Item = (Slice, &NodeId)> {
        let first = self.ranges.partition_point(|(held, _)| held.last() < slice.low());
        self.ranges[first..]
            .iter()
            .map_while(move |(held, node)| Some((held.intersect(slice)?, node)))
    }

    /// The same as [`Placement::overlapping`] for one slice after the other, in order: each step goes on where the last one ended.
    #[must_use]
    pub fn walk(&self) -> PlacementWalk<'_> {
        PlacementWalk { rest: &self.ranges }
    }

    /// Whether any part of `slice` is to be replicated.
    #[must_use]
    pub fn is_replicated_in(&self, slice: Slice) -> bool {
        let first = self
            .replicas
            .partition_point(|(held, _)| held.last() < slice.low());
        self.replicas
            .get(first)
            .is_some_and(|(held, _)| held.intersect(slice).is_some())
    }

    /// How many positions each node is to own.
    #[must_use]
    pub fn widths(&self) -> BTreeMap<NodeId, u128> {
        let mut widths = BTreeMap::new();
        for (slice, node) in &self.ranges {
            *widths.entry(node.clone()).or_default() += slice.width();
        }
        widths
    }

    /// Checks the rules of [`Sharder`] that a single placement can break.
    ///
    /// # Errors
    /// The first range that breaks one.
    pub fn check(&self, view: &ClusterView<'_>) -> Result<(), PlacementError> {
        let nodes = NodesByName::of(view);
        for (slice, node) in &self.ranges {
            if !nodes.may_take(node) {
                return Err(PlacementError::NotATaker {
                    slice: *slice,
                    node: node.clone(),
                });
            }
        }
        let ranges = view
            .previous
            .into_iter()
            .flat_map(|previous| previous.ranges().iter());
        for (slice, range) in ranges.filter(|(_, range)| range.keeps_whole()) {
            let mut takers = self.overlapping(slice);
            let taker = takers.next().map(|(_, node)| node);
            let stays = taker == Some(&range.owner.node) || !nodes.owner_stays(range);
            let is_cut = takers.next().is_some() || self.replicas_in(slice).len() > 1;
            if is_cut || !stays {
                return Err(PlacementError::Pinned(slice));
            }
        }
        self.check_replicas(&nodes)
    }

    fn check_replicas(&self, takers: &NodesByName<'_>) -> Result<(), PlacementError> {
        let mut last = None;
        for (slice, nodes) in &self.replicas {
            if last.is_some_and(|last| last >= slice.low()) {
                return Err(PlacementError::ReplicatedTwice(*slice));
            }
            last = Some(slice.last());
            let mut owners = self.overlapping(*slice);
            let is_distinct = nodes.windows(2).all(|pair| pair[0] < pair[1]);
            let may_take = nodes.iter().all(|node| takers.may_take(node));
            if !is_distinct
                || !may_take
                || nodes.len() > REPLICAS_MAX
                || owners.any(|(_, owner)| nodes.contains(owner))
            {
                return Err(PlacementError::Replicas(*slice));
            }
        }
        Ok(())
    }
}

/// A walk over a [`Placement`] along slices that ascend.
#[derive(Clone, Copy, Debug)]
pub struct PlacementWalk<'a> {
    /// What ends no earlier than the last slice began.
    rest: &'a [(Slice, NodeId)],
}

impl<'a> PlacementWalk<'a> {
    /// The parts of `slice`, in order, with who is to own each.
    ///
    /// Requires: `slice` begins no earlier than the one before it.
    pub fn next_in(&mut self, slice: Slice) -> impl Iterator<Item = (Slice, &'a NodeId)> + use<'a> {
        let over = self.rest.iter().take_while(|(held, _)| held.last() < slice.low());
        self.rest = &self.rest[over.count()..];
        self.rest
            .iter()
            .map_while(move |(held, node)| Some((held.intersect(slice)?, node)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(low: u64, last: u64) -> Slice {
        Slice::between(SliceKey::new(low), SliceKey::new(last)).unwrap()
    }

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn replicated(replicas: &[(Slice, &[&str])]) -> Placement {
        let replicas = replicas.iter().map(|(slice, nodes)| {
            let nodes = nodes.iter().map(|name| id(name)).collect();
            (*slice, nodes)
        });
        let whole = Placement::new(vec![(Slice::FULL, id("a"))]).unwrap();
        whole.replicated(replicas.collect())
    }

    #[test]
    fn a_slice_is_cut_where_its_replicas_change() {
        let placement = replicated(&[(slice(10, 19), &["b"]), (slice(20, 20), &["b", "c"])]);
        let parts = |low, last| -> Vec<(Slice, usize)> {
            let parts = placement.replicas_in(slice(low, last)).into_iter();
            parts.map(|(part, nodes)| (part, nodes.len())).collect()
        };
        assert_eq!(parts(0, 9), [(slice(0, 9), 0)]);
        assert_eq!(
            parts(5, 30),
            [
                (slice(5, 9), 0),
                (slice(10, 19), 1),
                (slice(20, 20), 2),
                (slice(21, 30), 0)
            ]
        );
        assert_eq!(parts(12, 14), [(slice(12, 14), 1)]);
        assert_eq!(parts(20, 20), [(slice(20, 20), 2)]);
        let all = slice(5, u64::MAX);
        let parts = placement.replicas_in(all);
        assert_eq!(
            parts.iter().map(|(part, _)| part.width()).sum::<u128>(),
            all.width()
        );
    }

    /// Plan: one owner, `a`; `b` and `c` may take, `d` drains. Whatever replicas break a rule are refused.
    #[test]
    fn replicas_that_break_a_rule_are_refused() {
        let node = |name: &str, role| NodeView {
            life: Life {
                node: id(name),
                incarnation: crate::generation::Incarnation::new(1),
            },
            state: NodeState::Serving,
            capacity_bytes: 1,
            zone: "".into(),
            role,
        };
        let view = ClusterView {
            previous: None,
            nodes: vec![
                node("a", NodeRole::Eligible),
                node("b", NodeRole::Eligible),
                node("c", NodeRole::Reserve),
                node("d", NodeRole::Leaving),
            ],
            loads: Vec::new(),
            hot_keys: Vec::new(),
            churn_max: 1.0,
        };
        let check = |replicas: &[(Slice, &[&str])]| replicated(replicas).check(&view);
        let at = slice(3, 3);
        assert_eq!(check(&[(at, &["c", "b"]), (slice(4, 9), &["b"])]), Ok(()));
        for nodes in [&["a"][..], &["d"], &["nobody"], &["b", "b"]] {
            assert_eq!(
                check(&[(at, nodes)]),
                Err(PlacementError::Replicas(at)),
                "{nodes:?}"
            );
        }
        let twice = check(&[(slice(3, 5), &["b"]), (slice(5, 6), &["c"])]);
        assert_eq!(twice, Err(PlacementError::ReplicatedTwice(slice(5, 6))));
    }
}
