//! Errors, one enum per class of operation, each of which says what it means for the caller: may it be retried, and may
//! it have had an effect.
//!
//! A write that is not known to have been applied is always an error, and one that may have been applied always
//! [`WriteError::OutcomeUnknown`].

use std::sync::Arc;

use softstore_proto::v1::Status;
use thiserror::Error;

use crate::config::ConfigError;
use crate::options::ZeroTtl;
use crate::payload::KeyError;

/// What stood in the way of an operation until its deadline.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// No node's address is known for the key, or no connection to it could be made.
    Unreachable,
    /// The connection broke.
    Broken,
    /// No answer came in time.
    NoAnswer,
    /// Nodes kept naming other owners.
    Moved,
    /// The node was not ready for the key.
    NotReady,
    /// The node had not heard of the assignment yet.
    Behind,
    /// The node shed load.
    NodeBusy,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "its owner could not be reached",
            Self::Broken => "the connection broke",
            Self::NoAnswer => "no answer came in time",
            Self::Moved => "nodes kept naming other owners",
            Self::NotReady => "its owner was not ready",
            Self::Behind => "its owner had not heard of the assignment",
            Self::NodeBusy => "its owner shed load",
        })
    }
}

/// Why a read failed. Reads have no effect, so every one may be repeated where [`ReadError::is_retryable`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The key is none.
    #[error(transparent)]
    InvalidKey(#[from] KeyError),
    /// Too much is pending in this client; or the key's owner is overloaded and refused it, or refuses so much that it was
    /// not sent, with [`ReadPolicy::Error`](crate::ReadPolicy::Error).
    #[error("too many operations are pending on the connection, or the key's owner is overloaded")]
    Busy,
    /// No owner of the key answered within the deadline. Only with [`ReadPolicy::Error`](crate::ReadPolicy::Error).
    #[error("no owner of the key answered within the deadline: {0}")]
    Unreachable(Cause),
    /// The node refuses it for good.
    #[error("the node refused the operation: {status:?}: {message}")]
    Refused {
        /// What it said.
        status: Status,
        /// And why.
        message: String,
    },
}

impl ReadError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy | Self::Unreachable(_))
    }
}

/// Why a set, delete, touch, add or flush failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WriteError {
    /// The key is none. Not applied.
    #[error(transparent)]
    InvalidKey(#[from] KeyError),
    /// The time to live is 0. Not applied.
    #[error(transparent)]
    InvalidTtl(#[from] ZeroTtl),
    /// The value is over the limit. Not applied.
    #[error("the value is too large: {0}")]
    ValueTooLarge(String),
    /// An add found a value that is no number. Not applied.
    #[error("the present value is no number")]
    NotANumber,
    /// An add would leave the range of a 64-bit number. Not applied.
    #[error("the sum is out of range")]
    Overflow,
    /// Too much is pending in this client, or the key's owner is overloaded: it refused the operation, or refuses so much
    /// that it was not even sent. Not applied.
    #[error("too many operations are pending on the connection, or the key's owner is overloaded")]
    Busy,
    /// It could not be applied within the deadline, and was not.
    #[error("not applied within the deadline: {0}")]
    Unavailable(Cause),
    /// It was sent and its answer was lost: it may have been applied, or may still be.
    #[error("sent, but whether it was applied is unknown: {0}")]
    OutcomeUnknown(Cause),
    /// The node refuses it for good. Not applied.
    #[error("the node refused the operation: {status:?}: {message}")]
    Refused {
        /// What it said.
        status: Status,
        /// And why.
        message: String,
    },
}

impl WriteError {
    /// Whether the same call may succeed later, and cannot have had an effect yet.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy | Self::Unavailable(_))
    }

    /// Whether the write may have been applied.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown(_))
    }

    /// Whether the write was certainly not applied, and never will be.
    #[must_use]
    pub fn has_no_side_effects(&self) -> bool {
        !self.is_outcome_unknown()
    }
}

/// Why there is no client, or why it has not found its cluster ([`Health`](crate::Health)).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No seed could be reached, or none is a softstore node.
    #[error("no seed answers as a softstore node: {}", list(.0))]
    Unreachable(Vec<SeedFailure>),
    /// A node answered, but the cluster has no assignment yet.
    #[error(
        "{seed} answers, but the cluster gave it no assignment within {waited_ms} ms (is the Assigner running?)"
    )]
    NoAssignment {
        /// Who answered.
        seed: String,
        /// How long was waited.
        waited_ms: u64,
    },
}

/// What became of one seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedFailure {
    /// Its `host:port`.
    pub seed: String,
    /// What went wrong, for people.
    pub reason: String,
}

fn list(failures: &[SeedFailure]) -> String {
    let each: Vec<String> = failures
        .iter()
        .map(|failure| format!("{}: {}", failure.seed, failure.reason))
        .collect();
    each.join("; ")
}

impl ConnectError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Config(_))
    }
}

/// Why [`get_or_load`](crate::Client::get_or_load) has no value.
#[derive(Debug, Clone, Error)]
pub enum LoadError {
    /// The key is none, or the node refuses to read it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The time to live is 0. Nothing was loaded.
    #[error(transparent)]
    InvalidTtl(#[from] ZeroTtl),
    /// The loader failed. All who waited for that load get the same error; the next call loads anew.
    #[error("the loader failed: {0}")]
    Loader(Arc<dyn std::error::Error + Send + Sync>),
}

impl LoadError {
    /// Whether the same call may succeed later. A loader's error may be anything, so it counts as such.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read(error) => error.is_retryable(),
            Self::InvalidTtl(_) => false,
            Self::Loader(_) => true,
        }
    }
}

/// Why a typed read or write failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TypedError<E> {
    /// The operation failed.
    #[error(transparent)]
    Operation(E),
    /// The value cannot be encoded, or what is in the cache is no such value.
    #[error("the value is no encoded {kind}: {why}")]
    Codec {
        /// The type's name.
        kind: &'static str,
        /// What the codec said.
        why: String,
    },
}
