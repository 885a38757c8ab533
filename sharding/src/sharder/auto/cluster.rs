//! What the planner is told: nodes with capacities, pieces with owners, and where load and bytes lie.
//!
//! Loads need not fit the pieces: several reports inside one piece say where it can be cut, and one report over several pieces
//! is divided by width. What no report covers has no load.

use std::sync::Arc;

use crate::slice::Slice;
use crate::slice_key::SliceKey;

/// A node of a [`Cluster`], by its place in [`Cluster::nodes`].
pub type NodeIndex = u32;

/// What the planner looks at.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// All nodes that are named as owners, the dead too.
    pub nodes: Vec<Node>,
    /// Who owns what: complete and in order. Empty: nothing was placed yet.
    pub pieces: Vec<Piece>,
    /// Where load and bytes lie, in any order. What lies under an earlier one is not counted twice.
    pub loads: Vec<Part>,
    /// Single positions that draw much load. It is part of what [`Cluster::loads`] says of their surroundings.
    pub hot_keys: Vec<HotSpot>,
}

/// A node.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// Its name, which survives restarts: a leaver is paired with a reserve of its own name first.
    pub name: Arc<str>,
    /// How much load it bears, in load units (operations of mean cost per second). Above 0.
    pub capacity_load: f64,
    /// Its store's budget.
    pub capacity_bytes: u64,
    /// Its failure domain; empty if none. Replicas are spread over zones.
    pub zone: Arc<str>,
    /// What it may be given.
    pub standing: Standing,
}

/// What a node may be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Anything.
    Eligible,
    /// It is empty and waits to take whole what drains or dies.
    Reserve,
    /// It drains: what it owns goes elsewhere, and can be pulled from it.
    Leaving,
    /// It is gone, with all it had.
    Dead,
}

/// A range with its owners.
#[derive(Clone, PartialEq, Debug)]
pub struct Piece {
    /// Which range.
    pub slice: Slice,
    /// Its replicas, primary first. Empty: nobody's.
    pub owners: Vec<NodeIndex>,
    /// A hand-off of it is on: it is neither moved, split nor merged while an owner stays, and moves whole.
    pub is_pinned: bool,
}

/// Load and bytes of a range, taken to be spread evenly over it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Part {
    /// Which range.
    pub slice: Slice,
    /// Load units.
    pub load: f64,
    /// Resident bytes.
    pub bytes: f64,
    /// Reads per second that find their key: what a move of it may turn into misses.
    pub hits: f64,
}

/// A single position that draws much load.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct HotSpot {
    /// Which.
    pub at: SliceKey,
    /// Load units.
    pub load: f64,
    /// Bytes of its entry.
    pub bytes: f64,
}
