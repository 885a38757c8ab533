//! Asking the Sharder: a round is asked for with a snapshot, runs elsewhere, and its answer becomes the next assignment.
//!
//! ```text
//!   pending, or a balancing round is due --snapshot--> Action::Place -- the shell runs it, elsewhere --> Event::Placed
//!     the answer fits what is now  --> published (or nothing, if it says what is)
//!     it does not any more         --> thrown away, asked anew
//!     it breaks the rules          --> thrown away; even ranges place what must move
//!     it takes too long, and somebody waits for it --> given up: even ranges place what must move; until it answers after
//!                                      all, each time
//! ```
//!
//! There is one round at a time. So heartbeats are answered however long a Sharder thinks, and a drain waits for it no longer than
//! `place_timeout_ms`.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::event::{AssignerAction, AssignerEvent, Notice};
use super::explain::ChangeCause;
use super::forced;
use super::publish::Placed;
use super::{Assigner, Pending};
use crate::assignment::{Assignment, AssignmentError};
use crate::node::Life;
use crate::sharder::{ClusterSnapshot, NodeRole, NodeView, Placement, Sharder};
use crate::time::Timestamp;

/// Names one question to the Sharder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(u64);

/// A question to the Sharder, to be run wherever that holds nothing up.
#[derive(Clone)]
pub struct PlaceJob {
    ticket: Ticket,
    sharder: Arc<dyn Sharder>,
    snapshot: Arc<ClusterSnapshot>,
}

impl PlaceJob {
    /// Which question it is.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Asks the Sharder. What it returns is the Assigner's next event.
    #[must_use]
    pub fn run(&self) -> AssignerEvent {
        AssignerEvent::Placed {
            ticket: self.ticket,
            placement: self.sharder.place(&self.snapshot.view()),
        }
    }
}

impl PartialEq for PlaceJob {
    fn eq(&self, other: &Self) -> bool {
        self.ticket == other.ticket && Arc::ptr_eq(&self.snapshot, &other.snapshot)
    }
}

impl fmt::Debug for PlaceJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PlaceJob").field(&self.ticket).finish()
    }
}

/// A question that was asked and not answered yet.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) ticket: Ticket,
    snapshot: Arc<ClusterSnapshot>,
    /// What it was asked for; nothing: to balance.
    pub(super) urgency: Pending,
    pub(super) asked_at: Timestamp,
}

impl Assigner {
    /// When a round is given up. One that nobody waits for is not: what it says is as good later, unless something happens.
    pub(super) fn round_ends_at(&self) -> Option<Timestamp> {
        let round = self.round.as_ref()?;
        let is_waited_for = round.urgency.max(self.pending) > Pending::Nothing;
        is_waited_for.then(|| round.asked_at.plus_ms(self.config.place_timeout_ms))
    }

    /// Whether the Sharder takes longer than it may.
    pub(super) fn is_sharder_overdue(&self, now: Timestamp) -> bool {
        let is_late = |round: &Round| now.ms_since(round.asked_at) >= self.config.place_timeout_ms;
        self.overdue.is_some() || self.round.as_ref().is_some_and(is_late)
    }

    /// Asks the Sharder, or does without it where it is not needed or does not answer.
    pub(super) fn begin_round(&mut self, now: Timestamp, unix_ms: u64, actions: &mut Vec<AssignerAction>) {
        let urgency = std::mem::replace(&mut self.pending, Pending::Nothing);
        let base = match self.base(urgency) {
            Ok(base) => base,
            Err(error) => {
                actions.push(AssignerAction::Notice(Notice::NotPublished(error)));
                return;
            }
        };
        if !self.has_taker() {
            self.publish_placed(base, None, urgency, now, unix_ms, actions);
            return;
        }
        let is_balancing = urgency == Pending::Nothing || !self.sharder.reacts_to_load();
        if !is_balancing && base.as_ref().is_some_and(|base| self.is_all_owned(base)) {
            // Nothing must move, and what may will be looked at when the next round is due.
            let present = self.membership(base, now);
            let placement = forced::by_even_ranges(&present.members());
            self.publish_placed(
                present.previous,
                Some(placement.into()),
                urgency,
                now,
                unix_ms,
                actions,
            );
            return;
        }
        let (mut snapshot, is_changing) = self.snapshot(base, urgency == Pending::Nothing, now);
        if urgency == Pending::Nothing {
            self.balance.is_load_changing = is_changing;
        }
        // While a hot key is on its way up or down, it gets and loses replicas, and what lies around it stays. All stays while
        // the whole load begins, ends or leaps.
        if !is_balancing || (urgency == Pending::Nothing && is_changing) {
            snapshot.churn_max = 0.0;
        }
        if self.overdue.is_some() {
            let placement = forced::by_even_ranges(&snapshot.members());
            self.publish_placed(
                snapshot.previous,
                Some(placement.into()),
                urgency,
                now,
                unix_ms,
                actions,
            );
            return;
        }
        if urgency == Pending::Nothing {
            self.balance.asked_at = now;
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let snapshot = Arc::new(snapshot);
        self.round = Some(Round {
            ticket,
            snapshot: snapshot.clone(),
            urgency,
            asked_at: now,
        });
        actions.push(AssignerAction::Place(PlaceJob {
            ticket,
            sharder: self.sharder.clone(),
            snapshot,
        }));
    }

    /// The Sharder has answered.
    pub(super) fn answered(
        &mut self,
        ticket: Ticket,
        placement: Placement,
        now: Timestamp,
        unix_ms: u64,
        actions: &mut Vec<AssignerAction>,
    ) {
        if self.overdue == Some(ticket) {
            // What it says is of a time that has passed.
            self.overdue = None;
            self.wants(Pending::Soon);
            return;
        }
        let Some(round) = self.round.take_if(|round| round.ticket == ticket) else {
            return;
        };
        let asked = round.snapshot.members();
        if let Err(error) = placement.check(&asked) {
            let reason = format!("{}: {error}", self.sharder.name());
            actions.push(AssignerAction::Notice(Notice::PlacementRefused(reason)));
            let urgency = round.urgency.max(self.pending);
            self.place_forced(urgency, now, unix_ms, actions);
            return;
        }
        // A Sharder that reacts to load balances at its interval: who ends a hand-off has yet to measure what came by it.
        let is_held = self.is_held() || (self.sharder.reacts_to_load() && round.urgency != Pending::Nothing);
        // Whatever has happened since has left something pending.
        if self.pending == Pending::Nothing {
            let placement = if is_held {
                forced::only_forced(&asked, &placement)
            } else {
                placement
            };
            let held = asked.previous.filter(|_| round.urgency == Pending::Nothing);
            if held.is_some_and(|held| placement.is_as_held(held)) {
                if self.may_rest_on(round.snapshot.churn_max) {
                    self.rested();
                }
                return;
            }
            let base = round.snapshot.previous.clone();
            let placed = Placed::of_asked(placement, &round.snapshot);
            self.publish_placed(base, Some(placed), round.urgency, now, unix_ms, actions);
            return;
        }
        let base = match self.base(self.pending) {
            Ok(base) => base,
            Err(error) => {
                actions.push(AssignerAction::Notice(Notice::NotPublished(error)));
                return;
            }
        };
        let present = self.membership(base, now);
        let view = present.members();
        let still_takes = |node: &&crate::sharder::NodeView| {
            !node.role.may_take() || view.node(&node.life).is_some_and(|now| now.role.may_take())
        };
        let fits = asked.nodes.iter().all(|node| still_takes(&node)) && placement.check(&view).is_ok();
        if !fits {
            actions.push(AssignerAction::Notice(Notice::PlacementOutdated));
            self.wants(round.urgency);
            return;
        }
        // What came after the question is answered by the next one; what has become pending stays so.
        let placement = if is_held {
            forced::only_forced(&view, &placement)
        } else {
            placement
        };
        self.publish_placed(
            present.previous,
            Some(placement.into()),
            round.urgency,
            now,
            unix_ms,
            actions,
        );
    }

    /// Whether every range has an owner that stays.
    fn is_all_owned(&self, base: &Assignment) -> bool {
        let members = self.members.values();
        let staying: HashSet<&Life> = members
            .filter(|member| member.role().may_take())
            .map(|member| &member.life)
            .collect();
        base.ranges()
            .iter()
            .all(|(_, range)| staying.contains(&range.owner))
    }

    /// The Sharder will not answer: it broke.
    pub(super) fn placing_failed(
        &mut self,
        ticket: Ticket,
        now: Timestamp,
        unix_ms: u64,
        actions: &mut Vec<AssignerAction>,
    ) {
        if self.overdue == Some(ticket) {
            self.overdue = None;
        }
        if let Some(round) = self.round.take_if(|round| round.ticket == ticket) {
            let reason = format!("{} broke off", self.sharder.name());
            actions.push(AssignerAction::Notice(Notice::PlacementRefused(reason)));
            let urgency = round.urgency.max(self.pending);
            self.place_forced(urgency, now, unix_ms, actions);
        }
    }

    /// Gives a round up that takes too long.
    pub(super) fn give_up_round(&mut self, now: Timestamp, unix_ms: u64, actions: &mut Vec<AssignerAction>) {
        if self.round_ends_at().is_none_or(|at| now < at) {
            return;
        }
        let Some(round) = self.round.take() else { return };
        self.overdue = Some(round.ticket);
        let after_ms = now.ms_since(round.asked_at);
        actions.push(AssignerAction::Notice(Notice::PlacingGivenUp { after_ms }));
        let urgency = round.urgency.max(self.pending);
        self.place_forced(urgency, now, unix_ms, actions);
    }

    /// Places what must move by even ranges; nothing, if nobody waits for anything.
    fn place_forced(
        &mut self,
        urgency: Pending,
        now: Timestamp,
        unix_ms: u64,
        actions: &mut Vec<AssignerAction>,
    ) {
        if urgency == Pending::Nothing {
            return;
        }
        self.pending = Pending::Nothing;
        match self.base(urgency) {
            Ok(base) => {
                let present = self.membership(base, now);
                let placement = self
                    .has_taker()
                    .then(|| forced::by_even_ranges(&present.members()));
                self.publish_placed(
                    present.previous,
                    placement.map(Placed::from),
                    urgency,
                    now,
                    unix_ms,
                    actions,
                );
            }
            Err(error) => actions.push(AssignerAction::Notice(Notice::NotPublished(error))),
        }
    }

    /// The cluster as the Sharder is to see it, and whether its load is changing too much to move
    /// anything by it.
    pub(super) fn snapshot(
        &mut self,
        base: Option<Arc<Assignment>>,
        is_round: bool,
        now: Timestamp,
    ) -> (ClusterSnapshot, bool) {
        let seen = self.loads_seen(base.as_deref(), is_round, now);
        let snapshot = ClusterSnapshot {
            loads: seen.slices,
            hot_keys: seen.hot_keys,
            churn_max: match self.is_held() {
                true => 0.0,
                false => self.balance.churn_left(&self.config, now),
            },
            ..self.membership(base, now)
        };
        (snapshot, seen.is_changing)
    }

    /// The same without loads.
    fn membership(&self, previous: Option<Arc<Assignment>>, now: Timestamp) -> ClusterSnapshot {
        ClusterSnapshot {
            previous,
            nodes: self.views(now),
            loads: Vec::new(),
            hot_keys: Vec::new(),
            churn_max: 0.0,
        }
    }

    /// The members as the Sharder is to see them.
    pub(super) fn views(&self, now: Timestamp) -> Vec<NodeView> {
        let views = self.members.values().map(|member| NodeView {
            role: match self.is_kept_out(member, now) {
                true => NodeRole::Leaving,
                false => member.role(),
            },
            ..member.view()
        });
        views.collect()
    }

    /// What is held now, without what no longer holds.
    pub(super) fn base(&self, urgency: Pending) -> Result<Option<Arc<Assignment>>, AssignmentError> {
        let current = self.assignment();
        if urgency == Pending::Nothing && self.recovered.is_none() {
            // Nothing has happened since it was published.
            return Ok(current.cloned());
        }
        let Some(previous) = self.recovered.as_ref().or(current.map(Arc::as_ref)) else {
            return Ok(None);
        };
        let ranges = self.away(|away| {
            super::next::refreshed(previous, &self.living(), &self.reported, &self.fenced_off, away)
        });
        let ranges = self.without_read_leases(ranges);
        Assignment::new(previous.generation(), ranges, self.directory()).map(|base| Some(Arc::new(base)))
    }

    /// Why a change is made.
    pub(super) fn cause_of(urgency: Pending, is_first: bool) -> ChangeCause {
        match urgency {
            _ if is_first => ChangeCause::First,
            Pending::Nothing => ChangeCause::Balance,
            _ => ChangeCause::Membership,
        }
    }
}
