//! Unplanned: silence, kills, quick returns, and processes that stand still.

use crate::fleet::{Fleet, changed_hands, id};
use softstore_sharding::assigner::{DeathCause, Notice};

/// Plan: one of three nodes is killed. Within the failure timeout nothing happens; after it the others have its ranges,
/// cold, and their own have not moved.
#[test]
fn a_silent_node_is_dead_after_the_timeout() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    let dead = fleet.life("b");
    let before = fleet.assignment().clone();
    fleet.kill("b");
    fleet.run_ms(2_400);
    assert!(fleet.assignment().is_living(&dead));
    fleet.run_ms(1_000);
    assert!(!fleet.assignment().is_living(&dead));
    fleet.settle();
    assert!(fleet.share("a").abs_diff(500) <= 1 && fleet.share("c").abs_diff(500) <= 1);
    let moved = changed_hands(&before, fleet.assignment());
    let owned: u128 = before
        .ranges()
        .iter()
        .filter(|(_, range)| range.owner == dead)
        .map(|(slice, _)| slice.width())
        .sum();
    assert_eq!(moved, owned);
}

/// Plan: a node is cut off for longer than the timeout, then reaches the Assigner again. It must be told that it is dead,
/// and come back as a new life that holds nothing; the dead life is never listed again.
#[test]
fn dead_is_for_ever() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    let dead = fleet.life("b");
    fleet.cut_off("b");
    fleet.run_ms(5_000);
    assert_eq!(fleet.share("b"), 0);
    let buried_at = fleet.published.len();
    fleet.reconnect("b");
    fleet.run_ms(2_000);
    assert_eq!(fleet.node("b").lives, 2);
    assert_ne!(fleet.life("b"), dead);
    fleet.run_ms(40_000);
    fleet.settle();
    assert!(fleet.share("b").abs_diff(333) <= 1, "its new life is filled");
    assert!(
        fleet.published[buried_at..]
            .iter()
            .all(|published| !published.is_living(&dead))
    );
}

/// Plan: a killed node comes back before its former life was missed. It waits until that is known to be
/// gone, half a second after its session broke, and takes whole what that had, cold; nobody else is touched.
#[test]
fn a_new_life_ends_the_former_one() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    let before = fleet.assignment().clone();
    let dead = fleet.life("b");
    fleet.kill("b");
    fleet.start("b");
    fleet.run_ms(1_000);
    fleet.settle();
    let reborn = fleet.life("b");
    assert!(fleet.notices.contains(&Notice::Died {
        life: dead.clone(),
        cause: DeathCause::Replaced
    }));
    for (slice, range) in before.ranges().iter() {
        let now = fleet.assignment().range_at(slice.low());
        let expected = if range.owner == dead {
            &reborn
        } else {
            &range.owner
        };
        assert_eq!(now.owner, *expected);
        assert!(now.providers.is_empty());
    }
}

/// Plan: the taker of a hand-off dies in the middle. Its ranges must go on with the surviving provider, under a new since;
/// and a provider that dies is no longer listed.
#[test]
fn h7_surviving_providers_are_carried_along() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    let (a, b) = (fleet.life("a"), fleet.life("b"));
    for name in ["b", "c"] {
        fleet.node(name).holds_handoffs = true;
    }
    fleet.drain("a");
    fleet.run_ms(10);
    let taken = fleet
        .assignment()
        .ranges()
        .iter()
        .find(|(_, range)| range.owner == b && !range.providers.is_empty());
    let slice = taken.expect("b takes from a").0;
    fleet.kill("b");
    fleet.run_ms(3_500);
    let range = fleet.assignment().range_at(slice.low());
    assert_eq!(range.owner.node, id("c"));
    assert_eq!(
        range
            .providers
            .iter()
            .map(|provider| &provider.life)
            .collect::<Vec<_>>(),
        [&a]
    );
    fleet.kill("a");
    fleet.run_ms(3_500);
    assert!(fleet.assignment().range_at(slice.low()).providers.is_empty());
}

/// Plan: the Assigner stands still for 10 s while heartbeats queue up. On waking it must bury nobody. A node that was in
/// fact killed meanwhile is still found dead, a timeout later.
#[test]
fn a_paused_assigner_buries_nobody() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    let published = fleet.published.len();
    let c = fleet.life("c");
    fleet.pause_assigner();
    fleet.run_ms(5_000);
    fleet.kill("c");
    fleet.run_ms(5_000);
    fleet.resume_assigner();
    fleet.run_ms(2_000);
    assert_eq!(fleet.published.len(), published, "nothing changed");
    assert!(fleet.assignment().is_living(&c));
    fleet.run_ms(2_000);
    assert!(!fleet.assignment().is_living(&c));
    assert_eq!(fleet.assignment().directory().len(), 2);
}

/// Plan: a node stands still for longer than the timeout and is buried. On waking it must suspend at once, learn of its
/// death, and be reborn, without having served in between.
#[test]
fn h1_a_node_that_stood_still_serves_nothing_until_confirmed() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    fleet.pause("b");
    fleet.run_ms(6_000);
    assert_eq!(fleet.share("b"), 0);
    fleet.resume("b");
    assert_eq!(
        fleet.node("b").lives,
        2,
        "the word of its death lay in its socket"
    );
    fleet.run_ms(1_000);
    assert!(!fleet.node("b").suspended);
    assert!(fleet.assignment().directory().contains_key(&id("b")));
}

/// Plan: the same, but the Assigner stood still as well, so that nobody was buried. The node must suspend, and resume once
/// a heartbeat sent after it woke is answered.
#[test]
fn a_node_that_stood_still_resumes_when_confirmed() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    fleet.pause_assigner();
    fleet.pause("b");
    fleet.run_ms(6_000);
    fleet.resume("b");
    fleet.run_ms(100);
    assert!(fleet.node("b").suspended, "nothing confirms it yet");
    fleet.resume_assigner();
    fleet.run_ms(1);
    assert!(!fleet.node("b").suspended);
    assert_eq!(fleet.node("b").lives, 1);
}
