//! [`Slicelet`]: the part of a node that keeps the session with the Assigner, follows assignments, and knows whether the
//! node may serve, drains, or is dead. What the node does with the ranges of an assignment is the hand-off's.
//!
//! ```text
//!            SessionOpened -> Hello          Update -> Adopt           YouAreDead -> Reborn
//!   closed ----------------------> open ------------------------> ... --------------------> dead until reborn()
//!      ^---- SessionClosed, backoff ---|
//!
//!   config  settings     event  what goes in and comes out     tenure, standstill  until when it may serve
//! ```
//!
//! Why it suspends. A node that stood still for about the failure timeout may be dead by the Assigner's word, and
//! its ranges with others, without having heard of it (`standstill` says when exactly). So, before it serves again (H1), a heartbeat sent *after* it woke
//! must have been answered; or, since a cut-off node goes on serving in `available` mode, the Assigner must have stayed
//! unreachable for a while (not under leases: there only the answer counts). A standstill shows as a gap between two steps, which is why the shell must honour `WakeAt`.

mod config;
mod event;
mod standstill;
mod tenure;
#[cfg(test)]
mod tests;

pub use config::{SliceletConfig, SliceletConfigError};
pub use event::{Bar, DrainEnd, Identity, SliceletAction, SliceletEvent};

use std::sync::Arc;

use crate::assignment::Assignment;
use crate::generation::{Generation, Incarnation};
use crate::identity::{ClusterId, Founding, ProcessId};
use crate::node::Life;
use crate::planted::{self, Bug};
use crate::session::{
    AssignerMessage, AssignmentUpdate, Hello, LastAnswer, LoadReport, NAME_RETRY_MS, NodeMessage, Offers,
    RangeClaim, SESSION_VERSIONS,
};
use crate::time::Timestamp;
use standstill::{Signs, relies_until};
use tenure::{Change, Tenure};

/// The state of a node's side of the session with the Assigner.
#[derive(Debug)]
pub struct Slicelet {
    config: SliceletConfig,
    identity: Identity,
    link: Link,
    /// Failed attempts since the Assigner was last heard.
    failures: u32,
    held: Option<Arc<Assignment>>,
    /// The founding of the first assignment that this process held: its own for as long as it runs, in all its lives.
    founding: Option<Founding>,
    /// The generation that a full assignment was asked for at, so that it is asked for once.
    asked_full_at: Option<Generation>,
    /// Of the last heartbeat sent.
    sequence: u64,
    heartbeat_due: Timestamp,
    heartbeat_sent: Timestamp,
    suspended: Option<Suspension>,
    drain: Drain,
    barred: Option<Barred>,
    /// Since when there has been no session; meaningless while one is open.
    without_session_since: Timestamp,
    last_step: Timestamp,
    life: LifeState,
    /// Until when the node may serve, as the Assigner's answers say.
    tenure: Tenure,
    /// The last heartbeat of this life that was answered, and when the answer came.
    answered: Option<(u64, Timestamp)>,
    /// The same of the life before.
    answered_before: Option<(u64, Timestamp)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Link {
    /// Not open; to be opened at this moment.
    Closed {
        retry_at: Timestamp,
    },
    /// Asked for.
    Opening,
    Open,
}

/// The Assigner does not hear this process.
#[derive(Clone, Debug)]
struct Barred {
    by: Bar,
    /// When that was last said.
    said: Timestamp,
    /// How long to wait before the next hello, if the last one was answered so.
    retry_ms: Option<u64>,
}

/// So often it is said again that the Assigner does not hear this process, in milliseconds.
const BARRED_SAID_AGAIN_MS: u64 = 30_000;

/// Why serving is suspended, and what ends it.
#[derive(Clone, Copy, Debug)]
struct Suspension {
    /// A heartbeat with at least this sequence was sent after the node woke.
    confirm_from: u64,
    /// Serving resumes if the Assigner is not reached by then.
    unreachable_at: Timestamp,
    /// The Assigner confirmed this generation; the node resumes once it holds it.
    confirmed: Option<Generation>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Drain {
    No,
    Draining { since: Timestamp },
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LifeState {
    Living,
    /// Told dead; waits for [`Slicelet::reborn`].
    Dead,
    /// Said goodbye.
    Stopped,
}

/// Shortest time between a heartbeat that tells of a new assignment and the one before, in milliseconds.
const HEARTBEAT_SPACING_MS: u64 = 20;

/// More failures than these lengthen the pause between two attempts no further, whatever the settings.
const FAILURES_MAX: u32 = 20;

impl Slicelet {
    /// A slicelet that has yet to open its first session. The shell ticks it at once.
    #[must_use]
    pub fn new(config: SliceletConfig, identity: Identity, now: Timestamp) -> Self {
        Self {
            config,
            identity,
            link: Link::Closed { retry_at: now },
            failures: 0,
            held: None,
            founding: None,
            asked_full_at: None,
            sequence: 0,
            heartbeat_due: now,
            heartbeat_sent: Timestamp::ZERO,
            suspended: None,
            drain: Drain::No,
            barred: None,
            without_session_since: now,
            last_step: now,
            life: LifeState::Living,
            tenure: Tenure::untold(),
            answered: None,
            answered_before: None,
        }
    }

    /// The node's present life.
    #[must_use]
    pub fn life(&self) -> &Life {
        &self.identity.peer.life
    }

    /// The newest assignment that this life holds.
    #[must_use]
    pub fn assignment(&self) -> Option<&Arc<Assignment>> {
        self.held.as_ref()
    }

    /// The process, through all of its lives.
    #[must_use]
    pub fn process(&self) -> ProcessId {
        self.identity.process
    }

    /// The cluster that the node belongs to, as far as it knows.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        ClusterId {
            name: self.identity.cluster.clone(),
            founding: self.founding,
        }
    }

    /// Whether the node is on its way out.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain != Drain::No
    }

    /// Whether serving is suspended after a standstill.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended.is_some()
    }

    /// Whether the node may serve at this moment: it is not suspended and, with leased ownership, its lease is not over.
    /// To be asked with a fresh clock for every operation, under the same lock as its admission.
    #[must_use]
    pub fn may_serve(&self, now: Timestamp) -> bool {
        self.suspended.is_none() && now < self.serves_until()
    }

    /// The node may serve before this moment, unless it is suspended: until its lease is over, and for as long as it may rely
    /// on what it knew at its last step. A shell that checks operations apart from the slicelet does so against this and the
    /// suspension, as they are after each step.
    #[must_use]
    pub fn serves_until(&self) -> Timestamp {
        self.tenure.until().min(self.relies_until())
    }

    /// The end of its lease; [`Timestamp::NEVER`] without leases, and [`Timestamp::ZERO`] while the Assigner has not said
    /// under which it serves.
    #[must_use]
    pub fn leased_until(&self) -> Timestamp {
        self.tenure.until()
    }

    /// From when on it counts as having stood still, if it does not look around before.
    fn relies_until(&self) -> Timestamp {
        if planted::is(Bug::ZombieServes) {
            return Timestamp::NEVER;
        }
        if planted::is(Bug::StandstillFromLastStep) {
            return self.last_step.plus_ms(self.config.failure_timeout_ms + 1);
        }
        relies_until(Signs {
            last_step: self.last_step,
            confirmed: self.tenure.confirmed(),
            heartbeat_interval_ms: self.heartbeat_interval_ms(),
            failure_timeout_ms: self.config.failure_timeout_ms,
        })
    }

    /// The length of the leases under which the node serves, in milliseconds; none if it serves without one.
    #[must_use]
    pub fn lease_ms(&self) -> Option<u64> {
        self.tenure.lease_ms()
    }

    /// Whether a session with the Assigner is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link == Link::Open
    }

    /// Begins a new life, after [`SliceletAction::Reborn`] and once the node has frozen or dropped what it held. A drain that was on
    /// goes on: it ends when what is offered is settled and released.
    pub fn reborn(&mut self, incarnation: Incarnation, now: Timestamp) -> Vec<SliceletAction> {
        let mut identity = self.identity.clone();
        identity.peer.life.incarnation = incarnation;
        let (drain, suspended) = (self.drain, self.suspended.is_some());
        *self = Self {
            founding: self.founding,
            barred: self.barred.take(),
            drain,
            answered_before: self.answered,
            ..Self::new(self.config, identity, now)
        };
        let mut actions = Vec::new();
        if suspended {
            actions.push(SliceletAction::Resume);
        }
        actions.push(SliceletAction::WakeAt(now));
        actions
    }

    /// Takes an event at a moment; says what is to be done.
    pub fn step(&mut self, event: SliceletEvent, now: Timestamp) -> Vec<SliceletAction> {
        let mut actions = Vec::new();
        let stood_still = now >= self.relies_until();
        self.last_step = self.last_step.max(now);
        if self.life != LifeState::Living {
            return actions;
        }
        if stood_still {
            self.suspend(now, &mut actions);
        }
        if self.tenure.has_just_ended(now) {
            actions.push(SliceletAction::LeaseEnded);
        }
        self.take(event, now, &mut actions);
        if self.life == LifeState::Living {
            actions.push(SliceletAction::WakeAt(self.next_wake()));
        }
        actions
    }

    fn take(&mut self, event: SliceletEvent, now: Timestamp, actions: &mut Vec<SliceletAction>) {
        match event {
            SliceletEvent::SessionOpened { claims, offers } => {
                self.session_opened(claims, offers, now, actions);
            }
            SliceletEvent::SessionClosed => self.session_closed(now),
            SliceletEvent::FromAssigner(message) => self.hear(message, now, actions),
            SliceletEvent::Handoffs(reports) => {
                if !reports.is_empty() {
                    self.send(NodeMessage::Handoffs(reports), actions);
                }
            }
            SliceletEvent::RelayTo { to, payload } => self.send(NodeMessage::Relay { to, payload }, actions),
            SliceletEvent::Contradicted => {
                if self.link == Link::Open {
                    actions.push(SliceletAction::CloseSession);
                    self.session_closed(now);
                }
            }
            SliceletEvent::Unheard => self.beat_soon(now),
            SliceletEvent::DrainRequested => self.begin_drain(now, actions),
            SliceletEvent::Drained => {
                if matches!(self.drain, Drain::Draining { .. }) {
                    self.end_drain(DrainEnd::Drained, actions);
                }
            }
            SliceletEvent::StoppedServing => self.stop(actions),
            SliceletEvent::Tick { load } => self.tick(load, now, actions),
        }
    }

    fn send(&self, message: NodeMessage, actions: &mut Vec<SliceletAction>) {
        if self.link == Link::Open {
            actions.push(SliceletAction::Send(message));
        }
    }

    fn held_generation(&self) -> Generation {
        self.held
            .as_ref()
            .map_or(Generation::NONE, |held| held.generation())
    }

    fn session_opened(
        &mut self,
        claims: Vec<RangeClaim>,
        offers: Option<Offers>,
        now: Timestamp,
        actions: &mut Vec<SliceletAction>,
    ) {
        let last_answer = self.answered_before.map(|(sequence, at)| LastAnswer {
            sequence,
            ms_ago: now.ms_since(at),
        });
        self.link = Link::Open;
        self.asked_full_at = None;
        self.heartbeat_due = now;
        let hello = Hello {
            peer: self.identity.peer.clone(),
            http_address: self.identity.http_address.clone(),
            zone: self.identity.zone.clone(),
            capacity_bytes: self.identity.capacity_bytes,
            draining: self.is_draining(),
            generation: self.held_generation(),
            claims,
            versions: SESSION_VERSIONS,
            lease_ms: self.tenure.lease_ms(),
            process: Some(self.identity.process),
            cluster: self.cluster(),
            offers: offers.map(|offers| Offers {
                last_answer,
                ..offers
            }),
        };
        self.send(NodeMessage::Hello(hello), actions);
    }

    fn session_closed(&mut self, now: Timestamp) {
        if self.link == Link::Open {
            self.without_session_since = now;
        }
        let doubled = self
            .config
            .reconnect_min_ms
            .saturating_mul(1 << self.failures.min(FAILURES_MAX));
        let pause_ms = doubled.min(self.config.reconnect_max_ms);
        let barred_ms = self.barred.as_mut().and_then(|barred| barred.retry_ms.take());
        let pause_ms = barred_ms.unwrap_or(pause_ms);
        // Spread over half the pause by incarnation, so that a fleet does not return to a new Assigner in step.
        let spread = pause_ms / 2 + 1;
        let part = self.life().incarnation.get().rotate_left(self.failures) % spread;
        self.failures = self.failures.saturating_add(1);
        self.link = Link::Closed {
            retry_at: now.plus_ms(pause_ms - part),
        };
    }

    fn hear(&mut self, message: AssignerMessage, now: Timestamp, actions: &mut Vec<SliceletAction>) {
        if self.link != Link::Open {
            return;
        }
        match message {
            AssignerMessage::Refused { reason } => {
                self.failures = FAILURES_MAX;
                actions.push(SliceletAction::Refused { reason });
                return;
            }
            AssignerMessage::NameTaken { holder } => {
                return self.bar(Bar::NameTaken { holder }, NAME_RETRY_MS, now, actions);
            }
            AssignerMessage::OtherCluster { cluster } => {
                let retry_ms = self.config.reconnect_max_ms;
                return self.bar(Bar::OtherCluster { theirs: cluster }, retry_ms, now, actions);
            }
            AssignerMessage::YouAreDead => return self.die(actions),
            AssignerMessage::OffersHeard { behind_ms } => {
                actions.push(SliceletAction::OffersHeard { behind_ms });
            }
            AssignerMessage::Update(update) => self.update(&update, now, actions),
            AssignerMessage::HeartbeatAnswer {
                sequence,
                generation,
                lease_ms,
            } => {
                self.answered = Some((sequence, now));
                self.hold_tenure(sequence, generation, lease_ms, now, actions);
                self.heartbeat_answered(sequence, generation, actions);
            }
            AssignerMessage::FetchAssignment => {
                self.send(NodeMessage::HeldAssignment(self.held.clone()), actions);
            }
            AssignerMessage::Drain => self.begin_drain(now, actions),
            AssignerMessage::NoTaker => {
                if matches!(self.drain, Drain::Draining { .. }) {
                    self.end_drain(DrainEnd::NoTaker, actions);
                }
            }
            AssignerMessage::Relay { from, payload } => {
                actions.push(SliceletAction::Deliver { from, payload })
            }
        }
        self.failures = 0;
        if self.barred.take().is_some() {
            actions.push(SliceletAction::Admitted);
        }
    }

    /// The Assigner has heard nothing of what was said. The session that it closes is opened again.
    fn bar(&mut self, by: Bar, retry_ms: u64, now: Timestamp, actions: &mut Vec<SliceletAction>) {
        let same = |barred: &&Barred| std::mem::discriminant(&barred.by) == std::mem::discriminant(&by);
        let known = self.barred.as_ref().filter(same).map(|barred| barred.said);
        let said = known.filter(|said| now.ms_since(*said) < BARRED_SAID_AGAIN_MS);
        if said.is_none() {
            actions.push(SliceletAction::Barred(by.clone()));
        }
        self.barred = Some(Barred {
            by,
            said: said.unwrap_or(now),
            retry_ms: Some(retry_ms),
        });
        self.failures = 0;
    }

    /// Whether an update is of this node's cluster. Silence is accepted of an Assigner while a build is listed that is silent.
    fn is_ours(&self, theirs: Option<Founding>) -> bool {
        match (self.founding, theirs) {
            _ if planted::is(Bug::ForeignAssignmentAdopted) => true,
            (None, _) => true,
            (Some(ours), Some(theirs)) => ours == theirs,
            (Some(_), None) => self.held.as_ref().is_none_or(|held| held.lists_unidentified()),
        }
    }

    fn update(&mut self, update: &AssignmentUpdate, now: Timestamp, actions: &mut Vec<SliceletAction>) {
        let theirs = match update {
            AssignmentUpdate::Full(next) => next.founding(),
            AssignmentUpdate::Diff(diff) => diff.founding,
        };
        if !self.is_ours(theirs) {
            actions.push(SliceletAction::ForeignAssignment { theirs });
            actions.push(SliceletAction::CloseSession);
            return self.session_closed(now);
        }
        let held = self.held_generation();
        let next = match update {
            AssignmentUpdate::Full(next) => next.clone(),
            AssignmentUpdate::Diff(diff) if diff.next <= held => return,
            AssignmentUpdate::Diff(diff) => {
                let applied = self.held.as_ref().and_then(|held| diff.apply(held).ok());
                let Some(next) = applied else {
                    return self.ask_full(actions);
                };
                Arc::new(next)
            }
        };
        if next.generation() <= held {
            return;
        }
        let was_listed = self.held.as_ref().is_some_and(|held| held.is_living(self.life()));
        if was_listed && !next.is_living(self.life()) {
            // An incarnation that the directory does not list is dead.
            return self.die(actions);
        }
        self.asked_full_at = None;
        self.founding = self.founding.or(next.founding());
        self.held = Some(next.clone());
        actions.push(SliceletAction::Adopt(next));
        if self.tenure.is_untold() {
            // Before the Assigner has confirmed what it holds, this life serves nothing, and perhaps it is given something here.
            self.heartbeat_due = now;
        } else {
            // The Assigner learns soon that this assignment has arrived.
            self.beat_soon(now);
        }
        self.resume_if_confirmed(actions);
    }

    fn beat_soon(&mut self, now: Timestamp) {
        let soon = self.heartbeat_sent.plus_ms(HEARTBEAT_SPACING_MS).max(now);
        self.heartbeat_due = self.heartbeat_due.min(soon);
    }

    fn ask_full(&mut self, actions: &mut Vec<SliceletAction>) {
        let held = self.held_generation();
        if self.asked_full_at != Some(held) {
            self.asked_full_at = Some(held);
            self.send(NodeMessage::NeedFull, actions);
        }
    }

    /// What the node holds must be what the Assigner has published for its answer to let the node serve.
    fn hold_tenure(
        &mut self,
        sequence: u64,
        generation: Generation,
        lease_ms: Option<u64>,
        now: Timestamp,
        actions: &mut Vec<SliceletAction>,
    ) {
        let confirms = generation > Generation::NONE && generation <= self.held_generation();
        let before = self.tenure.lease_ms();
        match self.tenure.answered(sequence, lease_ms, confirms, now) {
            Some(Change::Mode(lease_ms)) => {
                actions.push(SliceletAction::ServesUnder { lease_ms });
                // The Assigner learns soon that its word has arrived. That there are no leases it knows of a new life.
                if lease_ms != before {
                    self.beat_soon(now);
                }
            }
            Some(Change::Regained) => actions.push(SliceletAction::LeaseRegained),
            None => {}
        }
    }

    fn heartbeat_answered(
        &mut self,
        sequence: u64,
        generation: Generation,
        actions: &mut Vec<SliceletAction>,
    ) {
        // Updates travel before the answer on the same session, so one that is not here by now is lost.
        if generation > self.held_generation() {
            self.ask_full(actions);
        }
        // An Assigner that still recovers has published nothing: it can confirm only who holds nothing.
        let can_confirm = generation > Generation::NONE || self.held.is_none();
        if let Some(suspension) = &mut self.suspended
            && sequence >= suspension.confirm_from
            && can_confirm
        {
            suspension.confirmed = Some(generation);
        }
        self.resume_if_confirmed(actions);
    }

    fn die(&mut self, actions: &mut Vec<SliceletAction>) {
        self.life = LifeState::Dead;
        actions.push(SliceletAction::CloseSession);
        actions.push(SliceletAction::Reborn);
    }

    fn suspend(&mut self, now: Timestamp, actions: &mut Vec<SliceletAction>) {
        let suspension = Suspension {
            confirm_from: self.sequence + 1,
            unreachable_at: now.plus_ms(self.config.unreachable_ms),
            confirmed: None,
        };
        if self.suspended.replace(suspension).is_none() {
            actions.push(SliceletAction::Suspend);
        }
        self.heartbeat_due = now;
    }

    fn resume_if_confirmed(&mut self, actions: &mut Vec<SliceletAction>) {
        let held = self.held_generation();
        let confirmed = self.suspended.and_then(|suspension| suspension.confirmed);
        if confirmed.is_some_and(|generation| held >= generation) {
            self.resume(actions);
        }
    }

    fn resume(&mut self, actions: &mut Vec<SliceletAction>) {
        if self.suspended.take().is_some() {
            actions.push(SliceletAction::Resume);
        }
    }

    fn begin_drain(&mut self, now: Timestamp, actions: &mut Vec<SliceletAction>) {
        if self.drain == Drain::No {
            self.drain = Drain::Draining { since: now };
            actions.push(SliceletAction::BeginDrain);
            self.send(NodeMessage::Draining, actions);
        }
    }

    fn end_drain(&mut self, reason: DrainEnd, actions: &mut Vec<SliceletAction>) {
        self.drain = Drain::Ended;
        // The Assigner is to know what became of it: a last heartbeat goes before the goodbye.
        self.heartbeat_due = Timestamp::ZERO;
        actions.push(SliceletAction::EndDrain { reason });
    }

    fn stop(&mut self, actions: &mut Vec<SliceletAction>) {
        self.life = LifeState::Stopped;
        self.send(NodeMessage::Goodbye, actions);
        actions.push(SliceletAction::CloseSession);
        actions.push(SliceletAction::Stop);
    }

    fn tick(&mut self, load: LoadReport, now: Timestamp, actions: &mut Vec<SliceletAction>) {
        if let Link::Closed { retry_at } = self.link
            && now >= retry_at
        {
            self.link = Link::Opening;
            actions.push(SliceletAction::OpenSession);
        }
        if self
            .suspended
            .is_some_and(|suspension| now >= suspension.unreachable_at)
            && self.tenure.is_unbounded()
        {
            self.resume(actions);
        }
        let handing_off = load.ranges_taking + load.ranges_giving > 0;
        if self.drain_gives_up_at().is_some_and(|at| now >= at) && !handing_off {
            self.end_drain(DrainEnd::NoAssigner, actions);
        }
        if self.link == Link::Open && now >= self.heartbeat_due {
            self.sequence += 1;
            self.heartbeat_sent = now;
            self.tenure.heartbeat_sent(self.sequence, now);
            self.heartbeat_due = now.plus_ms(self.heartbeat_interval_ms());
            let heartbeat = NodeMessage::Heartbeat {
                sequence: self.sequence,
                generation: self.held_generation(),
                load,
                lease_ms: self.tenure.lease_ms(),
            };
            self.send(heartbeat, actions);
        }
    }

    fn heartbeat_interval_ms(&self) -> u64 {
        self.tenure
            .heartbeat_interval_ms(self.config.heartbeat_interval_ms)
    }

    /// When a drain ends for want of an Assigner, hand-offs permitting.
    fn drain_gives_up_at(&self) -> Option<Timestamp> {
        match self.drain {
            Drain::Draining { since } if self.link != Link::Open => {
                let alone_since = since.max(self.without_session_since);
                Some(alone_since.plus_ms(self.config.assigner_wait_ms))
            }
            _ => None,
        }
    }

    /// Never later than a heartbeat interval after the last step, so that a gap between steps is a standstill.
    fn next_wake(&self) -> Timestamp {
        let regular = self.last_step.plus_ms(self.heartbeat_interval_ms());
        let link = match self.link {
            Link::Closed { retry_at } => retry_at,
            Link::Opening => Timestamp::NEVER,
            Link::Open => self.heartbeat_due,
        };
        let resume = self
            .suspended
            .filter(|_| self.tenure.is_unbounded())
            .map_or(Timestamp::NEVER, |suspension| suspension.unreachable_at);
        let lease_end = Some(self.tenure.until()).filter(|at| *at > self.last_step);
        let drain = self.drain_gives_up_at().filter(|at| *at > self.last_step);
        regular
            .min(link)
            .min(resume)
            .min(lease_end.unwrap_or(Timestamp::NEVER))
            .min(drain.unwrap_or(Timestamp::NEVER))
    }
}
