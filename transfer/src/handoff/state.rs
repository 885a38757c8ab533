//! What a node knows of a range, by the three things it can be at once: holder, claimant, and past holder.

use std::sync::Arc;

use softstore_sharding::{
    Epoch, Generation, Life, Peer, Provider, PullId, Slice, Timestamp, Version, VersionCounter,
};

use super::ColdReason;

/// A range that this node serves: unfenced, whether or not a newer assignment has given it away.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// The acquisition under which it is served.
    pub since: Generation,
    /// The epoch of its entries.
    pub epoch: Epoch,
    /// Where its versions come from.
    pub versions: VersionCounter,
    /// The pull that still fills it.
    pub pull: Option<PullId>,
}

/// A range that this node is to own; its search for a provider is on.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// The acquisition under which it will be served.
    pub since: Generation,
    /// The providers that the assignment named, newest first.
    pub providers: Arc<[Provider]>,
    /// Index of the first provider that has not been asked.
    pub next: usize,
    /// Whom the search is asking now.
    pub asking: Option<Asking>,
    /// Replicas of a former owner may hold read leases still, which only a provider that fences revokes.
    pub leases_out: bool,
    /// The search has ended cold, why, and when the last of those leases is over.
    pub cold_at: Option<(Timestamp, ColdReason)>,
}

/// A `Take` on its way, or about to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Asking {
    /// The provider.
    pub life: Life,
    /// Where it listens, if a `FencedTo` said so; else the directory knows.
    pub address: Option<Arc<str>>,
    /// The acquisition under which it is asked to have held the range.
    pub from: Generation,
    /// When the `Take` was first sent to it (H5); `None`: not yet.
    pub first_sent: Option<Timestamp>,
    /// When it is sent next.
    pub send_at: Timestamp,
    /// The provider knows of a higher acquisition: nothing was fenced for us. Only the next assignment helps.
    pub superseded: bool,
}

impl Asking {
    /// A question not yet sent.
    pub(super) fn new(life: Life, address: Option<Arc<str>>, from: Generation) -> Self {
        Self {
            life,
            address,
            from,
            first_sent: None,
            send_at: Timestamp::ZERO,
            superseded: false,
        }
    }
}

impl Pending {
    /// Whether a provider may have fenced the range for us without our knowing: until that is settled, this node can
    /// say neither that it started nor that it never will.
    pub(super) fn take_is_open(&self) -> bool {
        self.asking
            .as_ref()
            .is_some_and(|asking| asking.first_sent.is_some() && !asking.superseded)
    }
}

/// How this node's last holding of a range ended.
#[derive(Clone, Debug)]
pub(super) struct Past {
    /// The acquisition under which it was held.
    pub since: Generation,
    /// No version given out under it is this high (H4).
    pub next_version: Version,
    /// How it ended.
    pub end: End,
}

/// The end of a holding.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// Fenced for a taker.
    Fenced {
        /// Who.
        taker: Peer,
        /// The acquisition that it took the range under.
        since: Generation,
        /// What is kept for it; `None` once released or dropped.
        copy: Option<Copy>,
    },
    /// Dropped without a taker: the assignment listed this node neither as owner nor as provider.
    Dropped,
}

/// A frozen copy: the entries of a fenced range, kept for one taker's life.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    /// The epoch of its entries.
    pub epoch: Epoch,
    /// When the `Take` was received: TTLs travel relative to it (H5), and classes are as of it.
    pub received: Timestamp,
    /// The pull that still fills it (a chain).
    pub upstream: Option<PullId>,
}

/// A pull of this node as taker.
#[derive(Clone, Debug)]
pub(super) struct Pull {
    /// Who gives.
    pub giver: Peer,
    /// When the `Take` was first sent: what TTLs are added to (H5).
    pub first_sent: Timestamp,
    /// The ranges it was opened for.
    pub ranges: Vec<(Slice, Generation)>,
    /// Where to resume.
    pub cursor: bytes::Bytes,
    /// When it is given up.
    pub deadline: Timestamp,
    /// When a broken stream is opened again; `None`: it is open.
    pub retry_at: Option<Timestamp>,
}
