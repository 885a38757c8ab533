//! [`Plane`]: the real Assigner core in a scenario. Simulated nodes say hello, report what they bear, carry out their hand-offs at
//! once, drain and die; messages are counted with the length of their encoding ([`super::wire`]).
//!
//! A round is a minute of the Assigner's time: what it may move in a minute is what it may move in a round. In this order:
//!
//! 1. nodes that are new say hello; all report the load that they are to be seen with, in one heartbeat each;
//! 2. who leaves says so; who is dead has been silent for longer than the failure timeout, and is buried;
//! 3. takers report their hand-offs as completed;
//! 4. a second passes, and all report again, what they bear by what they own now: so often that the Assigner knows the load, and
//!    has balanced by it as it does in a cluster, every second;
//! 5. who left and owns nothing any more says goodbye.
//!
//! So a round counts [`BEATS`] heartbeats of each node, however long it stands for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use softstore_sharding::assigner::{
    Assigner, AssignerAction, AssignerConfig, AssignerEvent, Notice, SessionId,
};
use softstore_sharding::generation::GENERATION_EPOCH_UNIX_MS;
use softstore_sharding::session::{
    AssignerMessage, AssignmentUpdate, ClaimPhase, HandoffOutcome, HandoffReport, Hello, HotKeyLoad,
    LoadReport, NodeMessage, RangeClaim, SESSION_VERSIONS, SliceLoad,
};
use softstore_sharding::sharder::auto::Standing;
use softstore_sharding::sharder::{ClusterView, PlacedMove, Placement, Sharder};
use softstore_sharding::{
    Assignment, ClusterId, Generation, Incarnation, Life, NodeEntry, NodeState, Peer, ProcessId,
    RangeAssignment, Readers, Slice, Timestamp,
};

use super::fleet::{LifeNumber, Seat};
use super::policy::{Owned, life_of};
use super::truth::{Truth, Weight};
use super::{thread_cpu_ms, wire};

/// A load unit is so many operations per second: much more than the even load that the AutoSharder takes to underlie all.
pub const OPERATIONS_PER_LOAD_UNIT: f64 = 1_000.0;

/// A round in the Assigner's time.
const ROUND_MS: u64 = 60_000;

/// Heartbeats of each node in a round, a second apart: the Assigner wants eight before it moves anything by load.
pub const BEATS: u32 = 10;

/// Between two of them.
const BEAT_MS: u64 = 1_000;

/// More than the time between two rounds' heartbeats, less than a round and what it lasts until its deaths are looked at.
const FAILURE_TIMEOUT_MS: u64 = 50_000;

/// Between two steps when nothing happens: less than half a failure timeout.
const STEP_MS: u64 = 20_000;

/// When the first round begins.
const START_MS: u64 = 100_000;

/// Most hot keys that a node reports.
const HOT_KEYS_MAX: usize = softstore_sharding::load::HOT_KEYS_MAX;

/// What a round came to.
#[derive(Default)]
pub(super) struct Decided {
    pub(super) owned: Owned,
    /// CPU milliseconds of the Sharder, each time that it was asked.
    pub(super) sharder_ms: Vec<f64>,
    /// What it gave as reasons.
    pub(super) moves: Vec<PlacedMove>,
    /// CPU milliseconds of the Assigner, the Sharder's included.
    pub(super) assigner_ms: f64,
    /// CPU milliseconds of each question to the Sharder: the step that asks it, its answer, and the step that takes that in.
    pub(super) question_ms: Vec<f64>,
    /// CPU milliseconds of the longest step, without the Sharder's: for so long a heartbeat may have to wait.
    pub(super) step_ms_max: f64,
    /// What the Assigner and the nodes said.
    pub(super) traffic: Traffic,
}

/// Messages and their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    /// The Assigner's messages.
    pub told: u64,
    /// Bytes of them.
    pub told_bytes: u64,
    /// The nodes' messages.
    pub heard: u64,
    /// Bytes of them.
    pub heard_bytes: u64,
}

/// A simulated node's side of its session.
struct Session {
    id: SessionId,
    life: Life,
    held: Generation,
    sequence: u64,
    drains: bool,
}

/// The Assigner and the nodes' sides of their sessions.
pub(super) struct Plane {
    assigner: Assigner,
    now_ms: u64,
    sessions: BTreeMap<LifeNumber, Session>,
    life_on: BTreeMap<SessionId, LifeNumber>,
    next_session: u64,
    answers: Arc<Mutex<Answers>>,
    decided: Decided,
    /// What the nodes of the first round hold when it begins.
    held: Option<Arc<Assignment>>,
    /// What went wrong: a scenario in which the Sharder breaks the rules shows nothing.
    refused: Option<String>,
}

impl Plane {
    /// An Assigner that waits for the nodes of the first round. `rebalance_rounds`: for how many rounds who joins empty waits. `churn_percent`:
    /// how much of the data balancing may move in a round.
    /// `held`: what they hold already, if anything: the Assigner is one that takes over from another then, and asks one of them for it.
    pub(super) fn new(
        sharder: Box<dyn Sharder>,
        expected: usize,
        rebalance_rounds: u32,
        churn_percent: u32,
        held: Option<Assignment>,
    ) -> Self {
        let answers = Arc::default();
        let timed = Timed {
            inner: sharder,
            answers: Arc::clone(&answers),
        };
        let config = AssignerConfig {
            failure_timeout_ms: FAILURE_TIMEOUT_MS,
            settle_ms: FAILURE_TIMEOUT_MS * 2,
            expect_nodes: Some(expected),
            founds_at_once: true,
            rebalance_delay_ms: u64::from(rebalance_rounds) * ROUND_MS,
            balance_interval_ms: BEAT_MS,
            balance_churn_percent_per_minute: churn_percent,
            ..AssignerConfig::default()
        };
        let (incarnation, now) = (Incarnation::new(u64::MAX), Timestamp::from_ms(START_MS));
        Self {
            assigner: Assigner::new(config, incarnation, Box::new(timed), now),
            now_ms: START_MS,
            sessions: BTreeMap::new(),
            life_on: BTreeMap::new(),
            next_session: 1,
            answers,
            decided: Decided::default(),
            held: held.map(Arc::new),
            refused: None,
        }
    }

    /// A round. `seen`: the load that nodes report.
    pub(super) fn round(&mut self, seats: &[Seat], seen: &Truth, keys_max: usize) -> Result<Decided, String> {
        let began_ms = self.now_ms;
        self.greet(seats);
        self.report(seen, keys_max);
        self.leave(seats);
        self.tick(0);
        self.complete();
        self.tick(50);
        for _ in 1..BEATS {
            self.tick(BEAT_MS - 50);
            self.report(seen, keys_max);
            self.tick(0);
            self.complete();
            self.tick(50);
        }
        self.say_goodbye();
        self.tick(50);
        // Never longer than half a failure timeout without a step: the Assigner would think that it had stood still. But none when
        // the living have been silent for as long as the failure timeout.
        while self.now_ms + STEP_MS < began_ms + FAILURE_TIMEOUT_MS {
            self.tick(STEP_MS);
        }
        self.now_ms = began_ms + ROUND_MS;
        let mut decided = std::mem::take(&mut self.decided);
        let answers = std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner));
        (decided.sharder_ms, decided.moves) = (answers.spent_ms, answers.moves);
        decided.owned = self.owned(seats.len());
        self.refused.take().map_or(Ok(decided), Err)
    }

    fn tick(&mut self, after_ms: u64) {
        self.now_ms += after_ms;
        self.step(AssignerEvent::Tick);
    }

    fn say(&mut self, life: LifeNumber, message: NodeMessage) {
        let Some(session) = self.sessions.get(&life) else {
            return;
        };
        let session = session.id;
        self.hear(&message);
        self.step(AssignerEvent::FromNode { session, message });
    }

    /// Takes an event, and all that comes of it at once: the Sharder's answer, and what nodes say to what they are asked.
    fn step(&mut self, event: AssignerEvent) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let is_answer = matches!(event, AssignerEvent::Placed { .. });
            let (now, unix_ms) = (
                Timestamp::from_ms(self.now_ms),
                GENERATION_EPOCH_UNIX_MS + self.now_ms,
            );
            let began = thread_cpu_ms();
            let actions = self.assigner.step(event, now, unix_ms);
            let spent = thread_cpu_ms() - began;
            self.decided.assigner_ms += spent;
            self.decided.step_ms_max = self.decided.step_ms_max.max(spent);
            if is_answer && let Some(question) = self.decided.question_ms.last_mut() {
                *question += spent;
            }
            self.carry_out(actions, spent, &mut events);
        }
    }

    /// `spent`: CPU milliseconds that the step took.
    fn carry_out(&mut self, actions: Vec<AssignerAction>, spent: f64, events: &mut VecDeque<AssignerEvent>) {
        // All nodes are told the same: it is measured once.
        let mut measured: Option<(AssignmentUpdate, u64)> = None;
        for action in actions {
            match action {
                AssignerAction::Send { session, message } => {
                    let bytes = match (&message, &measured) {
                        (AssignerMessage::Update(update), Some((last, bytes))) if is_same(last, update) => {
                            *bytes
                        }
                        _ => wire::assigner_message_bytes(&message),
                    };
                    self.decided.traffic.told += 1;
                    self.decided.traffic.told_bytes += bytes;
                    match message {
                        AssignerMessage::Update(update) => {
                            self.hold(session, &update);
                            measured = Some((update, bytes));
                        }
                        AssignerMessage::FetchAssignment => {
                            let message = NodeMessage::HeldAssignment(self.held.clone());
                            self.hear(&message);
                            events.push_back(AssignerEvent::FromNode { session, message });
                        }
                        _ => {}
                    }
                }
                AssignerAction::CloseSession { session } => {
                    if let Some(life) = self.life_on.remove(&session) {
                        self.sessions.remove(&life);
                    }
                }
                AssignerAction::Place(job) => {
                    let began = thread_cpu_ms();
                    events.push_back(job.run());
                    let asked = thread_cpu_ms() - began;
                    self.decided.assigner_ms += asked;
                    self.decided.question_ms.push(spent + asked);
                }
                AssignerAction::Notice(Notice::PlacementRefused(why)) => self.refused = Some(why),
                AssignerAction::Notice(Notice::NotPublished(why)) => self.refused = Some(why.to_string()),
                _ => {}
            }
        }
    }

    /// Counts what a node says.
    fn hear(&mut self, message: &NodeMessage) {
        self.decided.traffic.heard += 1;
        self.decided.traffic.heard_bytes += wire::node_message_bytes(message);
    }

    fn hold(&mut self, session: SessionId, update: &AssignmentUpdate) {
        let life = self.life_on.get(&session);
        if let Some(session) = life.and_then(|life| self.sessions.get_mut(life)) {
            session.held = match update {
                AssignmentUpdate::Full(full) => full.generation(),
                AssignmentUpdate::Diff(diff) => diff.next,
            };
        }
    }

    fn greet(&mut self, seats: &[Seat]) {
        let first = self.held.clone();
        let generation = first.as_ref().map_or(Generation::NONE, |held| held.generation());
        let mut claims = first.as_deref().map(claims_to).unwrap_or_default();
        for seat in seats.iter().filter(|seat| seat.is_living()) {
            if self.sessions.contains_key(&seat.life) {
                continue;
            }
            let id = SessionId::new(self.next_session);
            self.next_session += 1;
            let life = life_of(seat);
            let hello = Hello {
                peer: Peer {
                    life: life.clone(),
                    address: address(seat),
                },
                http_address: address(seat),
                zone: zone(seat),
                capacity_bytes: seat.capacity_bytes,
                draining: false,
                generation,
                claims: claims.remove(&seat.life).unwrap_or_default(),
                versions: SESSION_VERSIONS,
                lease_ms: None,
                process: ProcessId::new(life.incarnation.get()),
                cluster: ClusterId::default(),
                offers: None,
            };
            let session = Session {
                id,
                life,
                held: hello.generation,
                sequence: 0,
                drains: false,
            };
            self.sessions.insert(seat.life, session);
            self.life_on.insert(id, seat.life);
            self.say(seat.life, NodeMessage::Hello(hello));
        }
        self.held = None;
        let is_dead = |life: &LifeNumber| seats.get(*life as usize).is_none_or(|seat| !seat.is_living());
        let dead: Vec<LifeNumber> = self.sessions.keys().copied().filter(is_dead).collect();
        for life in dead {
            if let Some(session) = self.sessions.remove(&life) {
                self.life_on.remove(&session.id);
                self.step(AssignerEvent::SessionClosed { session: session.id });
            }
        }
    }

    /// Each node's heartbeat, with what it bears of what it owns.
    fn report(&mut self, seen: &Truth, keys_max: usize) {
        let mut reports = self.loads(seen, keys_max);
        let lives: Vec<LifeNumber> = self.sessions.keys().copied().collect();
        for life in lives {
            let Some(session) = self.sessions.get_mut(&life) else {
                continue;
            };
            session.sequence += 1;
            let (sequence, generation) = (session.sequence, session.held);
            let message = NodeMessage::Heartbeat {
                sequence,
                generation,
                load: reports.remove(&life).unwrap_or_default(),
                lease_ms: None,
            };
            self.say(life, message);
        }
    }

    fn loads(&self, seen: &Truth, keys_max: usize) -> BTreeMap<LifeNumber, LoadReport> {
        let mut reports: BTreeMap<LifeNumber, LoadReport> = BTreeMap::new();
        let Some(assignment) = self.assigner.assignment() else {
            return reports;
        };
        for (slice, range) in assignment.ranges().iter() {
            let holders = holders(range);
            let share = 1.0 / holders.len().max(1) as f64;
            for part in seen.cuts(slice) {
                let load = slice_load(part, seen.of(part), share);
                for holder in &holders {
                    let report = reports.entry(*holder).or_default();
                    report.bytes += load.bytes;
                    report.operations_per_second += load.operations_per_second;
                    report.slices.push(load);
                }
            }
        }
        let (_, keys) = seen.reported(keys_max);
        for key in keys {
            let Some((_, range)) = assignment.ranges().overlapping(Slice::single(key.at)).next() else {
                continue;
            };
            let holders = holders(range);
            for holder in &holders {
                let report = reports.entry(*holder).or_default();
                if report.hot_keys.len() < HOT_KEYS_MAX {
                    report.hot_keys.push(HotKeyLoad {
                        at: key.at,
                        operations_per_second: key.load * OPERATIONS_PER_LOAD_UNIT / holders.len() as f64,
                        error_per_second: 0.0,
                        key: b"a key of 24 bytes, hashed".to_vec(),
                        key_bytes: 25,
                    });
                }
            }
        }
        reports
    }

    fn leave(&mut self, seats: &[Seat]) {
        for seat in seats.iter().filter(|seat| seat.standing == Standing::Leaving) {
            let session = self.sessions.get_mut(&seat.life);
            if session.is_some_and(|session| !std::mem::replace(&mut session.drains, true)) {
                self.say(seat.life, NodeMessage::Draining);
            }
        }
    }

    /// Every open hand-off is over.
    fn complete(&mut self) {
        let mut ended: BTreeMap<LifeNumber, Vec<HandoffReport>> = BTreeMap::new();
        if let Some(assignment) = self.assigner.assignment() {
            let open = assignment
                .ranges()
                .iter()
                .filter(|(_, range)| !range.providers.is_empty());
            for (slice, range) in open {
                let taker = number_of(&range.owner);
                ended.entry(taker).or_default().push(HandoffReport {
                    slice,
                    since: range.since,
                    outcome: HandoffOutcome::Completed,
                });
            }
        }
        for (taker, reports) in ended {
            self.say(taker, NodeMessage::Handoffs(reports));
        }
    }

    fn say_goodbye(&mut self) {
        let owns = |life: &Life| {
            let assignment = self.assigner.assignment();
            assignment.is_some_and(|held| held.ranges().iter().any(|(_, range)| range.owner == *life))
        };
        let leaves = |session: &Session| session.drains && !owns(&session.life);
        let gone: Vec<LifeNumber> = self
            .sessions
            .iter()
            .filter(|(_, session)| leaves(session))
            .map(|(life, _)| *life)
            .collect();
        for life in gone {
            self.say(life, NodeMessage::Goodbye);
        }
    }

    fn owned(&self, lives: usize) -> Owned {
        let ranges = self
            .assigner
            .assignment()
            .into_iter()
            .flat_map(|held| held.ranges().iter());
        let known = |holder: &LifeNumber| (*holder as usize) < lives;
        ranges
            .map(|(slice, range)| (slice, holders(range).into_iter().filter(known).collect()))
            .collect()
    }
}

fn is_same(left: &AssignmentUpdate, right: &AssignmentUpdate) -> bool {
    match (left, right) {
        (AssignmentUpdate::Full(left), AssignmentUpdate::Full(right)) => Arc::ptr_eq(left, right),
        (AssignmentUpdate::Diff(left), AssignmentUpdate::Diff(right)) => Arc::ptr_eq(left, right),
        _ => false,
    }
}

/// An assignment in which equal slices are dealt to the living nodes, in an order that is drawn: as after a long life.
pub(super) fn dealt(seats: &[Seat], owned: &Owned) -> Option<Assignment> {
    let generation = Generation {
        number: 1,
        assigner: Incarnation::new(1),
    };
    let ranges = owned.iter().map(|(slice, owners)| {
        let range = RangeAssignment {
            owner: life_of(&seats[owners[0] as usize]),
            since: generation,
            providers: Vec::new(),
            readers: Readers::default(),
            awaits: Vec::new(),
        };
        (*slice, range)
    });
    let directory = seats.iter().filter(|seat| seat.is_living()).map(|seat| {
        let life = life_of(seat);
        let entry = NodeEntry {
            incarnation: life.incarnation,
            process: ProcessId::new(life.incarnation.get()),
            address: address(seat),
            http_address: address(seat),
            zone: zone(seat),
            state: NodeState::Serving,
        };
        (life.node, entry)
    });
    Assignment::new(generation, ranges.collect(), directory.collect()).ok()
}

/// What each owner says in its hello that it holds.
fn claims_to(held: &Assignment) -> BTreeMap<LifeNumber, Vec<RangeClaim>> {
    let mut claims: BTreeMap<LifeNumber, Vec<RangeClaim>> = BTreeMap::new();
    for (slice, range) in held.ranges().iter() {
        let of_owner = claims.entry(number_of(&range.owner)).or_default();
        of_owner.push(RangeClaim {
            slice,
            since: range.since,
            providers: range.providers.clone(),
            phase: ClaimPhase::Serving,
        });
    }
    claims
}

fn address(seat: &Seat) -> Arc<str> {
    format!(
        "10.{}.{}.{}:7070",
        seat.node >> 16,
        (seat.node >> 8) & 255,
        seat.node & 255
    )
    .into()
}

fn zone(seat: &Seat) -> Arc<str> {
    format!("zone-{}", seat.zone).into()
}

/// The owner and the replicas.
fn holders(range: &RangeAssignment) -> Vec<LifeNumber> {
    let lives = std::iter::once(&range.owner).chain(&range.readers.replicas);
    lives.map(number_of).collect()
}

/// Of which life an incarnation is.
fn number_of(life: &Life) -> LifeNumber {
    let number = life.incarnation.get().wrapping_sub(1);
    LifeNumber::try_from(number).unwrap_or(LifeNumber::MAX)
}

fn slice_load(slice: Slice, weight: Weight, share: f64) -> SliceLoad {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole bytes are enough, and they are never negative"
    )]
    let bytes = weight.bytes as u64;
    let per_second = weight.load * share * OPERATIONS_PER_LOAD_UNIT;
    SliceLoad {
        slice,
        operations_per_second: per_second,
        bytes,
        bytes_per_second: per_second * 300.0,
        hits_per_second: weight.hits * share * OPERATIONS_PER_LOAD_UNIT,
        cpu_us_per_second: per_second,
    }
}

/// What a Sharder was heard to say since this was last looked at.
#[derive(Debug, Default)]
struct Answers {
    spent_ms: Vec<f64>,
    moves: Vec<PlacedMove>,
}

/// A Sharder whose time is taken, and whose reasons are noted.
#[derive(Debug)]
struct Timed {
    inner: Box<dyn Sharder>,
    answers: Arc<Mutex<Answers>>,
}

impl Sharder for Timed {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn reacts_to_load(&self) -> bool {
        self.inner.reacts_to_load()
    }

    fn place(&self, view: &ClusterView<'_>) -> Placement {
        let began = thread_cpu_ms();
        let placement = self.inner.place(view);
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.spent_ms.push(thread_cpu_ms() - began);
        answers.moves.extend_from_slice(placement.moves());
        placement
    }
}
