//! Runs a small protocol under every schedule (feature `loom`), and with every value that a read may see by C11's memory
//! model, as far as loom models it: what the orderings of atomics are there for shows here and nowhere else.
//!
//! loom reads variables of its own: `LOOM_MAX_PREEMPTIONS` (more than the test says takes longer), `LOOM_LOG=trace` and
//! `LOOM_LOCATION=1` to see what a failing execution did. It stops at the first, and comes to it again each time.

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::model::Builder;

use crate::planted::{Planting, Race};

pub use loom::thread;

/// Runs `scenario` under every schedule that preempts threads at most `preemptions` times (beside where they wait).
///
/// # Panics
/// If a thread panics, or all of them wait, under some schedule.
pub fn exhaust(preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 20_000;
    builder.check(scenario);
}

/// Runs `scenario` with a race planted.
///
/// # Panics
/// If it is not found: then the scenario says little about the code without it.
pub fn find(race: Race, preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
    let _planting = Planting::of(race);
    let found = catch_unwind(AssertUnwindSafe(|| exhaust(preemptions, scenario))).is_err();
    assert!(found, "{race:?} was not found");
}
