//! What this node believes of acquisitions that others name. An acquisition is the Assigner's to give: a taker's, or a client's,
//! word for one that no assignment here knows is not enough to stop serving (H8).
//!
//! ```text
//!   the `since` of a Take    is                                   then
//!   as old as what is held   the assignment's own                 answered
//!                            not the assignment's                 Superseded; under the very generation held: refused
//!   newer                    further ahead than clocks explain    refused
//!                            else, and the Assigner answers       refused until its assignment is here: the taker asks again
//!                            else, from a member at its address   answered: a giver that is cut off must not cost the entries
//! ```

use softstore_sharding::{Generation, Life, SliceKey, Timestamp};

use super::HandoffCore;
use crate::message::{Refusal, Take, TakeRange};

/// After so many milliseconds without an answer of the Assigner to a heartbeat, three of them at the default pace, members are
/// believed that they have an assignment which this node has not. Shorter than the time after which the Assigner would call this
/// node dead, so that its entries are still had.
pub const ASSIGNER_SILENT_MS: u64 = 1_500;

/// When the Assigner answered last, and what the wall clock said then.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AssignerHeard {
    at: Option<Timestamp>,
    unix_ms: u64,
}

impl HandoffCore {
    /// The Assigner has answered a heartbeat; `unix_ms` is this node's wall clock.
    pub fn assigner_answered(&mut self, now: Timestamp, unix_ms: u64) {
        self.assigner_heard = AssignerHeard {
            at: Some(now),
            unix_ms,
        };
    }

    /// Whether an acquisition can be: it does not lie further ahead than clocks explain.
    #[must_use]
    pub fn is_explained(&self, since: Generation, now: Timestamp) -> bool {
        let AssignerHeard { at, unix_ms } = self.assigner_heard;
        let unix_ms = at.map_or(0, |at| unix_ms.saturating_add(now.ms_since(at)));
        since.is_explained_by(self.held_generation(), unix_ms)
    }

    fn held_generation(&self) -> Generation {
        self.assignment
            .as_ref()
            .map_or(Generation::NONE, |held| held.generation())
    }

    /// Refuses a `Take` under acquisitions that this node cannot know to be the taker's. See the head of this file.
    pub(super) fn check_acquisitions(&self, take: &Take, now: Timestamp) -> Result<(), Refusal> {
        let held = self.held_generation();
        let newest = take.ranges.iter().map(|range| range.since).max();
        if newest.is_some_and(|since| !self.is_explained(since, now)) {
            return Err(Refusal::Invented);
        }
        if newest.is_some_and(|since| since > held) && !self.vouches_for(take, now) {
            return Err(Refusal::Unheard);
        }
        let contradicts = |range: &TakeRange| {
            let parts = self
                .assignment
                .iter()
                .flat_map(|assignment| assignment.ranges().overlapping(range.slice));
            let is_takers = |owner: &Life, since| *owner == take.taker.life && since == range.since;
            range.since == held
                && parts
                    .into_iter()
                    .any(|(_, part)| !is_takers(&part.owner, part.since))
        };
        if take.ranges.iter().any(contradicts) {
            return Err(Refusal::Unlisted);
        }
        Ok(())
    }

    /// Whether an assignment that this node has not got may be believed to be: the Assigner does not answer, and the taker is a
    /// member, at the address that it is known by.
    fn vouches_for(&self, take: &Take, now: Timestamp) -> bool {
        let is_silent = self
            .assigner_heard
            .at
            .is_none_or(|at| now.ms_since(at) >= ASSIGNER_SILENT_MS);
        let listed = self
            .assignment
            .as_ref()
            .and_then(|assignment| assignment.peer(&take.taker.life));
        is_silent && listed.is_some_and(|listed| listed.address == take.taker.address)
    }

    /// The generation of the assignment, if it is newer than what is asked under and does not list the taker with that: there is,
    /// or will be, another acquisition.
    pub(super) fn overruling(&self, at: SliceKey, asked: &TakeRange, taker: &Life) -> Option<Generation> {
        let assignment = self.assignment.as_ref()?;
        let range = assignment.range_at(at);
        let is_takers = range.owner == *taker && range.since == asked.since;
        Some(assignment.generation()).filter(|held| asked.since < *held && !is_takers)
    }
}
