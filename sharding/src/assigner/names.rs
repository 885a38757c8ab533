//! [`Waiters`]: a name is one process's at a time, and who else wants it waits.
//!
//! A process holds its name while its session is heard of, and gives it up by saying goodbye or by dying. Another process of
//! that name is told [`NameTaken`](crate::session::AssignerMessage::NameTaken), and asks again; nothing that it says counts
//! as hearing of the name. A process's *next life* takes over at once: it has dropped what the one before held.
//!
//! - A holder whose session broke without a goodbye, as in a crash, need not be waited for until it counts as silent:
//!   after [`NAME_QUIET_MS`] without a new hello the shell asks at its address. Nobody there, or another process, and
//!   it is dead. Not under leases: those must end.
//! - While an Assigner recovers, a waiting process's empty hello may come first. The name goes to who holds the newest
//!   assignment, or is listed in it; who has taken its place steps back.
//! - An operator can have a holder forgotten that is half dead: it is heard of, and serves nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::event::{AssignerAction, DeathCause, ForgetError, HolderAnswer, Notice, SessionId};
use super::member::Member;
use super::recovery::Recovery;
use super::{Assigner, Pending};
use crate::generation::Generation;
use crate::identity::ProcessId;
use crate::node::{Life, NodeId};
use crate::planted::{self, Bug};
use crate::session::{AssignerMessage, Hello, NAME_RETRY_MS};
use crate::time::Timestamp;

/// A holder whose session has been closed for so long without a new hello is looked for at its address, in milliseconds; so
/// long, too, before it is looked for again.
pub(super) const NAME_QUIET_MS: u64 = 500;

/// For so long what a dead process had is kept for the one that waits for its name, in milliseconds: two of its hellos.
const SUCCESSOR_MS: u64 = 2 * NAME_RETRY_MS + 100;

/// So often the log says again that a process waits for its name, in milliseconds.
const SAID_AGAIN_MS: u64 = 30_000;

/// A process that asks for its name no more for so long does not wait any more, in milliseconds. It asks every
/// [`NAME_RETRY_MS`](crate::session::NAME_RETRY_MS).
const GIVEN_UP_MS: u64 = 3_000;

/// For so long a process that was forgotten may not take its name again, in milliseconds: one that waits comes first.
const FORGOTTEN_MS: u64 = 5_000;

/// Most processes that are remembered as waiting, or as forgotten. Those beyond wait as well, and nobody is told of them.
const REMEMBERED_MAX: usize = 1_024;

/// A process that waits for its name.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Waiter {
    pub(super) address: Arc<str>,
    pub(super) since: Timestamp,
    last_asked: Timestamp,
    last_said: Timestamp,
}

/// Who waits for a name that another process holds.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: BTreeMap<(NodeId, Option<ProcessId>), Waiter>,
    /// Processes whose operator wants them gone, and until when they do not get their names back.
    forgotten: BTreeMap<(NodeId, Option<ProcessId>), Timestamp>,
}

/// What becomes of a hello whose name is another life's.
pub(super) enum Claim {
    /// Nobody else has the name.
    Free,
    /// The life that has it ends for this reason: it is this process's former one, or dead already.
    Succeeds(DeathCause),
    /// A recovering Assigner took another process for the holder, which holds less.
    Displaces,
    /// A later life of the same process is here already.
    Outlived,
    /// Another process holds the name.
    Taken,
}

impl Waiters {
    /// Those that wait, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Waiter)> {
        self.waiting.iter().map(|((node, _), waiter)| (node, waiter))
    }

    fn is_wanted(&self, node: &NodeId) -> bool {
        self.iter().any(|(name, _)| name == node)
    }

    fn is_wanted_by_another(&self, node: &NodeId, process: Option<ProcessId>) -> bool {
        self.waiting
            .keys()
            .any(|(name, waiting)| name == node && *waiting != process)
    }

    fn is_forgotten(&self, node: &NodeId, process: Option<ProcessId>, now: Timestamp) -> bool {
        let until = self.forgotten.get(&(node.clone(), process));
        until.is_some_and(|until| now < *until)
    }

    fn forget(&mut self, node: NodeId, process: Option<ProcessId>, now: Timestamp) {
        if self.forgotten.len() < REMEMBERED_MAX {
            self.forgotten.insert((node, process), now.plus_ms(FORGOTTEN_MS));
        }
    }

    /// A process asked for a name and did not get it. Whether that is worth a word.
    fn asked(&mut self, hello: &Hello, now: Timestamp) -> bool {
        let key = (hello.peer.life.node.clone(), hello.process);
        if let Some(waiter) = self.waiting.get_mut(&key) {
            waiter.last_asked = now;
            let again = now.ms_since(waiter.last_said) >= SAID_AGAIN_MS;
            if again {
                waiter.last_said = now;
            }
            return again;
        }
        let has_room = self.waiting.len() < REMEMBERED_MAX;
        if has_room {
            let waiter = Waiter {
                address: hello.peer.address.clone(),
                since: now,
                last_asked: now,
                last_said: now,
            };
            self.waiting.insert(key, waiter);
        }
        has_room
    }

    /// A process has got its name: since when it waited for it.
    fn served(&mut self, node: &NodeId, process: Option<ProcessId>) -> Option<Timestamp> {
        let waiter = self.waiting.remove(&(node.clone(), process))?;
        Some(waiter.since)
    }

    /// Lets go of those that ask no more.
    fn tick(&mut self, now: Timestamp) {
        self.waiting
            .retain(|_, waiter| now.ms_since(waiter.last_asked) < GIVEN_UP_MS);
        self.forgotten.retain(|_, until| now < *until);
    }
}

impl Recovery {
    /// How good a claim to a name is, to an Assigner that recovers: who holds a newer assignment than the one that was
    /// fetched knows better than that; then comes who is listed there, then who holds an older one, and last who holds none.
    fn rank(&self, life: &Life, held: Generation) -> (u8, Generation) {
        let best = self.known();
        if best.is_none_or(|best| held > best.generation()) {
            (2, held)
        } else if best.is_some_and(|best| best.is_living(life)) {
            (1, held)
        } else {
            (0, held)
        }
    }
}

impl Assigner {
    /// What a hello's name is to who says it.
    pub(super) fn claim_of(&self, hello: &Hello, session: SessionId, now: Timestamp) -> Claim {
        let life = &hello.peer.life;
        let is_forgotten = || {
            self.waiters.is_forgotten(&life.node, hello.process, now)
                && self.waiters.is_wanted_by_another(&life.node, hello.process)
        };
        let Some(holder) = self.members.get(&life.node) else {
            return if is_forgotten() { Claim::Taken } else { Claim::Free };
        };
        if holder.life == *life {
            return Claim::Free;
        }
        if holder.gone.is_some() {
            return Claim::Succeeds(DeathCause::Replaced);
        }
        if holder.process == hello.process {
            return self.claim_of_next_life(holder, hello, session, now);
        }
        if planted::is(Bug::TwinBuriesHolder) {
            return Claim::Succeeds(DeathCause::Replaced);
        }
        match &self.recovery {
            Some(_) if planted::is(Bug::WaiterTakesName) => Claim::Succeeds(DeathCause::Replaced),
            Some(recovery)
                if recovery.rank(life, hello.generation)
                    > recovery.rank(&holder.life, holder.acknowledged) =>
            {
                Claim::Displaces
            }
            _ => Claim::Taken,
        }
    }

    /// A hello can be late: it may lie in the sockets of an Assigner that stood still, beside that of the next life, and be
    /// read after it. The earlier life had opened its session before the later one opened its first.
    fn claim_of_next_life(
        &self,
        holder: &Member,
        hello: &Hello,
        session: SessionId,
        now: Timestamp,
    ) -> Claim {
        if holder.first_session.is_some_and(|first| session < first) {
            return Claim::Outlived;
        }
        // Of builds that do not say their process, it may be another one, and the former life's lease must end.
        if holder.process.is_none() && self.may_serve_still(holder, now) {
            return Claim::Taken;
        }
        let offers = hello.offers.as_ref();
        let offers_it = offers.is_some_and(|offers| offers.former.contains(&holder.life));
        Claim::Succeeds(if hello.process.is_some() || offers_it {
            DeathCause::Reborn
        } else {
            DeathCause::Replaced
        })
    }

    /// Tells a process that its name is another's. It is not heard of for that.
    pub(super) fn name_taken(
        &mut self,
        session: SessionId,
        hello: &Hello,
        now: Timestamp,
        actions: &mut Vec<AssignerAction>,
    ) {
        let life = &hello.peer.life;
        let holder: Arc<str> = self
            .members
            .get(&life.node)
            .map_or_else(|| "".into(), |member| member.address.clone());
        if self.waiters.asked(hello, now) {
            actions.push(AssignerAction::Notice(Notice::NameTaken {
                life: life.clone(),
                address: hello.peer.address.clone(),
                holder: holder.clone(),
            }));
        }
        let message = AssignerMessage::NameTaken { holder };
        actions.push(AssignerAction::Send { session, message });
        actions.push(AssignerAction::CloseSession { session });
        self.seek_holder(&life.node.clone(), now, actions);
    }

    /// A process has joined under a name: it may have waited.
    pub(super) fn name_given(&mut self, hello: &Hello, now: Timestamp, actions: &mut Vec<AssignerAction>) {
        let life = &hello.peer.life;
        if let Some(since) = self.waiters.served(&life.node, hello.process) {
            let (life, after_ms) = (life.clone(), now.ms_since(since));
            actions.push(AssignerAction::Notice(Notice::NameFreed { life, after_ms }));
        }
    }

    /// Has a member that a recovering Assigner took for the holder of its name wait: the holder has come. It is not dead.
    pub(super) fn step_back(&mut self, node: &NodeId, actions: &mut Vec<AssignerAction>) {
        let Some(member) = self.members.remove(node) else {
            return;
        };
        if let Some(session) = member.session {
            self.unbind(session);
            let holder = "".into();
            let message = AssignerMessage::NameTaken { holder };
            actions.push(AssignerAction::Send { session, message });
            actions.push(AssignerAction::CloseSession { session });
        }
        let life = member.life;
        actions.push(AssignerAction::Notice(Notice::SteppedBack(life)));
    }

    /// Has the shell look whether a holder is still there whose session broke, if somebody waits for its name.
    fn seek_holder(&mut self, node: &NodeId, now: Timestamp, actions: &mut Vec<AssignerAction>) {
        if self.seek_at(node).is_none_or(|at| now < at) {
            return;
        }
        if let Some(member) = self.members.get_mut(node) {
            member.sought_at = Some(now);
            actions.push(AssignerAction::SeekHolder {
                life: member.life.clone(),
                address: member.address.clone(),
            });
        }
    }

    /// When a name's holder is to be looked for; `None` if not.
    fn seek_at(&self, node: &NodeId) -> Option<Timestamp> {
        let member = self.members.get(node)?;
        let closed_at = member.session_closed_at.filter(|_| member.session.is_none())?;
        if self.config.lease_ms.is_some() || !self.waiters.is_wanted(node) {
            return None;
        }
        let from = member.sought_at.map_or(closed_at, |probed| probed.max(closed_at));
        Some(from.plus_ms(NAME_QUIET_MS))
    }

    /// When the next holder is to be looked for.
    pub(super) fn next_seek(&self) -> Option<Timestamp> {
        self.waiters
            .iter()
            .filter_map(|(node, _)| self.seek_at(node))
            .min()
    }

    /// Time passed for those that wait.
    pub(super) fn tick_names(&mut self, now: Timestamp, actions: &mut Vec<AssignerAction>) {
        self.waiters.tick(now);
        self.bury_gone(now, actions);
        let nodes: Vec<NodeId> = self.waiters.iter().map(|(node, _)| node.clone()).collect();
        for node in nodes {
            self.seek_holder(&node, now, actions);
        }
    }

    /// The shell has looked for a holder whose session broke.
    pub(super) fn holder_sought(
        &mut self,
        life: &Life,
        answer: HolderAnswer,
        now: Timestamp,
        actions: &mut Vec<AssignerAction>,
    ) {
        let Some(member) = self.members.get(&life.node) else {
            return;
        };
        let is_gone = match answer {
            HolderAnswer::Refused => true,
            HolderAnswer::Process(process) => member.process.is_some_and(|mine| mine != process),
            HolderAnswer::Unknown => false,
        };
        // It may have come back meanwhile.
        let is_open = member.life == *life && member.session.is_none() && member.sought_at.is_some();
        if is_gone && is_open && self.config.lease_ms.is_none() {
            self.let_go(&life.node, DeathCause::Replaced, now, actions);
        }
    }

    /// Ends a life. If somebody waits for its name, that one is given a moment to take over whole what it had.
    pub(super) fn let_go(
        &mut self,
        node: &NodeId,
        cause: DeathCause,
        now: Timestamp,
        actions: &mut Vec<AssignerAction>,
    ) {
        let is_wanted = self.waiters.is_wanted(node);
        match self.members.get_mut(node) {
            Some(member) if is_wanted && member.session.is_none() => member.gone = Some((now, cause)),
            _ => self.bury(node, cause, actions),
        }
    }

    /// When the next of those is dead for whom nobody has come.
    pub(super) fn next_successor_late(&self) -> Option<Timestamp> {
        let gone = self.members.values().filter_map(|member| member.gone);
        gone.map(|(since, _)| since.plus_ms(SUCCESSOR_MS)).min()
    }

    fn bury_gone(&mut self, now: Timestamp, actions: &mut Vec<AssignerAction>) {
        let late = |member: &&Member| {
            member
                .gone
                .is_some_and(|(since, _)| now >= since.plus_ms(SUCCESSOR_MS))
        };
        let gone = self.members.values().filter(late);
        let gone: Vec<_> = gone
            .filter_map(|member| Some((member.life.node.clone(), member.gone?.1)))
            .collect();
        for (node, cause) in gone {
            self.bury(&node, cause, actions);
        }
    }

    /// An operator wants the holder of a name gone, whatever is heard of it. Under leases its own must end first.
    pub(super) fn forget_node(
        &mut self,
        node: &NodeId,
        now: Timestamp,
        actions: &mut Vec<AssignerAction>,
    ) -> Result<(), ForgetError> {
        let Some(member) = self.members.get_mut(node) else {
            return Err(ForgetError::UnknownNode(node.clone()));
        };
        member.forgotten = true;
        let process = member.process;
        self.waiters.forget(node.clone(), process, now);
        self.bury_forgotten(now, actions);
        self.wants(Pending::Soon);
        Ok(())
    }

    /// Buries whom an operator wants gone, once they can serve nothing any more.
    pub(super) fn bury_forgotten(&mut self, now: Timestamp, actions: &mut Vec<AssignerAction>) {
        let gone: Vec<NodeId> = self
            .members
            .values()
            .filter(|member| member.forgotten && !self.may_serve_still(member, now))
            .map(|member| member.life.node.clone())
            .collect();
        for node in gone {
            self.bury(&node, DeathCause::Forgotten, actions);
        }
    }
}
