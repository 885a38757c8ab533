//! What a slicelet does with single events.

use std::collections::BTreeMap;

use super::*;
use crate::assignment::{RangeAssignment, Readers};
use crate::diff::AssignmentDiff;
use crate::node::{NodeEntry, NodeId, NodeState, Peer};
use crate::session::{ClaimPhase, LoadReport};
use crate::slice::Slice;

const ME: u64 = 7;

fn me() -> Life {
    Life {
        node: NodeId::new("me").unwrap(),
        incarnation: Incarnation::new(ME),
    }
}

fn generation(number: u64) -> Generation {
    Generation {
        number,
        assigner: Incarnation::new(1),
    }
}

/// I own everything since 1; `listed`: the directory lists me.
fn assignment(number: u64, listed: bool) -> Arc<Assignment> {
    let range = RangeAssignment {
        owner: me(),
        since: generation(1),
        providers: Vec::new(),
        readers: Readers::default(),
        awaits: Vec::new(),
    };
    let entry = NodeEntry {
        incarnation: me().incarnation,
        process: None,
        address: "me:1".into(),
        http_address: "".into(),
        zone: "".into(),
        state: NodeState::Serving,
    };
    let directory: BTreeMap<_, _> = listed.then(|| (me().node, entry)).into_iter().collect();
    Arc::new(Assignment::new(generation(number), vec![(Slice::FULL, range)], directory).unwrap())
}

fn full(number: u64) -> SliceletEvent {
    update(AssignmentUpdate::Full(assignment(number, true)))
}

fn update(update: AssignmentUpdate) -> SliceletEvent {
    SliceletEvent::FromAssigner(AssignerMessage::Update(update))
}

fn answer(sequence: u64, number: u64) -> SliceletEvent {
    leased(sequence, number, None)
}

fn leased(sequence: u64, number: u64, lease_ms: Option<u64>) -> SliceletEvent {
    SliceletEvent::FromAssigner(AssignerMessage::HeartbeatAnswer {
        sequence,
        generation: if number == 0 {
            Generation::NONE
        } else {
            generation(number)
        },
        lease_ms,
    })
}

struct Bench {
    slicelet: Slicelet,
    now: Timestamp,
}

impl Bench {
    fn new() -> Self {
        let identity = Identity {
            peer: Peer {
                life: me(),
                address: "me:1".into(),
            },
            http_address: "".into(),
            zone: "".into(),
            capacity_bytes: 1,
            process: ProcessId::new(7).expect("not 0"),
            cluster: None,
        };
        let now = Timestamp::from_ms(1_000);
        let slicelet = Slicelet::new(SliceletConfig::default(), identity, now);
        Self { slicelet, now }
    }

    /// With an open session, holding assignment 5, and its heartbeat sent and answered.
    fn serving() -> Self {
        let mut bench = Self::new();
        assert!(bench.tick().contains(&SliceletAction::OpenSession));
        bench.step(SliceletEvent::SessionOpened {
            claims: Vec::new(),
            offers: None,
        });
        bench.step(full(5));
        bench.tick();
        let sequence = bench.slicelet.sequence;
        bench.step(answer(sequence, 5));
        bench
    }

    /// What comes out, without the wake-up.
    fn step(&mut self, event: SliceletEvent) -> Vec<SliceletAction> {
        let mut actions = self.slicelet.step(event, self.now);
        actions.retain(|action| !matches!(action, SliceletAction::WakeAt(_)));
        actions
    }

    fn tick(&mut self) -> Vec<SliceletAction> {
        let load = LoadReport::default();
        self.step(SliceletEvent::Tick { load })
    }

    fn tick_after_ms(&mut self, ms: u64) -> Vec<SliceletAction> {
        self.now = self.now.plus_ms(ms);
        self.tick()
    }

    fn wake(&mut self) -> Timestamp {
        self.slicelet.next_wake()
    }
}

fn heartbeats(actions: &[SliceletAction]) -> usize {
    let is_heartbeat =
        |action: &&SliceletAction| matches!(action, SliceletAction::Send(NodeMessage::Heartbeat { .. }));
    actions.iter().filter(is_heartbeat).count()
}

#[test]
fn heartbeats_are_regular_and_tell_of_a_new_assignment_soon() {
    let mut bench = Bench::serving();
    assert_eq!(heartbeats(&bench.tick_after_ms(499)), 0);
    assert_eq!(heartbeats(&bench.tick_after_ms(1)), 1);
    bench.step(full(6));
    assert!(bench.wake() <= bench.now.plus_ms(HEARTBEAT_SPACING_MS));
    assert_eq!(heartbeats(&bench.tick_after_ms(HEARTBEAT_SPACING_MS)), 1);
}

/// Plan: a life's first heartbeat is answered before the Assigner gives it anything, so the answer confirms nothing. When its
/// assignment comes it says so at once: until that is answered it serves nothing, and its givers have stopped.
#[test]
fn a_life_that_is_given_something_asks_for_its_leave_at_once() {
    let mut bench = Bench::new();
    bench.tick();
    bench.step(SliceletEvent::SessionOpened {
        claims: Vec::new(),
        offers: None,
    });
    bench.tick();
    let first = bench.slicelet.sequence;
    bench.now = bench.now.plus_ms(1);
    bench.step(leased(first, 4, Some(2_000)));
    bench.step(full(5));
    assert!(bench.wake() <= bench.now);
    assert_eq!(heartbeats(&bench.tick()), 1);
    let sequence = bench.slicelet.sequence;
    bench.step(leased(sequence, 5, Some(2_000)));
    assert_eq!(bench.slicelet.leased_until(), bench.now.plus_ms(2_000));
}

/// Plan: assignments that are newer, older, diffs that fit and that do not. Only what is newer is adopted; what does not
/// fit is asked for whole, once.
#[test]
fn updates_are_adopted_or_asked_for() {
    let mut bench = Bench::serving();
    assert!(bench.step(full(4)).is_empty());
    assert!(bench.step(full(5)).is_empty());
    let fits = AssignmentDiff::between(&assignment(5, true), &assignment(6, true));
    let actions = bench.step(update(AssignmentUpdate::Diff(Arc::new(fits))));
    assert_eq!(actions, [SliceletAction::Adopt(assignment(6, true))]);
    let stray = Arc::new(AssignmentDiff::between(
        &assignment(8, true),
        &assignment(9, true),
    ));
    let actions = bench.step(update(AssignmentUpdate::Diff(stray.clone())));
    assert_eq!(actions, [SliceletAction::Send(NodeMessage::NeedFull)]);
    assert!(bench.step(update(AssignmentUpdate::Diff(stray))).is_empty());
    assert_eq!(bench.step(full(9)), [SliceletAction::Adopt(assignment(9, true))]);
    // An answer that knows more than came: the update is lost.
    assert_eq!(
        bench.step(answer(1, 10)),
        [SliceletAction::Send(NodeMessage::NeedFull)]
    );
}

#[test]
fn a_life_that_is_no_longer_listed_is_dead() {
    let mut bench = Bench::serving();
    let actions = bench.step(update(AssignmentUpdate::Full(assignment(6, false))));
    assert_eq!(actions, [SliceletAction::CloseSession, SliceletAction::Reborn]);
    assert!(
        bench.tick_after_ms(100).is_empty(),
        "nothing happens before it is reborn"
    );
    bench.slicelet.reborn(Incarnation::new(8), bench.now);
    assert_eq!(bench.slicelet.life().incarnation, Incarnation::new(8));
    assert!(bench.slicelet.assignment().is_none());
    assert!(bench.tick().contains(&SliceletAction::OpenSession));
}

/// Plan: a standstill longer than the failure timeout. Serving is suspended in the first step after it, whatever that is;
/// an answer to a heartbeat from before does not resume it, one to a heartbeat sent after does.
#[test]
fn h1_a_standstill_suspends_until_a_later_heartbeat_is_answered() {
    let mut bench = Bench::serving();
    bench.tick_after_ms(500);
    let before = bench.slicelet.sequence;
    bench.now = bench.now.plus_ms(3_001);
    assert_eq!(bench.step(answer(before, 5)), [SliceletAction::Suspend]);
    assert_eq!(bench.wake(), bench.now, "a heartbeat is due at once");
    assert_eq!(heartbeats(&bench.tick()), 1);
    // The answer says that there is something newer: not before that is here.
    let actions = bench.step(answer(before + 1, 6));
    assert_eq!(actions, [SliceletAction::Send(NodeMessage::NeedFull)]);
    let actions = bench.step(full(6));
    assert_eq!(
        actions,
        [SliceletAction::Adopt(assignment(6, true)), SliceletAction::Resume]
    );
}

/// Plan: a standstill, in which the Assigner was replaced, and this life perhaps buried. The new one still recovers: it has
/// published nothing, so its answer says nothing of what became of this node's ranges, and resumes nothing.
#[test]
fn h1_a_recovering_assigner_confirms_nothing() {
    let mut bench = Bench::serving();
    bench.tick_after_ms(3_001);
    let sequence = bench.slicelet.sequence;
    assert_eq!(bench.step(answer(sequence, 0)), []);
    assert!(bench.slicelet.is_suspended());
    assert_eq!(bench.step(answer(sequence, 5)), [SliceletAction::Resume]);
}

/// Plan: a lease of 2 s. It begins with the sending of the heartbeat, not with the answer; an answer that tells of an
/// assignment which is not here, or of none, renews nothing; a standstill is not ended by silence.
#[test]
fn h1_a_lease_counts_from_sending_and_needs_the_newest_assignment() {
    const LEASE_MS: Option<u64> = Some(2_000);
    let mut bench = Bench::new();
    bench.tick();
    bench.step(SliceletEvent::SessionOpened {
        claims: Vec::new(),
        offers: None,
    });
    bench.step(full(5));
    bench.tick();
    let (sent, sequence) = (bench.now, bench.slicelet.sequence);
    assert!(!bench.slicelet.may_serve(bench.now), "not before an answer");
    bench.now = sent.plus_ms(400);
    bench.step(leased(sequence, 6, LEASE_MS));
    assert!(!bench.slicelet.may_serve(bench.now), "it holds 5, not 6");
    bench.step(full(6));
    bench.tick_after_ms(500);
    let (sent, sequence) = (bench.now, bench.slicelet.sequence);
    bench.now = sent.plus_ms(400);
    bench.step(leased(sequence, 6, LEASE_MS));
    assert!(bench.slicelet.may_serve(sent.plus_ms(1_999)));
    assert!(!bench.slicelet.may_serve(sent.plus_ms(2_000)));
    bench.tick_after_ms(500);
    bench.step(leased(sequence + 1, 0, LEASE_MS));
    assert!(!bench.slicelet.may_serve(sent.plus_ms(2_000)));
    bench.now = sent.plus_ms(1_999);
    assert!(!bench.tick().contains(&SliceletAction::LeaseEnded));
    assert_eq!(bench.wake(), sent.plus_ms(2_000));
    assert!(bench.tick_after_ms(1).contains(&SliceletAction::LeaseEnded));
    bench.tick_after_ms(3_001);
    assert!(!bench.tick_after_ms(600).contains(&SliceletAction::Resume));
}

/// Plan: the same standstill, but nothing answers. Serving resumes after 500 ms and not before.
#[test]
fn an_unreachable_assigner_ends_the_suspension() {
    let mut bench = Bench::serving();
    assert!(bench.tick_after_ms(3_001).contains(&SliceletAction::Suspend));
    assert!(bench.wake() <= bench.now.plus_ms(500));
    assert!(!bench.tick_after_ms(499).contains(&SliceletAction::Resume));
    assert!(bench.tick_after_ms(1).contains(&SliceletAction::Resume));
    // One that is cut off goes on; late timers are no standstill.
    assert!(!bench.tick_after_ms(1_699).contains(&SliceletAction::Suspend));
    assert!(!bench.tick_after_ms(1_699).contains(&SliceletAction::Suspend));
    assert!(bench.tick_after_ms(1_700).contains(&SliceletAction::Suspend));
}

/// Plan: a heartbeat goes out and is answered, and just before the next is due the node looks around for another reason and
/// is stopped. Its last heartbeat is then older than its last look: it counts as dead before a failure timeout has passed
/// since it looked, and must not serve in between. If it wakes while it surely lives, it goes on at once.
#[test]
fn h1_a_standstill_counts_from_the_last_heartbeat_that_was_heard() {
    for (asleep_ms, suspends) in [(2_100, false), (2_900, true)] {
        let mut bench = Bench::serving();
        bench.tick_after_ms(500);
        bench.step(answer(bench.slicelet.sequence, 5));
        bench.now = bench.now.plus_ms(499);
        bench.step(SliceletEvent::Handoffs(Vec::new()));
        let woken = bench.now.plus_ms(asleep_ms);
        assert_eq!(
            bench.slicelet.may_serve(woken),
            !suspends,
            "before it has looked around"
        );
        assert_eq!(
            bench.tick_after_ms(asleep_ms).contains(&SliceletAction::Suspend),
            suspends
        );
        assert_eq!(bench.slicelet.may_serve(woken), !suspends);
    }
}

#[test]
fn the_pause_between_attempts_grows_to_its_limit() {
    let mut bench = Bench::new();
    bench.tick();
    let config = SliceletConfig::default();
    let mut pauses = Vec::new();
    for _ in 0..10 {
        bench.step(SliceletEvent::SessionClosed);
        let pause_ms = bench.wake().ms_since(bench.now);
        pauses.push(pause_ms);
        assert!(bench.tick_after_ms(pause_ms - 1).is_empty());
        assert_eq!(bench.tick_after_ms(1), [SliceletAction::OpenSession]);
    }
    assert!(pauses[0] <= config.reconnect_min_ms && pauses[0] >= config.reconnect_min_ms / 2);
    assert!(pauses[9] <= config.reconnect_max_ms && pauses[9] >= config.reconnect_max_ms / 2);
}

/// Plan: a drain without an Assigner while hand-offs are open: it ends when both the wait and the hand-offs are over.
#[test]
fn a_lonely_drain_finishes_its_hand_offs_first() {
    let mut bench = Bench::serving();
    bench.step(SliceletEvent::SessionClosed);
    let actions = bench.step(SliceletEvent::DrainRequested);
    assert_eq!(actions, [SliceletAction::BeginDrain]);
    let busy = LoadReport {
        ranges_giving: 1,
        ..LoadReport::default()
    };
    let ended = |actions: &[SliceletAction]| {
        actions
            .iter()
            .any(|action| matches!(action, SliceletAction::EndDrain { .. }))
    };
    for _ in 0..60 {
        bench.now = bench.now.plus_ms(100);
        let load = busy.clone();
        assert!(!ended(&bench.step(SliceletEvent::Tick { load })));
    }
    let reason = DrainEnd::NoAssigner;
    assert!(
        bench
            .tick_after_ms(100)
            .contains(&SliceletAction::EndDrain { reason })
    );
}

#[test]
fn goodbye_is_said_after_serving_has_stopped() {
    let mut bench = Bench::serving();
    assert_eq!(
        bench.step(SliceletEvent::FromAssigner(AssignerMessage::Drain)),
        [
            SliceletAction::BeginDrain,
            SliceletAction::Send(NodeMessage::Draining)
        ]
    );
    assert!(
        bench.step(SliceletEvent::DrainRequested).is_empty(),
        "it drains already"
    );
    let reason = DrainEnd::Drained;
    assert_eq!(
        bench.step(SliceletEvent::Drained),
        [SliceletAction::EndDrain { reason }]
    );
    assert_eq!(
        heartbeats(&bench.tick_after_ms(500)),
        1,
        "it lives until it has stopped serving"
    );
    assert_eq!(
        bench.step(SliceletEvent::StoppedServing),
        [
            SliceletAction::Send(NodeMessage::Goodbye),
            SliceletAction::CloseSession,
            SliceletAction::Stop
        ]
    );
    assert!(bench.tick_after_ms(500).is_empty());
}

/// Plan: a serving node is given what it cannot serve. It closes its session, and opens the next one soon, whose hello
/// carries what it claims. Without a session there is nothing to close: the next hello says it anyway.
#[test]
fn a_contradicted_node_says_hello_again() {
    let mut bench = Bench::serving();
    let actions = bench.step(SliceletEvent::Contradicted);
    assert!(actions.contains(&SliceletAction::CloseSession));
    let closed = bench.step(SliceletEvent::Contradicted);
    assert!(!closed.contains(&SliceletAction::CloseSession), "{closed:?}");
    let actions = bench.tick_after_ms(SliceletConfig::default().reconnect_min_ms);
    assert!(actions.contains(&SliceletAction::OpenSession));
    let claims = vec![RangeClaim {
        slice: Slice::FULL,
        since: generation(1),
        providers: Vec::new(),
        phase: ClaimPhase::Fenced(Life::nobody()),
    }];
    let actions = bench.step(SliceletEvent::SessionOpened {
        claims: claims.clone(),
        offers: None,
    });
    let hello = actions.iter().find_map(|action| match action {
        SliceletAction::Send(NodeMessage::Hello(hello)) => Some(hello),
        _ => None,
    });
    assert_eq!(hello.map(|hello| &hello.claims), Some(&claims));
}

/// The same as [`assignment`], of a founding, and with a directory that says its processes or does not.
fn founded(number: u64, founding: Option<u128>, is_identified: bool) -> Arc<Assignment> {
    let plain = assignment(number, true);
    let mut directory = plain.directory().clone();
    for entry in directory.values_mut() {
        entry.process = ProcessId::new(7).filter(|_| is_identified);
    }
    let ranges = plain.ranges().iter();
    let ranges = ranges.map(|(slice, range)| (slice, range.clone())).collect();
    let founded = Assignment::new(generation(number), ranges, directory).unwrap();
    Arc::new(founded.of_founding(founding.and_then(Founding::new)))
}

/// Plan: a node holds an assignment of founding 1. One of founding 2 comes, far newer, whole and as a diff; then one that says
/// none. None is adopted, nothing is dropped, and each is told of; what says none is adopted while a node is listed whose build
/// cannot say it. The founding outlasts a rebirth.
#[test]
fn f3_f4_assignments_of_another_founding_are_not_adopted() {
    let mut bench = Bench::new();
    bench.tick();
    bench.step(SliceletEvent::SessionOpened {
        claims: Vec::new(),
        offers: None,
    });
    let held = founded(5, Some(1), true);
    bench.step(update(AssignmentUpdate::Full(held.clone())));
    assert_eq!(bench.slicelet.cluster().founding, Founding::new(1));
    let foreign = founded(900, Some(2), true);
    let diff = Arc::new(AssignmentDiff::between(&held, &foreign));
    for (said, theirs) in [
        (AssignmentUpdate::Full(foreign.clone()), Founding::new(2)),
        (AssignmentUpdate::Diff(diff), Founding::new(2)),
        (AssignmentUpdate::Full(founded(901, None, true)), None),
    ] {
        let actions = bench.step(update(said));
        let refused = SliceletAction::ForeignAssignment { theirs };
        assert_eq!(actions, [refused, SliceletAction::CloseSession]);
        assert_eq!(bench.slicelet.assignment(), Some(&held));
        bench.tick_after_ms(1_000);
        bench.step(SliceletEvent::SessionOpened {
            claims: Vec::new(),
            offers: None,
        });
    }
    bench.step(update(AssignmentUpdate::Full(founded(6, Some(1), false))));
    let silent = founded(7, None, false);
    let actions = bench.step(update(AssignmentUpdate::Full(silent.clone())));
    assert!(actions.contains(&SliceletAction::Adopt(silent)));
    bench.step(SliceletEvent::FromAssigner(AssignerMessage::YouAreDead));
    bench.slicelet.reborn(Incarnation::new(8), bench.now);
    assert_eq!(bench.slicelet.cluster().founding, Founding::new(1));
}

/// Plan: the Assigner answers hello after hello that another process has the name, then that it is of another cluster, then it hears
/// this one. Each is told once at its beginning and again after half a minute, what is held stays, and a name is asked for again
/// soon.
#[test]
fn n3_f3_a_process_that_is_not_heard_keeps_what_it_holds_and_says_so() {
    let mut bench = Bench::serving();
    let held = bench.slicelet.assignment().cloned();
    let name = || AssignerMessage::NameTaken {
        holder: "other:1".into(),
    };
    let cluster = || AssignerMessage::OtherCluster {
        cluster: ClusterId::default(),
    };
    let mut refuse = |said: AssignerMessage, for_ms: u64| {
        let (mut told, mut asked, begun) = (0, 0, bench.now);
        while bench.now < begun.plus_ms(for_ms) {
            let actions = bench.step(SliceletEvent::FromAssigner(said.clone()));
            told += actions
                .iter()
                .filter(|action| matches!(action, SliceletAction::Barred(_)))
                .count();
            assert!(!actions.contains(&SliceletAction::Reborn));
            bench.step(SliceletEvent::SessionClosed);
            while !bench.tick_after_ms(10).contains(&SliceletAction::OpenSession) {}
            bench.step(SliceletEvent::SessionOpened {
                claims: Vec::new(),
                offers: None,
            });
            asked += 1;
            assert_eq!(bench.slicelet.assignment().cloned(), held);
        }
        (told, asked)
    };
    let (told, asked) = refuse(name(), 10_000);
    assert_eq!(told, 1);
    assert!((35..=80).contains(&asked), "{asked} times in 10 s");
    assert_eq!(refuse(name(), 25_000).0, 1, "again after 30 s");
    assert_eq!(refuse(cluster(), 10_000).0, 1);
    assert!(bench.step(answer(0, 5)).contains(&SliceletAction::Admitted));
}
