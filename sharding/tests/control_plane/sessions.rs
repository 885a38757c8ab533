//! What single messages do: hellos that are refused, diffs and full assignments, relays, operators' drains, a second
//! Assigner.

use std::sync::Arc;

use softstore_sharding::assigner::{DrainError, Notice, RELAY_BYTES_MAX};
use softstore_sharding::generation::GENERATION_EPOCH_UNIX_MS;
use softstore_sharding::session::{
    AssignerMessage, AssignmentUpdate, ClaimPhase, HandoffOutcome, HandoffReport, Hello, LoadReport,
    NodeMessage, RangeClaim, SESSION_VERSIONS, VersionRange,
};
use softstore_sharding::sharder::EvenRange;
use softstore_sharding::{
    Assigner, AssignerAction, AssignerConfig, AssignerEvent, Assignment, ClusterId, Generation, Incarnation,
    Life, NodeId, Peer, Provider, SessionId, Slice, SliceKey, Timestamp,
};

const UNIX_MS: u64 = GENERATION_EPOCH_UNIX_MS + 1_000_000;

/// An Assigner that is spoken to message by message.
struct Bare {
    assigner: Assigner,
    now: Timestamp,
}

fn life(name: &str, incarnation: u64) -> Life {
    Life {
        node: NodeId::new(name).expect("an allowed name"),
        incarnation: Incarnation::new(incarnation),
    }
}

fn hello(life: &Life) -> Hello {
    Hello {
        peer: Peer {
            life: life.clone(),
            address: "host:1".into(),
        },
        http_address: "".into(),
        zone: "".into(),
        capacity_bytes: 1 << 30,
        draining: false,
        generation: Generation::NONE,
        claims: Vec::new(),
        versions: SESSION_VERSIONS,
        lease_ms: None,
        process: None,
        cluster: ClusterId::default(),
        offers: None,
    }
}

fn session(number: u64) -> SessionId {
    SessionId::new(number)
}

impl Bare {
    /// Running, with nodes "a" (session 1) and "b" (session 2) serving.
    fn running() -> Self {
        let mut bare = Self::new();
        bare.say(1, NodeMessage::Hello(hello(&life("a", 1))));
        bare.say(2, NodeMessage::Hello(hello(&life("b", 2))));
        for number in [1, 2] {
            bare.heartbeat(number);
        }
        bare.pass_ms(100);
        for number in [1, 2] {
            bare.heartbeat(number);
        }
        assert!(bare.assigner.status(bare.now).settled);
        bare
    }

    fn new() -> Self {
        let config = AssignerConfig {
            expect_nodes: Some(2),
            founds_at_once: true,
            ..AssignerConfig::default()
        };
        let now = Timestamp::from_ms(500);
        Self {
            assigner: Assigner::new(config, Incarnation::new(77), Box::new(EvenRange), now),
            now,
        }
    }

    fn step(&mut self, event: AssignerEvent) -> Vec<AssignerAction> {
        self.assigner
            .step_at_once(event, self.now, UNIX_MS + self.now.as_ms())
    }

    fn say(&mut self, number: u64, message: NodeMessage) -> Vec<AssignerAction> {
        let session = session(number);
        self.step(AssignerEvent::FromNode { session, message })
    }

    fn heartbeat(&mut self, number: u64) -> Vec<AssignerAction> {
        let generation = self.current().generation();
        let load = LoadReport::default();
        self.say(
            number,
            NodeMessage::Heartbeat {
                sequence: 1,
                generation,
                load,
                lease_ms: None,
            },
        )
    }

    fn pass_ms(&mut self, ms: u64) -> Vec<AssignerAction> {
        self.now = self.now.plus_ms(ms);
        self.step(AssignerEvent::Tick)
    }

    fn has_member(&self, life: &Life) -> bool {
        let status = self.assigner.status(self.now);
        status.nodes.iter().any(|node| node.life == *life)
    }

    fn current(&self) -> Arc<Assignment> {
        self.assigner.assignment().expect("published").clone()
    }
}

/// What was sent on a session.
fn sent(actions: &[AssignerAction], number: u64) -> Vec<&AssignerMessage> {
    let on_session = actions.iter().filter_map(|action| match action {
        AssignerAction::Send { session, message } if session.get() == number => Some(message),
        _ => None,
    });
    on_session.collect()
}

fn closes(actions: &[AssignerAction], number: u64) -> bool {
    actions.contains(&AssignerAction::CloseSession {
        session: session(number),
    })
}

/// Plan: the hello of a node's second life is heard first, then, late, that of its first life, on a session that was
/// opened before. The first life must be told that it is dead, and nothing happen to the second; the same while the
/// Assigner recovers. A third life, on a later session, replaces the second one, which reconnected meanwhile.
#[test]
fn a_late_hello_of_an_earlier_life_does_not_bury_the_later_one() {
    for mut bare in [Bare::new(), Bare::running()] {
        let lives = [1, 2, 3].map(|incarnation| life("c", 30 + incarnation));
        bare.say(12, NodeMessage::Hello(hello(&lives[1])));
        let late = bare.say(11, NodeMessage::Hello(hello(&lives[0])));
        assert_eq!(sent(&late, 11), [&AssignerMessage::YouAreDead]);
        assert!(closes(&late, 11) && !closes(&late, 12));
        assert!(late.contains(&AssignerAction::Notice(Notice::ToldDead(lives[0].clone()))));
        assert!(bare.has_member(&lives[1]));
        // Reconnected: what counts is the first session of a life.
        bare.say(14, NodeMessage::Hello(hello(&lives[1])));
        let next = bare.say(13, NodeMessage::Hello(hello(&lives[2])));
        assert_eq!(sent(&next, 14), [&AssignerMessage::YouAreDead]);
        assert!(bare.has_member(&lives[2]));
    }
}

#[test]
fn nothing_is_heard_before_hello() {
    let mut bare = Bare::running();
    let actions = bare.say(9, NodeMessage::Draining);
    assert!(closes(&actions, 9));
    assert!(actions.contains(&AssignerAction::Notice(Notice::ProtocolBroken(session(9)))));
    let actions = bare.say(1, NodeMessage::Hello(hello(&life("a", 1))));
    assert!(closes(&actions, 1), "a second hello on one session");
    assert_eq!(bare.current().directory().len(), 2);
}

/// Plan: hellos that no node of this build can send. Each must be refused with a reason, its session closed, and nothing
/// be changed by it.
#[test]
fn h8_impossible_hellos_are_refused() {
    let mut bare = Bare::running();
    let good = hello(&life("c", 3));
    let stamp = bare.current().generation();
    let claim = RangeClaim {
        slice: Slice::FULL,
        since: stamp,
        providers: Vec::new(),
        phase: ClaimPhase::Serving,
    };
    let later = Generation {
        number: stamp.number + 1,
        ..stamp
    };
    let absurd = Generation {
        number: u64::MAX,
        ..stamp
    };
    let bad = [
        Hello {
            versions: VersionRange { min: 90, max: 99 },
            ..good.clone()
        },
        Hello {
            generation: absurd,
            ..good.clone()
        },
        Hello {
            generation: stamp,
            claims: vec![claim.clone(), claim.clone()],
            ..good.clone()
        },
        Hello {
            generation: stamp,
            claims: vec![RangeClaim {
                since: later,
                ..claim
            }],
            ..good
        },
    ];
    for (number, hello) in (10..).zip(bad) {
        let before = bare.assigner.status(bare.now);
        let actions = bare.say(number, NodeMessage::Hello(hello));
        assert!(
            matches!(sent(&actions, number)[..], [AssignerMessage::Refused { .. }]),
            "{actions:?}"
        );
        assert!(closes(&actions, number));
        assert_eq!(bare.assigner.status(bare.now), before);
    }
}

/// Plan: a life that this Assigner never met, but that holds an assignment, says hello to a running Assigner. The present
/// directory does not list it, so it is dead; also when it comes again.
#[test]
fn an_unlisted_life_that_holds_something_is_dead() {
    let mut bare = Bare::running();
    let generation = bare.current().generation();
    let stranger = Hello {
        generation,
        ..hello(&life("c", 3))
    };
    for (number, hello) in [(5, stranger.clone()), (6, hello(&stranger.peer.life))] {
        let actions = bare.say(number, NodeMessage::Hello(hello));
        assert_eq!(sent(&actions, number), [&AssignerMessage::YouAreDead]);
        assert!(closes(&actions, number));
    }
}

/// Plan: a joins, so that b gets what changed as a diff on what it holds; after "need full" it gets all; a session that
/// opens with an unknown generation gets all, and one that is up to date gets nothing.
#[test]
fn sessions_get_diffs_or_all() {
    let mut bare = Bare::running();
    let base = bare.current();
    let mut actions = bare.say(3, NodeMessage::Hello(hello(&life("c", 3))));
    actions.extend(bare.pass_ms(50));
    let [AssignerMessage::Update(AssignmentUpdate::Diff(diff))] = sent(&actions, 2)[..] else {
        panic!("not a diff: {:?}", sent(&actions, 2));
    };
    assert_eq!(*bare.current(), diff.apply(&base).unwrap());
    assert!(matches!(
        sent(&actions, 3)[..],
        [AssignerMessage::Update(AssignmentUpdate::Full(_))]
    ));

    let actions = bare.say(2, NodeMessage::NeedFull);
    assert_eq!(
        sent(&actions, 2),
        [&AssignerMessage::Update(AssignmentUpdate::Full(bare.current()))]
    );

    bare.step(AssignerEvent::SessionClosed { session: session(2) });
    let again = Hello {
        generation: bare.current().generation(),
        ..hello(&life("b", 2))
    };
    let actions = bare.say(4, NodeMessage::Hello(again.clone()));
    assert!(sent(&actions, 4).is_empty(), "it holds the newest");
    let actions = bare.say(
        5,
        NodeMessage::Hello(Hello {
            generation: base.generation(),
            ..again
        }),
    );
    assert!(matches!(
        sent(&actions, 5)[..],
        [AssignerMessage::Update(AssignmentUpdate::Diff(_))]
    ));
    assert!(closes(&actions, 4), "a life has one session");
}

#[test]
fn hand_off_messages_are_passed_on() {
    let mut bare = Bare::running();
    let (from, payload) = (life("a", 1), vec![1, 2, 3]);
    let relay = |to, payload| NodeMessage::Relay { to, payload };
    let actions = bare.say(1, relay(life("b", 2), payload.clone()));
    assert_eq!(sent(&actions, 2), [&AssignerMessage::Relay { from, payload }]);
    // To another life of b, and too large.
    for message in [
        relay(life("b", 9), vec![1]),
        relay(life("b", 2), vec![0; RELAY_BYTES_MAX + 1]),
    ] {
        let actions = bare.say(1, message);
        assert!(sent(&actions, 2).is_empty());
        assert!(
            actions
                .iter()
                .any(|action| matches!(action, AssignerAction::Notice(Notice::RelayDropped { .. })))
        );
    }
}

/// Plan: an operator drains an unknown node, one of two, and then the last. Only the second is acted on, by telling the
/// node and moving its ranges in the same step.
#[test]
fn an_operator_drains_a_node() {
    let mut bare = Bare::running();
    let drain = |bare: &mut Bare, name: &str| {
        let node = NodeId::new(name).unwrap();
        let actions = bare.step(AssignerEvent::DrainNode { node });
        let answer = actions.iter().find_map(|action| match action {
            AssignerAction::DrainAnswered { answer, .. } => Some(answer.clone()),
            _ => None,
        });
        (answer.expect("answered in the same step"), actions)
    };
    let (answer, _) = drain(&mut bare, "x");
    assert_eq!(answer, Err(DrainError::UnknownNode(NodeId::new("x").unwrap())));
    let (answer, actions) = drain(&mut bare, "a");
    assert!(answer.is_ok());
    assert!(sent(&actions, 1).contains(&&AssignerMessage::Drain));
    assert!(
        bare.current()
            .ranges()
            .iter()
            .all(|(_, range)| range.owner == life("b", 2))
    );
    let (answer, actions) = drain(&mut bare, "b");
    assert_eq!(answer, Err(DrainError::NoTaker(NodeId::new("b").unwrap())));
    assert!(sent(&actions, 2).is_empty());
    assert!(drain(&mut bare, "a").0.is_ok(), "repeating it repeats its answer");
}

/// Plan: a heartbeat names a newer generation of another Assigner. It must be reported once, and the next assignment must
/// be newer still.
#[test]
fn a_second_assigner_is_noticed() {
    let mut bare = Bare::running();
    let foreign = Generation {
        number: bare.current().generation().number + 1_000_000,
        assigner: Incarnation::new(88),
    };
    let beat = |bare: &mut Bare| {
        let (sequence, load) = (2, LoadReport::default());
        bare.say(
            1,
            NodeMessage::Heartbeat {
                sequence,
                generation: foreign,
                load,
                lease_ms: None,
            },
        )
    };
    let notice = AssignerAction::Notice(Notice::SecondAssigner {
        other: foreign.assigner,
        generation: foreign,
    });
    assert!(beat(&mut bare).contains(&notice));
    assert!(!beat(&mut bare).contains(&notice));
    bare.say(2, NodeMessage::Draining);
    assert!(bare.current().generation() > foreign);
}

/// Plan: a claims, on a new session, to have fenced its range for a life that is dead, or not to serve it for another
/// reason. It will never serve it under that since, so the range must get a new one.
#[test]
fn a_range_fenced_for_the_dead_is_given_anew() {
    for taker in [life("gone", 4), Life::nobody()] {
        let mut bare = Bare::running();
        let before = bare.current();
        let (slice, range) = before
            .ranges()
            .iter()
            .find(|(_, range)| range.owner == life("a", 1))
            .unwrap();
        let claims = vec![RangeClaim {
            slice,
            since: range.since,
            providers: Vec::new(),
            phase: ClaimPhase::Fenced(taker),
        }];
        let generation = before.generation();
        bare.say(
            7,
            NodeMessage::Hello(Hello {
                generation,
                claims,
                ..hello(&life("a", 1))
            }),
        );
        let after = bare.current();
        assert!(after.range_at(slice.low()).since > range.since);
    }
}

/// Plan: a hundred nodes join one after the other within the publish interval. At most two assignments come of it.
#[test]
fn publishing_is_gathered() {
    let mut bare = Bare::running();
    let mut published = 0;
    for number in 0..100_u64 {
        let name = format!("n{number}");
        let actions = bare.say(100 + number, NodeMessage::Hello(hello(&life(&name, number))));
        published += actions
            .iter()
            .filter(|action| matches!(action, AssignerAction::Published(_)))
            .count();
    }
    let actions = bare.pass_ms(20);
    published += actions
        .iter()
        .filter(|action| matches!(action, AssignerAction::Published(_)))
        .count();
    assert!((1..=2).contains(&published), "{published}");
    assert_eq!(bare.current().directory().len(), 102);
}

/// Plan: a new Assigner hears claims only, since nobody can send what it holds. Rows: what a and b claim of the whole key
/// space, a report of b that follows, and the owner, since and providers that must come of it (`None`: a new since).
#[test]
fn recovery_weighs_claims() {
    let (a, b) = (life("a", 1), life("b", 2));
    let stamp = |number| Generation {
        number,
        assigner: Incarnation::new(66),
    };
    let given = |since| Provider {
        life: a.clone(),
        since: stamp(since),
    };
    let claim = |since, phase, providers| RangeClaim {
        slice: Slice::FULL,
        since: stamp(since),
        providers,
        phase,
    };
    let (serving, open) = (ClaimPhase::Serving, ClaimPhase::NotStarted);
    let fenced = |taker: &Life| ClaimPhase::Fenced(taker.clone());
    let (old, new) = (claim(5, serving.clone(), vec![]), claim(9, open, vec![given(5)]));
    let rows = [
        // The highest since wins, and its providers carry over.
        (
            old.clone(),
            Some(new.clone()),
            None,
            (&b, Some(9), vec![given(5)]),
        ),
        // A hand-off that ends while the Assigner still recovers has ended.
        (old, Some(new), Some(9), (&b, Some(9), vec![])),
        // A fenced range is no claim, however new: the taker has it.
        (
            claim(5, fenced(&b), vec![]),
            Some(claim(9, serving, vec![])),
            None,
            (&b, Some(9), vec![]),
        ),
        // Fenced for one of whom nothing is heard: nobody has it, so that it gets a new since.
        (
            claim(5, fenced(&life("gone", 3)), vec![]),
            None,
            None,
            (&a, None, vec![]),
        ),
    ];
    for (row, (of_a, of_b, report, (owner, since, providers))) in rows.into_iter().enumerate() {
        let mut bare = Bare::new();
        let draining = of_b.is_none();
        let generation = stamp(9);
        let hello_a = Hello {
            generation,
            claims: vec![of_a],
            ..hello(&a)
        };
        let claims: Vec<RangeClaim> = of_b.into_iter().collect();
        let hello_b = Hello {
            generation,
            claims,
            draining,
            ..hello(&b)
        };
        for (number, hello) in [(1, hello_a), (2, hello_b)] {
            bare.say(number, NodeMessage::Hello(hello));
            bare.say(number, NodeMessage::HeldAssignment(None));
        }
        if let Some(since) = report {
            let report = HandoffReport {
                slice: Slice::FULL,
                since: stamp(since),
                outcome: HandoffOutcome::Completed,
            };
            bare.say(2, NodeMessage::Handoffs(vec![report]));
        }
        for _ in 0..8 {
            assert!(
                bare.assigner.assignment().is_none(),
                "row {row}: not before the settling time"
            );
            let now = bare.now;
            bare.now = now.plus_ms(500);
            for number in [1, 2] {
                let (sequence, load) = (1, LoadReport::default());
                bare.say(
                    number,
                    NodeMessage::Heartbeat {
                        sequence,
                        generation,
                        load,
                        lease_ms: None,
                    },
                );
            }
        }
        bare.pass_ms(1);
        let current = bare.current();
        let range = current.range_at(SliceKey::MIN);
        assert_eq!(current.ranges().len(), 1, "row {row}");
        assert_eq!((&range.owner, &range.providers), (owner, &providers), "row {row}");
        assert_eq!(
            range.since,
            since.map_or(current.generation(), stamp),
            "row {row}"
        );
    }
}
