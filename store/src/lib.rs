//! The storage engines of a cache node behind one trait, and the conformance suite that they all pass.
//!
//! Synchronous, and without a clock of its own: time is passed in.
//!
//! ```text
//!   store          the trait: what the caller guarantees, what an engine must do
//!   moka_engine    the engine that nodes run
//!   model          the engine that the simulation runs: one lock, one map, the same answers
//!   conformance    the suite that both pass, and every later engine
//!   frequency      how hot an entry is (shared by the engines, so that classes mean the same)
//!   rules          which keys, values, conditions and numbers are accepted (shared as well)
//! ```

pub mod conformance;
pub mod frequency;
pub mod model;
pub mod moka_engine;
mod rules;
pub mod store;

pub use frequency::FREQUENCY_HALF_LIFE_MS;
pub use model::{ModelStore, ModelStoreConfig};
pub use moka_engine::{MokaStore, MokaStoreConfig};
pub use store::{
    Absence, Added, Found, Frozen, Import, ImportOutcome, KEY_BYTES_MAX, Listing, OpContext, Outcome, Part,
    PartStats, Reading, SetCondition, SetOutcome, Store, StoreError, StoreStats,
};

/// The Rust in `docs/architecture.md`, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/architecture.md")]
pub struct ArchitecturePage;
