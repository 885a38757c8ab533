//! What an assignment asks of this node, range by range: to claim, to go on serving until fenced, or to drop.

use softstore_sharding::session::HandoffOutcome;
use softstore_sharding::{Assignment, Generation, RangeAssignment, Slice, SliceKey, Timestamp};

use super::state::{End, Past, Pending};
use super::{Action, HandoffCore, Notice, PullEnd};

impl HandoffCore {
    /// Brings what this node holds of one range of the assignment in line with it.
    pub(super) fn reconcile(
        &mut self,
        slice: Slice,
        range: &RangeAssignment,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        if range.owner == self.me.life {
            self.claim(slice, range, now, actions);
        } else {
            self.yield_to_owner(slice, range, actions);
        }
    }

    /// This node is the owner: whatever is not yet held under that acquisition becomes pending.
    fn claim(&mut self, slice: Slice, range: &RangeAssignment, now: Timestamp, actions: &mut Vec<Action>) {
        for part in self.parts(slice) {
            let at = part.low();
            if self.is_settled_under(at, range.since) {
                continue;
            }
            let leases_out = range.readers.leases_out;
            if leases_out
                && self
                    .pending
                    .get(at)
                    .is_some_and(|(_, pending)| pending.since == range.since)
            {
                // The policy may have taken a replica away meanwhile.
                self.pending.update(part, |_, pending| pending.leases_out = true);
            }
            if let Some((_, pending)) = self.pending.get(at)
                && (pending.since >= range.since || pending.take_is_open())
            {
                // An open Take settles first; `settled` comes back here for the newer acquisition.
                continue;
            }
            self.never.remove(part);
            self.pending.insert(
                part,
                Pending {
                    since: range.since,
                    providers: range.providers.clone().into(),
                    next: 0,
                    asking: None,
                    leases_out,
                    cold_at: None,
                },
            );
            self.advance(part, now, actions);
        }
    }

    /// Says again which hand-offs have ended that an assignment still shows as open: the Assigner may have been replaced, or
    /// the session have broken, between the report and the assignment that would have followed from it.
    pub(super) fn report_again(&self, assignment: &Assignment, actions: &mut Vec<Action>) {
        let open = assignment
            .ranges()
            .iter()
            .filter(|(_, range)| range.owner == self.me.life && range.keeps_whole());
        let (mut ended, mut awaiting) = (Vec::new(), Vec::new());
        for (slice, range) in open {
            let parts = self.held.overlapping(slice);
            for (part, held) in parts.filter(|(_, held)| held.since == range.since) {
                if held.pull.is_none() {
                    ended.push((part, held.since));
                } else if held.awaiting.is_some() && !range.providers.iter().all(|p| range.is_revival(p)) {
                    awaiting.push((part, held.since));
                }
            }
        }
        for (parts, outcome) in [
            (ended, HandoffOutcome::Completed),
            (awaiting, HandoffOutcome::Awaiting),
        ] {
            if !parts.is_empty() {
                self.report(&parts, outcome, actions);
            }
        }
    }

    /// Whether an acquisition under `since` is no news: held under it or a newer one, ended, fenced for a newer taker, or
    /// promised never to start.
    fn is_settled_under(&self, at: SliceKey, since: Generation) -> bool {
        let held = self.held.get(at).map(|(_, held)| held.since);
        let never = self.never.get(at).map(|(_, since)| *since);
        let ended = self.past.get(at).map(|(_, past)| match &past.end {
            // Another node took it later than the assignment says: the assignment is out of date.
            End::Fenced { since, .. } => (*since).max(past.since),
            End::Offered { .. } | End::Dropped => past.since,
        });
        held.max(never).max(ended) >= Some(since)
    }

    /// Another node is the owner: keep what it will take from here, drop what it will not.
    fn yield_to_owner(&mut self, slice: Slice, range: &RangeAssignment, actions: &mut Vec<Action>) {
        let me = self.me.life.clone();
        let listed = |since: Generation| {
            range
                .providers
                .iter()
                .any(|listed| listed.life == me && listed.since == since)
        };
        for part in self.parts(slice) {
            if let Some((_, pending)) = self.pending.get(part.low())
                && !(listed(pending.since) && pending.take_is_open())
            {
                self.pending.remove(part);
            }
            if let Some((_, held)) = self.held.get(part.low())
                && !listed(held.since)
            {
                for (part, held) in self.held.remove(part) {
                    let past = Past {
                        since: held.since,
                        next_version: held.versions.peek(),
                        end: End::Dropped,
                    };
                    self.remember_end(part, past, actions);
                    actions.push(Action::Purge(part, held.epoch));
                    actions.push(Action::Notice(Notice::Dropped { slice: part }));
                    if let Some(pull) = held.pull {
                        self.leave_pull(pull, part, held.since, PullEnd::Unwanted, actions);
                    }
                }
            }
        }
    }

    /// After a search under an older acquisition was settled: what does the assignment want now?
    pub(super) fn settled(&mut self, slice: Slice, now: Timestamp, actions: &mut Vec<Action>) {
        let Some(assignment) = self.assignment.clone() else {
            return;
        };
        for (part, range) in assignment.ranges().overlapping(slice) {
            self.reconcile(part, range, now, actions);
        }
    }
}
