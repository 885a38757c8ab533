//! The search for planted bugs: which seed shows one, and what it breaks there. Both the test that holds the simulation to
//! finding them and `simulate --table-of-plants`, which prints the table of `docs/simulation.md`, search with this.
//! Compiled with the feature `planted-bugs` only.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use softstore_sharding::planted::{self, Bug};

use crate::config::{Mode, SimConfig};
use crate::run::run;

/// No bug may need more seeds than this.
pub const SEEDS_MAX: u64 = 2_000;

/// A seed that shows a bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The seed.
    pub seed: u64,
    /// The invariant that is broken first.
    pub invariant: &'static str,
}

/// The configuration that shows a bug: the default, in the leased mode for those of leases.
#[must_use]
pub fn config_of(bug: Bug) -> SimConfig {
    let mode = if bug.is_of_leases() {
        Mode::Leased
    } else {
        Mode::Available
    };
    SimConfig {
        mode,
        ..SimConfig::default()
    }
}

/// The first of these seeds that shows the bug. It is planted in the calling thread meanwhile, and in no other.
#[must_use]
pub fn first_of(bug: Bug, mut seeds: impl Iterator<Item = u64>) -> Option<Found> {
    let config = config_of(bug);
    planted::plant(Some(bug));
    let found = seeds.find_map(|seed| {
        let invariant = run(seed, &config).violations.first()?.invariant;
        Some(Found { seed, invariant })
    });
    planted::plant(None);
    found
}

/// What `search` returns for each bug, in their order. As many threads search as there are processors.
///
/// # Panics
///
/// If a search does.
pub fn for_each<T: Send>(search: impl Fn(Bug) -> T + Sync) -> Vec<(Bug, T)> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(&bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = search(bug);
                    done.lock().expect("no search panicked").push((bug, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no search panicked");
    // The order of `Bug` is that of its list.
    done.sort_unstable_by_key(|(bug, _)| *bug);
    done
}

/// A row of the table in `docs/simulation.md`.
#[must_use]
pub fn row(bug: Bug, found: Found) -> String {
    let Found { seed, invariant } = found;
    format!("| {} | {} | {seed} | {invariant} |", bug.name(), bug.what())
}
