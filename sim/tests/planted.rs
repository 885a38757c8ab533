//! The simulation finds every planted bug, each within the number of seeds that it states; and what it finds it shrinks to
//! a smaller run that shows the same. Needs the feature `planted-bugs`.
#![cfg(feature = "planted-bugs")]

use softstore_sharding::planted::{self, Bug};
use softstore_sim::{Mode, SimConfig, run, shrink};

fn mode_of(bug: Bug) -> Mode {
    if bug.is_of_leases() {
        Mode::Leased
    } else {
        Mode::Available
    }
}

/// The first seed that finds a bug, and what it breaks.
fn found(bug: Bug, config: &SimConfig) -> Option<(u64, &'static str)> {
    planted::plant(Some(bug));
    let mut seeds = 1..=bug.seeds_max();
    let found = seeds.find_map(|seed| {
        let violations = run(seed, config).violations;
        Some((seed, violations.first()?.invariant))
    });
    planted::plant(None);
    found
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for &bug in Bug::ALL {
        let config = SimConfig {
            mode: mode_of(bug),
            ..SimConfig::default()
        };
        match found(bug, &config) {
            Some((seed, invariant)) => println!("{}: {invariant} broken in seed {seed}", bug.name()),
            None => missed.push(bug),
        }
    }
    assert_eq!(missed, []);
}

/// Plan: a bug is found, and the run shrunk. What is left is smaller, breaks the same invariant again, and without the bug
/// breaks nothing.
#[test]
fn what_is_found_is_shrunk_to_less_that_shows_the_same() {
    let (bug, config) = (Bug::ServesBeforeFence, SimConfig::default());
    let (seed, invariant) = found(bug, &config).expect("found within a few seeds");
    planted::plant(Some(bug));
    let smaller = shrink::shrink(seed, &config, invariant);
    let again = run(seed, &smaller).violations;
    planted::plant(None);
    assert!(again.iter().any(|violation| violation.invariant == invariant));
    assert!(smaller.active_ms < config.active_ms);
    assert!(smaller.faults_kept.is_some_and(|kept| kept.len() < 10));
    assert_eq!(run(seed, &config).violations, []);
}
