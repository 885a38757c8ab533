//! The Assigner, the Sharder and the slicelets together, over a network without delay: what a fleet goes through.
//!
//! What belongs where: `fleet` the fleet itself; `restarts` planned moves; `deaths` unplanned ones, and standstills; `revival` nodes
//! that were only away; `doubts` members
//! that cannot be relied on; `recovery` a new Assigner; `sessions` what single messages do; `names` two processes of one name,
//! `founding` clusters that are founded, and those that meet, both at the `desk`; `load` what nodes measure; `balance` what the
//! Assigner does about it; `read_leases` how long former replicas count; `rounds` a Sharder that takes its time; `chaos` random lives.

mod balance;
mod chaos;
mod deaths;
mod desk;
mod doubts;
mod fleet;
mod founding;
mod load;
mod names;
mod read_leases;
mod recovery;
mod restarts;
mod revival;
mod rounds;
mod sessions;
