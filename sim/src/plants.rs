//! The search for planted bugs: which seed shows one, and what it breaks there. Both the tests that hold the simulation to
//! finding them and `simulate`, which prints the tables of `docs/simulation.md`, search with this. Compiled with the feature
//! `planted-bugs` only.
//!
//! A bug that is found from one beginning may have been found by luck. So it counts as found when searches from several
//! random beginnings find it, each within the seeds that the bug states.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use softstore_sharding::planted::{self, Bug};

use crate::config::{Mode, SimConfig};
use crate::random::Random;
use crate::run::run;

/// No bug may need more seeds than this.
pub const SEEDS_MAX: u64 = 2_000;

/// Random beginnings lie below this: short enough to be typed.
const BEGINNING_MAX: u64 = 1_000_000_000;

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
    in_parallel(Bug::ALL, |bug| (*bug, search(*bug)))
}

/// What the searches for a bug came to, one from each beginning: how many seeds were needed, and what was found.
pub type Searches = Vec<Option<(u64, Found)>>;

/// Searches each of these bugs from each beginning, within the seeds that it states. `done` is told each search when it
/// has ended, in any order.
///
/// # Panics
///
/// If a search or `done` does.
pub fn from_each(
    bugs: &[Bug],
    beginnings: &[u64],
    done: impl Fn(Bug, u64, Option<Found>) + Sync,
) -> Vec<(Bug, Searches)> {
    let pairs = bugs
        .iter()
        .flat_map(|bug| beginnings.iter().map(move |from| (*bug, *from)));
    let pairs: Vec<(Bug, u64)> = pairs.collect();
    let found = in_parallel(&pairs, |&(bug, from)| {
        let found = first_of(bug, from..from.saturating_add(bug.seeds_max()));
        done(bug, from, found);
        found.map(|found| (found.seed - from + 1, found))
    });
    let searches = found.chunks(beginnings.len().max(1)).map(<[_]>::to_vec);
    bugs.iter().copied().zip(searches).collect()
}

/// Random places to begin at, drawn from `seed`. None is so high that a search would reach the last seed.
#[must_use]
pub fn beginnings(seed: u64, count: usize) -> Vec<u64> {
    let mut random = Random::new(seed);
    (0..count).map(|_| random.below(BEGINNING_MAX)).collect()
}

/// What `work` makes of each item, in their order.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else {
                        return;
                    };
                    let result = work(item);
                    done.lock().expect("no search panicked").push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no search panicked");
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// A row of the table in `docs/simulation.md`.
#[must_use]
pub fn row(bug: Bug, found: Found) -> String {
    let Found { seed, invariant } = found;
    format!("| {} | {} | {seed} | {invariant} |", bug.name(), bug.what())
}

/// A row of the table of searches from random beginnings: the seeds that each needed, in order, and what was broken.
#[must_use]
pub fn row_of_searches(bug: Bug, searches: &[Option<(u64, Found)>]) -> String {
    let mut needed: Vec<u64> = searches
        .iter()
        .map(|search| search.map_or(u64::MAX, |(seeds, _)| seeds))
        .collect();
    needed.sort_unstable();
    let told = |seeds: u64| match seeds {
        u64::MAX => format!("more than {}", bug.seeds_max()),
        seeds => seeds.to_string(),
    };
    let median = needed
        .get(needed.len() / 2)
        .copied()
        .map_or_else(String::new, told);
    let needed: Vec<String> = needed.into_iter().map(told).collect();
    let mut broken: Vec<&str> = searches
        .iter()
        .flatten()
        .map(|(_, found)| found.invariant)
        .collect();
    broken.sort_unstable();
    broken.dedup();
    format!(
        "| {} | {} | {median} | {} |",
        bug.name(),
        needed.join(", "),
        broken.join(", ")
    )
}
