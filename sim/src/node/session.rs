//! The slicelet's shell: the session with the Assigner, what the slicelet asks for, and hand-off messages that travel
//! through the Assigner.

use softstore_sharding::Life;
use softstore_sharding::planted::{self, Bug};
use softstore_sharding::session::{AssignerMessage, LoadReport};
use softstore_sharding::slicelet::{DrainEnd, SliceletAction, SliceletEvent};
use softstore_store::Store;

use super::{Node, new_incarnation, peer};
use crate::env::{Env, NodeTimer};
use crate::message::Message;

impl Node {
    pub(super) fn closed(&mut self, connection: u64, env: &mut Env) {
        if self.connection == Some(connection) {
            self.connection = None;
            self.step_slicelet(SliceletEvent::SessionClosed, env);
        }
    }

    /// Sends a hand-off message through the Assigner.
    pub(super) fn relay(&mut self, to: Life, message: Message, env: &mut Env) {
        if env.refuses(&message) {
            return;
        }
        let number = env.name();
        env.relayed.insert(number, message);
        env.counters.relayed += 1;
        let payload = number.to_le_bytes().to_vec();
        self.step_slicelet(SliceletEvent::RelayTo { to, payload }, env);
    }

    fn deliver_relayed(&mut self, from: Life, payload: &[u8], env: &mut Env) {
        let number = payload.try_into().map(u64::from_le_bytes).unwrap_or_default();
        match env.relayed.get(&number).cloned() {
            Some(Message::Take(take)) => {
                let answer = self.take(&take, env);
                self.relay(from, Message::TakeReply(answer), env);
            }
            Some(Message::TakeReply(answer)) => self.take_answered(answer, env),
            _ => {}
        }
    }

    pub(super) fn tick_slicelet(&mut self, env: &mut Env) {
        let (stats, counts) = (self.store.stats(), self.core.counts());
        let load = LoadReport {
            entries: stats.entries,
            bytes: stats.bytes,
            ranges_taking: (counts.pulling + counts.pending) as u64,
            ranges_giving: counts.giving as u64,
            ..LoadReport::default()
        };
        self.step_slicelet(SliceletEvent::Tick { load }, env);
    }

    pub(super) fn step_slicelet(&mut self, event: SliceletEvent, env: &mut Env) {
        let now = self.now(env);
        let is_tick = matches!(event, SliceletEvent::Tick { .. });
        if let SliceletEvent::FromAssigner(AssignerMessage::HeartbeatAnswer { .. }) = event {
            self.core.assigner_answered(now, env.unix_ms());
        }
        for action in self.slicelet.step(event, now) {
            // Only a tick resumes without the Assigner's word.
            self.resumed_alone |= is_tick && action == SliceletAction::Resume;
            self.follow(action, env);
        }
    }

    fn follow(&mut self, action: SliceletAction, env: &mut Env) {
        match action {
            SliceletAction::OpenSession => {
                let connection = env.connect(self.slot);
                self.connection = Some(connection);
                self.timer(400_000, NodeTimer::ConnectTimeout { connection }, env);
            }
            SliceletAction::CloseSession => {
                if let Some(connection) = self.connection.take() {
                    env.close_connection(connection, true);
                }
            }
            SliceletAction::Send(message) => {
                if let Some(connection) = self.connection {
                    env.send_to_assigner(connection, Message::ToAssigner { connection, message });
                }
            }
            SliceletAction::Adopt(assignment) => {
                let actions = self.core.adopt(&assignment, self.now(env));
                self.carry_out(actions, env);
            }
            SliceletAction::Deliver { from, payload } => self.deliver_relayed(from, &payload, env),
            SliceletAction::Suspend => {
                env.trace(|| format!("n{} suspends itself", self.slot));
            }
            SliceletAction::Resume => {
                self.woken = true;
            }
            SliceletAction::LeaseEnded => env.trace(|| format!("n{} has no lease any more", self.slot)),
            SliceletAction::LeaseRegained => env.trace(|| format!("n{} has a lease again", self.slot)),
            SliceletAction::ServesUnder { lease_ms } => {
                env.trace(|| format!("n{} serves under leases of {lease_ms:?} ms", self.slot));
            }
            SliceletAction::Reborn => self.begin_again(env),
            SliceletAction::OffersHeard { behind_ms } => {
                env.trace(|| {
                    format!(
                        "n{} was heard with what it offers, {behind_ms:?} ms behind",
                        self.slot
                    )
                });
                self.core.offers_heard(behind_ms);
            }
            SliceletAction::BeginDrain => {}
            SliceletAction::Refused { reason } => {
                env.trace(|| format!("n{} is refused: {reason}", self.slot));
                env.counters.hellos_refused += 1;
            }
            SliceletAction::Barred(by) => env.trace(|| format!("n{} is not heard: {by:?}", self.slot)),
            SliceletAction::Admitted => env.trace(|| format!("n{} is heard", self.slot)),
            SliceletAction::ForeignAssignment { theirs } => {
                env.trace(|| format!("n{} refuses an assignment of {theirs:?}", self.slot));
            }
            SliceletAction::EndDrain { reason } => {
                env.trace(|| format!("n{} ends its drain: {reason:?}", self.slot));
                env.counters.drains += u64::from(reason == DrainEnd::Drained);
                env.history.is_gentle &= reason == DrainEnd::Drained;
                self.step_slicelet(SliceletEvent::StoppedServing, env);
            }
            SliceletAction::Stop => {
                env.trace(|| format!("n{} leaves", self.slot));
                if planted::is(Bug::GoodbyeBeforeStop) {
                    let delay_us = env.random.between(20_000, 300_000);
                    self.timer(delay_us, NodeTimer::StopLate, env);
                } else {
                    self.stopped = true;
                }
            }
            SliceletAction::WakeAt(at) => {
                let at_us = self.to_us(at).max(env.now_us + 1);
                if self.slicelet_wake_us.is_none_or(|due| at_us < due) {
                    self.slicelet_wake_us = Some(at_us);
                    self.timer(at_us - env.now_us, NodeTimer::Slicelet, env);
                }
            }
        }
    }

    /// The Assigner took this life for dead: what it held is frozen and offered.
    fn begin_again(&mut self, env: &mut Env) {
        env.counters.reborn += 1;
        env.history.is_gentle = false;
        let me = peer(self.slot, self.name, new_incarnation(self.slot, env));
        env.trace(|| format!("n{} was told that it is dead; now {}", self.slot, me.life));
        let incarnation = me.life.incarnation;
        if planted::is(Bug::WriteAfterFreeze) {
            self.put_off_writes(env);
        }
        let actions = self.core.reborn(me, self.now(env));
        self.carry_out(actions, env);
        self.outgoing.clear();
        self.served_peeks.clear();
        let now = self.now(env);
        for action in self.slicelet.reborn(incarnation, now) {
            self.follow(action, env);
        }
    }
}
