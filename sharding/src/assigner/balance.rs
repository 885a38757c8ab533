//! [`Balance`]: when the Sharder is asked although nobody came or went, and how much it may move then.
//!
//! Balancing rounds come every `balance_interval_ms`, to a Sharder that reacts to load, once all owners have reported lately. They
//! are held back while an operator has frozen them, in quiet hours, and by the budget of bytes per minute. What must move,
//! because its owner drains or is dead, is never held back.

use std::collections::VecDeque;

use super::Assigner;
use super::config::AssignerConfig;
use super::event::{AssignerAction, Notice};
use crate::node::NodeId;
use crate::time::Timestamp;

/// The budget is one per so many milliseconds.
const CHURN_WINDOW_MS: u64 = 60_000;

/// How old a report may be to balance by, in parts of the failure timeout: five heartbeats of six, at the defaults.
const REPORT_AGE_MAX_NUM_DEN: (u64, u64) = (5, 6);

/// With this part of the data set's bytes left to move, or half of a minute's budget if that is less, the Sharder can move what it
/// wants to, some of it at least.
const RESTING_CHURN_MIN: f64 = 0.1;

/// What is known of balancing.
#[derive(Debug, Default)]
pub(super) struct Balance {
    frozen: Option<Freeze>,
    /// When the Sharder was asked last.
    pub(super) asked_at: Timestamp,
    /// What balancing has moved, as parts of the data set's bytes, oldest first.
    spent: VecDeque<(Timestamp, f64)>,
    /// It was held back at the last step.
    was_held: bool,
    /// The last balancing round found a load that changes.
    pub(super) is_load_changing: bool,
}

/// An operator's freeze.
#[derive(Clone, Copy, Debug)]
struct Freeze {
    until: Option<Timestamp>,
}

/// Why nothing is balanced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeldBack {
    /// An operator froze it.
    Frozen {
        /// For how much longer, in milliseconds; none: until it is lifted.
        left_ms: Option<u64>,
    },
    /// It is a time of day in which nothing is balanced.
    QuietHours,
    /// The Sharder takes too long.
    SharderOverdue,
    /// Balancing has moved as much within a minute as it may.
    ChurnSpent,
    /// This owner has not reported its load lately.
    NoReport(NodeId),
    /// The load begins, ends or leaps: what will be is not known yet.
    LoadChanging,
    /// This owner cannot be relied on: it is silent, cannot be reached, or does not serve what it owns. It looks idle, and would
    /// be given more.
    Doubted(NodeId),
}

impl Balance {
    /// Whether an operator, or the time of day, wants nothing balanced.
    fn hold(&self, config: &AssignerConfig, now: Timestamp, unix_ms: u64) -> Option<HeldBack> {
        if let Some(freeze) = self.frozen {
            let left_ms = freeze.until.map(|until| until.ms_since(now));
            return Some(HeldBack::Frozen { left_ms });
        }
        let mut quiet = config.balance_quiet_hours.iter().flatten();
        quiet
            .any(|hours| hours.holds(unix_ms))
            .then_some(HeldBack::QuietHours)
    }

    /// What balancing may still move within this minute, as a part of the data set's bytes.
    pub(super) fn churn_left(&self, config: &AssignerConfig, now: Timestamp) -> f64 {
        let lately = self
            .spent
            .iter()
            .filter(|(at, _)| now.ms_since(*at) < CHURN_WINDOW_MS);
        let spent: f64 = lately.map(|(_, part)| part).sum();
        (f64::from(config.balance_churn_percent_per_minute) / 100.0 - spent).max(0.0)
    }

    /// Balancing has moved this part of the data set's bytes.
    pub(super) fn spend(&mut self, part: f64, now: Timestamp) {
        while self
            .spent
            .front()
            .is_some_and(|(at, _)| now.ms_since(*at) >= CHURN_WINDOW_MS)
        {
            self.spent.pop_front();
        }
        if part > 0.0 {
            self.spent.push_back((now, part));
        }
    }
}

impl Assigner {
    pub(super) fn freeze(&mut self, for_ms: Option<u64>, now: Timestamp, actions: &mut Vec<AssignerAction>) {
        let until = for_ms.map(|ms| now.plus_ms(ms));
        self.balance.frozen = Some(Freeze { until });
        actions.push(AssignerAction::Notice(Notice::Frozen { for_ms }));
    }

    pub(super) fn unfreeze(&mut self, actions: &mut Vec<AssignerAction>) {
        if self.balance.frozen.take().is_some() {
            actions.push(AssignerAction::Notice(Notice::Unfrozen));
        }
    }

    /// Ends a freeze whose time is over, and sees to what has waited for the end of a hold.
    pub(super) fn settle_holds(&mut self, now: Timestamp, actions: &mut Vec<AssignerAction>) {
        let until = self.balance.frozen.and_then(|freeze| freeze.until);
        if until.is_some_and(|until| now >= until) {
            self.unfreeze(actions);
        }
        let is_held = self.is_held();
        if self.balance.was_held && !is_held && self.recovery.is_none() {
            // A Sharder that does not react to load is not asked for it either: a node that joined waits to be filled.
            self.wants(super::Pending::Soon);
        }
        self.balance.was_held = is_held;
    }

    /// Whether an operator has frozen balancing.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.balance.frozen.is_some()
    }

    /// Whether nothing is to move but what must: it is frozen, or the hours are quiet.
    #[must_use]
    pub fn is_held(&self) -> bool {
        let hold = self.balance.hold(&self.config, self.last_step, self.unix_ms);
        hold.is_some()
    }

    /// Why nothing is balanced; `None` if it is.
    pub(super) fn held_back(&self, now: Timestamp) -> Option<HeldBack> {
        if let Some(hold) = self.balance.hold(&self.config, now, self.unix_ms) {
            return Some(hold);
        }
        if self.is_sharder_overdue(now) {
            return Some(HeldBack::SharderOverdue);
        }
        if !self.sharder.reacts_to_load() {
            return None;
        }
        if let Some(node) = self.owner_without_report(now) {
            return Some(HeldBack::NoReport(node));
        }
        if let Some(node) = self.doubted_owner(now) {
            return Some(HeldBack::Doubted(node));
        }
        if self.balance.is_load_changing {
            return Some(HeldBack::LoadChanging);
        }
        let is_spent = self.balance.churn_left(&self.config, now) <= 0.0;
        is_spent.then_some(HeldBack::ChurnSpent)
    }

    /// An owner that has not reported its load lately.
    pub(super) fn owner_without_report(&self, now: Timestamp) -> Option<NodeId> {
        let (num, den) = REPORT_AGE_MAX_NUM_DEN;
        let age_ms_max = self.config.failure_timeout_ms * num / den;
        let silent = self.members.values().find(|member| {
            let is_fresh = member.load_at.is_some_and(|at| now.ms_since(at) <= age_ms_max);
            !is_fresh && self.owners.contains(&member.life)
        });
        silent.map(|member| member.life.node.clone())
    }

    /// When the next balancing round is due; `None` if there is none to come.
    pub(super) fn balance_at(&self) -> Option<Timestamp> {
        let is_idle = self.recovery.is_none() && self.round.is_none() && self.overdue.is_none();
        let is_asked = is_idle && self.sharder.reacts_to_load() && self.assignment().is_some();
        is_asked.then(|| self.balance.asked_at.plus_ms(self.config.balance_interval_ms))
    }

    /// When a balancing round that is not due yet will be. One that is due and cannot be waits for what is no matter of time, or
    /// for the minute's budget; it is looked at again with each tick.
    pub(super) fn next_balance(&self, now: Timestamp) -> Option<Timestamp> {
        self.balance_at().filter(|at| *at > now)
    }

    /// When a hold may end of itself.
    pub(super) fn hold_ends_at(&self) -> Option<Timestamp> {
        self.balance.frozen.and_then(|freeze| freeze.until)
    }

    /// Whether the Sharder is to be asked although nothing has happened.
    pub(super) fn is_balance_due(&self, now: Timestamp) -> bool {
        let is_due = self.balance_at().is_some_and(|at| now >= at);
        is_due
            && !self.is_held()
            && self.has_taker()
            && self.owner_without_report(now).is_none()
            && self.doubted_owner(now).is_none()
    }

    /// Whether that nothing moves, within such a budget, says that nothing is to move: not if most of the minute's is spent, or the
    /// load is still changing. Where there never is a budget nothing will move, either.
    pub(super) fn may_rest_on(&self, churn_max: f64) -> bool {
        let of_a_minute = f64::from(self.config.balance_churn_percent_per_minute) / 100.0;
        of_a_minute <= 0.0 || (churn_max > 0.0 && churn_max >= RESTING_CHURN_MIN.min(of_a_minute / 2.0))
    }

    /// The Sharder would move nothing: who owns something by now has its share.
    pub(super) fn rested(&mut self) {
        for member in self.members.values_mut() {
            if self.owners.contains(&member.life) {
                member.is_filling = false;
            }
        }
    }
}
