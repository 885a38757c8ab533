//! Random lives of a fleet, many of them: whatever happens, each assignment follows from the one before by the rules, and
//! once things calm down the cluster is settled and even.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::fleet::{Fleet, id};
use softstore_sharding::sharder::{AutoSharder, Sharder};
use softstore_sharding::{AssignerConfig, Assignment, Life};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// One thing that happens, to the node of that number.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Starts its process if it does not run; else kills it and starts it again.
    Start(usize),
    Kill(usize),
    Drain(usize),
    CutOff(usize),
    Reconnect(usize),
    HoldHandoffs(usize),
    KillAssigner,
    StartAssigner,
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let node = 0..NAMES.len();
    let event = prop_oneof![
        3 => node.clone().prop_map(Event::Start),
        1 => node.clone().prop_map(Event::Kill),
        2 => node.clone().prop_map(Event::Drain),
        1 => node.clone().prop_map(Event::CutOff),
        1 => node.clone().prop_map(Event::Reconnect),
        2 => node.prop_map(Event::HoldHandoffs),
        1 => Just(Event::KillAssigner),
        2 => Just(Event::StartAssigner),
        6 => (1_u64..4_000).prop_map(Event::Pass),
        1 => Just(Event::Pass(35_000)),
    ];
    prop::collection::vec(event, 1..60)
}

fn happen(fleet: &mut Fleet, event: Event) {
    let runs = |fleet: &Fleet, number: usize| fleet.nodes.contains_key(&id(NAMES[number]));
    match event {
        Event::Start(number) => {
            if runs(fleet, number) {
                fleet.kill(NAMES[number]);
            }
            fleet.start(NAMES[number]);
        }
        Event::Kill(number) if runs(fleet, number) => fleet.kill(NAMES[number]),
        Event::Drain(number) if runs(fleet, number) => fleet.drain(NAMES[number]),
        Event::CutOff(number) => fleet.cut_off(NAMES[number]),
        Event::Reconnect(number) if runs(fleet, number) => fleet.reconnect(NAMES[number]),
        Event::HoldHandoffs(number) if runs(fleet, number) => fleet.node(NAMES[number]).holds_handoffs = true,
        Event::KillAssigner => fleet.kill_assigner(),
        Event::StartAssigner => {
            fleet.kill_assigner();
            fleet.start_assigner();
        }
        Event::Pass(ms) => fleet.run_ms(ms),
        Event::Kill(_) | Event::Drain(_) | Event::Reconnect(_) | Event::HoldHandoffs(_) => {}
    }
}

/// How an assignment may follow another of the same Assigner.
fn check_step(before: &Assignment, after: &Assignment) {
    for (slice, range) in after.ranges().iter() {
        for provider in &range.providers {
            assert!(after.is_living(&provider.life), "{slice}: a dead provider");
        }
        for (part, former) in before.ranges().overlapping(slice) {
            if range.owner != former.owner {
                assert!(
                    range.since > former.since,
                    "{part}: a new owner without a new since"
                );
                assert!(range.since > before.generation(), "{part}: a since of the past");
                let owner_gives = range
                    .providers
                    .iter()
                    .any(|provider| provider.life == former.owner);
                assert_eq!(
                    owner_gives,
                    after.is_living(&former.owner),
                    "{part}: the former owner's provision"
                );
            } else {
                assert!(range.since >= former.since, "{part}: since went back");
            }
        }
    }
}

/// What a whole run may show.
fn check_run(fleet: &Fleet) {
    let mut dead: BTreeSet<Life> = BTreeSet::new();
    for pair in fleet.published.windows(2) {
        assert!(pair[1].generation() > pair[0].generation());
        if pair[0].generation().assigner != pair[1].generation().assigner {
            // A new Assigner cannot know of what nobody who lives has heard.
            dead.clear();
            continue;
        }
        check_step(&pair[0], &pair[1]);
        let lives = |assignment: &Assignment| -> BTreeSet<Life> {
            let directory = assignment.directory().iter();
            let life = |(node, entry): (&_, &softstore_sharding::NodeEntry)| Life {
                node: softstore_sharding::NodeId::clone(node),
                incarnation: entry.incarnation,
            };
            directory.map(life).collect()
        };
        let (before, after) = (lives(&pair[0]), lives(&pair[1]));
        dead.extend(before.difference(&after).cloned());
        assert!(after.is_disjoint(&dead), "a dead life is listed again");
    }
}

proptest! {
    /// Plan: random events, among them new Assigners; then everyone reaches everyone, at least two nodes run, nothing is held
    /// up, and time passes. All assignments must follow from each other by the rules, no dead life be listed again, and in
    /// the end the cluster be settled with every node that runs owning an even part.
    #[test]
    fn any_life_of_a_fleet_ends_well(events in events()) {
        ends_well(Fleet::new(AssignerConfig::default()), events, 1);
    }

    /// Plan: the same with the AutoSharder, which balances as well, and takes its time over each answer, up to longer than it may:
    /// so answers come too late, or for what is no more. It leaves an idle cluster uneven by a sixth or so.
    #[test]
    fn any_life_under_a_slow_sharder_ends_well(events in events(), delay_ms in 0_u64..1_500) {
        let sharder = || -> Box<dyn Sharder> { Box::new(AutoSharder::default()) };
        let mut fleet = Fleet::with_sharder(AssignerConfig::default(), sharder);
        fleet.place_delay_ms = Some(delay_ms);
        ends_well(fleet, events, 180);
    }
}

fn ends_well(mut fleet: Fleet, events: Vec<Event>, uneven: u32) {
    for event in events {
        happen(&mut fleet, event);
    }
    for name in NAMES {
        let gone = fleet
            .nodes
            .get(&id(name))
            .is_some_and(|node| node.slicelet.is_draining());
        if gone {
            fleet.kill(name);
        }
    }
    for name in &NAMES[..2] {
        if !fleet.nodes.contains_key(&id(name)) {
            fleet.start(name);
        }
    }
    fleet.start_assigner_if_none();
    for name in NAMES
        .iter()
        .filter(|name| fleet.nodes.contains_key(&id(name)))
        .copied()
        .collect::<Vec<_>>()
    {
        fleet.reconnect(name);
        fleet.complete_handoffs(name);
    }
    fleet.run_ms(60_000);
    fleet.await_no_longer();
    fleet.run_ms(60_000);
    fleet.settle();
    check_run(&fleet);
    let even = 1_000 / u32::try_from(fleet.nodes.len()).expect("five at most");
    let owners: Vec<&str> = NAMES
        .iter()
        .filter(|name| fleet.nodes.contains_key(&id(name)))
        .copied()
        .collect();
    for name in owners {
        assert!(
            fleet.share(name).abs_diff(even) <= uneven.max(1),
            "{} has {} of {}",
            name,
            fleet.share(name),
            even
        );
    }
}
