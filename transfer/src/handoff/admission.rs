//! May an operation run here? [`HandoffCore::admit`], asked under the shared lock for each operation.

use std::sync::Arc;

use softstore_sharding::{Epoch, Generation, Life, PullId, Slice, SliceKey, VersionCounter};

use super::HandoffCore;
use super::state::End;

/// The answer to "may an operation on this key run here?".
#[derive(Clone, Debug)]
pub enum Admission<'a> {
    /// Yes: run it now, before the lock is let go.
    Serve(Serving<'a>),
    /// This node is to own the range and its search is on: hold the operation back and ask again after a wake.
    Hold,
    /// Another node owns it. The operation was not applied here.
    Moved(Moved),
    /// The operation knows of a newer acquisition than this node: wait briefly for the assignment.
    Behind,
    /// This node has no assignment, or the range has no living owner.
    NotReady,
}

/// What an admitted operation needs to know of its range.
#[derive(Clone, Copy, Debug)]
pub struct Serving<'a> {
    /// The stretch of positions that is served in one piece, with all that stands here.
    pub slice: Slice,
    /// The range's epoch in the store.
    pub epoch: Epoch,
    /// The range's versions.
    pub versions: &'a VersionCounter,
    /// The open pull that still fills the range, if any: absence has to be asked about, unless the pull `is_awaiting`.
    pub pull: Option<PullId>,
    /// There is nobody to ask yet: what is absent is absent. What is written is remembered all the same, and so is what was refused
    /// because of an absence.
    pub is_awaiting: bool,
    /// The acquisition under which it is served.
    pub since: Generation,
}

/// Where a range went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved {
    /// What moved.
    pub slice: Slice,
    /// To whom.
    pub owner: Life,
    /// Where that listens.
    pub address: Arc<str>,
    /// Under which acquisition.
    pub since: Generation,
}

impl HandoffCore {
    /// Whether an operation on the key at `at`, whose client knows the acquisition `since` of its range
    /// ([`Generation::NONE`] if it knows none), may run here.
    #[must_use]
    pub fn admit(&self, at: SliceKey, since: Generation) -> Admission<'_> {
        if let Some((slice, held)) = self.held.get(at)
            && since <= held.since
        {
            return Admission::Serve(Serving {
                slice,
                epoch: held.epoch,
                versions: &held.versions,
                pull: held.pull,
                is_awaiting: held.awaiting.is_some(),
                since: held.since,
            });
        }
        if let Some((_, pending)) = self.pending.get(at)
            && since <= pending.since
        {
            return Admission::Hold;
        }
        self.elsewhere(at, since)
    }

    /// Where the range at `at` is, as this node knows it: the assignment, or a fence newer than that.
    fn elsewhere(&self, at: SliceKey, since: Generation) -> Admission<'_> {
        let Some(assignment) = &self.assignment else {
            return Admission::NotReady;
        };
        let (slice, range) = assignment.ranges().get_with_slice(at);
        let fenced = self.past.get(at).and_then(|(slice, past)| match &past.end {
            End::Fenced { taker, since, .. } => Some((slice, taker, *since)),
            End::Offered { .. } | End::Dropped => None,
        });
        if let Some((slice, taker, taken)) = fenced
            && taken >= range.since
            && taken >= since
        {
            let (owner, address) = (taker.life.clone(), taker.address.clone());
            return Admission::Moved(Moved {
                slice,
                owner,
                address,
                since: taken,
            });
        }
        if range.since < since {
            return Admission::Behind;
        }
        match assignment.entry_of(&range.owner) {
            Some(entry) if range.owner != self.me.life => Admission::Moved(Moved {
                slice,
                owner: range.owner.clone(),
                address: entry.address.clone(),
                since: range.since,
            }),
            _ => Admission::NotReady,
        }
    }
}
