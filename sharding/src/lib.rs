//! Keys, slices, assignments, and the state machines of the control plane.
//!
//! This crate is pure: no sockets, no clocks, no tasks, no randomness. Each protocol decision is a state machine
//! `step(event, now) -> actions`; the server, the client and the simulation carry the actions out.
//!
//! ```text
//!   key bytes --SliceKey::of_key--> SliceKey --Assignment::range_at--> owner, since
//!
//!   slice_key, slice       positions and ranges of them
//!   slice_map, range_map   complete map with fast lookup; map with gaps for per-range state
//!   generation, time       stamps and versions; the clock the cores are given
//!   holding                names local to one node: epochs, pulls, frequency classes
//!   identity               which cluster, which founding of it, which process of a name
//!   node, assignment, diff who is alive, who owns what, who may still hold it; what changed
//!   planted                deliberate mistakes, for the simulation only
//!   session                what nodes and the Assigner say to each other
//!
//!   load                   what a node measures of its slices: decayed rates, heavy hitters, resident bytes
//!   sharder                the pluggable policy: (view of the cluster) -> placement
//!   assigner               the control plane: who lives, what the next assignment is, who is told
//!   slicelet               a node's side of it: session, heartbeats, adopting, suspending, draining
//!   clerk                  a client's side of it: where an operation on a key goes
//! ```
//!
//! ```text
//!   Clerk <--Assignment-- node [Slicelet] <--session--> [Assigner --ClusterView--> Sharder]
//! ```

pub mod assigner;
pub mod assignment;
pub mod clerk;
pub mod diff;
pub mod generation;
pub mod holding;
pub mod identity;
pub mod load;
pub mod node;
pub mod planted;
pub mod range_map;
pub mod session;
pub mod sharder;
pub mod slice;
pub mod slice_key;
pub mod slice_map;
pub mod slicelet;
pub mod time;

pub use assigner::{
    Assigner, AssignerAction, AssignerConfig, AssignerEvent, ClusterStatus, NodeStatus, SessionId,
};
pub use assignment::{Assignment, AssignmentError, Provider, REVIVAL_MS_MAX, RangeAssignment, Readers};
pub use clerk::{Clerk, Route};
pub use diff::{AssignmentDiff, DiffError};
pub use generation::{Generation, Incarnation, Version, VersionCounter};
pub use holding::{Epoch, FrequencyClass, PullId};
pub use identity::{ClusterId, ClusterName, ForeignCluster, Founding, ProcessId};
pub use node::{Life, NodeEntry, NodeId, NodeState, Peer};
pub use range_map::RangeMap;
pub use sharder::{ClusterView, Placement, Sharder};
pub use slice::Slice;
pub use slice_key::{SLOT_COUNT, SliceKey, Slot};
pub use slice_map::SliceMap;
pub use slicelet::{Slicelet, SliceletAction, SliceletConfig, SliceletEvent};
pub use time::Timestamp;
