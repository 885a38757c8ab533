//! [`HandoffCore`]: all that one node knows of the ranges it serves, takes and gives. Pure: no I/O, no clock.
//!
//! ```text
//!   assignment --adopt--> pending --take_answered--> held --take--> past (frozen copy) --release--> past
//!                           |  search.rs: who still has it?   |  giver.rs: fence, copies, peeks
//!                           v                                 v
//!                         SendTake                      admission.rs: may this operation run here?
//!                                                       pull.rs: what still arrives
//!
//!   reconcile.rs: what an assignment asks   action.rs: what is asked of the shell   state.rs: what is known   claims.rs: what is told
//! ```
//!
//! A node that died in silence may only have been away. Who takes its range over, cold, *awaits* what it held (awaiting.rs);
//! its process freezes that when it learns of its death, and *offers* it in its next life (offering.rs).
//!
//! A range that is held may be *lent*: replicas serve reads of it under leases (lending.rs). Of a range that another node
//! owns this one may be a replica: it *reads* it (reading.rs), from copies (fills.rs), and the owner changes no key before it
//! has been forgotten there (writes.rs).
//!
//! A range can be *held* (served) and *pending* (to be taken under a newer acquisition) at once: an old owner serves
//! until it is fenced, by the taker or by itself. How holdings ended is remembered in *past*, so that a repeated `Take`
//! gets its answer again and no older copy is ever taken for the newest. What others say of acquisitions is believed only as
//! far as `belief` says.
//!
//! The shell keeps the core behind a lock. An operation is admitted and executed under the shared lock; every method
//! that takes `&mut self` runs under the exclusive one. So when `take` answers `Fenced`, no operation is inside the
//! store (H1), and whoever waits outside has to be admitted again and learns of the move.
//!
//! Invariants kept here: H1 (one owner), H4 (versions start above), H6 (chains), H7 (nothing waits for ever), and the
//! pull's part of H3 (`import_target` knows which pull may still import where).

mod action;
mod admission;
mod awaiting;
mod belief;
mod claims;
mod fills;
mod giver;
mod lending;
mod offering;
mod pull;
mod reading;
mod reconcile;
mod search;
mod state;
#[cfg(test)]
mod tests;
mod writes;

use std::collections::BTreeMap;
use std::sync::Arc;

use softstore_sharding::planted::{self, Bug};
use softstore_sharding::session::VersionRange;
use softstore_sharding::{
    Assignment, Epoch, Generation, Life, Peer, PullId, RangeMap, Slice, SliceKey, Timestamp, Version,
    VersionCounter,
};

pub use action::{Action, ColdReason, CopyEnd, Notice, PullEnd};
pub use admission::{Admission, Moved, Serving};
pub use belief::ASSIGNER_SILENT_MS;
pub use claims::RangeCounts;
pub use fills::{Fills, Join};
pub use giver::{CopyGrant, UnknownTtl};
pub use lending::{
    Clearance, LiveLease, READ_LEASE_DRIFT_PERCENT, READ_LEASE_MS, READ_LEASE_OUT_MS_MAX, READ_LEASE_RENEW_MS,
};
pub use pull::ImportTarget;
pub use reading::{CopyHere, ReadingHere};
pub use writes::Writes;

use belief::AssignerHeard;
use lending::Lending;
use reading::Readings;
use state::{Copy, Held, Past, Pending, Pull};

use crate::config::HandoffConfig;

/// Ranges held from which on no flush may cut another one in two. Flushes of ever other narrow slices would otherwise cut
/// up what this node holds until its hellos and heartbeats are too large for the Assigner. A flush along the bounds of
/// what is held is always possible, and joins what earlier ones have cut.
const HELD_RANGES_CUT_MAX: usize = 4_096;

/// Epochs given from which on none is left for flushes: what remains of the 2^32 is for hand-offs, which clients cannot
/// cause. A thousand flushes a second, never ending, come here after a month.
const EPOCHS_FLUSHED_MAX: u32 = u32::MAX / 4 * 3;

/// A node's part in all hand-offs. See the head of this file.
#[derive(Debug)]
pub struct HandoffCore {
    me: Peer,
    config: HandoffConfig,
    chunk_versions: VersionRange,
    assignment: Option<Arc<Assignment>>,
    held: RangeMap<Held>,
    pending: RangeMap<Pending>,
    past: RangeMap<Past>,
    /// Acquisitions up to this one will never start here: a taker was told so.
    never: RangeMap<Generation>,
    pulls: BTreeMap<PullId, Pull>,
    /// The former lives whose copies are offered, oldest first.
    former: Vec<Life>,
    /// How long what a former life held is offered, as the newest assignment said that was ever adopted.
    revival_ms: u64,
    lending: Lending,
    readings: Readings,
    assigner_heard: AssignerHeard,
    epochs_given: u32,
    pulls_given: u64,
}

impl HandoffCore {
    /// A node that holds nothing. `chunk_versions` are the chunk formats it reads and writes.
    #[must_use]
    pub fn new(me: Peer, config: HandoffConfig, chunk_versions: VersionRange) -> Self {
        Self {
            me,
            config,
            chunk_versions,
            assignment: None,
            held: RangeMap::new(),
            pending: RangeMap::new(),
            past: RangeMap::new(),
            never: RangeMap::new(),
            pulls: BTreeMap::new(),
            former: Vec::new(),
            revival_ms: 0,
            lending: Lending::default(),
            readings: Readings::default(),
            assigner_heard: AssignerHeard::default(),
            epochs_given: 0,
            pulls_given: 0,
        }
    }

    /// This node's life and address.
    #[must_use]
    pub fn me(&self) -> &Peer {
        &self.me
    }

    /// The newest assignment adopted.
    #[must_use]
    pub fn assignment(&self) -> Option<&Arc<Assignment>> {
        self.assignment.as_ref()
    }

    /// Takes note of an assignment. One that is not newer than what is held is ignored.
    pub fn adopt(&mut self, assignment: &Arc<Assignment>, now: Timestamp) -> Vec<Action> {
        if self
            .assignment
            .as_ref()
            .is_some_and(|held| held.generation() >= assignment.generation())
        {
            return Vec::new();
        }
        self.assignment = Some(assignment.clone());
        self.revival_ms = assignment.revival_ms();
        let mut actions = Vec::new();
        self.stop_reading_by_assignment(&mut actions);
        self.report_again(assignment, &mut actions);
        // Before anything is acquired: it may be this node that wants what is offered.
        self.settle_offered(&mut actions);
        for (slice, range) in assignment.ranges().iter() {
            self.reconcile(slice, range, now, &mut actions);
        }
        self.drop_orphaned_copies(&mut actions);
        self.end_pulls_of_the_dead(now, &mut actions);
        self.look_for_the_awaited(&mut actions);
        self.tick_pulls(now, &mut actions);
        self.search(now, &mut actions);
        self.recall_unlisted(now, &mut actions);
        self.ask_at_once(now, &mut actions);
        if !self.contradictions().is_empty() {
            actions.push(Action::Contradicted);
        }
        actions.push(Action::Wake);
        actions
    }

    /// Does what is due: repeated `Take`s, deadlines, broken pulls, old copies.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        self.drop_old_copies(now, &mut actions);
        self.tick_pulls(now, &mut actions);
        self.search(now, &mut actions);
        self.lending.forget_ended(now);
        self.tick_readings(now, &mut actions);
        actions
    }

    /// When `tick` next has something to do; `None`: not before the next event.
    #[must_use]
    pub fn wake_at(&self) -> Option<Timestamp> {
        let takes = self
            .pending
            .iter()
            .filter_map(|(_, pending)| pending.asking.as_ref())
            .chain(self.asking_the_awaited())
            .map(|asking| asking.send_at);
        let pulls = self
            .pulls
            .values()
            .map(|pull| pull.retry_at.unwrap_or(pull.deadline).min(pull.deadline));
        let copies = self
            .copies()
            .filter(|_| !planted::is(Bug::CopyOutlivesTaker))
            .map(|(_, copy)| copy.keep_until);
        let cold_starts = self
            .pending
            .iter()
            .filter_map(|(_, pending)| Some(pending.cold_at?.0));
        let leases = [self.lending.next_end(), self.readings_wake_at()];
        takes
            .chain(pulls)
            .chain(copies)
            .chain(cold_starts)
            .chain(leases.into_iter().flatten())
            .min()
    }

    /// Whether nothing is held, to be taken, or kept for a taker: a draining node may leave.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let is_released = self.copies().next().is_none() || planted::is(Bug::LeavesUnreleased);
        self.held.is_empty() && self.pending.is_empty() && is_released
    }

    /// Removes all entries of a slice from what is held here, in one step, and ends the pulls that fill it. Returns the
    /// parts flushed; the rest of the slice is not served here. None at all if too much is cut up already
    /// (`HELD_RANGES_CUT_MAX`), or after more flushes than one process can tell apart (`EPOCHS_FLUSHED_MAX`).
    pub fn flush(&mut self, slice: Slice) -> (Vec<Slice>, Vec<Action>) {
        let mut actions = Vec::new();
        let mut flushed = Vec::new();
        let cuts = self
            .held
            .overlapping(slice)
            .any(|(part, _)| self.held.get(part.low()).is_some_and(|(whole, _)| whole != part));
        let nothing_to_do = self.held.overlapping(slice).next().is_none();
        let is_worn_out = self.epochs_given >= EPOCHS_FLUSHED_MAX;
        if nothing_to_do || is_worn_out || (cuts && self.held.len() >= HELD_RANGES_CUT_MAX) {
            return (flushed, actions);
        }
        let epoch = self.next_epoch();
        let mut pulled = Vec::new();
        self.held.update(slice, |part, held| {
            actions.push(Action::Purge(part, held.epoch));
            flushed.push(part);
            held.epoch = epoch;
            if planted::is(Bug::FlushKeepsPull)
                || (planted::is(Bug::FlushKeepsAwait) && held.awaiting.is_some())
            {
                return;
            }
            held.awaiting = None;
            pulled.extend(held.pull.take().map(|pull| (pull, part, held.since)));
        });
        for (pull, part, since) in pulled {
            self.leave_pull(pull, part, since, PullEnd::Unwanted, &mut actions);
        }
        self.held.coalesce(|left, right| {
            let of_left = (left.since, left.epoch, left.pull, &left.awaiting);
            let same = of_left == (right.since, right.epoch, right.pull, &right.awaiting);
            if same {
                // Versions of both parts go on above what either has given (H4).
                left.versions.raise_to(right.versions.peek());
            }
            same
        });
        (flushed, actions)
    }

    /// Makes this node the owner of a part: the end of its search.
    fn start(
        &mut self,
        slice: Slice,
        since: Generation,
        epoch: Epoch,
        floor: Version,
        pull: Option<PullId>,
        actions: &mut Vec<Action>,
    ) {
        self.pending.remove(slice);
        let mut own = Version::default();
        let mut left: Vec<(PullId, Slice, Generation)> = Vec::new();
        for (part, past) in self.past.remove(slice) {
            own = own.max(past.next_version);
            if let Some(copy) = past.end.copy() {
                drop_copy(part, copy, CopyEnd::OwnedAgain, actions);
                left.extend(copy.upstream.map(|upstream| (upstream, part, past.since)));
            }
        }
        for (part, held) in self.held.remove(slice) {
            own = own.max(held.versions.peek());
            if held.epoch != epoch {
                actions.push(Action::Purge(part, held.epoch));
            }
            left.extend(held.pull.map(|before| (before, part, held.since)));
        }
        let first = since.first_version().max(own).max(floor);
        self.held.insert(
            slice,
            Held {
                since,
                epoch,
                versions: VersionCounter::starting_at(first),
                pull,
                awaiting: None,
            },
        );
        for (before, part, held_since) in left {
            if Some(before) != pull {
                self.leave_pull(before, part, held_since, PullEnd::Unwanted, actions);
            }
        }
        actions.push(Action::Wake);
    }

    fn next_epoch(&mut self) -> Epoch {
        if planted::is(Bug::LeftoversKept) {
            return Epoch::new(1);
        }
        self.epochs_given = self
            .epochs_given
            .checked_add(1)
            .expect("a process does not change 4 billion slices");
        Epoch::new(self.epochs_given)
    }

    fn next_pull(&mut self) -> PullId {
        self.pulls_given += 1;
        PullId::new(self.pulls_given)
    }

    /// Whether a life is dead, by the assignment. Without one, nobody is known to be.
    fn is_dead(&self, life: &Life) -> bool {
        self.assignment
            .as_ref()
            .is_some_and(|assignment| !assignment.is_living(life))
    }

    /// Cuts a slice so that each part reads the same everywhere in this node's state and in the assignment.
    fn parts(&self, slice: Slice) -> Vec<Slice> {
        let mut lows: Vec<SliceKey> = vec![slice.low()];
        let mut cut = |part: Slice| {
            lows.push(part.low());
            lows.extend(part.high_excluded().filter(|high| slice.contains(*high)));
        };
        self.held.overlapping(slice).for_each(|(part, _)| cut(part));
        self.pending.overlapping(slice).for_each(|(part, _)| cut(part));
        self.past.overlapping(slice).for_each(|(part, _)| cut(part));
        self.never.overlapping(slice).for_each(|(part, _)| cut(part));
        if let Some(assignment) = &self.assignment {
            assignment
                .ranges()
                .overlapping(slice)
                .for_each(|(part, _)| cut(part));
        }
        lows.sort_unstable();
        lows.dedup();
        let highs = lows
            .iter()
            .skip(1)
            .map(|&low| Some(low))
            .chain([slice.high_excluded()]);
        lows.iter()
            .zip(highs)
            .filter_map(|(&low, high)| Slice::new(low, high))
            .collect()
    }

    /// The frozen copies kept here.
    fn copies(&self) -> impl Iterator<Item = (Slice, &Copy)> {
        self.past
            .iter()
            .filter_map(|(slice, past)| Some((slice, past.end.copy()?)))
    }

    /// Remembers how a holding of a part ended. What was kept there of an earlier one goes.
    fn remember_end(&mut self, part: Slice, past: Past, actions: &mut Vec<Action>) {
        for (part, before) in self.past.remove(part) {
            if let Some(copy) = before.end.copy() {
                drop_copy(part, copy, CopyEnd::OwnedAgain, actions);
            }
        }
        self.past.insert(part, past);
    }
}

fn drop_copy(slice: Slice, copy: &Copy, reason: CopyEnd, actions: &mut Vec<Action>) {
    actions.push(Action::Purge(slice, copy.epoch));
    actions.push(Action::Notice(Notice::CopyDropped { slice, reason }));
}
