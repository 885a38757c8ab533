//! What a node measures of its slices: operations, bytes, hits, an estimate of processor time, resident bytes, and the
//! keys that draw much load by themselves. Pure: counts and moments go in, rates come out.
//!
//! ```text
//!   each operation --> Tally (one of several; counts by slot, and a sample for its Sketch)
//!                        |
//!   each heartbeat       v   Fold: decays, then adds what the tallies counted
//!                      Window --+--> rates of a slice
//!                        |      +--> HotKeys --> HotKeyLoad
//!                        v
//!   Memory ---------->  cut::reports --> at most SLICE_REPORTS_MAX SliceLoads, cut by load
//!
//!   tally, atoms: counted   sketch, hot_keys: heavy hitters   window: rates   memory, cut: what is reported
//! ```
//!
//! **Counting.** A slice is a run of Redis slots, nearly always, so a tally counts by slot: one table look-up and a few
//! additions per operation, whatever the slices are. A slot that is cut finer (a hot key that was isolated) is counted by
//! its pieces: the last few are at hand, and others take a search.
//!
//! **Rates** are exponentially decayed, with a half-life of [`HALF_LIFE_MS`]: a step in load is seen to a half after one
//! second and to 97% after five. A slot that a node has just got has a history of less than that, and is divided by the
//! weight that its history has, as if it had been there for the whole of the first interval: taken late in that, it seems to
//! climb for some seconds, in which the Assigner goes by what was known of it before (`assigner/loads`).
//!
//! **Heavy hitters** are found by Space-Saving (Metwally, Agrawal, El Abbadi: "Efficient computation of frequent and top-k
//! elements in data streams", 2005) over a sample of the operations. It was taken over HeavyKeeper (Gong et al., 2018),
//! which is more exact in the same memory for keys in the middle, since here
//! - what it says is never wrong by more than it says: each key carries its own bound, which a sharder must know before it
//!   moves something; HeavyKeeper's holds with some probability;
//! - summaries add up and can be decayed with the bound kept (Cafaro, Pulimeno, Tempesta: "A parallel space saving
//!   algorithm for frequent items and the Hurwitz zeta distribution", 2016), and there is one per thread;
//! - keys in the middle do not matter: only one that is a good part of a node's load can be helped by a slice of its own.
//!
//! The summary is cut into [`SETS`] sets of [`WAYS`] by the low bits of the position (a hash), as a processor's cache is: a
//! look-up compares 8 numbers, and there is neither a heap nor a table to keep. **The bound:** a key's sampled rate is
//! overestimated by at most 1/[`WAYS`] of what its set got, on average 1/512 of the node's load, and any key with more than
//! that is in the summary. Sampling adds noise: a key that draws `r` operations a second is off by more than
//! `3 sqrt(SAMPLE_GAP_MEAN r ln 2 / (2 half-life))` in one of some hundred looks only: 3.2% of `r` at 100,000 a second,
//! 10% at 10,000, 32% at 1,000. [`HotKeyLoad::error_per_second`](crate::session::HotKeyLoad) is the sum of both.

mod atoms;
pub mod cut;
mod hot_keys;
mod memory;
mod sketch;
mod tally;
#[cfg(test)]
mod tests;
mod window;

use std::ops::AddAssign;

pub use hot_keys::{HOT_KEYS_MAX, HOT_SHARE_MIN};
pub use memory::Memory;
pub use sketch::{KeyPrefix, SETS, WAYS};
pub use tally::{SAMPLE_GAP_MEAN, Served, Tally, Was};
pub use window::{FOLD_INTERVAL_MS_MIN, Fold, HALF_LIFE_MS, Window};

/// Most parts that a node reports its load in, unless it owns more ranges than that: then one for each.
pub const SLICE_REPORTS_MAX: usize = 256;

/// Processor time of an operation, in nanoseconds: reading it, finding its entry, and answering. This and the two below only
/// say how much heavier one slice is than another: what all take together is measured ([`Window::busy_us`]).
const OPERATION_NS: f64 = 1_000.0;

/// What a write costs beyond that, in nanoseconds.
const WRITE_EXTRA_NS: f64 = 1_000.0;

/// What a byte of key or value costs, in nanoseconds: it is copied some times, in the process and out of it.
const BYTE_NS: f64 = 0.35;

/// How much of something happens in a second, decayed.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Rates {
    /// Operations served.
    pub operations: f64,
    /// Of which others than gets.
    pub writes: f64,
    /// Gets that found something.
    pub hits: f64,
    /// Bytes of keys and values, in and out.
    pub bytes: f64,
}

impl Rates {
    /// Microseconds of processor time per second that these operations would take by the weights above: by this a node's
    /// busy time is shared out among its slices.
    #[must_use]
    pub fn cpu_weight(&self) -> f64 {
        (self.operations * OPERATION_NS + self.writes * WRITE_EXTRA_NS + self.bytes * BYTE_NS) / 1_000.0
    }

    fn times(&self, factor: f64) -> Self {
        Self {
            operations: self.operations * factor,
            writes: self.writes * factor,
            hits: self.hits * factor,
            bytes: self.bytes * factor,
        }
    }
}

impl AddAssign for Rates {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.writes += other.writes;
        self.hits += other.hits;
        self.bytes += other.bytes;
    }
}
