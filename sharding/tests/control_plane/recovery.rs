//! A new Assigner: it learns what the cluster holds, and moves nothing that need not move.

use crate::fleet::{Fleet, changed_hands, id};
use softstore_sharding::session::AssignmentUpdate;
use softstore_sharding::slicelet::DrainEnd;
use softstore_sharding::{AssignerConfig, Generation};

/// Plan: the Assigner is killed and a new one started. It must publish as soon as all nodes have said hello, long before
/// the settling time, with everything in place: owners, since and all.
#[test]
fn recovery_keeps_everything_in_place() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    let before = fleet.assignment().clone();
    fleet.kill_assigner();
    fleet.run_ms(2_000);
    fleet.start_assigner();
    fleet.run_ms(1_000);
    let after = fleet.assignment();
    assert!(after.generation() > before.generation());
    assert_eq!(after.ranges(), before.ranges());
    assert!(fleet.status().settled, "{}", fleet.status().unsettled_because);
    assert!(fleet.nodes.values().all(|node| node.lives == 1));
}

/// Plan: as above, with hand-offs held open across the change of Assigner: they must carry on with the same since and
/// providers, and end under the new Assigner.
#[test]
fn recovery_carries_open_handoffs_over() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    for name in ["b", "c"] {
        fleet.node(name).holds_handoffs = true;
    }
    fleet.drain("a");
    fleet.run_ms(100);
    let before = fleet.assignment().clone();
    assert!(fleet.status().ranges_moving > 0);
    fleet.kill_assigner();
    fleet.run_ms(500);
    fleet.start_assigner();
    fleet.run_ms(1_000);
    assert_eq!(fleet.assignment().ranges(), before.ranges());
    for name in ["b", "c"] {
        fleet.complete_handoffs(name);
    }
    fleet.run_ms(100);
    assert_eq!(fleet.node("a").drain_end, Some(DrainEnd::Drained));
    fleet.settle();
}

/// Plan: a node dies with the Assigner. The new one must wait the settling time for it, then give its ranges to others;
/// what the others had stays.
#[test]
fn a_life_that_says_no_hello_is_waited_for() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    let (before, published) = (fleet.assignment().clone(), fleet.published.len());
    let dead = fleet.life("c");
    fleet.kill_assigner();
    fleet.kill("c");
    fleet.start_assigner();
    fleet.run_ms(3_900);
    assert_eq!(fleet.published.len(), published);
    assert!(fleet.status().recovering && !fleet.status().settled);
    fleet.run_ms(200);
    fleet.settle();
    let owned = before.ranges().iter().filter(|(_, range)| range.owner == dead);
    let owned: u128 = owned.map(|(slice, _)| slice.width()).sum();
    assert_eq!(changed_hands(&before, fleet.assignment()), owned);
}

/// Plan: a node restarts while there is no Assigner. Its new life must take what its former one had, and nobody else be
/// touched.
#[test]
fn a_restart_without_an_assigner_is_sorted_out_later() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    let before = fleet.assignment().clone();
    let former = fleet.life("c");
    fleet.kill_assigner();
    fleet.kill("c");
    fleet.start("c");
    fleet.run_ms(500);
    fleet.start_assigner();
    fleet.run_ms(5_000);
    fleet.settle();
    for (slice, range) in before.ranges().iter() {
        let now = fleet.assignment().range_at(slice.low());
        assert_eq!(now.owner.node, range.owner.node);
        assert_eq!(now.since == range.since, range.owner != former);
    }
}

/// Plan: three nodes of a new cluster, the third of which comes later. Where the Assigner is told that all is new, the first
/// assignment is made when the expected number is there; else when the settling time before a founding is over, which counts from
/// the first hello, whether a number is expected or not. Even and contiguous in each case.
#[test]
fn the_first_assignment_is_even_and_waits_for_all() {
    for (expect_nodes, founds_at_once) in [(Some(3), true), (Some(3), false), (None, false)] {
        let config = AssignerConfig {
            expect_nodes,
            founds_at_once,
            ..AssignerConfig::default()
        };
        let mut fleet = Fleet::new(config);
        fleet.run_ms(2_000);
        fleet.start("a");
        fleet.start("b");
        fleet.run_ms(1_000);
        assert!(fleet.published.is_empty());
        fleet.start("c");
        fleet.run_ms(100);
        assert_eq!(fleet.published.is_empty(), !founds_at_once);
        if !founds_at_once {
            fleet.run_ms(config.founding_settle_ms - 1_300);
            assert!(fleet.published.is_empty());
            fleet.run_ms(500);
        }
        assert_eq!(fleet.published[0].ranges().len(), 3);
        assert!(
            fleet.published[0]
                .ranges()
                .iter()
                .all(|(slice, _)| slice.low().is_slot_border())
        );
        assert!(fleet.status().settled);
    }
}

/// Plan: nobody reaches the new Assigner until long after the settling time. The first to come through must not have the
/// others buried.
#[test]
fn an_assigner_that_heard_nobody_does_not_bury_the_slower() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    let before = fleet.assignment().clone();
    fleet.kill_assigner();
    for name in ["a", "b", "c"] {
        fleet.cut_off(name);
    }
    fleet.start_assigner();
    fleet.run_ms(10_000);
    for name in ["a", "b", "c"] {
        fleet.reconnect(name);
        fleet.run_ms(300);
    }
    fleet.run_ms(1_000);
    assert_eq!(fleet.assignment().ranges(), before.ranges());
    assert!(fleet.assignment().generation() > before.generation());
}

/// Plan: a node is asked to leave while there is no Assigner. It waits for one; as none comes, its drain ends.
#[test]
fn a_drain_without_an_assigner_ends_after_its_wait() {
    let mut fleet = Fleet::settled(&["a", "b"]);
    fleet.kill_assigner();
    fleet.run_ms(100);
    fleet.drain("a");
    fleet.run_ms(4_900);
    assert_eq!(fleet.node("a").drain_end, None);
    fleet.run_ms(200);
    assert_eq!(fleet.node("a").drain_end, Some(DrainEnd::NoAssigner));
}

/// Plan: as above, but an Assigner comes in time: the drain hands everything off.
#[test]
fn a_drain_begun_without_an_assigner_goes_on_with_one() {
    let mut fleet = Fleet::settled(&["a", "b"]);
    fleet.kill_assigner();
    fleet.run_ms(100);
    fleet.drain("a");
    fleet.run_ms(2_000);
    fleet.start_assigner();
    fleet.run_ms(2_000);
    assert_eq!(fleet.node("a").drain_end, Some(DrainEnd::Drained));
    assert_eq!(fleet.share("b"), 1_000);
    assert!(!fleet.assignment().directory().contains_key(&id("a")));
}

/// Plan: b is cut off for longer than the failure timeout, and a takes what it had. Then a dies, and the Assigner with it.
/// Only b is left, and an empty node c; nobody knows that b is dead but what was stored: the new Assigner tells it so. One
/// without that would believe it.
#[test]
fn h2_what_is_dead_by_the_stored_assignment_stays_dead() {
    for is_stored in [true, false] {
        let mut fleet = Fleet::settled(&["a", "b"]);
        fleet.cut_off("b");
        fleet.run_ms(4_000);
        assert_eq!(fleet.share("a"), 1_000);
        fleet.kill_assigner();
        fleet.kill("a");
        fleet.start("c");
        fleet.reconnect("b");
        if is_stored {
            fleet.resume_stored_assigner();
        } else {
            fleet.start_assigner();
        }
        fleet.run_ms(6_000);
        let lives = if is_stored { 2 } else { 1 };
        assert_eq!(fleet.node("b").lives, lives);
        fleet.settle();
    }
}

/// Plan: all nodes live when an Assigner with the stored assignment takes over: as without it, nothing moves, and nobody
/// waits for the settling time.
#[test]
fn an_assigner_with_the_stored_assignment_keeps_everything_in_place() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    let before = fleet.assignment().clone();
    fleet.kill_assigner();
    fleet.run_ms(500);
    fleet.resume_stored_assigner();
    fleet.run_ms(1_000);
    assert!(fleet.assignment().generation() > before.generation());
    assert_eq!(fleet.assignment().ranges(), before.ranges());
    assert!(fleet.nodes.values().all(|node| node.lives == 1));
}

/// Plan: five nodes, and a change that one of them, e, does not hear of: f joins. Then the Assigner is replaced, by one that asks the nodes or by one
/// that has the stored assignment, and d with it: a new life of it comes back, in time for its ranges to move to f. Whoever says
/// that it holds what the new Assigner knows is told what changed since, and no more than that; e, which holds something older, and
/// d, which holds nothing, are told all. In the end all hold the same, and a diff was never asked to be replaced.
#[test]
fn a_new_assigner_tells_what_changed() {
    for is_stored in [false, true] {
        let mut fleet = Fleet::settled(&["a", "b", "c", "d", "e"]);
        fleet.cut_off("e");
        fleet.start("f");
        fleet.run_ms(1_000);
        let before = fleet.assignment().clone();
        let held_by = |fleet: &mut Fleet, name: &str| {
            let held = fleet.node(name).slicelet.assignment();
            held.map_or(Generation::NONE, |held| held.generation())
        };
        assert_eq!(held_by(&mut fleet, "f"), before.generation());
        let behind = held_by(&mut fleet, "e");
        assert!(behind < before.generation());
        fleet.kill_assigner();
        fleet.kill("d");
        fleet.start("d");
        fleet.updates.clear();
        let published = fleet.published.len();
        match is_stored {
            true => fleet.resume_stored_assigner(),
            false => fleet.start_assigner(),
        }
        fleet.reconnect("e");
        fleet.settle();

        let first = fleet.published[published].clone();
        let first_update = |name: &str| {
            let mut of_it = fleet.updates.iter().filter(|(node, _)| *node == id(name));
            of_it.next().expect("it was told").1.clone()
        };
        let changed = first.ranges().iter().filter(|(slice, range)| {
            let mut held = before.ranges().overlapping(*slice);
            held.any(|(_, held)| held != *range)
        });
        let changed = changed.count();
        assert!((1..first.ranges().len()).contains(&changed), "{first:?}");
        for name in ["a", "b", "c", "f"] {
            match first_update(name) {
                AssignmentUpdate::Diff(diff) => {
                    assert_eq!((diff.base, diff.next), (before.generation(), first.generation()));
                    assert!(diff.ranges.len() <= changed, "{diff:?}");
                    assert!(diff.joined.len() <= 2 && diff.left.is_empty(), "{diff:?}");
                }
                AssignmentUpdate::Full(_) => panic!("{name} was told all"),
            }
        }
        for name in ["d", "e"] {
            assert!(matches!(first_update(name), AssignmentUpdate::Full(_)), "{name}");
        }
        let last = fleet.assignment().clone();
        for name in ["a", "b", "c", "d", "e", "f"] {
            let held = fleet.node(name).slicelet.assignment().expect("it holds one");
            assert_eq!(held.generation(), last.generation());
            assert_eq!(held.directory(), last.directory());
            for (slice, range) in last.ranges().iter() {
                assert!(held.ranges().overlapping(slice).all(|(_, other)| other == range));
            }
        }
    }
}
