//! The engine's threads under an explorer's schedules (features `shuttle` and `loom`; see `softstore-sync`). Each scenario
//! is a few threads with a few operations; each property must hold however their steps interleave.
//!
//! ```text
//!   pulls      H3: imports against writes, evictions and the end of their pull
//!   versions   H4: versions, conditions and sums
//!   residents  what the index, moka and the gauges say of what is resident; expiry; purges
//!   orderings  (loom) marks, debts and the overflow's flag, with their memory orderings
//! ```
//!
//! To explore more than CI does, and to replay what was found: `docs/testing.md`.

#[cfg(feature = "loom")]
mod orderings;
#[cfg(feature = "shuttle")]
mod pulls;
#[cfg(feature = "shuttle")]
mod residents;
#[cfg(feature = "shuttle")]
mod rig;
#[cfg(feature = "shuttle")]
mod versions;
