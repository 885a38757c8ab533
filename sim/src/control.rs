//! [`Control`]: the simulated Assigner process: the real core behind its sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use softstore_sharding::assigner::{
    Assigner, AssignerAction, AssignerEvent, DeathCause, HolderAnswer, Notice, SessionId,
};
use softstore_sharding::session::NodeMessage;
use softstore_sharding::sharder::{EvenRange, Sharder};
use softstore_sharding::{Assignment, Generation, Incarnation, Life, SliceKey};

use crate::clock::Clock;
use crate::config::Mode;
use crate::env::{Env, Event};
use crate::message::Message;
use crate::node::slot_of;
use crate::replicating::Replicating;
use crate::trap::Phase;

/// See the head of this file.
pub(crate) struct Control {
    process: u64,
    core: Assigner,
    clock: Clock,
    /// Of the Sharder, which sees no time.
    turn: Arc<AtomicU64>,
    started_us: u64,
    still_until_us: u64,
    /// When it last went on after a standstill that it has to notice.
    woke_us: Option<u64>,
    /// Whose sessions they are, and when a life was last heard of.
    spoken_by: BTreeMap<u64, Life>,
    heard_us: BTreeMap<Life, u64>,
    sessions: BTreeSet<u64>,
    wake_us: Option<u64>,
    /// Lives that were declared dead for their silence.
    buried: Vec<Burial>,
    /// What was published and not looked at yet.
    published: Option<Arc<Assignment>>,
    /// The newest assignment that it had heard of when it first published one itself.
    recovered: Generation,
}

/// A life that was declared dead for its silence.
pub(crate) struct Burial {
    pub(crate) life: Life,
    pub(crate) cause: DeathCause,
    /// It was heard of within the failure timeout.
    pub(crate) heard_lately: bool,
    /// The Assigner had not run for a whole failure timeout.
    pub(crate) woke_lately: bool,
    /// Its settling time was not over.
    pub(crate) settling: bool,
}

/// How long it may take to look who answers at an address, in microseconds.
const SEEK_US_MAX: u64 = 50_000;

/// Clocks differ: what is judged by the simulation's is judged by this much, in per cent.
const FULL_TIME_PERCENT: u64 = 90;

fn is_within(from_us: Option<u64>, ms: u64, env: &Env) -> bool {
    from_us.is_some_and(|from_us| env.now_us < from_us + ms * 10 * FULL_TIME_PERCENT)
}

fn sharder(turn: Arc<AtomicU64>, env: &Env) -> Box<dyn Sharder> {
    let Some(how) = env.plan.replication else {
        return Box::new(EvenRange);
    };
    let keys = (0..env.plan.keys()).map(|key| SliceKey::of_key(&env.plan.key_bytes(key)));
    Box::new(Replicating::new(how, keys.collect(), turn))
}

impl Control {
    /// The first Assigner knows how many nodes to expect. A later one is not told: it would begin anew as soon as that
    /// many fresh nodes said hello, before those that hold something come back. Its leases may be of another length.
    pub(crate) fn start(is_first: bool, env: &mut Env) -> Self {
        let mut config = env.plan.assigner;
        if !is_first {
            config.expect_nodes = None;
            config.founds_at_once = false;
            // The counter was raised when the one before ended: to and fro.
            if env.counters.assigner_restarts % 2 == 1 {
                config.lease_ms = env.plan.other_lease_ms;
            }
        }
        let process = env.name();
        let clock = Clock::draw(env);
        let now = clock.now(env);
        let incarnation = Incarnation::new(env.random.bits() | 1);
        env.trace(|| format!("an Assigner starts as {incarnation}"));
        let turn = Arc::new(AtomicU64::new(0));
        let sharder = sharder(turn.clone(), env);
        let core = match env.stored.clone().filter(|_| env.config.mode == Mode::Leased) {
            Some(stored) => Assigner::resuming(config, incarnation, sharder, stored, now),
            None => Assigner::new(config, incarnation, sharder, now),
        };
        let mut control = Self {
            process,
            core,
            clock,
            turn,
            started_us: env.now_us,
            still_until_us: 0,
            woke_us: None,
            spoken_by: BTreeMap::new(),
            heard_us: BTreeMap::new(),
            sessions: BTreeSet::new(),
            wake_us: None,
            buried: Vec::new(),
            published: None,
            recovered: Generation::default(),
        };
        control.step(AssignerEvent::Tick, env);
        control
    }

    pub(crate) fn process(&self) -> u64 {
        self.process
    }

    pub(crate) fn receive(&mut self, message: Message, env: &mut Env) {
        match message {
            Message::Connect { connection } => {
                self.sessions.insert(connection);
                env.send_to_node(connection, Message::Accepted { connection });
            }
            Message::Closed { connection } if self.sessions.remove(&connection) => {
                let session = SessionId::new(connection);
                self.step(AssignerEvent::SessionClosed { session }, env);
            }
            Message::ToAssigner { connection, message } if self.sessions.contains(&connection) => {
                if let NodeMessage::Hello(hello) = &message {
                    self.spoken_by.insert(connection, hello.peer.life.clone());
                }
                if let Some(life) = self.spoken_by.get(&connection) {
                    self.heard_us.insert(life.clone(), env.now_us);
                }
                let session = SessionId::new(connection);
                self.step(AssignerEvent::FromNode { session, message }, env);
            }
            _ => {}
        }
    }

    /// It was looked who answers where a life listens whose session broke.
    pub(crate) fn sought(&mut self, life: Life, answer: HolderAnswer, env: &mut Env) {
        self.step(AssignerEvent::HolderSought { life, answer }, env);
    }

    /// It stands still for a while.
    pub(crate) fn pause(&mut self, for_us: u64, env: &Env) {
        self.still_until_us = self.still_until_us.max(env.now_us + for_us);
        // The least gap between its steps that it has to notice, whatever its clock.
        if for_us > env.plan.assigner.failure_timeout_ms * 600 {
            self.woke_us = Some(self.still_until_us);
        }
    }

    pub(crate) fn stands_still_until_us(&self, env: &Env) -> Option<u64> {
        (self.still_until_us > env.now_us).then_some(self.still_until_us)
    }

    pub(crate) fn take_burials(&mut self) -> Vec<Burial> {
        std::mem::take(&mut self.buried)
    }

    /// The assignment published since this was last asked.
    pub(crate) fn take_published(&mut self) -> Option<Arc<Assignment>> {
        self.published.take()
    }

    /// Whether a life was heard of within the failure timeout.
    pub(crate) fn heard_lately(&self, life: &Life, env: &Env) -> bool {
        let heard_us = self.heard_us.get(life).copied();
        is_within(heard_us, env.plan.assigner.failure_timeout_ms, env)
    }

    /// Whether it may still expect to hear of nodes that it has not heard of yet.
    pub(crate) fn is_settling(&self, env: &Env) -> bool {
        is_within(Some(self.started_us), env.plan.assigner.settle_ms, env)
    }

    fn burial(&self, life: Life, cause: DeathCause, env: &Env) -> Burial {
        let timeout_ms = env.plan.assigner.failure_timeout_ms;
        Burial {
            cause,
            heard_lately: self.heard_lately(&life, env),
            woke_lately: is_within(self.woke_us, timeout_ms, env),
            settling: self.is_settling(env),
            life,
        }
    }

    pub(crate) fn wake(&mut self, env: &mut Env) {
        if env.is_due(&mut self.wake_us) {
            self.step(AssignerEvent::Tick, env);
        }
    }

    fn step(&mut self, event: AssignerEvent, env: &mut Env) {
        let now = self.clock.now(env);
        if let Some(how) = env.plan.replication {
            self.turn.store(env.now_us / how.change_us, Ordering::Relaxed);
        }
        let actions = self.core.step_at_once(event, now, env.unix_ms());
        let published = |action: &AssignerAction| match action {
            AssignerAction::Published(assignment) => Some(assignment.clone()),
            _ => None,
        };
        let recovered = |action: &AssignerAction| match action {
            AssignerAction::Notice(Notice::Recovered { generation }) => Some(*generation),
            _ => None,
        };
        self.recovered = actions.iter().find_map(recovered).unwrap_or(self.recovered);
        if let Some(assignment) = actions.iter().find_map(published) {
            self.note_believed(&assignment, env);
            env.stored = Some(assignment.clone());
            self.published = Some(assignment);
        }
        for action in actions {
            match action {
                AssignerAction::Send { session, message } => {
                    let connection = session.get();
                    env.send_to_node(connection, Message::ToNode { connection, message });
                }
                AssignerAction::CloseSession { session } => {
                    self.sessions.remove(&session.get());
                    env.close_connection(session.get(), false);
                }
                AssignerAction::Published(assignment) => {
                    let slot = |life: &Life| slot_of(&assignment.peer(life)?.address);
                    let moved = assignment.ranges().iter().find_map(|(_, range)| {
                        let giver = range.providers.first()?;
                        let is_new = range.since == assignment.generation() && giver.life != range.owner;
                        is_new.then_some((slot(&giver.life)?, slot(&range.owner)?))
                    });
                    if let Some((giver, taker)) = moved {
                        env.reaches(Phase::Assigned, giver, taker);
                    }
                    let awaited = assignment.ranges().iter().find_map(|(_, range)| {
                        let away = range.awaits.first()?;
                        let is_new = range.since == assignment.generation();
                        // Its address is told no more.
                        let home = slot_of(&format!("{}:1", away.life.node))?;
                        is_new.then_some((home, slot(&range.owner)?))
                    });
                    if let Some((giver, taker)) = awaited {
                        env.reaches(Phase::Awaited, giver, taker);
                    }
                    let revived = assignment.ranges().iter().find_map(|(_, range)| {
                        let giver = range
                            .providers
                            .iter()
                            .find(|provider| range.is_revival(provider))?;
                        Some((slot(&giver.life)?, slot(&range.owner)?))
                    });
                    if let Some((giver, taker)) = revived {
                        env.reaches(Phase::Revived, giver, taker);
                    }
                    env.trace(|| {
                        let ranges = assignment.ranges().iter().map(|(slice, range)| {
                            let providers: Vec<String> = range
                                .providers
                                .iter()
                                .map(|provider| format!("{}@{}", provider.life, provider.since.number))
                                .collect();
                            format!(
                                "\n    {slice} {} since {} from {providers:?}",
                                range.owner, range.since.number
                            )
                        });
                        format!(
                            "published {}:{}",
                            assignment.generation(),
                            ranges.collect::<String>()
                        )
                    });
                }
                AssignerAction::WakeAt(at) => {
                    let at_us = self.clock.to_us(at).max(env.now_us + 1);
                    if self.wake_us.is_none_or(|due| at_us < due) {
                        self.wake_us = Some(at_us);
                        env.at(
                            at_us,
                            Event::AssignerWake {
                                process: self.process,
                            },
                        );
                    }
                }
                AssignerAction::SeekHolder { life, address } => {
                    let Some(slot) = slot_of(&address) else { continue };
                    let process = self.process;
                    let delay_us = env.random.between(500, SEEK_US_MAX);
                    env.after(delay_us, Event::Seek { process, life, slot });
                }
                AssignerAction::Notice(notice) => {
                    env.trace(|| format!("assigner: {notice:?}"));
                    if let Notice::Died {
                        life,
                        cause: cause @ (DeathCause::Silent | DeathCause::NotRecovered),
                    } = notice
                    {
                        let burial = self.burial(life, cause, env);
                        self.buried.push(burial);
                    }
                }
                // The Sharder was asked at once.
                AssignerAction::DrainAnswered { .. }
                | AssignerAction::Place(_)
                | AssignerAction::Remember { .. }
                | AssignerAction::ForgetAnswered { .. } => {}
            }
        }
    }

    /// Takes note of who is left out, and of who was left out before and is not now: an Assigner that met nobody who knew
    /// better believes such a life.
    fn note_believed(&self, assignment: &Assignment, env: &mut Env) {
        let living = |assignment: &Assignment| -> Vec<Incarnation> {
            assignment
                .directory()
                .values()
                .map(|entry| entry.incarnation)
                .collect()
        };
        let generation = assignment.generation();
        let now = living(assignment);
        let before = env.stored.as_deref().map(living).unwrap_or_default();
        for life in before.into_iter().filter(|life| !now.contains(life)) {
            env.left_out.insert(life, generation);
        }
        for life in now {
            let left_out = env.left_out.get(&life);
            let by_another = left_out.filter(|at| at.assigner != generation.assigner);
            if by_another.is_some_and(|at| *at > self.recovered) {
                env.history.believed_us.entry(life).or_insert(env.now_us);
            }
        }
    }

    /// Why the cluster is not settled; empty if it is.
    pub(crate) fn unsettled(&self, env: &Env) -> String {
        let now = self.clock.now(env);
        self.core.status(now).unsettled_because
    }

    /// The process is gone.
    pub(crate) fn end(self, env: &mut Env) {
        for connection in env.connections_of(None) {
            env.break_connection(connection);
        }
    }
}
