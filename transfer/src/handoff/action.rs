//! [`Action`]: what the core asks its shell to do, and [`Notice`]: what happened, for logs, metrics and tests.

use std::sync::Arc;

use softstore_sharding::session::HandoffReport;
use softstore_sharding::{Epoch, Generation, Life, Peer, PullId, Slice};

use crate::message::{LeaseRequest, PullRequest, Release, Take};

/// Something for the shell to do. The store's actions (`BeginPull`, `EndPull`) must be carried out before the next
/// operation is admitted, so a shell does them while it still has the core to itself; the rest may follow.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Send a `Take`; bring the answer to `HandoffCore::take_answered`. A lost one is sent again by the core.
    SendTake {
        /// The message.
        take: Take,
        /// Where the provider listens.
        address: Arc<str>,
        /// Send it through the Assigner too: direct ones have gone unanswered for long.
        relay: bool,
    },
    /// Open the written-keys memory of a pull in the store.
    BeginPull(PullId),
    /// Open such a memory for what may come back: it becomes a pull's if that happens, and counts apart from the others till its end.
    BeginAwaiting(PullId),
    /// End a pull in the store: later imports are refused, its memory is freed.
    EndPull(PullId),
    /// Open the stream of a pull (again).
    StartPull {
        /// Which.
        pull: PullId,
        /// From whom.
        giver: Peer,
        /// The request, with the cursor to resume at.
        request: PullRequest,
    },
    /// Close the stream of a pull.
    StopPull(PullId),
    /// Tell the giver that ranges are complete or given up. Best effort.
    SendRelease {
        /// The message.
        release: Release,
        /// Where the giver listens.
        address: Arc<str>,
    },
    /// Tell the Assigner.
    Report(Vec<HandoffReport>),
    /// Say hello to the Assigner again: the assignment gives this node what it will not serve under that acquisition, and
    /// the claims of a hello tell so.
    Contradicted,
    /// As replica: ask an owner for read leases; bring the answer, with the sequence and the moment of *sending*, to
    /// `HandoffCore::lease_answered`. A lost one needs no repeating: the next is due soon.
    AskLease {
        /// The message.
        request: LeaseRequest,
        /// Where the owner listens.
        address: Arc<str>,
        /// Which request it is.
        sequence: u64,
    },
    /// As owner: tell a replica that its read leases are over (an `Invalidate` that revokes these slices); when it has answered
    /// that this was done, say so to `HandoffCore::returned`, with this number. Best effort: a taker that waits asks again, and
    /// leases end by themselves.
    Recall {
        /// Who reads.
        reader: Peer,
        /// What, disjoint.
        slices: Vec<Slice>,
        /// No lease given so far has a higher number.
        number: u64,
    },
    /// Reclaim the entries of an epoch that was left.
    Purge(Slice, Epoch),
    /// Requests held back may be tried again.
    Wake,
    /// Something worth a log line and a counter.
    Notice(Notice),
}

/// Something that happened in a hand-off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// As giver: a range was fenced.
    Fenced {
        /// Which.
        slice: Slice,
        /// For whom.
        taker: Life,
        /// Under which acquisition of the taker.
        since: Generation,
    },
    /// As taker: the search ended and the range is served, warm.
    Took {
        /// Which.
        slice: Slice,
        /// From whom it is pulled.
        giver: Life,
        /// Since when it is ours.
        since: Generation,
    },
    /// As taker: the search ended without entries to be had.
    StartedCold {
        /// Which.
        slice: Slice,
        /// Since when it is ours.
        since: Generation,
        /// Why.
        reason: ColdReason,
    },
    /// As owner that began cold, or whose giver fell silent: what that life held may come back.
    Awaiting {
        /// Which.
        slice: Slice,
        /// Since when it is ours.
        since: Generation,
        /// Whose next life may bring it.
        life: Life,
    },
    /// As owner: what was awaited of a range is there, and is pulled.
    CameBack {
        /// Which.
        slice: Slice,
        /// Who has it.
        giver: Life,
        /// Since when it is ours.
        since: Generation,
    },
    /// As owner: what was awaited did not come back in time, or is not wanted any more.
    NotBack {
        /// From whom.
        life: Life,
        /// Why no longer.
        end: PullEnd,
    },
    /// A former life of this process held a range: it is frozen, and offered.
    Offered {
        /// Which.
        slice: Slice,
        /// Since when that life held it.
        since: Generation,
    },
    /// The range stays where it is under a new acquisition.
    Renewed {
        /// Which.
        slice: Slice,
        /// Since when it is ours now.
        since: Generation,
    },
    /// As taker: a pull ended.
    PullEnded {
        /// Which.
        pull: PullId,
        /// From whom.
        giver: Life,
        /// How.
        end: PullEnd,
    },
    /// As giver: a frozen copy was dropped.
    CopyDropped {
        /// Which.
        slice: Slice,
        /// Why.
        reason: CopyEnd,
    },
    /// A held range was dropped: this node is listed neither as its owner nor as a provider.
    Dropped {
        /// Which.
        slice: Slice,
    },
}

/// Why a range starts without entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ColdReason {
    /// No provider is left to ask.
    NoProvider,
    /// Whoever held it last is dead.
    HolderDead,
    /// Whoever held it last dropped it.
    HolderDropped,
    /// Transfer is switched off here.
    TransferOff,
    /// Giver and taker share no version of the chunk format.
    NoCommonVersion,
}

/// How a pull ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PullEnd {
    /// Everything arrived.
    Complete,
    /// The giver's copy is gone.
    Gone,
    /// The giver died.
    GiverDead,
    /// The deadline came first.
    Deadline,
    /// This node is full of entries at least as hot as the rest.
    Full,
    /// More keys were written meanwhile than the memory holds (H3).
    Overflow,
    /// None of its ranges is wanted any more.
    Unwanted,
    /// The giver sent what it must not (H8).
    Malformed,
}

/// Why a frozen copy was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyEnd {
    /// The taker said so.
    Released,
    /// The taker is dead.
    TakerDead,
    /// This node is no longer listed as provider.
    Unlisted,
    /// This node owns the range again.
    OwnedAgain,
    /// It grew too old.
    TooOld,
}
