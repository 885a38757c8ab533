//! The Assigner, the Sharder and the slicelets together, over a network without delay: what a fleet goes through.
//!
//! What belongs where: `fleet` the fleet itself; `restarts` planned moves; `deaths` unplanned ones, and standstills;
//! `recovery` a new Assigner; `sessions` what single messages do; `load` what nodes measure; `chaos` random lives.

mod chaos;
mod deaths;
mod fleet;
mod load;
mod recovery;
mod restarts;
mod sessions;
