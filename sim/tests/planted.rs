//! The simulation finds every planted bug, each within the number of seeds that it states, also from beginnings that nobody
//! chose; and what it finds it shrinks to a smaller run that shows the same. Needs the feature `planted-bugs`.
#![cfg(feature = "planted-bugs")]

use std::time::{SystemTime, UNIX_EPOCH};

use softstore_sharding::planted::{self, Bug};
use softstore_sim::plants::{self, Found};
use softstore_sim::{run, shrink};

/// Holds the table of which seed shows which bug: what is told there is what is tried first.
const DOCS: &str = include_str!("../../docs/simulation.md");

/// The seed that the table names for a bug.
fn known(bug: Bug) -> Option<u64> {
    let row = format!("| {} | ", bug.name());
    let row = DOCS.lines().find(|line| line.starts_with(&row))?;
    row.split('|').nth(3)?.split_whitespace().next()?.parse().ok()
}

/// A seed that shows the bug: the known one, or else the first. A change to what is drawn moves the seeds; the search then
/// takes as long as it takes, until the table is printed anew.
fn found(bug: Bug) -> Option<Found> {
    let known = known(bug).filter(|seed| *seed <= bug.seeds_max());
    let at_known = plants::first_of(bug, known.into_iter());
    at_known.or_else(|| {
        let first = plants::first_of(bug, 1..=bug.seeds_max())?;
        println!("docs/simulation.md is out of date: {}", plants::row(bug, first));
        Some(first)
    })
}

/// Plan: each bug is searched for. It is found within the seeds that it states; and the same
/// seed without it breaks nothing, so that it is the bug that was found.
#[test]
fn every_planted_bug_is_found() {
    let results = plants::for_each(|bug| {
        let found = found(bug)?;
        let without = run(found.seed, &plants::config_of(bug)).violations;
        assert_eq!(without, [], "seed {} without {}", found.seed, bug.name());
        Some(found)
    });
    let mut missed = Vec::new();
    for (bug, found) in results {
        match found {
            Some(found) => println!("{}", plants::row(bug, found)),
            None => missed.push(bug),
        }
    }
    assert_eq!(missed, []);
}

/// From how many random beginnings a bug has to be found.
const BEGINNINGS: usize = 3;

/// Plan: each bug is searched for from random beginnings, drawn from the time of day. Each search finds it within the seeds that
/// it states. `simulate --plants-from-random` does the same, and can be told what to draw the beginnings from.
#[test]
#[ignore = "takes many minutes; .ci/full runs it"]
fn every_planted_bug_is_found_from_random_beginnings() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let beginnings = plants::beginnings(now.as_secs(), BEGINNINGS);
    println!(
        "again: simulate --plants-from-random {BEGINNINGS} --from {}; that is from {beginnings:?}",
        now.as_secs()
    );
    let searched = plants::from_each(Bug::ALL, &beginnings, |_, _, _| {});
    for (bug, searches) in &searched {
        println!("{}", plants::row_of_searches(*bug, searches));
    }
    let is_missed = |searches: &plants::Searches| searches.iter().any(Option::is_none);
    let missed: Vec<Bug> = searched
        .iter()
        .filter(|(_, searches)| is_missed(searches))
        .map(|(bug, _)| *bug)
        .collect();
    assert_eq!(missed, []);
}

/// Plan: a bug is found, and the run shrunk. What is left is smaller, breaks the same invariant again, and without the bug
/// breaks nothing.
#[test]
fn what_is_found_is_shrunk_to_less_that_shows_the_same() {
    let bug = Bug::ServesBeforeFence;
    let config = plants::config_of(bug);
    let Found { seed, invariant } = found(bug).expect("found within a few seeds");
    planted::plant(Some(bug));
    let smaller = shrink::shrink(seed, &config, invariant);
    let again = run(seed, &smaller).violations;
    planted::plant(None);
    assert!(again.iter().any(|violation| violation.invariant == invariant));
    assert!(smaller.active_ms < config.active_ms);
    assert!(smaller.faults_kept.is_some_and(|kept| kept.len() < 10));
    assert_eq!(run(seed, &config).violations, []);
}
