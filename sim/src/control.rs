//! [`Control`]: the simulated Assigner process: the real core behind its sessions.

use std::collections::BTreeSet;

use softstore_sharding::assigner::{Assigner, AssignerAction, AssignerEvent, DeathCause, Notice, SessionId};
use softstore_sharding::generation::GENERATION_EPOCH_UNIX_MS;
use softstore_sharding::sharder::EvenRange;
use softstore_sharding::{Incarnation, Life, Timestamp};

use crate::env::{Env, Event};
use crate::message::Message;

/// See the head of this file.
pub(crate) struct Control {
    process: u64,
    core: Assigner,
    clock_offset_ms: u64,
    sessions: BTreeSet<u64>,
    wake_us: Option<u64>,
    /// Lives that were declared dead for their silence.
    pub(crate) buried: Vec<Life>,
}

impl Control {
    /// The first Assigner knows how many nodes to expect. A later one is not told: it would begin anew as soon as that
    /// many fresh nodes said hello, before those that hold something come back.
    pub(crate) fn start(is_first: bool, env: &mut Env) -> Self {
        let mut config = env.plan.assigner;
        if !is_first {
            config.expect_nodes = None;
        }
        let process = env.name();
        let clock_offset_ms = env.random.below(1_000_000);
        let now = Timestamp::from_ms(env.now_us / 1_000 + clock_offset_ms);
        let incarnation = Incarnation::new(env.random.bits() | 1);
        env.trace(|| format!("an Assigner starts as {incarnation}"));
        let mut control = Self {
            process,
            core: Assigner::new(config, incarnation, Box::new(EvenRange), now),
            clock_offset_ms,
            sessions: BTreeSet::new(),
            wake_us: None,
            buried: Vec::new(),
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
                let session = SessionId::new(connection);
                self.step(AssignerEvent::FromNode { session, message }, env);
            }
            _ => {}
        }
    }

    pub(crate) fn wake(&mut self, env: &mut Env) {
        self.wake_us = None;
        self.step(AssignerEvent::Tick, env);
    }

    fn step(&mut self, event: AssignerEvent, env: &mut Env) {
        let now = Timestamp::from_ms(env.now_us / 1_000 + self.clock_offset_ms);
        // One wall clock for all: where every node that knew of the highest generation has died together with the Assigner,
        // the clock is what keeps generations growing.
        let unix_ms = GENERATION_EPOCH_UNIX_MS + 60_000_000 + env.now_us / 1_000;
        for action in self.core.step(event, now, unix_ms) {
            match action {
                AssignerAction::Send { session, message } => {
                    let connection = session.get();
                    env.send_to_node(connection, Message::ToNode { connection, message });
                }
                AssignerAction::CloseSession { session } => {
                    self.sessions.remove(&session.get());
                    env.close_connection(session.get(), false);
                }
                AssignerAction::Published(assignment) => env.trace(|| {
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
                }),
                AssignerAction::WakeAt(at) => {
                    let at_us = at
                        .as_ms()
                        .saturating_sub(self.clock_offset_ms)
                        .saturating_mul(1_000);
                    let at_us = at_us.max(env.now_us + 1);
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
                AssignerAction::Notice(notice) => {
                    env.trace(|| format!("assigner: {notice:?}"));
                    if let Notice::Died {
                        life,
                        cause: DeathCause::Silent | DeathCause::NotRecovered,
                    } = notice
                    {
                        self.buried.push(life);
                    }
                }
                AssignerAction::DrainAnswered { .. } => {}
            }
        }
    }

    /// Why the cluster is not settled; empty if it is.
    pub(crate) fn unsettled(&self, env: &Env) -> String {
        let now = Timestamp::from_ms(env.now_us / 1_000 + self.clock_offset_ms);
        self.core.status(now).unsettled_because
    }

    /// The process is gone.
    pub(crate) fn end(self, env: &mut Env) {
        for connection in env.connections_of(None) {
            env.break_connection(connection);
        }
    }
}
