//! What a set may ask for, and what it and a read give back.

use std::time::Duration;

use bytes::Bytes;
use softstore_proto::v1::SetCondition;
use softstore_sharding::Version;
use thiserror::Error;

/// How a set is carried out. By default: always, without a time to live.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct SetOptions {
    pub(crate) ttl: Option<Duration>,
    pub(crate) condition: Condition,
}

/// When a set applies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Condition {
    #[default]
    Always,
    IfAbsent,
    IfPresent,
    IfVersion(Version),
}

impl Condition {
    pub(crate) fn to_wire(self) -> (SetCondition, u64) {
        match self {
            Self::Always => (SetCondition::Always, 0),
            Self::IfAbsent => (SetCondition::IfAbsent, 0),
            Self::IfPresent => (SetCondition::IfPresent, 0),
            Self::IfVersion(version) => (SetCondition::IfVersion, version.get()),
        }
    }
}

impl SetOptions {
    /// Always, without a time to live.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value expires after `ttl`, rounded up to a millisecond. Zero is refused when the set is sent
    /// ([`WriteError::InvalidTtl`](crate::WriteError)): to say "do not keep it", delete the key.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Only if nothing is under the key.
    pub fn if_absent(mut self) -> Self {
        self.condition = Condition::IfAbsent;
        self
    }

    /// Only if something is under the key.
    pub fn if_present(mut self) -> Self {
        self.condition = Condition::IfPresent;
        self
    }

    /// Only if what is under the key has this version: nobody wrote it since it was read.
    pub fn if_version(mut self, version: Version) -> Self {
        self.condition = Condition::IfVersion(version);
        self
    }
}

/// What a set did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetOutcome {
    /// The value is stored, under this version.
    Stored(Version),
    /// The condition did not hold; nothing changed.
    ConditionFailed {
        /// The version that is present; `None` if the key is absent.
        present: Option<Version>,
    },
}

impl SetOutcome {
    /// Whether the value was stored.
    #[must_use]
    pub fn is_stored(self) -> bool {
        matches!(self, Self::Stored(_))
    }
}

/// What a read found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The value.
    pub value: Bytes,
    /// Its version, for [`SetOptions::if_version`].
    pub version: Version,
    /// What is left of its time to live; `None`: it does not expire.
    pub ttl: Option<Duration>,
}

/// A time to live of zero: it would be over at once. On the wire, 0 stands for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a time to live of 0 is none: leave it out for an entry that does not expire, or delete the key")]
pub struct ZeroTtl;

/// Refuses what is no time to live.
pub(crate) fn check_ttl(ttl: Option<Duration>) -> Result<(), ZeroTtl> {
    if ttl.is_some_and(|ttl| ttl.is_zero()) {
        return Err(ZeroTtl);
    }
    Ok(())
}

/// A time to live in milliseconds, rounded up; 0 stands for none.
pub(crate) fn ttl_ms(ttl: Option<Duration>) -> Result<u64, ZeroTtl> {
    check_ttl(ttl)?;
    Ok(ttl.map_or(0, |ttl| {
        let ms = ttl.as_nanos().div_ceil(1_000_000);
        u64::try_from(ms).unwrap_or(u64::MAX)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_time_to_live_never_becomes_none() {
        assert_eq!(ttl_ms(None), Ok(0));
        assert_eq!(ttl_ms(Some(Duration::ZERO)), Err(ZeroTtl));
        assert_eq!(ttl_ms(Some(Duration::from_nanos(1))), Ok(1));
        assert_eq!(ttl_ms(Some(Duration::from_micros(1_001))), Ok(2));
        assert_eq!(ttl_ms(Some(Duration::from_secs(2))), Ok(2_000));
        assert_eq!(ttl_ms(Some(Duration::MAX)), Ok(u64::MAX));
    }
}
