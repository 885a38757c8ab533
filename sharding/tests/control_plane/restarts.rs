//! Planned moves: rolling restarts in place and with a surge node, scaling out and in, chains.

use crate::fleet::{Fleet, MakeSharder, id};
use softstore_sharding::sharder::{AutoSharder, EvenRange};
use softstore_sharding::slicelet::DrainEnd;
use softstore_sharding::{AssignerConfig, NodeState};

/// The sharders that keep the promises of rolling restarts, and how uneven, in thousandths of a node's share, they leave an idle
/// cluster.
const BOTH: [(MakeSharder, u32); 2] = [
    (|| Box::new(EvenRange), 0),
    (|| Box::new(AutoSharder::default()), 150),
];

/// Drains a node, waits until its process has gone, and returns how it ended.
fn drain_and_leave(fleet: &mut Fleet, name: &str) {
    fleet.drain(name);
    for _ in 0..1_000 {
        if fleet.node(name).drain_end.is_some() {
            break;
        }
        fleet.run_ms(10);
    }
    assert_eq!(
        fleet.node(name).drain_end,
        Some(DrainEnd::Drained),
        "{name} drains"
    );
    fleet.nodes.remove(&id(name));
}

/// Plan: three nodes; each is drained, stays away 3 s, and comes back, the next going 1 s after the cluster has settled.
/// 30 s later the last one is filled. What changed hands must be 1 + 2/n of the key space (not 2, as it would be if each
/// were filled on its return), and all must end even: as even as the Sharder wants it.
#[test]
fn a_rolling_restart_in_place_moves_one_and_two_nths() {
    for (sharder, names) in BOTH.iter().flat_map(|sharder| {
        [
            (sharder, &["a", "b", "c"][..]),
            (sharder, &["a", "b", "c", "d", "e"]),
        ]
    }) {
        let mut fleet = Fleet::settled_with(AssignerConfig::default(), sharder.0, names);
        let first = fleet.published.len() - 1;
        for name in names {
            drain_and_leave(&mut fleet, name);
            fleet.run_ms(3_000);
            fleet.start(name);
            fleet.settle();
            fleet.run_ms(1_000);
        }
        let last = names.last().unwrap();
        assert_eq!(fleet.share(last), 0, "the last waits to be filled");
        assert_eq!(fleet.status().waiting_to_fill, 1);
        assert!(
            fleet.status().settled,
            "which does not make the cluster unsettled"
        );
        fleet.run_ms(31_000);
        fleet.settle();
        let n = u32::try_from(names.len()).unwrap();
        let expected = 1_000 + 2_000 / n;
        assert!(
            fleet.moved_since(first) <= expected + 2 && fleet.moved_since(first) + 2 + sharder.1 >= expected,
            "{} of {expected}",
            fleet.moved_since(first)
        );
        for name in names {
            assert!(
                fleet.share(name).abs_diff(1_000 / n) <= 1 + sharder.1 / n,
                "{name} has {}",
                fleet.share(name)
            );
        }
    }
}

/// Plan: three nodes and a fourth started first; each is drained and leaves when its replacement has joined. What changed
/// hands must be the key space once, each node's ranges whole to one taker.
#[test]
fn a_rolling_restart_with_a_surge_node_moves_each_key_once() {
    for (sharder, _) in BOTH {
        let mut fleet = Fleet::settled_with(AssignerConfig::default(), sharder, &["a", "b", "c"]);
        let first = fleet.published.len() - 1;
        for (old, new) in [("a", "a2"), ("b", "b2"), ("c", "c2")] {
            fleet.start(new);
            fleet.settle();
            drain_and_leave(&mut fleet, old);
            fleet.settle();
            assert!(
                fleet.share(new).abs_diff(333) <= 1,
                "{new} has {}",
                fleet.share(new)
            );
        }
        fleet.run_ms(40_000);
        assert_eq!(fleet.moved_since(first), 1_000);
        assert_eq!(fleet.assignment().ranges().len(), 3, "nothing was cut");
    }
}

/// Plan: many rolling restarts in place. The number of ranges must stay low, and the parts even.
#[test]
fn restarts_do_not_fragment_the_key_space() {
    let names = ["a", "b", "c", "d"];
    let mut fleet = Fleet::settled(&names);
    for round in 0..12 {
        for name in names {
            drain_and_leave(&mut fleet, name);
            fleet.run_ms(1_000);
            fleet.start(name);
            fleet.settle();
        }
        fleet.run_ms(31_000);
        fleet.settle();
        let ranges = fleet.assignment().ranges().len();
        assert!(ranges <= 40, "{ranges} ranges after round {round}");
        for name in names {
            assert!(fleet.share(name).abs_diff(250) <= 1);
        }
    }
}

/// Plan: a drains to b, which holds the hand-off open; b drains in turn. c must get what b was taking with b as its first
/// provider and a, which still holds the entries, as its second (H6); it is not cut. The hand-offs done, nothing is left.
#[test]
fn h6_a_node_that_drains_in_mid_take_is_the_first_provider() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    let (a, b) = (fleet.life("a"), fleet.life("b"));
    fleet.node("b").holds_handoffs = true;
    fleet.drain("a");
    fleet.run_ms(50);
    let taken: Vec<_> = fleet
        .assignment()
        .ranges()
        .iter()
        .filter(|(_, range)| range.owner == b && !range.providers.is_empty())
        .map(|(slice, range)| (slice, range.since))
        .collect();
    assert!(!taken.is_empty(), "b takes from a");
    fleet.node("c").holds_handoffs = true;
    fleet.drain("b");
    fleet.run_ms(50);
    for (slice, since) in taken {
        let (whole, range) = fleet.assignment().ranges().get_with_slice(slice.low());
        assert_eq!(whole, slice, "a range with providers is neither split nor merged");
        assert_eq!(range.owner.node, id("c"));
        assert!(range.since > since);
        let providers: Vec<_> = range.providers.iter().map(|provider| &provider.life).collect();
        assert_eq!(providers, [&b, &a]);
        assert_eq!(range.providers[0].since, since);
    }
    fleet.complete_handoffs("c");
    fleet.run_ms(200);
    assert!(
        fleet
            .assignment()
            .ranges()
            .iter()
            .all(|(_, range)| range.providers.is_empty())
    );
    assert_eq!(fleet.share("c"), 1_000);
}

/// Plan: a node is added to three and waits out the delay. It must then be given its share and no more be moved.
#[test]
fn scaling_out_moves_only_the_new_share() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    let first = fleet.published.len() - 1;
    fleet.start("d");
    fleet.settle();
    fleet.run_ms(29_000);
    assert_eq!(fleet.share("d"), 0);
    fleet.run_ms(2_000);
    fleet.settle();
    assert!(fleet.share("d").abs_diff(250) <= 1);
    assert!(fleet.moved_since(first).abs_diff(250) <= 1);
}

/// Plan: two of three nodes leave at once with one reserve waiting. The reserve takes one whole; the other's part is
/// spread.
#[test]
fn one_reserve_takes_one_leaver_whole() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    fleet.start("d");
    fleet.settle();
    fleet.drain("a");
    fleet.run_ms(10);
    assert!(fleet.share("d").abs_diff(333) <= 1);
    fleet.drain("b");
    fleet.settle();
    assert!(fleet.share("c").abs_diff(500) <= 1 && fleet.share("d").abs_diff(500) <= 1);
}

/// Plan: of two nodes one leaves, then the other. The last one's drain must end at once for want of a taker, and what it
/// had stays listed as its own; who joins next gets all of it, cold.
#[test]
fn the_last_nodes_drain_has_no_taker() {
    let mut fleet = Fleet::settled(&["a", "b"]);
    drain_and_leave(&mut fleet, "a");
    fleet.settle();
    let b = fleet.life("b");
    fleet.drain("b");
    fleet.run_ms(1);
    assert_eq!(fleet.node("b").drain_end, Some(DrainEnd::NoTaker));
    fleet.nodes.remove(&id("b"));
    fleet.run_ms(100);
    assert!(
        fleet
            .assignment()
            .ranges()
            .iter()
            .all(|(_, range)| range.owner == b)
    );
    assert!(fleet.assignment().directory().is_empty());
    assert_eq!(
        fleet.status().ranges_unreachable as usize,
        fleet.assignment().ranges().len()
    );
    fleet.start("c");
    fleet.settle();
    assert_eq!(fleet.share("c"), 1_000);
    assert!(
        fleet
            .assignment()
            .ranges()
            .iter()
            .all(|(_, range)| range.providers.is_empty())
    );
}

/// Plan: all nodes of a cluster are told to leave at once, with hand-offs held open. Every drain must end.
#[test]
fn a_whole_cluster_stops() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    for name in ["a", "b", "c"] {
        fleet.node(name).holds_handoffs = true;
        fleet.drain(name);
    }
    fleet.run_ms(100);
    for name in ["a", "b", "c"] {
        assert!(fleet.node(name).drain_end.is_some(), "{name} still drains");
    }
}

/// Plan: a draining node is given nothing new, also when another one joins or dies meanwhile.
#[test]
fn a_draining_node_is_given_nothing() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    fleet.node("b").holds_handoffs = true;
    fleet.node("c").holds_handoffs = true;
    fleet.drain("a");
    fleet.run_ms(100);
    assert_eq!(fleet.share("a"), 0);
    let state = fleet.assignment().directory()[&id("a")].state;
    assert_eq!(state, NodeState::Draining);
    fleet.kill("b");
    fleet.run_ms(5_000);
    assert_eq!(fleet.share("a"), 0);
    assert_eq!(fleet.share("c"), 1_000);
}
