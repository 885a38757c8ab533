//! The taker's pulls: what is still on its way, where it may be imported, and when it is given up.

use std::sync::Arc;

use bytes::Bytes;
use softstore_sharding::session::HandoffOutcome;
use softstore_sharding::{Epoch, Generation, Life, Peer, PullId, Slice, SliceKey, Timestamp};

use super::state::{End, Giver, Past, Pull};
use super::{Action, HandoffCore, Notice, PullEnd};
use crate::message::{PullRequest, Release, TakenRange};

/// Where an entry that arrives by a pull belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImportTarget {
    /// The epoch to import under.
    pub epoch: Epoch,
    /// What the entry's remaining TTL is added to (H5).
    pub first_sent: Timestamp,
}

impl HandoffCore {
    /// Where an entry at `at` may be imported by a pull: the held range that the pull fills, or the frozen copy that it
    /// still fills for the next owner in a chain. `None`: nowhere any more. Ask under the shared lock and import before
    /// letting it go.
    #[must_use]
    pub fn import_target(&self, pull: PullId, at: SliceKey) -> Option<ImportTarget> {
        let first_sent = self.pulls.get(&pull)?.first_sent;
        if let Some((_, held)) = self.held.get(at)
            && held.filled_by() == Some(pull)
        {
            return Some(ImportTarget {
                epoch: held.epoch,
                first_sent,
            });
        }
        let copy = self.past.get(at)?.1.end.copy()?;
        (copy.upstream == Some(pull)).then_some(ImportTarget {
            epoch: copy.epoch,
            first_sent,
        })
    }

    /// Whom to peek for a key of an open pull, and under which acquisition its range was taken.
    #[must_use]
    pub fn peek_target(&self, pull: PullId, at: SliceKey) -> Option<(Peer, Generation)> {
        let pull = self.pulls.get(&pull)?;
        let (_, since) = pull.ranges.iter().find(|(slice, _)| slice.contains(at))?;
        Some((pull.giver_here()?.clone(), *since))
    }

    /// A chunk was imported: resume after it, should the stream break. Whether the pull is still open.
    pub fn pull_advanced(&mut self, pull: PullId, cursor: Bytes) -> bool {
        let pull = self.pulls.get_mut(&pull);
        pull.map(|pull| pull.cursor = cursor).is_some()
    }

    /// The stream broke, or could not be opened: it is tried again until the pull's deadline.
    pub fn pull_broken(&mut self, pull: PullId, now: Timestamp) {
        let retry_ms = self.config.pull_retry_ms;
        if let Some(pull) = self.pulls.get_mut(&pull) {
            pull.retry_at = Some(now.plus_ms(retry_ms));
        }
    }

    /// A pull is over: complete, or given up. Both the giver and the Assigner are told.
    pub fn pull_ended(&mut self, pull: PullId, end: PullEnd) -> Vec<Action> {
        let mut actions = Vec::new();
        let is_away = |pull: &Pull| pull.giver_here().is_none();
        if end != PullEnd::Overflow && self.pulls.get(&pull).is_some_and(is_away) {
            // The last word of a stream whose giver has died since: the pull is a memory now.
            return actions;
        }
        self.end_pull(pull, end, &mut actions);
        actions
    }

    /// A peek found the copy of one key's range gone. What this node made of that range takes no more from the pull; the
    /// rest goes on (H6: the giver may own again one of several ranges that it gave, while another still fills from it),
    /// and with the last range the pull ends. Nothing happens if the range has left the pull already.
    pub fn pull_gone(&mut self, pull: PullId, at: SliceKey) -> Vec<Action> {
        let mut actions = Vec::new();
        let held = self
            .held
            .get(at)
            .filter(|(_, held)| held.filled_by() == Some(pull));
        let held = held.map(|(part, held)| (part, held.since));
        if let Some((part, since)) = held {
            self.held.update(part, |_, held| held.pull = None);
            self.leave_pull(pull, part, since, PullEnd::Gone, &mut actions);
            return actions;
        }
        let is_filled = |past: &Past| matches!(&past.end, End::Fenced { copy: Some(copy), .. } if copy.upstream == Some(pull));
        let past = self.past.get(at).filter(|(_, past)| is_filled(past));
        if let Some((part, since)) = past.map(|(part, past)| (part, past.since)) {
            self.past.update(part, |_, past| {
                if let End::Fenced { copy: Some(copy), .. } = &mut past.end {
                    copy.upstream = None;
                }
            });
            self.leave_pull(pull, part, since, PullEnd::Gone, &mut actions);
        }
        actions
    }

    /// How many pulls are open whose giver is there.
    #[must_use]
    pub fn pulls_open(&self) -> usize {
        self.pulls
            .values()
            .filter(|pull| pull.giver_here().is_some())
            .count()
    }

    pub(super) fn end_pull(&mut self, id: PullId, end: PullEnd, actions: &mut Vec<Action>) {
        let Some(pull) = self.pulls.remove(&id) else {
            return;
        };
        let mut owned = Vec::new();
        for (slice, held) in self.held.iter_mut().filter(|(_, held)| held.pull == Some(id)) {
            (held.pull, held.awaiting) = (None, None);
            owned.push((slice, held.since));
        }
        self.fill_no_copies_by(id);
        let outcome = if end == PullEnd::Complete {
            HandoffOutcome::Completed
        } else {
            HandoffOutcome::GaveUp
        };
        actions.extend([Action::EndPull(id), Action::StopPull(id)]);
        if !owned.is_empty() {
            self.report(&owned, outcome, actions);
        }
        let notice = match pull.giver {
            Giver::Here(giver) => {
                self.release_to(&giver, &pull.ranges, actions);
                let giver = giver.life;
                Notice::PullEnded { pull: id, giver, end }
            }
            Giver::Away(life) => Notice::NotBack { life, end },
        };
        actions.push(Action::Notice(notice));
        // Operations that wait for a peek need not any more.
        actions.push(Action::Wake);
    }

    /// Copies for the next in a chain get no more from a pull.
    pub(super) fn fill_no_copies_by(&mut self, pull: PullId) {
        let copies = self.past.iter_mut().filter_map(|(_, past)| past.end.copy_mut());
        for copy in copies.filter(|copy| copy.upstream == Some(pull)) {
            copy.upstream = None;
        }
    }

    /// A range no longer takes part in a pull (flushed, dropped, its copy gone, or its next owner is done): the giver may let
    /// go of it, and with its last range the pull ends.
    pub(super) fn leave_pull(
        &mut self,
        id: PullId,
        slice: Slice,
        held_since: Generation,
        end: PullEnd,
        actions: &mut Vec<Action>,
    ) {
        let is_owned = self
            .held
            .get(slice.low())
            .is_some_and(|(_, held)| held.since == held_since);
        if is_owned {
            let outcome = if end == PullEnd::Gone {
                HandoffOutcome::GaveUp
            } else {
                HandoffOutcome::Completed
            };
            self.report(&[(slice, held_since)], outcome, actions);
        }
        let Some(pull) = self.pulls.get(&id) else { return };
        let giver = pull.giver_here().cloned();
        let taken: Vec<(Slice, Generation)> = pull
            .ranges
            .iter()
            .filter_map(|&(range, since)| Some((range.intersect(slice)?, since)))
            .collect();
        let still_filling = self.held.iter().any(|(_, held)| held.pull == Some(id))
            || self.copies().any(|(_, copy)| copy.upstream == Some(id));
        if still_filling {
            if let Some(giver) = giver {
                self.release_to(&giver, &taken, actions);
            }
        } else {
            self.end_pull(id, end, actions);
        }
    }

    /// Ends the pulls whose givers are dead, but for what those may bring back.
    pub(super) fn end_pulls_of_the_dead(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let dead: Vec<(PullId, Life)> = self
            .pulls
            .iter()
            .filter_map(|(&id, pull)| Some((id, pull.giver_here()?.life.clone())))
            .filter(|(_, giver)| self.is_dead(giver))
            .collect();
        for (id, giver) in dead {
            if !self.await_again(id, &giver, now, actions) {
                self.end_pull(id, PullEnd::GiverDead, actions);
            }
        }
    }

    pub(super) fn tick_pulls(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let late: Vec<PullId> = self
            .pulls
            .iter()
            .filter(|(_, pull)| pull.deadline <= now)
            .map(|(&id, _)| id)
            .collect();
        for id in late {
            self.end_pull(id, PullEnd::Deadline, actions);
        }
        let (me, chunk_versions) = (self.me.life.clone(), self.chunk_versions);
        for (&id, pull) in &mut self.pulls {
            if pull.retry_at.is_none_or(|at| at > now) {
                continue;
            }
            pull.retry_at = None;
            let Giver::Here(giver) = &pull.giver else { continue };
            let request = request_of(pull, giver, me.clone(), chunk_versions);
            actions.push(Action::StartPull {
                pull: id,
                giver: giver.clone(),
                request,
            });
        }
    }

    pub(super) fn release_to(&self, giver: &Peer, ranges: &[(Slice, Generation)], actions: &mut Vec<Action>) {
        if self.is_dead(&giver.life) || ranges.is_empty() {
            return;
        }
        for ranges in ranges.chunks(self.config.taken_ranges_max) {
            let ranges = ranges.iter().map(|&(slice, since)| TakenRange { slice, since });
            let release = Release {
                to: giver.life.clone(),
                taker: self.me.life.clone(),
                ranges: ranges.collect(),
            };
            let address: Arc<str> = giver.address.clone();
            actions.push(Action::SendRelease { release, address });
        }
    }
}

fn request_of(
    pull: &Pull,
    giver: &Peer,
    taker: softstore_sharding::Life,
    chunk_versions: softstore_sharding::session::VersionRange,
) -> PullRequest {
    PullRequest {
        to: giver.life.clone(),
        taker,
        ranges: pull
            .ranges
            .iter()
            .map(|&(slice, since)| TakenRange { slice, since })
            .collect(),
        cursor: pull.cursor.clone(),
        chunk_versions,
    }
}
