//! `cache.proto`: the classes of an operation's [`Status`]. The data path itself works on the generated types.

use prost::Message;
use softstore_sharding::{Generation, Peer, Slice};

use crate::assignment::{generation, life, slice};
use crate::error::{WireError, text};
use crate::limits::ADDRESS_BYTES_MAX;
use crate::v1;
use crate::v1::Status;

/// What a status means to the one who asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StatusClass {
    /// An answer: done, not found, or a condition that did not hold.
    Answer,
    /// Not applied, and never will be: ask again (`MOVED`: at another node).
    Retry,
    /// Not applied, and the time for it is over.
    Expired,
    /// Refused for good. Not applied.
    Refused,
    /// A status that this build does not know.
    Unknown,
}

impl Status {
    /// What it means to the one who asked.
    #[must_use]
    pub const fn class(self) -> StatusClass {
        match self {
            Self::Ok | Self::NotFound | Self::ConditionFailed => StatusClass::Answer,
            Self::Moved | Self::NotReady | Self::Behind | Self::Busy => StatusClass::Retry,
            Self::Expired => StatusClass::Expired,
            Self::InvalidKey
            | Self::ValueTooLarge
            | Self::NotANumber
            | Self::Overflow
            | Self::InvalidRequest => StatusClass::Refused,
            Self::Unspecified => StatusClass::Unknown,
        }
    }

    /// Whether the operation was certainly not applied.
    #[must_use]
    pub const fn is_not_applied(self) -> bool {
        matches!(
            self.class(),
            StatusClass::Retry | StatusClass::Expired | StatusClass::Refused
        )
    }
}

/// Where a slice went: what a `MOVED` reply says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved {
    /// What moved.
    pub slice: Slice,
    /// Who owns it now.
    pub owner: Peer,
    /// Since when. Clerks follow only a higher one than they know.
    pub since: Generation,
}

impl v1::Moved {
    /// Its encoding, as a [`crate::batch::ReplyView`] carries it.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

impl From<&Moved> for v1::Moved {
    fn from(moved: &Moved) -> Self {
        Self {
            slice: Some(moved.slice.into()),
            owner: Some((&moved.owner.life).into()),
            address: moved.owner.address.as_ref().to_owned(),
            since: Some(moved.since.into()),
        }
    }
}

impl TryFrom<v1::Moved> for Moved {
    type Error = WireError;

    fn try_from(wire: v1::Moved) -> Result<Self, WireError> {
        Ok(Self {
            slice: slice("moved.slice", wire.slice)?,
            owner: Peer {
                life: life("moved.owner", wire.owner)?,
                address: text("moved.address", wire.address, ADDRESS_BYTES_MAX)?,
            },
            since: generation("moved.since", wire.since)?,
        })
    }
}
