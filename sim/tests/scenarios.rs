//! What the shipped scenarios must show, on few rounds: what `docs/scenarios.md` asks of them, and figures with room.

use softstore_sim::scenario::{
    BEATS, DensityShape, NAMES, Scenario, ScenarioReport, SharderName, builtin, run,
};

fn shortened(name: &str, rounds: u32) -> Scenario {
    let scenario = builtin(name).expect("a shipped scenario");
    Scenario {
        rounds: rounds.min(scenario.rounds),
        ..scenario
    }
}

fn report(name: &str, sharder: SharderName, rounds: u32) -> ScenarioReport {
    run(&shortened(name, rounds), sharder, 1).expect("a valid scenario")
}

#[test]
fn shipped_scenarios_are_valid_and_named() {
    for name in NAMES {
        let scenario = builtin(name).expect("a shipped scenario");
        assert_eq!(scenario.name, name);
        assert_eq!(scenario.validate(), Ok(()));
    }
    assert_eq!(builtin("nothing"), None);
}

/// Plan: the shipped scenario that is also there as a file, to start one's own from, is what the file says.
#[test]
fn the_file_of_a_shipped_scenario_says_the_same() {
    let file: Scenario = toml::from_str(include_str!("../scenarios/scale-2000.toml")).expect("a scenario");
    assert_eq!(Some(file), builtin("scale-2000"));
}

/// Plan: the same seed twice, and another. The figures are a function of the scenario and the seed.
#[test]
fn a_seed_is_a_run() {
    let figures = |seed| {
        run(&shortened("dicer-chaos", 30), SharderName::Auto, seed)
            .unwrap()
            .figures
    };
    assert_eq!(figures(7), figures(7));
    assert_ne!(figures(7), figures(8));
}

/// Plan: 200 rounds in which nodes die, loads are others each time and keys draw half of the load. Even ranges cannot; the
/// AutoSharder is even all the same.
#[test]
fn chaos_is_levelled() {
    let even = report("dicer-chaos", SharderName::Even, 200);
    let auto = report("dicer-chaos", SharderName::Auto, 200);
    assert!(even.imbalance.p99 > 0.3, "the scenario is too soft: {even}");
    assert!(auto.imbalance.p50 <= 0.01 && auto.imbalance.p99 <= 0.05, "{auto}");
}

/// Plan: rolling restarts, with a spare node and without one. By a planner that knows each round's load, and by the Assigner, which
/// knows what nodes report: the same is asked of both.
#[test]
fn a_rolling_restart_moves_each_key_once() {
    let moved = |name: &str, assigner: bool| {
        let scenario = Scenario {
            assigner,
            ..shortened(name, u32::MAX)
        };
        let report = run(&scenario, SharderName::Auto, 1).expect("a valid scenario");
        let moved = report.moved_fraction;
        println!("{name}, by the Assigner {assigner}: {moved:?}");
        (moved.membership + moved.balancing, moved.balancing)
    };
    for assigner in [false, true] {
        let (surge, balancing) = moved("rolling-surge-16", assigner);
        assert!(
            surge <= 1.02 && balancing <= 0.01,
            "by the Assigner {assigner}: {surge} in all, 1.02 is asked; {balancing} to balance, 0.01 is asked"
        );
        let (in_place, balancing) = moved("rolling-in-place-16", assigner);
        assert!(
            in_place <= 1.15 && balancing <= 0.01,
            "by the Assigner {assigner}: {in_place} in all, 1.15 is asked; {balancing} to balance, 0.01 is asked"
        );
    }
}

#[test]
fn what_stands_still_is_left_alone() {
    let stationary = report("stationary", SharderName::Auto, 120);
    assert_eq!(stationary.moved_fraction.balancing, 0.0);
    assert!(stationary.imbalance.p50 <= 0.05, "{stationary}");
    let noise = report("noise", SharderName::Auto, 200);
    assert!(noise.moved_fraction.balancing <= 0.005, "{noise}");
}

/// Plan: a third of the nodes die and are back 40 rounds later; and crowds that nobody announced. What no sharder can know
/// costs one round; afterwards the load is even.
#[test]
fn crowds_and_losses_cost_one_round() {
    let loss = report("zone-loss", SharderName::Auto, u32::MAX);
    let uneven = loss.figures.iter().filter(|round| round.imbalance > 0.1);
    // Who comes back is filled as fast as the budget allows.
    assert!(uneven.count() <= 2, "{loss}");
    let crowd = report("flash-crowd", SharderName::Auto, u32::MAX);
    let uneven = crowd.figures.iter().filter(|round| round.imbalance > 0.1);
    // The first placement, which knows no load yet, and five times that keys come or go.
    assert!(uneven.count() <= 2 + 5, "{crowd}");
    // A planner that knows the load moves little for it.
    let planned = Scenario {
        assigner: false,
        ..shortened("flash-crowd", u32::MAX)
    };
    let planned = run(&planned, SharderName::Auto, 1).expect("a valid scenario");
    assert!(planned.moved_fraction.balancing <= 0.4, "{planned}");
}

/// Plan: scenarios with the Assigner's core, with each sharder. Every node reports so often in a round and is answered; what changes
/// is told to each node; what one round costs when nothing changes does not depend on how much has moved before.
#[test]
fn the_assigner_is_really_asked() {
    for sharder in SharderName::ALL {
        let report = report("rolling-surge-16", sharder, 60);
        assert_eq!(report.traffic.len(), 60);
        let quiet = report.traffic[19];
        let beats = 17 * u64::from(BEATS);
        assert_eq!((quiet.heard, quiet.told), (beats, beats), "{report}");
        // One drains: its reserve is told, and tells; all others are told twice.
        let busy = report.traffic[20];
        assert!(busy.told >= beats + 17 * 2 && busy.heard >= beats + 3, "{busy:?}");
        assert!(busy.told_bytes > quiet.told_bytes);
        let counted: u64 = report
            .traffic
            .iter()
            .map(|said| said.told_bytes + said.heard_bytes)
            .sum();
        assert_eq!(report.control_bytes, counted);
    }
    let auto = report("rolling-surge-16", SharderName::Auto, 30);
    let reasons: Vec<String> = auto
        .reasons
        .iter()
        .map(|(reason, _)| reason.to_string())
        .collect();
    assert!(
        reasons.iter().any(|reason| reason == "fill of a reserve"),
        "{reasons:?}"
    );
}

/// 300 nodes with 64 slices each that are theirs from the start.
fn dealt(rounds: u32) -> Scenario {
    let mut scenario = shortened("scale-1000", rounds);
    (scenario.cluster.nodes, scenario.cluster.slices_at_start) = (300, 300 * 64);
    scenario.load.density = DensityShape::Drifting {
        slices: 300 * 64,
        sigma: 1.0,
        drift: 0.1,
    };
    scenario
}

/// Plan: the nodes hold everything when the Assigner begins. It asks one of them for all, all claim what they have, nothing is placed anew, and
/// nobody is told what it holds already: from the first round on, what is told is in proportion to what changed. The whole
/// assignment has 19,200 ranges of 56 bytes or more, a diff's ranges may have a provider besides.
#[test]
fn many_slices_are_dealt_before_the_first_round() {
    let report = run(&dealt(24), SharderName::Auto, 1).expect("a valid scenario");
    assert!(report.figures[0].ranges >= 300 * 64, "{report}");
    assert!(report.imbalance.p50 < 0.1, "{report}");
    let whole = 300 * 64 * 56;
    let first = report.traffic[0];
    assert!(
        first.heard_bytes > whole,
        "one of them told all, and all told what they have: {first:?}"
    );
    let told: u64 = report.traffic.iter().map(|said| said.told_bytes).sum();
    assert!(told < 300 * whole, "less in all than all would be once: {told}");
    for (round, (said, judged)) in report.traffic.iter().zip(&report.figures).enumerate() {
        let answers = 300 * u64::from(BEATS) * 32;
        // A range is told when it moves, and again when its hand-off is over; within a round it may move on. Whoever comes
        // back holds nothing, and is told all. Each update has some bytes besides.
        let moved = 300 * 4 * (1 + judged.changed_ranges as u64) * 128;
        let anew = if round >= 20 { 2 * 300 * 64 * 128 } else { 0 };
        let updates = 300 * u64::from(BEATS) * 2 * 128;
        let most = answers + moved + anew + updates;
        assert!(said.told_bytes <= most, "round {round}: {said:?}, {judged:?}");
    }
}

/// Plan: the same. What it costs the Assigner to ask the sharder and to take its answer in is told, and the longest time that it
/// attends to nothing else; how long that is, is measured where nothing else runs.
#[test]
fn the_time_of_a_step_is_told() {
    let report = run(&dealt(3), SharderName::Auto, 1).expect("a valid scenario");
    let (question, step) = (report.question_ms, report.assigner_step_ms);
    assert!(question.p50 > report.round_ms.p50, "{report}");
    assert!(step.p50 > 0.0 && step.max >= step.p50, "{report}");
    let planned = Scenario {
        assigner: false,
        ..dealt(3)
    };
    let report = run(&planned, SharderName::Auto, 1).expect("a valid scenario");
    assert_eq!((report.question_ms.max, report.assigner_step_ms.max), (0.0, 0.0));
}

#[test]
fn figures_are_written_as_agreed() {
    let json = serde_json::to_value(report("zipf-16", SharderName::Ring, 3)).expect("plain numbers");
    let keys: Vec<&str> = json
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "assigner_step_ms",
        "control_bytes",
        "imbalance",
        "moved_fraction",
        "question_ms",
        "round_ms",
        "rounds",
        "scenario",
        "sharder",
    ];
    assert_eq!(keys, expected);
    for (field, part) in [
        ("imbalance", "p90"),
        ("moved_fraction", "membership"),
        ("round_ms", "p99"),
        ("question_ms", "p99"),
        ("assigner_step_ms", "max"),
    ] {
        assert!(json[field][part].is_number());
    }
}
