//! What the benches and the side-by-side runs have in common. Nothing else uses this crate.
//!
//! ```text
//!   workload      keys, values and picks among them, the same in every run
//!   assignments   assignments of as many slices as wanted
//!   cluster       an Assigner and nodes in this process
//!   measured      medians, and whether this is a smoke run
//!
//!   benches/*.rs          one criterion bench per concern
//!   bin/against_redis     the native client against redis-rs on a local Redis
//!   bin/service_gaps      how long a slice is without service when it moves, or its owner is killed
//! ```
//!
//! What they show, and what was measured, stands in `benches/README.md`.

pub mod assignments;
pub mod cluster;
pub mod measured;
pub mod workload;

/// The allocator of the `softstore` binary, so that everything here is measured as it is run.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
