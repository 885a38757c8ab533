//! [`ReadLeases`]: when the mark of an assignment ends that says that read leases of an earlier time may be out (H2).
//!
//! The mark ([`Readers::leases_out`](crate::assignment::Readers::leases_out)) makes who starts a range cold wait. It is set when a replica is taken away, or a range gets
//! another owner and nobody knows whether the one before has revoked what it lent. Kept for ever it would make every later
//! death of the owner longer than it need be, and keep the range from merging with its neighbours. So it is cleared again,
//! [`READ_LEASES_OVER_MS`] after the owner has said that it holds an assignment
//!
//! - that names it as the owner, without providers: whoever had the range before is dead, or has fenced it, and lends nothing
//!   more;
//! - and that names these replicas: it lends to nobody else any more. (One may be added later: that one is named then.)
//!
//! Every assignment since must have said the same of the range. A death is published when no lease of the dead one's own is
//! left (leased ownership), or after it (available: a node that is cut off is none of what is promised there).
//!
//! ```text
//!   marked in an assignment --published--> waits for the owner --heard--> waits for the leases --over--> cleared in the next
//! ```
//!
//! A new Assigner begins anew with what it recovers. The owner's own search, if it is still on, keeps the mark that it began with.

use std::collections::BTreeMap;

use super::next::{Ranges, merged};
use super::{Assigner, Pending};
use crate::assignment::{Assignment, READ_LEASES_OVER_MS, RangeAssignment};
use crate::generation::{Generation, Incarnation};
use crate::node::Life;
use crate::range_map::RangeMap;
use crate::slice::Slice;
use crate::time::Timestamp;

/// The marks of the newest assignment, by the owners of the ranges.
#[derive(Debug, Default)]
pub(super) struct ReadLeases {
    by_owner: BTreeMap<Life, Marked>,
    /// When the first of them can be cleared.
    next_over: Option<Timestamp>,
}

/// What one owner has with a mark.
#[derive(Debug, Default)]
struct Marked {
    ranges: RangeMap<Mark>,
    /// The first assignment that it has to have for more of them to go on.
    awaited: Option<Generation>,
}

/// What all assignments since one of them have said of a range, the mark among it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mark {
    since: Generation,
    replicas: Vec<Life>,
    /// The first that did.
    from: Generation,
    /// When the owner was heard to have that one, or one after it.
    heard: Option<Timestamp>,
}

impl Mark {
    fn of(range: &RangeAssignment, from: Generation) -> Self {
        Self {
            since: range.since,
            replicas: range.readers.replicas.clone(),
            from,
            heard: None,
        }
    }

    fn is_of(&self, range: &RangeAssignment) -> bool {
        self.since == range.since && self.replicas == range.readers.replicas && is_marked(range)
    }

    fn over_at(&self) -> Option<Timestamp> {
        Some(self.heard?.plus_ms(READ_LEASES_OVER_MS))
    }

    fn is_over(&self, now: Timestamp) -> bool {
        self.over_at().is_some_and(|at| at <= now)
    }
}

/// Whether a range has a mark that can be cleared while it stays as it is.
fn is_marked(range: &RangeAssignment) -> bool {
    range.readers.leases_out && range.providers.is_empty() && range.owner != Life::nobody()
}

impl ReadLeases {
    /// Takes note of a new assignment: what it says as the one before did waits on.
    fn published(&mut self, assignment: &Assignment) {
        let before = std::mem::take(self);
        for (slice, range) in assignment.ranges().iter().filter(|(_, range)| is_marked(range)) {
            let marked = self.by_owner.entry(range.owner.clone()).or_default();
            let known = before.by_owner.get(&range.owner);
            let goes_on = known
                .into_iter()
                .flat_map(|known| known.ranges.overlapping(slice));
            for (part, mark) in goes_on.filter(|(_, mark)| mark.is_of(range)) {
                marked.ranges.insert(part, mark.clone());
            }
            for gap in marked.ranges.gaps(slice) {
                let mark = Mark::of(range, assignment.generation());
                marked.ranges.insert(gap, mark);
            }
        }
        for marked in self.by_owner.values_mut() {
            marked.await_heard();
        }
        let marks = self.by_owner.values().flat_map(|marked| marked.ranges.iter());
        self.next_over = marks.filter_map(|(_, mark)| mark.over_at()).min();
    }

    /// An owner holds this assignment now. Only what this Assigner has published counts: of the others it is not known what they
    /// say.
    fn heard(&mut self, owner: &Life, held: Generation, me: Incarnation, now: Timestamp) {
        let Some(marked) = self.by_owner.get_mut(owner) else {
            return;
        };
        let is_awaited = marked.awaited.is_some_and(|awaited| awaited <= held);
        if !is_awaited || held.assigner != me {
            return;
        }
        for (_, mark) in marked.ranges.iter_mut() {
            if mark.heard.is_none() && mark.from <= held {
                mark.heard = Some(now);
                let over_at = mark.over_at();
                self.next_over = self.next_over.into_iter().chain(over_at).min();
            }
        }
        marked.await_heard();
    }

    /// `ranges`, without the marks that are over.
    fn cleared(&self, ranges: Ranges, now: Timestamp) -> Ranges {
        if self.next_over.is_none_or(|at| at > now) {
            return ranges;
        }
        merged(
            ranges
                .into_iter()
                .flat_map(|(slice, range)| self.parts(slice, range, now)),
        )
    }

    /// The parts of a range, each with the mark if it keeps it.
    fn parts(&self, slice: Slice, range: RangeAssignment, now: Timestamp) -> Ranges {
        let Some(marked) = self.by_owner.get(&range.owner).filter(|_| is_marked(&range)) else {
            return vec![(slice, range)];
        };
        let over = marked.ranges.overlapping(slice);
        let over = over.filter(|(_, mark)| mark.is_of(&range) && mark.is_over(now));
        let mut parts: RangeMap<bool> = over.map(|(part, _)| (part, false)).collect();
        for gap in parts.gaps(slice) {
            parts.insert(gap, true);
        }
        let with_mark = |(part, leases_out): (Slice, &bool)| {
            let mut range = range.clone();
            range.readers.leases_out = *leases_out;
            (part, range)
        };
        parts.iter().map(with_mark).collect()
    }
}

impl Marked {
    fn await_heard(&mut self) {
        let unheard = self.ranges.iter().filter(|(_, mark)| mark.heard.is_none());
        self.awaited = unheard.map(|(_, mark)| mark.from).min();
    }
}

impl Assigner {
    /// A new assignment is out.
    pub(super) fn note_read_leases(&mut self, assignment: &Assignment) {
        self.read_leases.published(assignment);
    }

    /// A member says which assignment it holds.
    pub(super) fn hear_of_read_leases(&mut self, life: &Life, held: Generation, now: Timestamp) {
        self.read_leases.heard(life, held, self.incarnation, now);
    }

    /// Has the marks that are over taken away.
    pub(super) fn settle_read_leases(&mut self, now: Timestamp) {
        if self.recovery.is_none() && self.read_leases.next_over.is_some_and(|at| at <= now) {
            self.wants(Pending::Soon);
        }
    }

    /// When that is due.
    pub(super) fn read_leases_over_at(&self) -> Option<Timestamp> {
        self.read_leases.next_over
    }

    /// What is held, without the marks that are over.
    pub(super) fn without_read_leases(&self, ranges: Ranges) -> Ranges {
        self.read_leases.cleared(ranges, self.last_step)
    }
}
