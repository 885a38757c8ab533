//! The AutoSharder: keeps every node equally busy, isolates the hot key, and moves as little as possible.
//!
//! [`plan`] is a pure function from a [`Cluster`] to a [`Plan`] that says for each change why it was made, what it should gain and
//! what it should cost. Its phases, in order, each of which takes what the ones before left:
//!
//! ```text
//!   membership   what drains or died goes to a reserve, or is spread once hot keys have their places; no budget holds it up
//!   hot          hot keys get slices of their own, replicas, and nodes that are large enough; what has cooled is taken back
//!   memory       who holds too many bytes gives cold ones away
//!   level        who bears too much load gives just the excess away; who bears too little is given
//!   shape        how many slices there are
//!
//!   cluster, settings, plan   what goes in and comes out
//!   density                   load over the key space: weighs and cuts any range
//!   work                      the plan in the making
//!   forecast                  whether the load of the last round says anything about the next
//!   sharder                   the same as a `Sharder` of the Assigner
//! ```
//!
//! What moves in a round is settled: no later phase of it touches that again. So a round is bounded by the pieces there are, and
//! by `looks_max`; and whatever it has decided when it ends is a valid placement, and a better one than before.

mod cluster;
mod density;
mod forecast;
mod hot;
mod level;
mod membership;
mod memory;
mod plan;
mod settings;
mod shape;
mod sharder;
#[cfg(test)]
mod tests;
mod work;

pub use cluster::{Cluster, HotSpot, Node, NodeIndex, Part, Piece, Standing};
pub use forecast::Forecast;
pub use plan::{Move, Plan, Reason};
pub use settings::{Settings, SettingsError};
pub use sharder::{AutoSharder, IDLE_OPERATIONS_PER_SECOND, imbalance};

use work::Work;

/// What the cluster should have. Pure, and the same for the same cluster.
///
/// Requires of the caller: pieces that cover the key space exactly once, in order; settings that are
/// [valid](Settings::validate). Where no node may take anything, all stays as it is.
#[must_use]
pub fn plan(cluster: &Cluster, settings: &Settings) -> Plan {
    let mut work = Work::new(cluster, settings);
    membership::fill_reserves(&mut work);
    hot::rejoin_cooled(&mut work);
    hot::isolate(&mut work);
    membership::place_hot_orphans(&mut work);
    hot::replicate(&mut work);
    membership::spread(&mut work);
    hot::rehome(&mut work);
    memory::relieve(&mut work);
    level::relieve(&mut work);
    level::fill_underused(&mut work);
    shape::split_to_minimum(&mut work);
    shape::merge_to_maximum(&mut work);
    work.finish()
}
