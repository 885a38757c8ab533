//! Clusters that are founded, and clusters that meet: nothing merges, nothing is wiped, and nobody is told that it is dead who
//! belongs elsewhere.

use std::sync::Arc;

use softstore_sharding::assigner::Notice;
use softstore_sharding::session::{AssignerMessage, Hello, NodeMessage};
use softstore_sharding::{
    Assigner, AssignerAction, AssignerConfig, Assignment, ClusterId, ClusterName, Founding, Generation,
};

use crate::desk::{Desk, deaths, fresh, holding, is_told_dead, is_told_to_wait};

fn founding(number: u128) -> Founding {
    Founding::new(number).expect("not 0")
}

fn name(name: &str) -> Option<ClusterName> {
    Some(ClusterName::new(name).expect("an allowed name"))
}

/// An Assigner of the cluster "prod" that would found it as number 1.
fn of_prod(assigner: Assigner) -> Assigner {
    assigner.of_cluster(name("prod"), founding(1))
}

fn at_once() -> AssignerConfig {
    AssignerConfig {
        expect_nodes: Some(2),
        founds_at_once: true,
        ..AssignerConfig::default()
    }
}

/// A hello of a node of "prod" that holds nothing.
fn prod(node: &str, process: u64) -> Hello {
    Hello {
        cluster: ClusterId {
            name: name("prod"),
            founding: None,
        },
        ..fresh(node, process, process * 10)
    }
}

/// What a cluster of a and b, founded as `number`, published last.
fn published(number: u128) -> Arc<Assignment> {
    let mut desk = Desk::of(at_once(), |assigner| {
        assigner.of_cluster(name("prod"), founding(number))
    });
    desk.hello(1, prod("a", 1));
    desk.hello(2, prod("b", 2));
    desk.run_ms(100, &[1, 2]);
    desk.assigner.assignment().expect("both are here").clone()
}

fn is_refused(actions: &[AssignerAction], session: u64) -> bool {
    let refusal = |action: &AssignerAction| {
        matches!(action, AssignerAction::Send { session: to, message: AssignerMessage::OtherCluster { .. } }
            if to.get() == session)
    };
    actions.iter().any(refusal) && !is_told_dead(actions, session) && deaths(actions).is_empty()
}

/// Plan: a cluster founds itself: the drawn founding is in its assignments, in full and as diffs, and is handed out to be
/// remembered.
#[test]
fn f2_the_founding_is_drawn_with_the_first_assignment_and_stays() {
    let mut desk = Desk::of(at_once(), of_prod);
    assert_eq!(desk.assigner.cluster().founding, None);
    let mut actions = desk.hello(1, prod("a", 1));
    actions.extend(desk.hello(2, prod("b", 2)));
    actions.extend(desk.run_ms(100, &[1, 2]));
    let remembers = |action: &AssignerAction| {
        matches!(action, AssignerAction::Remember { founding: told, generation }
            if *told == founding(1) && *generation > Generation::NONE)
    };
    assert!(actions.iter().any(remembers));
    assert_eq!(desk.assigner.assignment().unwrap().founding(), Some(founding(1)));
    desk.say(1, NodeMessage::Draining);
    desk.run_ms(100, &[1, 2]);
    assert_eq!(desk.assigner.assignment().unwrap().founding(), Some(founding(1)));
}

/// Plan: to a running cluster come a node of another name, and one of another founding that holds something. Both are refused,
/// again and again, with one word in the log for each; nothing that they say is heard: not their generation, not their names'.
#[test]
fn f3_f7_who_belongs_elsewhere_is_refused_and_nothing_of_it_is_heard() {
    let other = published(2);
    let mut desk = Desk::of(at_once(), of_prod);
    desk.hello(1, prod("a", 1));
    desk.hello(2, prod("b", 2));
    desk.run_ms(100, &[1, 2]);
    let before = desk.assigner.assignment().unwrap().clone();
    let mut elsewhere = prod("c", 3);
    elsewhere.cluster.name = name("staging");
    let mut stray = holding(&prod("a", 1), &other);
    stray.generation.number += 1_000_000;
    let mut said = 0;
    for attempt in 0..10 {
        for (index, hello) in [&elsewhere, &stray].into_iter().enumerate() {
            let session = 100 + 2 * attempt + index as u64;
            let actions = desk.hello(session, hello.clone());
            assert!(is_refused(&actions, session), "{actions:?}");
            let news = |action: &&AssignerAction| {
                matches!(
                    action,
                    AssignerAction::Notice(Notice::OtherCluster { is_news: true, .. })
                )
            };
            said += actions.iter().filter(news).count();
        }
        desk.run_ms(500, &[1, 2]);
    }
    assert_eq!(said, 2);
    let status = desk.assigner.status(desk.now);
    assert_eq!((status.nodes.len(), status.foreign.len()), (2, 2));
    assert!(status.foreign.iter().all(|foreign| foreign.refused == 10));
    assert!(status.foundings_to_choose.is_empty());
    let after = desk.assigner.assignment().unwrap();
    assert_eq!(after.ranges(), before.ranges());
    let heard = after.generation().number - before.generation().number;
    assert!(heard < 100_000, "the other founding's generation was not heard");
}

/// Plan: an Assigner that starts hears of holders of one founding. It is the cluster's again, and what they hold is.
#[test]
fn f5_a_new_assigner_adopts_the_only_founding_that_it_hears_of() {
    let held = published(2);
    let mut desk = Desk::of(AssignerConfig::default(), of_prod);
    desk.hello(1, holding(&prod("a", 1), &held));
    desk.say(1, NodeMessage::HeldAssignment(Some(held.clone())));
    desk.hello(2, holding(&prod("b", 2), &held));
    desk.run_ms(100, &[1, 2]);
    let after = desk.assigner.assignment().expect("all that are listed are here");
    assert_eq!(
        (after.founding(), after.ranges()),
        (Some(founding(2)), held.ranges())
    );
}

/// Plan: one Assigner that knows nothing, a node of each of two foundings, and as many seconds as one likes. Nothing is
/// published; the status names both, and says how to choose. One of them goes: the other's is the cluster's. An Assigner that
/// knows which it is, from its state or its operator, is not asked.
#[test]
fn f5_two_foundings_are_for_the_operator_to_choose() {
    let (one, two) = (published(1), published(2));
    let mut desk = Desk::of(AssignerConfig::default(), of_prod);
    let mine = holding(&prod("a", 1), &one);
    let mut theirs = holding(&prod("b", 2), &two);
    theirs.peer.life.incarnation = fresh("b", 2, 99).peer.life.incarnation;
    desk.hello(1, mine.clone());
    desk.say(1, NodeMessage::HeldAssignment(Some(one.clone())));
    for second in 0..30 {
        let session = 100 + second;
        assert!(is_refused(&desk.hello(session, theirs.clone()), session));
        desk.run_ms(1_000, &[1]);
        assert!(desk.assigner.assignment().is_none(), "after {second} s");
    }
    let status = desk.assigner.status(desk.now);
    assert_eq!(status.foundings_to_choose, [founding(1), founding(2)]);
    assert!(
        status.unsettled_because.contains("--founding"),
        "{}",
        status.unsettled_because
    );
    desk.run_ms(11_000, &[1]);
    assert_eq!(
        desk.assigner.assignment().expect("one is left").founding(),
        Some(founding(1))
    );

    for (chosen, heard, refused) in [(1, &mine, &theirs), (2, &theirs, &mine)] {
        let mut desk = Desk::of(AssignerConfig::default(), |assigner| {
            of_prod(assigner).founded(founding(chosen), Generation::NONE)
        });
        assert!(is_refused(&desk.hello(1, refused.clone()), 1));
        assert!(!is_refused(&desk.hello(2, heard.clone()), 2));
        desk.run_ms(5_000, &[2]);
        assert_eq!(
            desk.assigner.assignment().unwrap().founding(),
            Some(founding(chosen))
        );
    }
}

/// Plan: the node whose founding was heard of first leaves while two are heard of. The other one's is adopted, but not before the
/// first has been away for a while, and with nothing of the first one's assignment.
#[test]
fn f5_the_founding_that_is_left_is_adopted() {
    let (one, two) = (published(1), published(2));
    let mut desk = Desk::of(AssignerConfig::default(), of_prod);
    desk.hello(1, holding(&prod("a", 1), &one));
    desk.say(1, NodeMessage::HeldAssignment(Some(one)));
    let theirs = holding(&prod("b", 2), &two);
    desk.run_ms(1_000, &[1]);
    assert!(is_refused(&desk.hello(50, theirs.clone()), 50));
    // a is silent from here on, and buried after 3 s.
    desk.run_ms(3_500, &[]);
    assert!(!is_refused(&desk.hello(51, theirs), 51));
    desk.say(51, NodeMessage::HeldAssignment(Some(two.clone())));
    desk.run_ms(5_000, &[51]);
    assert!(desk.assigner.assignment().is_none(), "a may come back");
    desk.run_ms(8_000, &[51]);
    let after = desk.assigner.assignment().expect("a has gone");
    assert_eq!(after.founding(), Some(founding(2)));
    let is_b = |life: &softstore_sharding::Life| life.node.as_str() == "b";
    assert!(after.ranges().iter().all(|(_, range)| is_b(&range.owner)));
}

/// Plan: an Assigner without state, of which three nodes are expected. Three empty ones say hello at once, and those that hold the
/// cluster after 10 s. Nothing is founded before them; the cluster is theirs, whole.
#[test]
fn f6_f8_holders_that_come_late_lose_nothing_to_empty_nodes() {
    let held = published(7);
    let mut desk = Desk::of(
        AssignerConfig {
            expect_nodes: Some(3),
            ..AssignerConfig::default()
        },
        of_prod,
    );
    for process in 11..=13 {
        desk.hello(process, prod(&format!("fresh-{process}"), process));
    }
    desk.run_ms(10_000, &[11, 12, 13]);
    assert!(desk.assigner.assignment().is_none());
    desk.hello(1, holding(&prod("a", 1), &held));
    desk.say(1, NodeMessage::HeldAssignment(Some(held.clone())));
    desk.hello(2, holding(&prod("b", 2), &held));
    desk.run_ms(200, &[1, 2, 11, 12, 13]);
    let after = desk.assigner.assignment().expect("the holders are here");
    assert_eq!(
        (after.founding(), after.ranges()),
        (Some(founding(7)), held.ranges())
    );
}

/// Plan: the expected number is a floor: with one node less, nothing is founded, however long it takes, and the status says so.
#[test]
fn f6_fewer_nodes_than_expected_found_nothing() {
    let mut desk = Desk::of(
        AssignerConfig {
            expect_nodes: Some(2),
            ..AssignerConfig::default()
        },
        of_prod,
    );
    desk.hello(1, prod("a", 1));
    desk.run_ms(40_000, &[1]);
    assert!(desk.assigner.assignment().is_none());
    let why = desk.assigner.status(desk.now).unsettled_because;
    assert!(why.contains("1 of the 2"), "{why}");
    desk.hello(2, prod("b", 2));
    desk.run_ms(100, &[1, 2]);
    assert!(desk.assigner.assignment().is_some());
}

/// Plan: an Assigner that knows its founding from its state, and nobody holds anything: a whole cluster came up again, empty. It
/// begins after the settling time, under the same founding, above the highest generation of before.
#[test]
fn f8_with_its_state_an_assigner_founds_no_second_cluster() {
    let mut desk = Desk::of(AssignerConfig::default(), |assigner| {
        let highest = Generation {
            number: 1 << 40,
            ..Generation::NONE
        };
        of_prod(assigner).founded(founding(9), highest)
    });
    desk.hello(1, prod("a", 1));
    desk.run_ms(4_200, &[1]);
    let first = desk
        .assigner
        .assignment()
        .expect("it need not wait to found a cluster");
    assert_eq!(first.founding(), Some(founding(9)));
    assert!(first.generation().number > 1 << 40);
    let stray = holding(&prod("b", 2), &published(2));
    assert!(is_refused(&desk.hello(50, stray), 50));
}

/// Plan: who says no founding although it holds something: a node of a build that knows none. It is heard while a node of such a
/// build is here; when all say theirs, it is refused, unless it is a life that is known. One that holds nothing is welcome.
#[test]
fn f8a_silence_is_accepted_while_a_build_is_here_that_is_silent() {
    let held = published(1);
    let silent = |hello: &Hello| Hello {
        process: None,
        cluster: ClusterId::default(),
        ..hello.clone()
    };
    let stranger = silent(&holding(&prod("c", 3), &held));
    let stranger = Hello {
        generation: held.generation(),
        ..stranger
    };
    let running = || {
        let mut desk = Desk::of(at_once(), of_prod);
        desk.hello(1, prod("a", 1));
        desk.hello(2, prod("b", 2));
        desk.run_ms(100, &[1, 2]);
        desk
    };
    let mut desk = running();
    assert!(is_refused(&desk.hello(50, stranger.clone()), 50));
    assert!(
        !is_refused(&desk.hello(51, silent(&prod("d", 4))), 51),
        "it holds nothing"
    );
    assert_eq!(desk.assigner.status(desk.now).unidentified_nodes, 1);
    let actions = desk.hello(52, stranger);
    assert!(
        is_told_dead(&actions, 52),
        "a node of that build is here: it is judged as ever"
    );
    // A life that is listed goes on, whatever its build says.
    let mut desk = running();
    let present = desk.assigner.assignment().unwrap().clone();
    let known = silent(&holding(&prod("a", 1), &present));
    let actions = desk.hello(53, known);
    assert!(!is_refused(&actions, 53) && !is_told_dead(&actions, 53) && !is_told_to_wait(&actions, 53));
}
