//! `transfer.proto`: what an owner and its replicas say to each other, to and from `softstore_transfer::message`.

use softstore_sharding::SliceKey;
use softstore_transfer::message::{
    FillAnswer, FillKey, FillRequest, Invalidate, LeaseGrant, LeaseReply, LeaseRequest,
};

use crate::assignment::{generation, life, slice};
use crate::error::{WireError, each, required, within};
use crate::limits::{FILL_KEYS_MAX, READ_LEASE_MS, READ_PARTS_MAX};
use crate::transfer::checked_key;
use crate::v1;

impl From<&LeaseRequest> for v1::LeaseRequest {
    fn from(request: &LeaseRequest) -> Self {
        Self {
            to: Some((&request.to).into()),
            reader: Some((&request.reader).into()),
            ranges: request.ranges.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::LeaseRequest> for LeaseRequest {
    type Error = WireError;

    fn try_from(wire: v1::LeaseRequest) -> Result<Self, WireError> {
        Ok(Self {
            to: life("lease_request.to", wire.to)?,
            reader: life("lease_request.reader", wire.reader)?,
            ranges: each("lease_request.ranges", wire.ranges, READ_PARTS_MAX)?,
        })
    }
}

impl From<&LeaseGrant> for v1::LeaseGrant {
    fn from(grant: &LeaseGrant) -> Self {
        Self {
            slice: Some(grant.slice.into()),
            since: Some(grant.since.into()),
            number: grant.number,
            lease_ms: grant.lease_ms,
        }
    }
}

impl TryFrom<v1::LeaseGrant> for LeaseGrant {
    type Error = WireError;

    fn try_from(wire: v1::LeaseGrant) -> Result<Self, WireError> {
        // A longer one would outlast what others wait for.
        if !(1..=READ_LEASE_MS).contains(&wire.lease_ms) {
            let problem = format!("{} is not 1 to {READ_LEASE_MS}", wire.lease_ms);
            return Err(WireError::bad("lease_grant.lease_ms", problem));
        }
        Ok(Self {
            slice: slice("lease_grant.slice", wire.slice)?,
            since: generation("lease_grant.since", wire.since)?,
            number: wire.number,
            lease_ms: wire.lease_ms,
        })
    }
}

impl From<&LeaseReply> for v1::LeaseReply {
    fn from(reply: &LeaseReply) -> Self {
        Self {
            from: Some((&reply.from).into()),
            grants: reply.grants.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::LeaseReply> for LeaseReply {
    type Error = WireError;

    fn try_from(wire: v1::LeaseReply) -> Result<Self, WireError> {
        Ok(Self {
            from: life("lease_reply.from", wire.from)?,
            grants: each("lease_reply.grants", wire.grants, READ_PARTS_MAX)?,
        })
    }
}

impl From<&FillRequest> for v1::FillRequest {
    fn from(request: &FillRequest) -> Self {
        let keys = request.keys.iter().map(|key| v1::FillKey {
            key: key.key.clone(),
            number: key.number,
        });
        Self {
            to: Some((&request.to).into()),
            reader: Some((&request.reader).into()),
            keys: keys.collect(),
        }
    }
}

impl TryFrom<v1::FillKey> for FillKey {
    type Error = WireError;

    fn try_from(wire: v1::FillKey) -> Result<Self, WireError> {
        Ok(Self {
            key: checked_key("fill_key.key", wire.key)?,
            number: wire.number,
        })
    }
}

impl TryFrom<v1::FillRequest> for FillRequest {
    type Error = WireError;

    fn try_from(wire: v1::FillRequest) -> Result<Self, WireError> {
        Ok(Self {
            to: life("fill.to", wire.to)?,
            reader: life("fill.reader", wire.reader)?,
            keys: each("fill.keys", wire.keys, FILL_KEYS_MAX)?,
        })
    }
}

impl From<&FillAnswer> for v1::FillAnswer {
    fn from(answer: &FillAnswer) -> Self {
        use v1::fill_answer::Kind;
        let (kind, entry, may_keep) = match answer {
            FillAnswer::Found { entry, may_keep } => (Kind::Found, Some(entry.into()), *may_keep),
            FillAnswer::Absent => (Kind::Absent, None, false),
            FillAnswer::NotLent => (Kind::NotLent, None, false),
        };
        Self {
            kind: kind.into(),
            entry,
            may_keep,
        }
    }
}

impl TryFrom<v1::FillAnswer> for FillAnswer {
    type Error = WireError;

    fn try_from(wire: v1::FillAnswer) -> Result<Self, WireError> {
        use v1::fill_answer::Kind;
        const FIELD: &str = "fill_answer.kind";
        match Kind::try_from(wire.kind).map_err(|error| WireError::bad(FIELD, error))? {
            Kind::Unspecified => Err(WireError::Missing { field: FIELD }),
            Kind::Found => Ok(Self::Found {
                entry: required("fill_answer.entry", wire.entry)?.try_into()?,
                may_keep: wire.may_keep,
            }),
            Kind::Absent => Ok(Self::Absent),
            Kind::NotLent => Ok(Self::NotLent),
        }
    }
}

/// The reply to a fill; answers in the order of the keys asked for.
#[must_use]
pub fn fill_reply_to_wire(answers: &[FillAnswer]) -> v1::FillReply {
    v1::FillReply {
        answers: answers.iter().map(Into::into).collect(),
    }
}

/// The answers of a reply to a fill for so many keys, for the first of them: one at least.
///
/// # Errors
/// If there are none, more than keys, or one is not well-formed.
pub fn fill_reply_from_wire(wire: v1::FillReply, asked: usize) -> Result<Vec<FillAnswer>, WireError> {
    if !(1..=asked).contains(&wire.answers.len()) {
        let why = format!("{} answers for {asked} keys", wire.answers.len());
        return Err(WireError::bad("fill_reply.answers", why));
    }
    each("fill_reply.answers", wire.answers, FILL_KEYS_MAX)
}

impl From<&Invalidate> for v1::InvalidateRequest {
    fn from(invalidate: &Invalidate) -> Self {
        Self {
            to: Some((&invalidate.to).into()),
            owner: Some((&invalidate.owner).into()),
            keys: invalidate.keys.iter().map(|at| at.get()).collect(),
            revoked: invalidate.revoked.iter().map(|slice| (*slice).into()).collect(),
        }
    }
}

impl TryFrom<v1::InvalidateRequest> for Invalidate {
    type Error = WireError;

    fn try_from(wire: v1::InvalidateRequest) -> Result<Self, WireError> {
        within("invalidate.keys", wire.keys.len(), READ_PARTS_MAX)?;
        Ok(Self {
            to: life("invalidate.to", wire.to)?,
            owner: life("invalidate.owner", wire.owner)?,
            keys: wire.keys.into_iter().map(SliceKey::new).collect(),
            revoked: each("invalidate.revoked", wire.revoked, READ_PARTS_MAX)?,
        })
    }
}
