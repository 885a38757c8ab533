//! The [`Sharder`]: the pluggable policy inside the Assigner, a pure function from a view of the cluster to a placement.
//!
//! A Sharder says only which node is to own which range. What that means (a new `since`, providers, renewals, merges) is
//! the Assigner's work. Nor does a Sharder see time: the Assigner tells it each node's [`NodeRole`].
//!
//! ```text
//!   ClusterView --Sharder::place--> Placement --Assigner--> Assignment
//!
//!   auto          keeps nodes equally busy: load, memory, hot keys
//!   even_range    capacity-weighted even ranges, moves the minimum; the default
//!   ring          consistent hashing with virtual nodes: the static baseline
//!   conformance   what every Sharder must keep, as a function to call from its tests
//! ```

pub mod auto;
pub mod conformance;
pub mod even_range;
pub mod ring;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use thiserror::Error;

use crate::assignment::{Assignment, RangeAssignment};
use crate::node::{Life, NodeId, NodeState};
use crate::session::SliceLoad;
use crate::slice::Slice;
use crate::slice_key::SliceKey;
use crate::slice_map::{SliceMap, SliceMapError};

pub use auto::AutoSharder;
pub use even_range::EvenRange;
pub use ring::Ring;

/// Decides who is to own what.
///
/// Requires of the caller: at least one node of the view [may take](NodeRole::may_take).
///
/// The implementor MUST:
/// - cover the key space exactly once, in order;
/// - give a range only to a node that may take, or leave it with its present, living and not draining owner;
/// - neither move, split nor merge a range that lists providers while its owner stays ([`ClusterView::is_pinned`]), and
///   move it whole when its owner leaves;
/// - be pure: the same view gives the same placement; and stable: placed again on its own result, nothing moves.
///
/// [`conformance::check`] tests these.
pub trait Sharder: Send + Debug {
    /// Its name in configuration and status.
    fn name(&self) -> &'static str;

    /// The placement that the cluster should have.
    fn place(&self, view: &ClusterView<'_>) -> Placement;
}

/// The shipped Sharder with this [`Sharder::name`], with its default settings.
#[must_use]
pub fn by_name(name: &str) -> Option<Box<dyn Sharder>> {
    let shipped: [Box<dyn Sharder>; 3] = [
        Box::new(EvenRange),
        Box::new(Ring::default()),
        Box::new(AutoSharder::default()),
    ];
    shipped.into_iter().find(|sharder| sharder.name() == name)
}

/// All that a Sharder may know.
#[derive(Clone, Debug)]
pub struct ClusterView<'a> {
    /// The present assignment; `None` before the first.
    pub previous: Option<&'a Assignment>,
    /// The living nodes, by name. A range whose owner is not among them has a dead owner.
    pub nodes: Vec<NodeView>,
    /// Load and bytes per slice, as the owners last reported them. May be empty, and may not fit the present ranges.
    pub loads: Vec<SliceLoad>,
    /// The hottest keys that the owners reported, hottest first. Empty until nodes report them.
    pub hot_keys: Vec<HotKey>,
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
    /// The node that lives this life.
    #[must_use]
    pub fn node(&self, life: &Life) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.life == *life)
    }

    /// Whether the owner of a range stays: it lives and does not drain.
    #[must_use]
    pub fn owner_stays(&self, range: &RangeAssignment) -> bool {
        self.node(&range.owner).is_some_and(|node| node.role.may_take())
    }

    /// Whether a range must stay as it is: a hand-off of it is on, and its owner stays.
    #[must_use]
    pub fn is_pinned(&self, range: &RangeAssignment) -> bool {
        !range.providers.is_empty() && self.owner_stays(range)
    }

    /// The present ranges that must stay as they are, with their owners.
    #[must_use]
    pub fn pinned(&self) -> Vec<(Slice, NodeId)> {
        let ranges = self
            .previous
            .into_iter()
            .flat_map(|previous| previous.ranges().iter());
        ranges
            .filter(|(_, range)| self.is_pinned(range))
            .map(|(slice, range)| (slice, range.owner.node.clone()))
            .collect()
    }
}

/// Who is to own what, complete and in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement(Vec<(Slice, NodeId)>);

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
        Ok(Self(
            map.iter().map(|(slice, node)| (slice, node.clone())).collect(),
        ))
    }

    /// Who is to own what, in order; neighbours differ.
    #[must_use]
    pub fn ranges(&self) -> &[(Slice, NodeId)] {
        &self.0
    }

    /// The parts of `slice`, in order, with who is to own each.
    pub fn overlapping(&self, slice: Slice) -> impl Iterator<Item = (Slice, &NodeId)> {
        let first = self.0.partition_point(|(held, _)| held.last() < slice.low());
        self.0[first..]
            .iter()
            .map_while(move |(held, node)| Some((held.intersect(slice)?, node)))
    }

    /// How many positions each node is to own.
    #[must_use]
    pub fn widths(&self) -> BTreeMap<NodeId, u128> {
        let mut widths = BTreeMap::new();
        for (slice, node) in &self.0 {
            *widths.entry(node.clone()).or_default() += slice.width();
        }
        widths
    }

    /// Checks the rules of [`Sharder`] that a single placement can break.
    ///
    /// # Errors
    /// The first range that breaks one.
    pub fn check(&self, view: &ClusterView<'_>) -> Result<(), PlacementError> {
        for (slice, node) in &self.0 {
            let takes = |candidate: &NodeView| candidate.life.node == *node && candidate.role.may_take();
            if !view.nodes.iter().any(takes) {
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
        for (slice, range) in ranges.filter(|(_, range)| !range.providers.is_empty()) {
            let mut takers = self.overlapping(slice);
            let taker = takers.next().map(|(_, node)| node);
            let stays = taker == Some(&range.owner.node) || !view.owner_stays(range);
            if takers.next().is_some() || !stays {
                return Err(PlacementError::Pinned(slice));
            }
        }
        Ok(())
    }
}
