//! Nodes that were only away: what is awaited of whom, who is listed with what it offers, and what ends that. Each test is named
//! after the schedule that a simpler rule would not survive.

use crate::fleet::{Fleet, id};
use softstore_sharding::session::{Offer, Offers};
use softstore_sharding::{AssignerConfig, Assignment, Generation, Life, NodeId, RangeAssignment, Slice};

fn owned_by(assignment: &Assignment, life: &Life) -> Vec<(Slice, RangeAssignment)> {
    let ranges = assignment.ranges().iter();
    ranges
        .filter(|(_, range)| range.owner == *life)
        .map(|(slice, range)| (slice, range.clone()))
        .collect()
}

/// The ranges that await a node's earlier life.
fn awaiting(fleet: &Fleet, name: &str) -> Vec<(Slice, RangeAssignment)> {
    let ranges = fleet.assignment().ranges().iter();
    let awaits = |range: &RangeAssignment| range.awaits.first().is_some_and(|p| p.life.node == id(name));
    ranges
        .filter(|(_, range)| awaits(range))
        .map(|(slice, range)| (slice, range.clone()))
        .collect()
}

fn offers_of(life: &Life, held: &[(Slice, RangeAssignment)]) -> Offers {
    let offer = |(slice, range): &(Slice, RangeAssignment)| Offer {
        slice: *slice,
        since: range.since,
        taker: None,
    };
    Offers {
        former: vec![life.clone()],
        last_answer: None,
        ranges: held.iter().map(offer).collect(),
    }
}

/// b is cut off, buried, and its ranges are others', cold. Returns its life and what it held.
fn b_is_away(fleet: &mut Fleet) -> (Life, Vec<(Slice, RangeAssignment)>) {
    let life = fleet.life("b");
    let held = owned_by(fleet.assignment(), &life);
    fleet.cut_off("b");
    fleet.run_ms(4_200);
    assert!(!fleet.assignment().is_living(&life));
    fleet.node("b").offers = Some(offers_of(&life, &held));
    (life, held)
}

/// Plan: b falls silent. Whoever takes its ranges over awaits exactly what b held, the cluster is settled all the same, and
/// operators are told. When b is back with its offers, the first assignment that lists it names it as provider, with the
/// acquisition under which it held each; then nothing is awaited any more.
#[test]
fn what_a_silent_node_held_is_awaited_and_comes_back() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    let (life, held) = b_is_away(&mut fleet);
    let awaited = awaiting(&fleet, "b");
    let width: u128 = awaited.iter().map(|(slice, _)| slice.width()).sum();
    let was: u128 = held.iter().map(|(slice, _)| slice.width()).sum();
    assert_eq!(width, was);
    for (slice, range) in &awaited {
        let (_, before) = held
            .iter()
            .find(|(held, _)| held.covers(*slice))
            .expect("b held it");
        assert_eq!(
            (&range.awaits[0].life, range.awaits[0].since),
            (&life, before.since)
        );
        assert!(range.providers.is_empty());
    }
    let status = fleet.status();
    assert!(status.settled, "{}", status.unsettled_because);
    assert_eq!(
        status.awaited.get(&life).copied(),
        u32::try_from(awaited.len()).ok()
    );

    for name in ["a", "c"] {
        fleet.node(name).holds_handoffs = true;
    }
    let before = fleet.published.len();
    fleet.reconnect("b");
    fleet.run_ms(1_500);
    let back = fleet.life("b");
    assert_ne!(back, life);
    assert_eq!(
        fleet.node("b").offers_heard,
        Some(Some(0)),
        "no clock has lost anything"
    );
    let first = fleet.published[before..]
        .iter()
        .find(|published| published.is_living(&back))
        .expect("b is listed");
    for (slice, range) in &awaited {
        let listed = first.range_at(slice.low());
        assert_eq!(
            (&listed.owner, listed.since),
            (&range.owner, range.since),
            "nothing moves"
        );
        assert_eq!(listed.providers.len(), 1);
        assert_eq!(listed.providers[0].life, back);
        assert_eq!(listed.providers[0].since, range.awaits[0].since);
    }
    for name in ["a", "c"] {
        fleet.complete_handoffs(name);
    }
    fleet.settle();
    assert!(awaiting(&fleet, "b").is_empty());
    assert!(fleet.status().awaited.is_empty());
}

/// Plan: b falls silent, and so does one who took over from it. Of what that one took, it alone is awaited: when b is back
/// first, nobody is given what it held before.
#[test]
fn a1_h2_of_two_silent_holders_the_last_one_counts() {
    let mut fleet = Fleet::settled(&["a", "b", "c", "d"]);
    let _ = b_is_away(&mut fleet);
    let (slice, range) = awaiting(&fleet, "b").remove(0);
    let taker: NodeId = range.owner.node.clone();
    fleet.cut_off(taker.as_str());
    fleet.run_ms(3_600);
    let next = fleet.assignment().range_at(slice.low()).clone();
    assert_ne!(next.owner, range.owner);
    assert_eq!(
        (&next.awaits[0].life, next.awaits[0].since),
        (&range.owner, range.since)
    );
    fleet.reconnect("b");
    fleet.run_ms(1_500);
    let now = fleet.assignment().range_at(slice.low());
    assert!(now.providers.is_empty(), "{now:?}");
    assert_eq!(now.awaits, next.awaits);
}

/// A2. Plan: the same, and the Assigner is replaced before b is back. What the others claim is newer than anything that awaits b.
#[test]
fn a2_h2_a_recovery_awaits_the_last_holder_only() {
    let mut fleet = Fleet::settled(&["a", "b", "c", "d"]);
    let _ = b_is_away(&mut fleet);
    let (slice, range) = awaiting(&fleet, "b").remove(0);
    fleet.cut_off(range.owner.node.as_str());
    fleet.run_ms(3_600);
    fleet.kill_assigner();
    fleet.start_assigner();
    fleet.reconnect("b");
    fleet.run_ms(6_000);
    let now = fleet.assignment().range_at(slice.low());
    assert!(now.providers.iter().all(|provider| provider.life.node != id("b")));
    assert!(now.awaits.iter().all(|awaited| awaited.life == range.owner));
}

/// A2. Plan: an Assigner that nobody has outlived buried b, and gave what b held to one who is gone, too; b was told. The next one knows
/// of an assignment from before alone, by which b's former life owned its ranges. That it had to come back says that others had them
/// since: what it offers is wanted by nobody.
#[test]
fn a2_h2_a_recovery_wants_nothing_of_who_was_buried_before() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    let life = fleet.life("b");
    let held = owned_by(fleet.assignment(), &life);
    fleet.kill_assigner();
    fleet.kill("b");
    fleet.start("b");
    fleet.node("b").offers = Some(offers_of(&life, &held));
    let published = fleet.published.len();
    fleet.start_assigner();
    fleet.run_ms(6_000);
    assert!(fleet.published.len() > published);
    for next in &fleet.published[published..] {
        for (slice, _) in &held {
            let now = next.range_at(slice.low());
            assert!(
                now.owner != life && now.providers.is_empty() && now.awaits.is_empty(),
                "{now:?}"
            );
        }
    }
}

/// Plan: the Assigner is replaced while b is away. The next one goes on awaiting what the one before awaited.
#[test]
fn what_is_awaited_outlasts_an_assigner() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    let _ = b_is_away(&mut fleet);
    let before = awaiting(&fleet, "b");
    fleet.kill_assigner();
    fleet.start_assigner();
    fleet.run_ms(5_000);
    assert_eq!(awaiting(&fleet, "b"), before);
    for name in ["a", "c"] {
        fleet.node(name).holds_handoffs = true;
    }
    fleet.reconnect("b");
    fleet.run_ms(1_500);
    let back = fleet.life("b");
    for (slice, _) in before {
        assert_eq!(fleet.assignment().range_at(slice.low()).providers[0].life, back);
    }
}

/// Plan: b says goodbye with ranges that nobody took, or is killed and its next process says hello. Neither brings anything back.
#[test]
fn n7_another_process_of_the_name_ends_the_waiting() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    fleet.kill("b");
    fleet.run_ms(3_600);
    assert!(!awaiting(&fleet, "b").is_empty());
    fleet.start("b");
    fleet.run_ms(200);
    assert!(awaiting(&fleet, "b").is_empty());

    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    fleet.drain("b");
    fleet.settle();
    fleet.run_ms(5_000);
    assert!(awaiting(&fleet, "b").is_empty());
}

/// R7. Plan: b offers what it held under another acquisition, what it fenced for another taker, and what another life held. None of
/// it is what is awaited, so none is listed, and nothing is awaited any more.
#[test]
fn h2_offers_match_exactly_or_not_at_all() {
    for lie in 0..3 {
        let mut fleet = Fleet::settled(&["a", "b", "c"]);
        let (life, held) = b_is_away(&mut fleet);
        let mut offers = offers_of(&life, &held);
        for offer in &mut offers.ranges {
            match lie {
                0 => {
                    offer.since = Generation {
                        number: 1,
                        ..offer.since
                    }
                }
                1 => {
                    offer.taker = Some((
                        fleet.life("a"),
                        Generation {
                            number: 1,
                            ..offer.since
                        },
                    ))
                }
                _ => {}
            }
        }
        if lie == 2 {
            let incarnation = softstore_sharding::Incarnation::new(77);
            offers.former = vec![Life { incarnation, ..life }];
        }
        fleet.node("b").offers = Some(offers);
        for name in ["a", "c"] {
            fleet.node(name).holds_handoffs = true;
        }
        let taken: Vec<Slice> = awaiting(&fleet, "b").iter().map(|(slice, _)| *slice).collect();
        fleet.reconnect("b");
        fleet.run_ms(1_500);
        for slice in taken {
            let range = fleet.assignment().range_at(slice.low());
            assert!(
                range.providers.is_empty() && range.awaits.is_empty(),
                "{lie}: {range:?}"
            );
        }
    }
}

/// R13. Plan: a cluster of one falls silent and comes back. Nobody has owned its ranges since, so it is its own provider; and not
/// if it comes back as another process.
#[test]
fn a_node_alone_gets_back_what_it_held() {
    let mut fleet = Fleet::settled(&["a"]);
    let life = fleet.life("a");
    let held = owned_by(fleet.assignment(), &life);
    fleet.node("a").holds_handoffs = true;
    fleet.cut_off("a");
    fleet.run_ms(3_600);
    fleet.node("a").offers = Some(offers_of(&life, &held));
    fleet.reconnect("a");
    fleet.run_ms(1_500);
    let back = fleet.life("a");
    let range = fleet.assignment().range_at(Slice::FULL.low());
    assert_eq!(range.owner, back);
    assert_eq!(
        (&range.providers[0].life, range.providers[0].since),
        (&back, held[0].1.since)
    );
}

/// A13 and R15. Plan: a whole rack pauses, b and c, c a little later. What b held must not go to c, which is about to die.
#[test]
fn a13_nothing_is_given_to_who_is_not_heard_of() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    let (b, c) = (fleet.life("b"), fleet.life("c"));
    let of_b = owned_by(fleet.assignment(), &b);
    fleet.cut_off("b");
    fleet.run_ms(600);
    fleet.cut_off("c");
    fleet.run_ms(2_450);
    assert!(!fleet.assignment().is_living(&b) && fleet.assignment().is_living(&c));
    for (slice, _) in of_b {
        let parts = fleet.assignment().ranges().overlapping(slice);
        assert!(parts.into_iter().all(|(_, range)| range.owner.node == id("a")));
    }
}

/// Plan: the operator wants nothing to come back.
#[test]
fn without_revival_nothing_is_awaited() {
    let config = AssignerConfig {
        revival_ms: 0,
        ..AssignerConfig::default()
    };
    let even = || Box::new(softstore_sharding::sharder::EvenRange) as Box<dyn softstore_sharding::Sharder>;
    let mut fleet = Fleet::settled_with(config, even, &["a", "b", "c"]);
    let _ = b_is_away(&mut fleet);
    assert!(awaiting(&fleet, "b").is_empty());
    assert_eq!(fleet.assignment().revival_ms(), 0);
}
