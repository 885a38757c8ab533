//! [`Assigner`]: the control plane's state machine.
//!
//! It knows nodes by their sessions, decides who lives, has its [`Sharder`] place the ranges on the living, and publishes
//! assignments to every node. It keeps no clock: `step` is given the moment, and asks to be woken. What it knows it keeps
//! in memory; a new one learns it again from the nodes.
//!
//! ```text
//!   event            what goes in and comes out              listen    what a node's message changes
//!   founding         which cluster this is, and who belongs to another one
//!   names            who waits for a name that another process holds
//!   config, quiet    settings                                publish   when and to whom an assignment goes
//!   member, graves   who lives, who is dead                  next      since and providers of the next assignment
//!   hello            which hellos are refused                recovery  what a new Assigner learns before it publishes
//!   history          recent assignments, for diffs           status    what operators see
//!   rounds, forced   asking the Sharder, or doing without    balance   when it is asked for the load alone, and how much may move
//!   loads            what it is shown of the load            explain   why assignments changed, and what that cost
//!   preview          what it would do now                    read_leases  when leases of former readers are over
//!   revival          what silent lives may bring back        unheard  who is given nothing for the moment
//!   doubt            whether a member can be relied on       departures  what those said last that have left
//! ```
//!
//! It keeps, of the invariants: H1 in that a range has one owner per assignment and a higher `since` whenever that owner
//! changes; H4 in that generations only grow; H6 and H7 in that providers are carried along while they live; and that a
//! life which is dead stays dead.

mod balance;
mod config;
mod departures;
mod doubt;
mod event;
mod explain;
mod forced;
mod founding;
mod graves;
mod hello;
mod history;
mod listen;
mod loads;
mod member;
mod names;
pub(crate) mod next;
mod preview;
mod publish;
mod quiet;
mod read_leases;
mod recovery;
pub(crate) mod revival;
mod rounds;
mod status;
mod unheard;

pub use balance::HeldBack;
pub use config::{AssignerConfig, AssignerConfigError, LEASE_DRIFT_PERCENT, LEASE_MS_MIN};
pub use departures::{DEPARTURES_MAX, Departure};
pub use event::{
    AssignerAction, AssignerEvent, DeathCause, DrainError, DrainStart, ForgetError, HolderAnswer, Notice,
    SEEK_MS_MAX, SessionId,
};
pub use explain::{
    CHANGES_MAX, ChangeCause, ChangeRecord, Explanations, MOVES_PER_CHANGE_MAX, MoveEnd, MoveRecord,
    MoveTotals,
};
pub use listen::{NODES_MAX, RELAY_BYTES_MAX};
pub use preview::{PlanJob, PlanReport};
pub use quiet::{QUIET_HOURS_MAX, QuietHours, QuietHoursError};
pub use rounds::{PlaceJob, Ticket};
pub use status::{BalanceStatus, ClusterStatus, ForeignStatus, HotKeyStatus, NameWaitStatus, NodeStatus};

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use crate::assignment::Assignment;
use crate::generation::{Generation, Incarnation};
use crate::node::{Life, NodeId};
use crate::planted::{self, Bug};
use crate::range_map::RangeMap;
use crate::session::AssignerMessage;
use crate::sharder::Sharder;
use crate::time::Timestamp;

use balance::Balance;
use departures::Departures;
use founding::Belonging;
use graves::{Grave, Graves};
use history::History;
use loads::Loads;
use member::Member;
use names::Waiters;
use next::Reported;
use read_leases::ReadLeases;
use recovery::Recovery;
use rounds::Round;

/// The Assigner wakes at least this many times per failure timeout, so that a gap between its steps of half of it is a
/// standstill of its own.
const WAKES_PER_FAILURE_TIMEOUT: u64 = 4;

/// The control plane's state machine.
#[derive(Debug)]
pub struct Assigner {
    config: AssignerConfig,
    incarnation: Incarnation,
    sharder: Arc<dyn Sharder>,
    members: BTreeMap<NodeId, Member>,
    sessions: BTreeMap<SessionId, NodeId>,
    graves: Graves,
    waiters: Waiters,
    belonging: Belonging,
    /// Until the first assignment of this Assigner is out.
    recovery: Option<Recovery>,
    /// What the recovery found, until it is published.
    recovered: Option<Assignment>,
    history: History,
    /// The highest generation heard of or given out.
    highest: Generation,
    pending: Pending,
    last_published: Timestamp,
    /// Hand-offs reported as ended and not yet published.
    reported: RangeMap<Reported>,
    /// Ranges that their owner has fenced for a life which is dead: it will not serve them under this `since`.
    fenced_off: RangeMap<Life>,
    /// The other Assigner that was last reported.
    other_assigner: Option<Incarnation>,
    last_step: Timestamp,
    /// The wall clock at the last step.
    unix_ms: u64,
    /// Who owns something by the newest assignment.
    owners: BTreeSet<Life>,
    balance: Balance,
    loads: Loads,
    explanations: Explanations,
    read_leases: ReadLeases,
    departures: Departures,
    /// The question that the Sharder has not answered yet.
    round: Option<Round>,
    /// The one that was given up and not answered yet.
    overdue: Option<Ticket>,
    tickets: u64,
    /// Something was not given to a node because that was not heard of lately.
    waits_for_unheard: bool,
}

/// Whether something changed that an assignment is to tell of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Pending {
    Nothing,
    /// At the end of the publish interval.
    Soon,
    /// Drains and deaths.
    AtOnce,
}

impl Assigner {
    /// An Assigner that knows of nobody yet. Its incarnation must differ from every other Assigner's. The shell ticks it
    /// at once.
    #[must_use]
    pub fn new(
        config: AssignerConfig,
        incarnation: Incarnation,
        sharder: Box<dyn Sharder>,
        now: Timestamp,
    ) -> Self {
        Self {
            config,
            incarnation,
            sharder: Arc::from(sharder),
            members: BTreeMap::new(),
            sessions: BTreeMap::new(),
            graves: Graves::default(),
            waiters: Waiters::default(),
            belonging: Belonging::default(),
            recovery: Some(Recovery::new(now)),
            recovered: None,
            history: History::default(),
            highest: Generation::NONE,
            pending: Pending::Nothing,
            last_published: Timestamp::ZERO,
            reported: RangeMap::new(),
            fenced_off: RangeMap::new(),
            other_assigner: None,
            last_step: now,
            unix_ms: 0,
            owners: BTreeSet::new(),
            balance: Balance::default(),
            loads: Loads::default(),
            explanations: Explanations::default(),
            read_leases: ReadLeases::default(),
            departures: Departures::default(),
            round: None,
            overdue: None,
            tickets: 0,
            waits_for_unheard: false,
        }
    }

    /// An Assigner that knows what the one before it has published last, since that was stored before anybody was told of
    /// it. So what is dead stays dead, also if nobody who heard of its death lives to tell: a node that was cut off, and
    /// whose ranges others took and left again, is not believed when it comes back (H2). Without such a store, leased
    /// ownership keeps its promises as long as one node that holds the last assignment outlives the Assigner.
    #[must_use]
    pub fn resuming(
        config: AssignerConfig,
        incarnation: Incarnation,
        sharder: Box<dyn Sharder>,
        stored: Arc<Assignment>,
        now: Timestamp,
    ) -> Self {
        let (highest, founding) = (stored.generation(), stored.founding());
        let resuming = Self {
            recovery: Some(Recovery::resuming(stored, now)),
            highest,
            ..Self::new(config, incarnation, sharder, now)
        };
        match founding {
            Some(founding) => resuming.founded(founding, highest),
            None => resuming,
        }
    }

    /// Takes an event at a moment (`now` on the monotonic clock, `unix_ms` on the wall clock, for generation numbers);
    /// says what is to be done.
    pub fn step(&mut self, event: AssignerEvent, now: Timestamp, unix_ms: u64) -> Vec<AssignerAction> {
        let mut actions = Vec::new();
        self.unix_ms = unix_ms;
        if planted::is(Bug::TimersBeforeInbox) {
            self.tick(now, &mut actions);
        }
        self.notice_standstill(now, &mut actions);
        match event {
            AssignerEvent::FromNode { session, message } => self.hear(session, message, now, &mut actions),
            AssignerEvent::SessionClosed { session } => self.session_closed(session, now),
            AssignerEvent::HolderSought { life, answer } => {
                self.holder_sought(&life, answer, now, &mut actions)
            }
            AssignerEvent::ForgetNode { node } => {
                let answer = self.forget_node(&node, now, &mut actions);
                actions.push(AssignerAction::ForgetAnswered { node, answer });
            }
            AssignerEvent::DrainNode { node } => {
                let answer = self.drain(&node, &mut actions);
                actions.push(AssignerAction::DrainAnswered { node, answer });
            }
            AssignerEvent::Placed { ticket, placement } => {
                self.answered(ticket, placement, now, unix_ms, &mut actions);
            }
            AssignerEvent::PlacingFailed { ticket } => {
                self.placing_failed(ticket, now, unix_ms, &mut actions);
            }
            AssignerEvent::Freeze { for_ms } => self.freeze(for_ms, now, &mut actions),
            AssignerEvent::Unfreeze => self.unfreeze(&mut actions),
            AssignerEvent::Probed { life, reached } => self.probed(&life, reached),
            AssignerEvent::Tick => self.tick(now, &mut actions),
        }
        self.settle_holds(now, &mut actions);
        self.settle_read_leases(now);
        self.recover(now, &mut actions);
        self.publish_if_due(now, unix_ms, &mut actions);
        actions.push(AssignerAction::WakeAt(self.next_wake(now)));
        actions
    }

    /// [`Assigner::step`] for those to whom time stands still meanwhile, such as simulations: the Sharder is asked here and
    /// now.
    pub fn step_at_once(
        &mut self,
        event: AssignerEvent,
        now: Timestamp,
        unix_ms: u64,
    ) -> Vec<AssignerAction> {
        let mut actions = self.step(event, now, unix_ms);
        let is_job = |action: &AssignerAction| matches!(action, AssignerAction::Place(_));
        while let Some(index) = actions.iter().position(is_job) {
            if let AssignerAction::Place(job) = actions.remove(index) {
                actions.extend(self.step(job.run(), now, unix_ms));
            }
        }
        let wakes = |action: &AssignerAction| matches!(action, AssignerAction::WakeAt(_));
        let last = actions.iter().rposition(wakes);
        let mut index = 0;
        actions.retain(|action| {
            let keeps = !wakes(action) || Some(index) == last;
            index += 1;
            keeps
        });
        actions
    }

    /// Why the last assignments changed what they changed, and what that cost.
    #[must_use]
    pub fn explanations(&self) -> &Explanations {
        &self.explanations
    }

    /// The newest assignment published.
    #[must_use]
    pub fn assignment(&self) -> Option<&Arc<Assignment>> {
        self.history.current()
    }

    /// Which Assigner this is.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    fn wants(&mut self, pending: Pending) {
        self.pending = self.pending.max(pending);
    }

    /// A paused Assigner must not bury a living fleet whose heartbeats still lie in its sockets.
    fn notice_standstill(&mut self, now: Timestamp, actions: &mut Vec<AssignerAction>) {
        let gap_ms = now.ms_since(self.last_step);
        self.last_step = self.last_step.max(now);
        if gap_ms <= self.config.failure_timeout_ms / 2 {
            return;
        }
        for member in self.members.values_mut() {
            member.last_heard = now;
        }
        if let Some(recovery) = &mut self.recovery {
            recovery.restart(now);
        }
        if let Some(round) = &mut self.round {
            // The Sharder stood still as well.
            round.asked_at = now;
        }
        actions.push(AssignerAction::Notice(Notice::StoodStill { gap_ms }));
    }

    fn tick(&mut self, now: Timestamp, actions: &mut Vec<AssignerAction>) {
        let timeout_ms = self.config.failure_timeout_ms;
        let silent = |member: &&Member| {
            let is_silent = now.ms_since(member.last_heard) >= timeout_ms;
            is_silent && member.gone.is_none() && !self.may_serve_still(member, now)
        };
        let dead: Vec<NodeId> = self
            .members
            .values()
            .filter(silent)
            .map(|member| member.life.node.clone())
            .collect();
        for node in dead {
            self.let_go(&node, DeathCause::Silent, now, actions);
        }
        self.bury_forgotten(now, actions);
        self.tick_names(now, actions);
        for member in self.members.values_mut() {
            if member.reserve_until.is_some_and(|until| now >= until) {
                member.reserve_until = None;
                self.pending = self.pending.max(Pending::Soon);
            }
        }
    }

    /// Leased ownership: whether a life may serve although nothing is heard of it.
    fn may_serve_still(&self, member: &Member, now: Timestamp) -> bool {
        let wait_ms = self.config.lease_wait_ms(member.lease_ms);
        wait_ms > 0 && now.ms_since(member.last_answered) < wait_ms && !planted::is(Bug::LeaseNotAwaited)
    }

    /// Ends a node's present life, for ever.
    fn bury(&mut self, node: &NodeId, cause: DeathCause, actions: &mut Vec<AssignerAction>) {
        let Some(member) = self.members.remove(node) else {
            return;
        };
        if let Some(session) = member.session {
            self.unbind(session);
            if cause != DeathCause::Goodbye {
                let message = AssignerMessage::YouAreDead;
                actions.push(AssignerAction::Send { session, message });
            }
            actions.push(AssignerAction::CloseSession { session });
        }
        // Who says goodbye has gone, and another process has nothing of this one's.
        let may_return = matches!(cause, DeathCause::Silent | DeathCause::Reborn);
        self.graves.bury(
            member.life.clone(),
            Grave {
                may_return,
                answers: member.answers,
            },
        );
        let last_drain = member.load.drain;
        self.loads.bury(&member.life, member.load);
        self.explanations.forget(&member.life);
        let life = member.life;
        if cause == DeathCause::Goodbye
            && let Some(drain) = last_drain
        {
            self.departures.left(life.clone(), drain);
        }
        actions.push(AssignerAction::Notice(Notice::Died { life, cause }));
        self.wants(Pending::AtOnce);
    }

    /// A session ended. Its node may come back, or have crashed.
    fn session_closed(&mut self, session: SessionId, now: Timestamp) {
        if let Some(node) = self.sessions.get(&session)
            && let Some(member) = self.members.get_mut(node)
            && member.session == Some(session)
        {
            member.session_closed_at = Some(now);
        }
        self.unbind(session);
    }

    /// Forgets a session. The node that spoke on it lives on until it has been silent for too long.
    fn unbind(&mut self, session: SessionId) {
        if let Some(recovery) = &mut self.recovery {
            recovery.session_closed(session);
        }
        let Some(node) = self.sessions.remove(&session) else {
            return;
        };
        if let Some(member) = self.members.get_mut(&node)
            && member.session == Some(session)
        {
            member.session = None;
        }
    }

    /// Asks for what a recovering Assigner still needs to know, and ends the recovery when it knows enough.
    fn recover(&mut self, now: Timestamp, actions: &mut Vec<AssignerAction>) {
        self.reconsider_founding(now);
        let (has_taker, is_founded) = (self.has_taker(), self.belonging.is_founded());
        let Some(recovery) = &mut self.recovery else {
            return;
        };
        if let Some(session) = recovery.next_fetch(self.members.values(), now, &self.config) {
            let message = AssignerMessage::FetchAssignment;
            actions.push(AssignerAction::Send { session, message });
        }
        if !recovery.is_ready(self.members.values(), is_founded, now, &self.config) {
            return;
        }
        if self.is_undecided(now, actions) {
            return;
        }
        let Some(recovery) = &mut self.recovery else {
            return;
        };
        let ranges = recovery.merge(self.members.values(), self.highest);
        if self.members.is_empty() || (ranges.is_none() && !has_taker) {
            return;
        }
        let unheard = recovery.unheard();
        self.belonging
            .settle(recovery.known().and_then(Assignment::founding));
        self.history.inherit(recovery.take_known());
        self.recovery = None;
        for life in unheard {
            // Whose process goes on as a new life was told that this one is dead: by an Assigner that gave what it held to others.
            // Who they were, and what they wrote, what was recovered does not say: so it brings nothing back (H2).
            let offers = self.members.values().filter_map(|member| member.offers.as_ref());
            let was_buried_before = offers
                .flat_map(|offers| &offers.former)
                .any(|former| *former == life);
            let grave = Grave {
                may_return: !was_buried_before,
                ..Grave::default()
            };
            self.graves.bury(life.clone(), grave);
            let cause = DeathCause::NotRecovered;
            actions.push(AssignerAction::Notice(Notice::Died { life, cause }));
        }
        let generation = self.highest;
        actions.push(AssignerAction::Notice(Notice::Recovered { generation }));
        self.recovered = ranges.and_then(|ranges| Assignment::new(generation, ranges, self.directory()).ok());
        self.begin_waits();
        self.wants(Pending::AtOnce);
    }

    /// With the recovery over, those that hold nothing of what there is wait to be filled.
    fn begin_waits(&mut self) {
        let delay_ms = self.config.rebalance_delay_ms;
        let held = self.recovered.iter().flat_map(|held| held.ranges().iter());
        let owners: HashSet<&Life> = held.map(|(_, range)| &range.owner).collect();
        for member in self.members.values_mut() {
            member.claims = Vec::new();
            if self.recovered.is_some() && !owners.contains(&member.life) {
                member.reserve_until = Some(member.joined_at.plus_ms(delay_ms));
                member.is_filling = true;
            }
        }
    }

    /// When a tick has something to do. What is overdue asks for a tick now: only ticks act on silence and waits.
    fn next_wake(&self, now: Timestamp) -> Timestamp {
        let regular = now.plus_ms(self.config.failure_timeout_ms / WAKES_PER_FAILURE_TIMEOUT);
        let silence = self.members.values().filter(|member| member.gone.is_none());
        let silence = silence.map(|member| {
            let lease_over = member
                .last_answered
                .plus_ms(self.config.lease_wait_ms(member.lease_ms));
            lease_over.max(member.last_heard.plus_ms(self.config.failure_timeout_ms))
        });
        let waits = self.members.values().filter_map(|member| member.reserve_until);
        // After its end, the settling time waits for a hello, and no tick helps.
        let settled = self
            .recovery
            .iter()
            .flat_map(|recovery| {
                [
                    recovery.settled_at(&self.config),
                    recovery.founds_at(&self.config),
                    recovery.leases_over_at(&self.config),
                ]
            })
            .filter(|at| *at > now);
        let rounds = self.publish_at().into_iter().chain(self.round_ends_at());
        let rounds = rounds.chain(self.hold_ends_at()).chain(self.next_balance(now));
        let rounds = rounds.chain(self.read_leases_over_at()).chain(self.next_seek());
        let rounds = rounds.chain(self.next_successor_late());
        let due = silence.chain(waits).chain(settled).chain(rounds);
        due.fold(regular, Timestamp::min).max(now)
    }
}
