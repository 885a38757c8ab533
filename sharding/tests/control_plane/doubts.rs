//! Members that live and cannot be relied on: what the status says of them, and that they are not given more.

use std::cell::Cell;
use std::rc::Rc;

use softstore_sharding::assigner::{AssignerEvent, HeldBack};
use softstore_sharding::session::{LoadReport, NodeMessage, ServingReport, WhyUnserved};
use softstore_sharding::sharder::AutoSharder;
use softstore_sharding::{AssignerConfig, Slice};

use crate::fleet::{Fleet, id};

/// Three owners under the AutoSharder, each of which says of how many of its ranges it does not answer for: so many for node b.
fn fleet(why: WhyUnserved) -> (Fleet, Rc<Cell<u64>>) {
    let sharder = || Box::new(AutoSharder::default()) as _;
    let mut fleet = Fleet::settled_with(AssignerConfig::default(), sharder, &["a", "b", "c"]);
    let unserved = Rc::new(Cell::new(0));
    let of = unserved.clone();
    fleet.load_of = Some(Box::new(move |life, _, _| {
        let unserved = if life.node == id("b") { of.get() } else { 0 };
        let first = (unserved > 0).then_some((Slice::FULL, why));
        LoadReport {
            serving: Some(ServingReport { unserved, first }),
            ..LoadReport::default()
        }
    }));
    fleet.run_ms(5_000);
    assert!(fleet.status().settled, "{}", fleet.status().unsettled_because);
    (fleet, unserved)
}

fn probe(fleet: &mut Fleet, name: &str, reached: bool) {
    let life = fleet.life(name);
    fleet.tell_assigner(AssignerEvent::Probed { life, reached });
}

/// Plan: an owner says that it does not answer for one of its ranges, having given it away or still taking it. It is not settled
/// until it says otherwise. What is given away holds balancing back; what is being taken does not.
#[test]
fn an_owner_that_does_not_answer_is_not_settled() {
    for (why, holds) in [(WhyUnserved::GivenAway, true), (WhyUnserved::Taking, false)] {
        let (mut fleet, unserved) = fleet(why);
        unserved.set(1);
        fleet.run_ms(1_000);
        let status = fleet.status();
        assert!(!status.settled);
        assert!(
            status
                .unsettled_because
                .starts_with("b does not answer for 1 of its ranges"),
            "{}",
            status.unsettled_because
        );
        let doubted = HeldBack::Doubted(id("b"));
        assert_eq!(status.balance.held_back == Some(doubted), holds);
        unserved.set(0);
        fleet.run_ms(1_000);
        assert!(fleet.status().settled);
    }
}

/// Plan: an owner falls silent. Well before it is dead, that is not settled.
#[test]
fn an_owner_that_just_stopped_is_not_settled() {
    let (mut fleet, _) = fleet(WhyUnserved::GivenAway);
    fleet.pause("b");
    fleet.run_ms(2_000);
    let status = fleet.status();
    assert!(
        status.unsettled_because.starts_with("b was not heard of"),
        "{}",
        status.unsettled_because
    );
    assert_eq!(status.balance.held_back, Some(HeldBack::Doubted(id("b"))));
    fleet.resume("b");
    fleet.run_ms(1_000);
    assert!(fleet.status().settled);
}

/// Plan: all are reached; then b is not, once, which says nothing, and again. Where nobody was ever reached, that is the
/// Assigner's own network, and nothing is said of it.
#[test]
fn an_owner_that_nobody_reaches_is_not_settled() {
    let (mut fleet, _) = fleet(WhyUnserved::GivenAway);
    for _ in 0..3 {
        probe(&mut fleet, "b", false);
    }
    assert!(fleet.status().settled);
    probe(&mut fleet, "a", true);
    probe(&mut fleet, "c", true);
    assert!(
        fleet
            .status()
            .unsettled_because
            .starts_with("b cannot be reached at")
    );
    probe(&mut fleet, "b", true);
    assert!(fleet.status().settled);
    probe(&mut fleet, "b", false);
    assert!(fleet.status().settled, "one may be lost");
    probe(&mut fleet, "b", false);
    let status = fleet.status();
    assert!(!status.settled);
    let doubt = |name| {
        let node = status.nodes.iter().find(|node| node.life.node == id(name));
        node.map(|node| node.doubt.is_empty())
    };
    assert_eq!((doubt("a"), doubt("b")), (Some(true), Some(false)));
}

/// Plan: who joins and cannot be reached is given nothing, not even what drains; another who joins beside it is.
#[test]
fn a_joiner_that_nobody_reaches_is_given_nothing() {
    let (mut fleet, _) = fleet(WhyUnserved::GivenAway);
    for name in ["a", "b", "c"] {
        probe(&mut fleet, name, true);
    }
    for name in ["d", "e"] {
        fleet.start(name);
    }
    fleet.run_ms(1_000);
    for _ in 0..2 {
        probe(&mut fleet, "d", false);
        probe(&mut fleet, "e", true);
    }
    fleet.drain("a");
    fleet.run_ms(60_000);
    assert_eq!(fleet.share("d"), 0);
    assert!(fleet.share("e") > 0);
}

/// Plan: a node's invented generations, in a heartbeat and in a hello, of a running Assigner. Neither is believed: the next
/// generation follows the clock as before.
#[test]
fn h8_invented_generations_are_not_believed() {
    use softstore_sharding::generation::{CLOCKS_OFF_MS_MAX, Generation};
    let (mut fleet, _) = fleet(WhyUnserved::GivenAway);
    let held = fleet.assignment().generation();
    let number = held.number + CLOCKS_OFF_MS_MAX + 1_000_000_000;
    let invented = Generation { number, ..held };
    let session = fleet.session_of("b");
    fleet.tell_assigner(AssignerEvent::FromNode {
        session,
        message: NodeMessage::Heartbeat {
            sequence: 1_000,
            generation: invented,
            load: LoadReport::default(),
            lease_ms: None,
        },
    });
    fleet.drain("c");
    fleet.run_ms(1_000);
    let next = fleet.assignment().generation();
    assert!(held < next && next.number < invented.number, "{next}");
}
