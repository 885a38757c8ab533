//! The phases of a hand-off as log events: one target, fixed texts, so that an operator can follow a hand-off over the logs
//! of giver, taker and Assigner, and a test can wait for a phase instead of sleeping.
//!
//! What stands once per range and hand-off is logged at `info`, single messages and steps at `debug`, what comes once per
//! chunk at `trace`. `docs/operations.md` (*Following one hand-off*) lists texts and fields: change both together.
//!
//! Not here: the cores' decisions, and the counters that go with them.

use softstore_sharding::assigner::{DeathCause, Notice as AssignerNotice};
use softstore_sharding::{Assignment, Life};
use softstore_transfer::handoff::{CopyEnd, Notice, PullEnd};
use softstore_transfer::message::Take;
use tracing::{debug, info, trace, warn};

/// The target of all events here, for `--log`: `warn,softstore_server::handoff=debug`.
pub const TARGET: &str = "softstore_server::handoff";

/// The Assigner published an assignment.
pub(crate) fn published(assignment: &Assignment) {
    let ranges = assignment.ranges().len();
    info!(target: TARGET, generation = %assignment.generation(), ranges, "published an assignment");
}

/// What the Assigner's core has to tell of one life's end.
pub(crate) fn died(notice: &AssignerNotice) {
    match notice {
        AssignerNotice::Died {
            cause: DeathCause::Goodbye,
            ..
        } => info!(target: TARGET, ?notice, "a node has left"),
        _ => warn!(target: TARGET, ?notice, "declared a node dead"),
    }
}

/// The taker asks a provider for ranges.
pub(crate) fn asked(take: &Take, relay: bool) {
    let ranges = take.ranges.len();
    debug!(target: TARGET, to = %take.to, ranges, relay, "asked for ranges");
}

/// The taker opens a pull's stream, or opens it again.
pub(crate) fn pull_opened(giver: &Life, resumed: bool) {
    debug!(target: TARGET, %giver, resumed, "opening a pull");
}

/// The taker imported a chunk; `number` counts within the stream, from 1.
pub(crate) fn chunk_imported(giver: &Life, number: u64) {
    if number == 1 {
        debug!(target: TARGET, %giver, "the first chunk of a pull is in");
    } else {
        trace!(target: TARGET, %giver, number, "a chunk of a pull is in");
    }
}

/// The giver begins to send what it froze for a taker.
pub(crate) fn giving(taker: &Life, ranges: usize) {
    debug!(target: TARGET, %taker, ranges, "giving what was fenced");
}

/// The giver has handed the last of it to the connection.
pub(crate) fn given(taker: &Life) {
    debug!(target: TARGET, %taker, "all that was fenced is sent");
}

/// What a node's core has to tell.
pub(crate) fn handoff(notice: &Notice) {
    match notice {
        Notice::StartedCold { slice, since, reason } => {
            info!(target: TARGET, %slice, %since, ?reason, "took a range over cold");
        }
        Notice::Fenced { slice, taker, since } => {
            info!(target: TARGET, %slice, %taker, %since, "fenced a range");
        }
        Notice::Took { slice, giver, since } => {
            info!(target: TARGET, %slice, %giver, %since, "took a range over");
        }
        Notice::PullEnded { giver, end, .. } if *end == PullEnd::Complete => {
            info!(target: TARGET, %giver, "a pull is complete");
        }
        Notice::PullEnded { giver, end, .. } => {
            warn!(target: TARGET, %giver, ?end, "a pull was given up");
        }
        Notice::CopyDropped {
            slice,
            reason: CopyEnd::Released,
        } => debug!(target: TARGET, %slice, "a frozen copy was released"),
        Notice::CopyDropped { slice, reason } => {
            debug!(target: TARGET, %slice, ?reason, "dropped a frozen copy");
        }
        Notice::Awaiting { slice, since, life } => {
            debug!(target: TARGET, %slice, %since, %life, "what a silent node held may come back");
        }
        Notice::CameBack { slice, giver, since } => {
            debug!(target: TARGET, %slice, %giver, %since, "what a node held is back");
        }
        Notice::NotBack { life, end } => {
            info!(target: TARGET, %life, ?end, "what a silent node held is awaited no longer");
        }
        Notice::Offered { slice, since } => {
            debug!(target: TARGET, %slice, %since, "froze a range of the life before, and offer it");
        }
        Notice::Renewed { slice, since } => {
            debug!(target: TARGET, %slice, %since, "kept a range under a new acquisition");
        }
        Notice::Dropped { slice } => {
            info!(target: TARGET, %slice, "dropped a range that is assigned elsewhere");
        }
    }
}

/// A node begins to hand over all it owns.
pub(crate) fn draining() {
    info!(target: TARGET, "draining");
}

/// Its drain is over.
pub(crate) fn drain_ended(outcome: impl std::fmt::Debug) {
    info!(target: TARGET, ?outcome, "the drain has ended");
}
