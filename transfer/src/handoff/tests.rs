//! The hand-off core against hand-made assignments. Whole clusters with faults are simulated in the crate `sim`.
//!
//! ```text
//!   cluster     several cores and what is on its way between them, delivered when a test says so
//!   answers     what a provider answers to a Take
//!   belief      acquisitions that nobody gave out, and those not heard of yet
//!   lifecycle   a node drained, born again, without transfer
//!   moves       who serves when: plain moves, swaps, A -> B -> A, renewals, deaths
//!   revival     what a node held that was only away
//!   replicas    read leases: granted, recalled, waited for, and what is read under them
//!   pulls       what still arrives, where it may go, and when it ends
//! ```

mod answers;
mod belief;
mod cluster;
mod lifecycle;
mod moves;
mod pulls;
mod replicas;
mod revival;
