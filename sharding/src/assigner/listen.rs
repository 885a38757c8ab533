//! What a node's message, or an operator's, changes in the [`Assigner`].

use std::sync::Arc;

use super::event::{AssignerAction, DeathCause, DrainError, DrainStart, Notice, SessionId};
use super::graves::Grave;
use super::hello::{self, HelloError};
use super::member::Member;
use super::names::Claim;
use super::next::Reported;
use super::{Assigner, Pending};
use crate::assignment::Assignment;
use crate::generation::Generation;
use crate::node::{Life, NodeId};
use crate::range_map::RangeMap;
use crate::session::{
    AssignerMessage, ClaimPhase, HandoffOutcome, HandoffReport, Hello, NodeMessage, Offers, RangeClaim,
};
use crate::slice::Slice;
use crate::time::Timestamp;

/// Most nodes of one cluster.
pub const NODES_MAX: usize = 4_096;

/// Largest hand-off message that is passed on between two nodes, in bytes.
pub const RELAY_BYTES_MAX: usize = 1 << 20;

impl Assigner {
    pub(super) fn hear(
        &mut self,
        session: SessionId,
        message: NodeMessage,
        now: Timestamp,
        actions: &mut Vec<AssignerAction>,
    ) {
        let bound = self.sessions.get(&session).cloned();
        match (bound, message) {
            (None, NodeMessage::Hello(hello)) => self.hello(session, hello, now, actions),
            (Some(node), message) if !matches!(message, NodeMessage::Hello(_)) => {
                self.hear_member(&node, session, message, now, actions);
            }
            _ => {
                self.unbind(session);
                actions.push(AssignerAction::Notice(Notice::ProtocolBroken(session)));
                actions.push(AssignerAction::CloseSession { session });
            }
        }
    }

    fn hello(&mut self, session: SessionId, hello: Hello, now: Timestamp, actions: &mut Vec<AssignerAction>) {
        let life = hello.peer.life.clone();
        if let Err(why) = self.admit(&hello) {
            return self.refuse_foreign(session, &hello, why, now, actions);
        }
        let is_new_node = !self.members.contains_key(&life.node);
        let checked = match hello::check(&hello, self.config.lease_ms.is_some()) {
            Ok(()) if !self.believes(hello.generation) => Err(HelloError::Generation(hello.generation)),
            Ok(()) if is_new_node && self.members.len() >= NODES_MAX => {
                Err(HelloError::TooManyNodes(NODES_MAX))
            }
            checked => checked,
        };
        if let Err(error) = checked {
            return refuse(session, life, &error, actions);
        }
        self.hear_of(hello.generation, actions);
        let claim = self.claim_of(&hello, session, now);
        if self.is_dead(&hello) || matches!(claim, Claim::Outlived) {
            self.graves.bury(life.clone(), Grave::default());
            let message = AssignerMessage::YouAreDead;
            actions.push(AssignerAction::Send { session, message });
            actions.push(AssignerAction::CloseSession { session });
            actions.push(AssignerAction::Notice(Notice::ToldDead(life)));
            return;
        }
        match claim {
            Claim::Taken => return self.name_taken(session, &hello, now, actions),
            Claim::Succeeds(cause) => self.bury(&life.node, cause, actions),
            Claim::Displaces => self.step_back(&life.node, actions),
            Claim::Free | Claim::Outlived => {}
        }
        self.name_given(&hello, now, actions);
        self.belonging.heard(hello.cluster.founding);
        self.bind(session, &hello, now, actions);
        if let Some(offers) = &hello.offers {
            let behind_ms = self.fell_behind_ms(offers, now);
            let message = AssignerMessage::OffersHeard { behind_ms };
            actions.push(AssignerAction::Send { session, message });
        }
        match &mut self.recovery {
            Some(recovery) => {
                let holds = hello.generation > Generation::NONE;
                recovery.hello(&life, holds, hello.lease_ms, now, &self.config);
                if let Some(member) = self.members.get_mut(&life.node) {
                    member.claims = hello.claims;
                    member.serving = hello.generation > Generation::NONE;
                }
            }
            None => {
                self.learn_from_claims(&life, &hello.claims, now);
                self.acknowledged(&life, hello.generation, now);
                self.send_update(&life.node, actions);
            }
        }
        self.settle_drain(&life.node, hello.draining, actions);
    }

    /// By how much the clock of a node fell behind since its former life last heard of this Assigner: it may have stood still while
    /// the machine did. At most so much, since the answer and the hello were on their way, too.
    fn fell_behind_ms(&self, offers: &Offers, now: Timestamp) -> Option<u64> {
        let (former, last) = (offers.former.last()?, offers.last_answer?);
        let answered = self.graves.answered_at(former, last.sequence)?;
        Some(now.ms_since(answered).saturating_sub(last.ms_ago))
    }

    /// Whether a life that says hello is dead. Besides those remembered, every life is that holds something of a cluster
    /// whose present assignment (or, to an Assigner that still recovers, the stored one) does not list it: a new one holds
    /// nothing.
    fn is_dead(&self, hello: &Hello) -> bool {
        let life = &hello.peer.life;
        let known = self
            .members
            .get(&life.node)
            .is_some_and(|member| member.life == *life);
        let holds = hello.generation > Generation::NONE || !hello.claims.is_empty();
        let unlisted = self
            .recovery
            .as_ref()
            .is_none_or(|recovery| recovery.is_dead(life));
        self.graves.holds(life) || (unlisted && !known && holds)
    }

    fn bind(&mut self, session: SessionId, hello: &Hello, now: Timestamp, actions: &mut Vec<AssignerAction>) {
        let life = &hello.peer.life;
        if let Some(former) = self.members.get(&life.node).and_then(|member| member.session) {
            self.unbind(former);
            actions.push(AssignerAction::CloseSession { session: former });
        }
        let running = self.recovery.is_none();
        let delay_ms = self.config.rebalance_delay_ms;
        let mut pending = Pending::Nothing;
        let member = self.members.entry(life.node.clone()).or_insert_with(|| {
            actions.push(AssignerAction::Notice(Notice::Joined(life.clone())));
            pending = Pending::Soon;
            let mut member = Member::new(hello, now);
            member.is_filling = running;
            if running && delay_ms > 0 {
                member.reserve_until = Some(now.plus_ms(delay_ms));
            }
            member
        });
        let before = member.entry();
        member.greet(hello, session, now);
        if member.entry() != before {
            pending = Pending::Soon;
        }
        self.sessions.insert(session, life.node.clone());
        self.wants(pending);
    }

    /// A drain that the node does not know of is told to it; one that it begins is acted on.
    fn settle_drain(&mut self, node: &NodeId, draining: bool, actions: &mut Vec<AssignerAction>) {
        let Some(member) = self.members.get_mut(node) else {
            return;
        };
        if member.draining {
            // What it was told on its former session may not have arrived.
            member.told_no_taker = false;
            self.pending = self.pending.max(Pending::AtOnce);
            if let (Some(session), false) = (member.session, draining) {
                let message = AssignerMessage::Drain;
                actions.push(AssignerAction::Send { session, message });
            }
        } else if draining {
            self.start_drain(node, actions);
        }
    }

    fn hear_member(
        &mut self,
        node: &NodeId,
        session: SessionId,
        message: NodeMessage,
        now: Timestamp,
        actions: &mut Vec<AssignerAction>,
    ) {
        let Some(member) = self.members.get_mut(node) else {
            return;
        };
        if member.forgotten && !matches!(message, NodeMessage::Goodbye) {
            return;
        }
        member.last_heard = now;
        if std::mem::take(&mut self.waits_for_unheard) {
            self.pending = self.pending.max(Pending::AtOnce);
        }
        let life = member.life.clone();
        match message {
            NodeMessage::Hello(_) => {}
            NodeMessage::Heartbeat {
                sequence,
                generation,
                load,
                lease_ms,
            } => {
                member.load = load;
                member.reported = generation;
                member.load_at = Some(now);
                member.lease_ms = lease_ms;
                member.last_answered = now;
                member.answers.answered(sequence, now);
                self.hear_of(generation, actions);
                self.acknowledged(&life, generation, now);
                if let Some(member) = self.members.get(node) {
                    self.explanations.heard(&life, &member.load);
                }
                let generation = self
                    .assignment()
                    .map_or(Generation::NONE, |current| current.generation());
                let message = AssignerMessage::HeartbeatAnswer {
                    sequence,
                    generation,
                    lease_ms: self.config.lease_ms,
                };
                actions.push(AssignerAction::Send { session, message });
            }
            NodeMessage::NeedFull => {
                member.sent = Generation::NONE;
                self.send_update(node, actions);
            }
            NodeMessage::Draining => self.start_drain(node, actions),
            NodeMessage::Goodbye => self.bury(node, DeathCause::Goodbye, actions),
            NodeMessage::Handoffs(reports) => self.handoffs(&life, &reports, now),
            NodeMessage::HeldAssignment(held) => {
                // What an assignment says counts if it is of this cluster, as its node said in its hello.
                let ours = self.belonging.cluster.founding;
                let is_ours = |held: &Arc<Assignment>| {
                    held.founding()
                        .is_none_or(|founding| ours.is_none_or(|ours| ours == founding))
                };
                let held = held.filter(is_ours);
                if let Some(held) = &held
                    && self.believes(held.generation())
                {
                    self.highest = self.highest.max(held.generation());
                }
                if let Some(recovery) = &mut self.recovery {
                    recovery.fetched(session, held);
                }
            }
            NodeMessage::Relay { to, payload } => self.relay(life, to, payload, actions),
        }
    }

    /// Whether an Assigner can have given a generation out: it is not further ahead of the highest than clocks explain. One that
    /// still recovers, and may have a clock that is wrong, has nothing to judge by.
    fn believes(&self, generation: Generation) -> bool {
        let is_recovering = self.recovery.is_some();
        hello::is_possible(generation)
            && (is_recovering || generation.is_explained_by(self.highest, self.unix_ms))
    }

    /// Keeps generations growing past any that was heard of, and notices another Assigner by them.
    fn hear_of(&mut self, generation: Generation, actions: &mut Vec<AssignerAction>) {
        if !self.believes(generation) {
            return;
        }
        self.highest = self.highest.max(generation);
        let newer = self
            .assignment()
            .is_some_and(|current| generation > current.generation());
        if newer
            && generation.assigner != self.incarnation
            && self.other_assigner != Some(generation.assigner)
        {
            self.other_assigner = Some(generation.assigner);
            let other = generation.assigner;
            actions.push(AssignerAction::Notice(Notice::SecondAssigner {
                other,
                generation,
            }));
        }
    }

    fn acknowledged(&mut self, life: &Life, generation: Generation, now: Timestamp) {
        self.hear_of_read_leases(life, generation, now);
        let is_believed = self.believes(generation);
        let Some(member) = self.members.get_mut(&life.node).filter(|_| is_believed) else {
            return;
        };
        member.acknowledged = generation;
        if !member.serving && member.listed_at.is_some_and(|listed| generation >= listed) {
            member.serving = true;
            self.wants(Pending::Soon);
        }
    }

    /// What a known life says again of what it holds, after its session broke: hand-offs that have ended meanwhile, and
    /// ranges that it has fenced for a life which has died.
    fn learn_from_claims(&mut self, life: &Life, claims: &[RangeClaim], now: Timestamp) {
        for claim in claims {
            match &claim.phase {
                ClaimPhase::Serving => {
                    let completed = HandoffOutcome::Completed;
                    self.handoff_ended(life, claim.slice, claim.since, completed, now);
                }
                ClaimPhase::Awaiting(_) => {
                    let awaiting = HandoffOutcome::Awaiting;
                    self.handoff_ended(life, claim.slice, claim.since, awaiting, now);
                }
                ClaimPhase::Fenced(taker) if !self.is_living(taker) => {
                    self.fenced_off_by(life, claim.slice, claim.since);
                }
                _ => {}
            }
        }
    }

    pub(super) fn is_living(&self, life: &Life) -> bool {
        self.members
            .get(&life.node)
            .is_some_and(|member| member.life == *life)
    }

    fn owned_parts(&self, life: &Life, slice: Slice, since: Generation) -> Vec<(Slice, bool)> {
        let ranges = self
            .assignment()
            .into_iter()
            .flat_map(|current| current.ranges().overlapping(slice));
        ranges
            .filter(|(_, range)| range.owner == *life && range.since == since)
            .map(|(part, range)| (part, !range.keeps_whole()))
            .collect()
    }

    /// A hand-off is over, or has begun cold and awaits. Takers repeat what they say; each part ends once.
    fn handoff_ended(
        &mut self,
        life: &Life,
        slice: Slice,
        since: Generation,
        outcome: HandoffOutcome,
        now: Timestamp,
    ) {
        let open = self.owned_parts(life, slice, since).into_iter();
        let is_over = outcome != HandoffOutcome::Awaiting;
        for part in open.filter(|(_, settled)| !settled).map(|(part, _)| part) {
            let is_known = |known: &Reported| known.since == since && (known.is_over || !is_over);
            let known = self.reported.overlapping(part);
            let known: RangeMap<()> = known
                .filter(|(_, known)| is_known(known))
                .map(|(slice, _)| (slice, ()))
                .collect();
            for new in known.gaps(part) {
                self.reported.insert(new, Reported { since, is_over });
                self.explanations.ended(new, since, outcome, now);
                self.wants(Pending::Soon);
            }
        }
    }

    fn fenced_off_by(&mut self, life: &Life, slice: Slice, since: Generation) {
        for (part, _) in self.owned_parts(life, slice, since) {
            self.fenced_off.insert(part, life.clone());
            self.wants(Pending::AtOnce);
        }
    }

    fn handoffs(&mut self, life: &Life, reports: &[HandoffReport], now: Timestamp) {
        for report in reports {
            if report.outcome == HandoffOutcome::Started {
                continue;
            }
            self.handoff_ended(life, report.slice, report.since, report.outcome, now);
            if report.outcome == HandoffOutcome::Awaiting {
                continue;
            }
            // While the Assigner recovers, what a node claims is all there is to correct.
            if let Some(member) = self.members.get_mut(&life.node) {
                member.claim_settled(report.slice, report.since);
            }
        }
    }

    fn relay(&self, from: Life, to: Life, payload: Vec<u8>, actions: &mut Vec<AssignerAction>) {
        let receiver = self.members.get(&to.node).filter(|member| member.life == to);
        match receiver.and_then(|member| member.session) {
            Some(session) if payload.len() <= RELAY_BYTES_MAX => {
                let message = AssignerMessage::Relay { from, payload };
                actions.push(AssignerAction::Send { session, message });
            }
            _ => actions.push(AssignerAction::Notice(Notice::RelayDropped { to })),
        }
    }

    /// An operator wants a node to leave.
    pub(super) fn drain(
        &mut self,
        node: &NodeId,
        actions: &mut Vec<AssignerAction>,
    ) -> Result<DrainStart, DrainError> {
        let Some(member) = self.members.get(node) else {
            return Err(DrainError::UnknownNode(node.clone()));
        };
        let start = DrainStart {
            bytes: member.load.bytes,
            entries: member.load.entries,
        };
        if member.draining {
            return Ok(start);
        }
        let others = self
            .members
            .values()
            .any(|other| other.life.node != *node && other.role().may_take());
        if !others {
            return Err(DrainError::NoTaker(node.clone()));
        }
        if let Some(session) = member.session {
            let message = AssignerMessage::Drain;
            actions.push(AssignerAction::Send { session, message });
        }
        self.start_drain(node, actions);
        Ok(start)
    }

    fn start_drain(&mut self, node: &NodeId, actions: &mut Vec<AssignerAction>) {
        if let Some(member) = self.members.get_mut(node)
            && !member.draining
        {
            member.draining = true;
            member.reserve_until = None;
            actions.push(AssignerAction::Notice(Notice::Draining(member.life.clone())));
            self.wants(Pending::AtOnce);
        }
    }
}

fn refuse(session: SessionId, life: Life, error: &HelloError, actions: &mut Vec<AssignerAction>) {
    let reason = error.to_string();
    let message = AssignerMessage::Refused {
        reason: reason.clone(),
    };
    actions.push(AssignerAction::Send { session, message });
    actions.push(AssignerAction::CloseSession { session });
    actions.push(AssignerAction::Notice(Notice::HelloRefused { life, reason }));
}
