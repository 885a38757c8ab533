//! Bad days: what happens to real processes in a normal week, outside of the protocol: logs that nobody reads, memory limits,
//! names that two claim, addresses that lead elsewhere, pauses. In each, the cluster stays warm, and says what is wrong.
//!
//! One file for each kind of bad day.

mod comes_back;
mod conditions;
mod dead_cache;
mod founding;
mod honest;
mod invented;
mod memory;
mod overlap;
mod pauses;
mod stuck_logs;
mod twins;
mod two_clusters;
