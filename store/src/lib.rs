//! The storage engines of a cache node behind one trait, and the conformance suite that they all pass.
//!
//! Synchronous, and without a clock of its own: time is passed in.

pub mod store;

pub use store::{
    Absence, Added, Found, Frozen, Import, ImportOutcome, KEY_BYTES_MAX, Listing, OpContext, Outcome, Part,
    PartStats, SetCondition, SetOutcome, Store, StoreError, StoreStats,
};
