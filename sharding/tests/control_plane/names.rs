//! A name is one process's at a time: who gets it, who waits, and how it is freed.

use std::sync::Arc;

use softstore_sharding::assigner::{DeathCause, ForgetError, HolderAnswer, Notice};
use softstore_sharding::session::{Hello, NodeMessage};
use softstore_sharding::{AssignerAction, AssignerConfig, AssignerEvent, Assignment, ProcessId, SessionId};

use crate::desk::{Desk, deaths, fresh, holding, id, is_told_dead, is_told_to_wait};

fn sought(actions: &[AssignerAction]) -> usize {
    let seek = |action: &&AssignerAction| matches!(action, AssignerAction::SeekHolder { .. });
    actions.iter().filter(seek).count()
}

/// Plan: a second process of a's name asks again and again while the first is heard of. It is told to wait each time, one notice
/// says so, the status shows it, and its asking does not count as hearing of a: when a falls silent it is buried in its time,
/// and the next to ask has the name.
#[test]
fn n2_n3_a_second_process_waits_and_its_asking_is_no_sign_of_life() {
    for lease_ms in [None, Some(1_000)] {
        let mut desk = Desk::running(lease_ms);
        let first = desk.holder("a");
        let mut notices = 0;
        for attempt in 0..20 {
            let actions = desk.hello(100 + attempt, fresh("a", 9, 91));
            assert!(is_told_to_wait(&actions, 100 + attempt));
            let said =
                |action: &&AssignerAction| matches!(action, AssignerAction::Notice(Notice::NameTaken { .. }));
            notices += actions.iter().filter(said).count();
            assert_eq!(desk.holder("a"), first);
            desk.run_ms(200, &[1, 2]);
        }
        assert_eq!(notices, 1);
        let waits = desk.assigner.status(desk.now).name_waits;
        assert_eq!(
            (waits.len(), &*waits[0].address, &*waits[0].holder),
            (1, "a-9:1", "a-1:1")
        );
        // a is not heard of any more; its twin asks on.
        let (mut waited_ms, mut actions) = (0, Vec::new());
        while desk.holder("a") == first && waited_ms < 10_000 {
            actions = desk.hello(500 + waited_ms, fresh("a", 9, 91));
            desk.run_ms(200, &[2]);
            waited_ms += 200;
        }
        assert!((2_800..=3_600).contains(&waited_ms), "{waited_ms} ms");
        // Its session was open still, so it was told that it is dead; who waits asks once more.
        actions.extend(desk.hello(9_000, fresh("a", 9, 91)));
        let freed =
            |action: &AssignerAction| matches!(action, AssignerAction::Notice(Notice::NameFreed { .. }));
        assert!(actions.iter().any(freed));
        assert_eq!(desk.holder("a").map(|life| life.incarnation.get()), Some(91));
        assert!(desk.assigner.status(desk.now).name_waits.is_empty());
    }
}

/// Plan: a process's next life says hello while the one before still counts as living. It takes over at once, also under
/// leases: the process has dropped what it held. Its own former life, heard late, is dead.
#[test]
fn n1_a_process_replaces_its_own_former_life_at_once() {
    for lease_ms in [None, Some(5_000)] {
        let mut desk = Desk::running(lease_ms);
        let actions = desk.hello(50, fresh("a", 1, 12));
        assert_eq!(deaths(&actions), [DeathCause::Reborn]);
        assert_eq!(desk.holder("a").map(|life| life.incarnation.get()), Some(12));
        assert!(is_told_dead(&desk.hello(49, fresh("a", 1, 11)), 49));
        assert_eq!(desk.holder("a").map(|life| life.incarnation.get()), Some(12));
    }
}

/// Plan: a node drains while its successor of the same name asks for the name. The drain is not disturbed: no death, the ranges
/// go on moving; the goodbye frees the name.
#[test]
fn n4_a_drain_goes_on_while_its_successor_waits() {
    let mut desk = Desk::running(None);
    desk.say(1, NodeMessage::Draining);
    let life = desk.holder("a");
    for attempt in 0..10 {
        let actions = desk.hello(100 + attempt, fresh("a", 9, 91));
        assert!(is_told_to_wait(&actions, 100 + attempt) && deaths(&actions).is_empty());
        let moving = desk.assigner.assignment().unwrap().ranges().iter();
        let from_a = moving.filter(|(_, range)| {
            range
                .providers
                .iter()
                .any(|from| Some(&from.life) == life.as_ref())
        });
        assert!(from_a.count() > 0, "what a gives is still a's to give");
        desk.run_ms(200, &[1, 2]);
    }
    assert_eq!(deaths(&desk.say(1, NodeMessage::Goodbye)), [DeathCause::Goodbye]);
    desk.hello(200, fresh("a", 9, 91));
    assert_eq!(desk.holder("a").map(|life| life.incarnation.get()), Some(91));
}

/// Plan: a's session breaks without a goodbye, and another process asks for its name. It is looked for after half a second, and
/// only because somebody waits. Its own process there, or no answer: it stays. Nobody there, or another process: it is dead.
/// Under leases nobody is looked for.
#[test]
fn n5_a_holder_whose_session_broke_is_looked_for() {
    let process = |number| HolderAnswer::Process(ProcessId::new(number).unwrap());
    for (answer, dies) in [
        (HolderAnswer::Refused, true),
        (process(9), true),
        (process(1), false),
        (HolderAnswer::Unknown, false),
    ] {
        let mut desk = Desk::running(None);
        let life = desk.holder("a").unwrap();
        let session = SessionId::new(1);
        desk.step(AssignerEvent::SessionClosed { session });
        assert_eq!(sought(&desk.run_ms(1_000, &[2])), 0, "nobody waits");
        assert_eq!(sought(&desk.hello(50, fresh("a", 9, 91))), 1);
        let probed = AssignerEvent::HolderSought {
            life: life.clone(),
            answer,
        };
        desk.step(probed);
        let actions = desk.hello(60, fresh("a", 9, 91));
        assert_eq!(deaths(&actions).len(), usize::from(dies), "{answer:?}");
        assert_eq!(desk.holder("a") == Some(life), !dies);
        if !dies {
            // The same once more half a second later, and not before.
            assert_eq!(sought(&desk.run_ms(400, &[2])), 0);
            assert_eq!(sought(&desk.run_ms(200, &[2])), 1);
        }
    }
    let mut desk = Desk::running(None);
    desk.hello(50, fresh("a", 9, 91));
    desk.step(AssignerEvent::SessionClosed {
        session: SessionId::new(1),
    });
    assert_eq!(sought(&desk.run_ms(400, &[2])), 0);
    assert_eq!(
        sought(&desk.run_ms(200, &[2])),
        1,
        "at 500 ms, without a word of the one that waits"
    );
    // Found gone, and nobody asks for the name any more: it is dead all the same.
    let life = desk.holder("a").unwrap();
    desk.step(AssignerEvent::HolderSought {
        life,
        answer: HolderAnswer::Refused,
    });
    assert_eq!(deaths(&desk.run_ms(1_000, &[2])), [DeathCause::Replaced]);
    let mut leased = Desk::running(Some(1_000));
    leased.hello(50, fresh("a", 9, 91));
    leased.step(AssignerEvent::SessionClosed {
        session: SessionId::new(1),
    });
    assert_eq!(sought(&leased.run_ms(2_000, &[2])), 0);
}

/// Plan: a's session breaks, it is looked for, and it is back before the answer that nobody is there. It stays.
#[test]
fn n5_an_answer_that_comes_too_late_buries_nobody() {
    let mut desk = Desk::running(None);
    let (life, held) = (
        desk.holder("a").unwrap(),
        desk.assigner.assignment().unwrap().clone(),
    );
    desk.step(AssignerEvent::SessionClosed {
        session: SessionId::new(1),
    });
    desk.run_ms(600, &[2]);
    assert_eq!(sought(&desk.hello(50, fresh("a", 9, 91))), 1);
    desk.hello(51, holding(&fresh("a", 1, 11), &held));
    let answer = HolderAnswer::Refused;
    assert!(
        deaths(&desk.step(AssignerEvent::HolderSought {
            life: life.clone(),
            answer
        }))
        .is_empty()
    );
    assert_eq!(desk.holder("a"), Some(life));
}

/// Plan: the Assigner restarts, and the empty hello of a's waiting twin comes first. a, which holds the assignment, gets its name
/// all the same and is not told that it is dead; the twin waits, and nothing of a's moves.
#[test]
fn n6_the_holder_gets_its_name_from_an_assigner_that_recovers() {
    let before = Desk::running(None);
    let held: Arc<Assignment> = before.assigner.assignment().unwrap().clone();
    let (a, b) = (fresh("a", 1, 11), fresh("b", 2, 21));
    for is_fetched_first in [false, true] {
        let mut desk = Desk::new(AssignerConfig::default());
        if is_fetched_first {
            desk.hello(2, holding(&b, &held));
            desk.say(2, NodeMessage::HeldAssignment(Some(held.clone())));
        }
        assert!(!is_told_to_wait(&desk.hello(3, fresh("a", 9, 91)), 3));
        let actions = desk.hello(4, holding(&a, &held));
        assert!(!is_told_dead(&actions, 4) && deaths(&actions).is_empty());
        assert!(is_told_to_wait(&actions, 3), "the twin steps back");
        if !is_fetched_first {
            desk.say(4, NodeMessage::HeldAssignment(Some(held.clone())));
            desk.hello(2, holding(&b, &held));
        }
        assert!(is_told_to_wait(&desk.hello(5, fresh("a", 9, 92)), 5));
        desk.run_ms(100, &[2, 4]);
        let after = desk.assigner.assignment().expect("both holders are here");
        assert_eq!(after.ranges(), held.ranges());
    }
}

/// Plan: two processes of one name come to a recovering Assigner, both of which hold something: one that was cut off long ago
/// holds an old assignment, the other one the newest. In either order the latter has the name.
#[test]
fn n6_who_holds_the_newer_assignment_has_the_name() {
    let mut before = Desk::running(None);
    let old: Arc<Assignment> = before.assigner.assignment().unwrap().clone();
    before.run_ms(3_500, &[2]);
    before.hello(60, fresh("a", 5, 51));
    before.run_ms(31_000, &[2, 60]);
    let new: Arc<Assignment> = before.assigner.assignment().unwrap().clone();
    let stale = holding(&fresh("a", 1, 11), &old);
    let present = holding(&fresh("a", 5, 51), &new);
    assert!(present.generation > stale.generation);
    for stale_first in [true, false] {
        let mut desk = Desk::new(AssignerConfig::default());
        let order = if stale_first {
            [&stale, &present]
        } else {
            [&present, &stale]
        };
        for (index, hello) in order.into_iter().enumerate() {
            desk.hello(3 + index as u64, hello.clone());
        }
        assert_eq!(desk.holder("a"), Some(present.peer.life.clone()), "{stale_first}");
    }
}

/// Plan: an operator has a holder forgotten that is heard of. It is told dead, and the process that waits has the name, although
/// the forgotten one's next life asks first. Under leases it keeps its ranges until its lease is over, and its heartbeats are
/// not answered any more. A name that nobody has is an error.
#[test]
fn n8_a_holder_that_is_heard_of_can_be_forgotten() {
    let mut desk = Desk::running(None);
    desk.hello(50, fresh("a", 9, 91));
    let actions = desk.step(AssignerEvent::ForgetNode { node: id("a") });
    assert_eq!(deaths(&actions), [DeathCause::Forgotten]);
    assert!(is_told_dead(&actions, 1));
    assert!(is_told_to_wait(&desk.hello(51, fresh("a", 1, 12)), 51));
    desk.hello(52, fresh("a", 9, 91));
    assert_eq!(desk.holder("a").map(|life| life.incarnation.get()), Some(91));

    let mut alone = Desk::running(None);
    alone.step(AssignerEvent::ForgetNode { node: id("a") });
    alone.hello(51, fresh("a", 1, 12));
    assert_eq!(
        alone.holder("a").map(|life| life.incarnation.get()),
        Some(12),
        "nobody waits"
    );

    let mut leased = Desk::running(Some(1_000));
    leased.run_ms(200, &[1, 2]);
    assert!(deaths(&leased.step(AssignerEvent::ForgetNode { node: id("a") })).is_empty());
    assert!(deaths(&leased.run_ms(900, &[1, 2])).is_empty());
    assert_eq!(deaths(&leased.run_ms(1_000, &[1, 2])), [DeathCause::Forgotten]);

    let unknown = leased.step(AssignerEvent::ForgetNode { node: id("z") });
    assert!(unknown.contains(&AssignerAction::ForgetAnswered {
        node: id("z"),
        answer: Err(ForgetError::UnknownNode(id("z"))),
    }));
}

/// Plan: nodes of a build that does not say its process: a new life replaces the one before at once, as ever. One of this build
/// beside one of that: they are two processes.
#[test]
fn a_build_that_does_not_say_its_process_goes_on_as_before() {
    let unsaid = |incarnation| Hello {
        process: None,
        ..fresh("c", 1, incarnation)
    };
    let mut desk = Desk::running(None);
    desk.hello(50, unsaid(31));
    assert_eq!(deaths(&desk.hello(51, unsaid(32))), [DeathCause::Replaced]);
    assert!(is_told_to_wait(&desk.hello(52, fresh("c", 3, 33)), 52));
}
