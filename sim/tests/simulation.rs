//! The simulation of whole clusters: it holds over many seeds in both modes, everything that it is about happens in it, and
//! the same seed gives the same history. That it finds mistakes is shown in `planted.rs`.

use std::time::Instant;

use softstore_sim::{Counters, Mode, SimConfig, run};

/// Enough that everything happens often, few enough for a test.
const SEEDS: u64 = 250;

/// Where other runs of the project's own do not look.
const FIRST_SEED: u64 = 500_000;

/// How many operations were loose, and what happened.
fn holds(mode: Mode) -> (u64, Counters) {
    let began = Instant::now();
    let config = SimConfig {
        mode,
        ..SimConfig::default()
    };
    let (mut counters, mut loose) = (Counters::default(), 0);
    for seed in FIRST_SEED..FIRST_SEED + SEEDS {
        let report = run(seed, &config);
        assert!(
            report.violations.is_empty(),
            "seed {seed}: {:?}",
            report.violations
        );
        counters.add(&report.counters);
        loose += report.loose_operations;
    }
    eprintln!("{SEEDS} seeds in {:?}: {counters:?}", began.elapsed());
    (loose, counters)
}

/// Plan: many clusters, each with its own shape, faults and workload. No invariant is broken in any, and the counters show
/// that hand-offs, peeks, imports, chains, resumed pulls, relays, drains, kills, reads at replicas and the rest were really
/// there.
#[test]
fn h1_to_h7_hold_over_many_seeds() {
    let (loose, counters) = holds(Mode::Available);
    let happened = [
        ("operations at lives that were given up", loose, 100),
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
        ("standstills", counters.pauses, 100),
        ("standstills of Assigners", counters.assigner_pauses, 100),
        ("Assigner restarts", counters.assigner_restarts, 20),
        ("deeds at a phase of a hand-off", counters.traps_sprung, 100),
        ("links that stood still", counters.stalls, 100),
        ("hits", counters.hits, 10_000),
        ("operations of unknown outcome", counters.unknown, 100),
        ("flushes", counters.flushes, 50),
        ("read leases", counters.leases, 10_000),
        ("reads at replicas", counters.replica_reads, 5_000),
        ("reads of copies", counters.copies_read, 2_000),
        ("copies kept", counters.copies_kept, 2_000),
        ("answers that were not kept", counters.copies_not_kept, 100),
        (
            "reads that came too late for an answer",
            counters.joiners_sent_on,
            20,
        ),
        ("writes that waited for replicas", counters.writes_waited, 2_000),
        ("invalidations", counters.invalidations, 5_000),
        ("recalls of leases", counters.recalls, 500),
        ("replicas that did not answer", counters.withheld, 200),
    ];
    for (what, count, least) in happened {
        assert!(count >= least, "only {count} {what} in {SEEDS} seeds");
    }
}

/// Plan: the same with leases, in clusters whose nodes are kept from the Assigner for as long as it may be. None serves where
/// a newer owner does; nodes were buried alive and told so.
#[test]
fn h1_and_h2_hold_under_all_faults_with_leases() {
    let (loose, counters) = holds(Mode::Leased);
    assert_eq!(loose, 0);
    assert!(
        counters.reborn >= 10,
        "only {} lives were buried alive",
        counters.reborn
    );
    assert!(counters.handoffs >= 1_000 && counters.hits >= 10_000);
    assert!(counters.replica_reads >= 5_000 && counters.writes_waited >= 2_000);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for mode in [Mode::Available, Mode::Leased] {
        let config = SimConfig {
            mode,
            ..SimConfig::default()
        };
        for seed in [7, 8] {
            let (first, second) = (run(seed, &config), run(seed, &config));
            assert!(first.history == second.history, "seed {seed} differs from itself");
            assert_eq!(first.counters, second.counters);
        }
        assert_ne!(run(7, &config).history, run(8, &config).history);
    }
}

/// Plan: a run that may have fewer events than it needs. It ends, and that is told; as that of a cluster would that says the same
/// again and again.
#[test]
fn a_run_without_an_end_is_a_violation() {
    let config = SimConfig {
        events_max: 1_000,
        ..SimConfig::default()
    };
    let report = run(7, &config);
    let told = report
        .violations
        .iter()
        .any(|violation| violation.invariant == "liveness" && violation.what.starts_with("1000 events"));
    assert!(told, "{:?}", report.violations);
}
