//! What a node knows of a range, by the three things it can be at once: holder, claimant, and past holder.

use std::sync::Arc;

use softstore_sharding::planted::{self, Bug};
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
    /// The pull that still fills it; or the memory of what is written, while that is all that there is (`awaiting`).
    pub pull: Option<PullId>,
    /// It began cold, and what the life before it held may come back.
    pub awaiting: Option<Awaiting>,
}

/// What a range that began cold waits for: the next life of its last holder, with what that held.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Awaiting {
    /// That life is there and is being asked.
    pub asking: Option<Asking>,
}

impl Held {
    /// The pull that brings entries, or will as soon as its stream is open.
    pub(super) fn filled_by(&self) -> Option<PullId> {
        self.pull.filter(|_| self.awaiting.is_none())
    }
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
    /// Frozen when this process learnt that the life which held it was dead, and offered to whoever took the range over.
    Offered {
        /// The only owner that it is given to, and under which acquisition; `None`: the Assigner has not said yet.
        kept_for: Option<(Life, Generation)>,
        /// What is kept.
        copy: Copy,
    },
    /// Dropped without a taker: the assignment listed this node neither as owner nor as provider, or what was offered is not
    /// wanted.
    Dropped,
}

impl End {
    /// The frozen copy that is kept.
    pub(super) fn copy(&self) -> Option<&Copy> {
        match self {
            Self::Fenced { copy, .. } => copy.as_ref(),
            Self::Offered { copy, .. } => Some(copy),
            Self::Dropped => None,
        }
    }

    /// The same, to be changed.
    pub(super) fn copy_mut(&mut self) -> Option<&mut Copy> {
        match self {
            Self::Fenced { copy, .. } => copy.as_mut(),
            Self::Offered { copy, .. } => Some(copy),
            Self::Dropped => None,
        }
    }
}

/// A frozen copy: the entries of a range that is served here no longer, kept for one taker's life.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    /// The epoch of its entries.
    pub epoch: Epoch,
    /// When it was frozen: classes are as of it.
    pub as_of: Timestamp,
    /// When this life received the `Take`: TTLs travel relative to it (H5). `None`: a former life did, or none.
    pub received: Option<Timestamp>,
    /// The pull that still fills it (a chain).
    pub upstream: Option<PullId>,
    /// When it is dropped at the latest.
    pub keep_until: Timestamp,
    /// What a former life left.
    pub inherited: Option<Inherited>,
}

/// What is special of a copy that a former life of this process left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Inherited {
    /// By how much this node's clock may have fallen behind since the entries got their deadlines; `None`: nobody knows.
    pub behind_ms: Option<u64>,
    /// The Assigner has said so since the last rebirth.
    pub is_told: bool,
    /// No assignment has settled since then whether anybody wants it.
    pub is_unsettled: bool,
}

impl Copy {
    /// What a `Take` that was received now finds.
    pub(super) fn fenced(epoch: Epoch, upstream: Option<PullId>, now: Timestamp, age_ms_max: u64) -> Self {
        Self {
            epoch,
            as_of: now,
            received: Some(now),
            upstream,
            keep_until: now.plus_ms(age_ms_max),
            inherited: None,
        }
    }

    /// By how much deadlines are to be brought forward; `None`: nobody knows.
    pub(super) fn behind_ms(&self) -> Option<u64> {
        match self.inherited {
            None => Some(0),
            Some(inherited) => inherited.behind_ms.filter(|_| inherited.is_told),
        }
    }

    /// A `Take` of this life is there. Its repetition changes nothing.
    pub(super) fn receive(&mut self, now: Timestamp, age_ms_max: u64) {
        if self.received.is_none() {
            let is_wrong = planted::is(Bug::RevivedTtlFromFreeze);
            self.received = Some(if is_wrong { self.as_of } else { now });
            self.keep_until = now.plus_ms(age_ms_max);
        }
    }
}

/// Who gives in a pull.
#[derive(Clone, Debug)]
pub(super) enum Giver {
    /// This node.
    Here(Peer),
    /// Nobody: this life died in silence, and its next one may come back. Until then the pull is a memory of what is written.
    Away(Life),
}

impl Pull {
    /// Who gives, if anybody is there.
    pub(super) fn giver_here(&self) -> Option<&Peer> {
        match &self.giver {
            Giver::Here(giver) => Some(giver),
            Giver::Away(_) => None,
        }
    }
}

/// A pull of this node as taker.
#[derive(Clone, Debug)]
pub(super) struct Pull {
    /// Who gives.
    pub giver: Giver,
    /// When the `Take` was first sent: what TTLs are added to (H5).
    pub first_sent: Timestamp,
    /// The ranges it was opened for.
    pub ranges: Vec<(Slice, Generation)>,
    /// Where to resume.
    pub cursor: bytes::Bytes,
    /// When it is given up.
    pub deadline: Timestamp,
    /// Until when its giver may come back, from the first time that it was away.
    pub awaits_until: Option<Timestamp>,
    /// When a broken stream is opened again; `None`: it is open.
    pub retry_at: Option<Timestamp>,
}
