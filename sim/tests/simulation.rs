//! The simulation of whole clusters: it holds over many seeds, everything that it is about happens in it, the same seed
//! gives the same history, and a broken shell is found out.

use std::time::Instant;

use softstore_sim::{Counters, Mischief, SimConfig, run};

/// Enough that everything happens often, few enough for a test.
const SEEDS: u64 = 250;

/// Where other runs of the project's own do not look.
const FIRST_SEED: u64 = 500_000;

/// Plan: many clusters, each with its own shape, faults and workload. No invariant is broken in any, and the counters show
/// that hand-offs, peeks, imports, chains, resumed pulls, relays, drains, kills and the rest were really there.
#[test]
fn h1_to_h5_hold_over_many_seeds() {
    let (config, began) = (SimConfig::default(), Instant::now());
    let (mut counters, mut excused) = (Counters::default(), 0);
    for seed in FIRST_SEED..FIRST_SEED + SEEDS {
        let report = run(seed, &config);
        assert!(
            report.violations.is_empty(),
            "seed {seed}: {:?}",
            report.violations
        );
        counters.add(&report.counters);
        excused += u64::from(report.is_excused);
    }
    assert!(excused * 50 <= SEEDS, "{excused} of {SEEDS} seeds prove nothing");
    let happened = [
        ("hand-offs", counters.handoffs, 1_000),
        ("cold starts", counters.cold_starts, 100),
        ("peeks", counters.peeks, 500),
        ("peeks that found", counters.peeks_found, 200),
        ("peeks passed on in a chain", counters.peeks_passed_on, 10),
        ("imports", counters.imports, 1_000),
        ("imports refused for a later write", counters.imports_refused, 100),
        ("chains", counters.chains, 50),
        ("resumed pulls", counters.resumed, 20),
        ("complete pulls", counters.pulls_complete, 500),
        ("pulls cut short", counters.pulls_cut_short, 50),
        ("operations held back", counters.held_back, 500),
        ("relayed messages", counters.relayed, 100),
        ("refused messages", counters.refused, 20),
        ("lost messages", counters.messages_lost, 1_000),
        ("evictions", counters.evicted, 100),
        ("drains", counters.drains, 200),
        ("kills", counters.kills, 100),
        ("Assigner restarts", counters.assigner_restarts, 20),
        ("hits", counters.hits, 10_000),
        ("operations of unknown outcome", counters.unknown, 100),
        ("flushes", counters.flushes, 50),
    ];
    for (what, count, least) in happened {
        assert!(count >= least, "only {count} {what} in {SEEDS} seeds");
    }
    eprintln!("{SEEDS} seeds in {:?}: {counters:?}", began.elapsed());
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let config = SimConfig::default();
    for seed in [7, 8] {
        let (first, second) = (run(seed, &config), run(seed, &config));
        assert!(first.history == second.history, "seed {seed} differs from itself");
        assert_eq!(first.counters, second.counters);
    }
    assert_ne!(run(7, &config).history, run(8, &config).history);
}

/// Runs a broken shell until it is found to break an invariant.
fn finds(mischief: Mischief, invariant: &str, seeds: u64) {
    let config = SimConfig {
        mischief: Some(mischief),
        settle_ms_max: 8_000,
        ..SimConfig::default()
    };
    let mut seeds_run = 1..=seeds;
    let found = seeds_run.find(|&seed| {
        let violations = run(seed, &config).violations;
        violations
            .iter()
            .any(|violation| violation.invariant == invariant)
    });
    assert!(
        found.is_some(),
        "{mischief:?} broke no {invariant} in {seeds} seeds"
    );
}

#[test]
fn h1_serving_after_the_fence_is_found() {
    finds(Mischief::ServeAfterFence, "H1", 60);
}

#[test]
fn h3_an_import_that_overwrites_is_found() {
    finds(Mischief::ImportOverwrites, "H2", 60);
}

#[test]
fn h3_forgotten_written_keys_are_found() {
    finds(Mischief::ForgetWrittenKeys, "H2", 60);
}

#[test]
fn h4_versions_that_start_over_are_found() {
    finds(Mischief::VersionsStartOver, "H4", 60);
}

#[test]
fn h5_a_ttl_that_counts_from_arrival_is_found() {
    finds(Mischief::TtlFromArrival, "H5", 200);
}

#[test]
fn h7_a_taker_that_tells_nobody_is_found() {
    finds(Mischief::SilentTaker, "liveness", 60);
}
