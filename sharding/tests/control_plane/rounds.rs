//! A Sharder that takes its time: what is asked, what comes too late, and what is done without it.

use softstore_sharding::assigner::{AssignerEvent, HeldBack, Notice};
use softstore_sharding::sharder::{AutoSharder, EvenRange};
use softstore_sharding::{AssignerAction, AssignerConfig};

use crate::fleet::{Fleet, id};

/// Plan: the Sharder takes 400 ms. A drain is placed by what it says, when it says it; heartbeats are answered meanwhile, and
/// the cluster does not count as settled.
#[test]
fn a_slow_sharder_holds_nothing_up() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    fleet.place_delay_ms = Some(400);
    let first = fleet.published.len() - 1;
    fleet.drain("a");
    assert_eq!(fleet.asked.len(), 1);
    fleet.run_ms(390);
    assert_eq!(fleet.published.len() - 1, first, "it has not answered yet");
    assert!(!fleet.status().settled);
    fleet.run_ms(3_000);
    assert_eq!(fleet.share("a"), 0);
    assert!(fleet.status().nodes.iter().all(|node| node.silent_ms <= 500));
    assert!(
        !fleet
            .notices
            .iter()
            .any(|notice| matches!(notice, Notice::PlacingGivenUp { .. }))
    );
}

/// Plan: the Sharder is asked because a node drains; before it answers, the node that it gives everything to drains as well. The
/// answer is thrown away, and the next one is right: nothing was given to a node that drains.
#[test]
fn an_answer_that_does_not_fit_any_more_is_thrown_away() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    fleet.place_delay_ms = Some(300);
    let first = fleet.published.len();
    fleet.drain("a");
    fleet.run_ms(100);
    fleet.drain("b");
    assert_eq!(fleet.asked.len(), 1, "one question at a time");
    fleet.run_ms(2_000);
    assert!(fleet.notices.contains(&Notice::PlacementOutdated));
    assert_eq!(
        (fleet.share("a"), fleet.share("b"), fleet.share("c")),
        (0, 0, 1_000)
    );
    for assignment in &fleet.published[first..] {
        let to_b = assignment.ranges().iter().any(|(_, range)| {
            range.owner.node == id("b") && range.since >= fleet.published[first].generation()
        });
        assert!(!to_b, "b was given something although it drains");
    }
}

/// Plan: the Sharder never answers. A drain is placed all the same, after `place_timeout_ms`, and by even ranges what must move
/// alone; the next drain at once. When it answers after all, that is not used, and it is asked again.
#[test]
fn a_sharder_that_does_not_answer_is_done_without() {
    for auto in [false, true] {
        let config = AssignerConfig {
            place_timeout_ms: 700,
            rebalance_delay_ms: 0,
            ..AssignerConfig::default()
        };
        let names = ["a", "b", "c", "d"];
        let mut fleet = match auto {
            false => Fleet::settled_with(config, || Box::new(EvenRange), &names),
            true => Fleet::settled_with(config, || Box::new(AutoSharder::default()), &names),
        };
        // Between two balancing rounds.
        fleet.run_ms(10);
        fleet.place_delay_ms = None;
        let first = fleet.published.len() - 1;
        fleet.drain("a");
        let asked = fleet.asked.len();
        fleet.run_ms(690);
        let waited = fleet.published.len() - 1 - first;
        fleet.run_ms(20);
        assert_eq!((asked, waited), (1, 0));
        assert_eq!(fleet.share("a"), 0, "given up after 700 ms");
        assert_eq!(fleet.moved_since(first), 250, "what had to move and no more");
        let given_up = Notice::PlacingGivenUp { after_ms: 700 };
        assert!(fleet.notices.contains(&given_up), "{:?}", fleet.notices);
        assert_eq!(fleet.status().balance.held_back, Some(HeldBack::SharderOverdue));
        fleet.drain("b");
        assert_eq!(fleet.share("b"), 0, "at once");
        assert_eq!(fleet.asked.len(), 1, "nobody is asked who does not answer");
        fleet.run_ms(5_000);
        let (_, job) = fleet.asked.remove(0);
        fleet.place_delay_ms = Some(0);
        fleet.tell_assigner(job.run());
        fleet.run_ms(5_000);
        assert_eq!(fleet.status().balance.held_back, None);
        assert_eq!((fleet.share("a"), fleet.share("b")), (0, 0));
        fleet.settle();
    }
}

/// Plan: the Sharder breaks over the question that a drain put. What must move does, and the next question is put again.
#[test]
fn a_sharder_that_breaks_is_done_without() {
    let mut fleet = Fleet::settled(&["a", "b", "c"]);
    fleet.place_delay_ms = None;
    fleet.drain("a");
    let (_, job) = fleet.asked.remove(0);
    let ticket = job.ticket();
    let actions = fleet.tell_assigner(AssignerEvent::PlacingFailed { ticket });
    let refused = |action: &AssignerAction| matches!(action, AssignerAction::Notice(Notice::PlacementRefused(reason)) if reason.contains("even broke off"));
    assert!(actions.iter().any(refused));
    assert_eq!(fleet.share("a"), 0);
    fleet.place_delay_ms = Some(0);
    fleet.drain("b");
    fleet.run_ms(1_000);
    assert_eq!(fleet.share("c"), 1_000);
}
