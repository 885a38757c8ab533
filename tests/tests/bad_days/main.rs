//! Bad days: what happens to real processes in a normal week, outside of the protocol: logs that nobody reads, memory limits,
//! names that two claim, addresses that lead elsewhere, pauses. In each, the cluster stays warm, and says what is wrong.
//!
//! One file for each kind of bad day.

mod dead_cache;
mod founding;
mod honest;
mod invented;
mod overlap;
mod pauses;
mod twins;
mod two_clusters;
