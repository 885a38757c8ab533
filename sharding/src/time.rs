//! [`Timestamp`]: the clock that the cores are given. They never read one themselves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds on a monotonic clock that also runs in suspend (`CLOCK_BOOTTIME` in the shells, virtual time in the
/// simulation). The origin is arbitrary and differs between processes, so a timestamp never travels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The origin.
    pub const ZERO: Self = Self(0);
    /// Later than every moment that occurs.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment `ms` milliseconds after the origin.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the origin.
    #[must_use]
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// The moment `ms` later, at most [`Timestamp::NEVER`].
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// The moment `duration` later, rounded down to a millisecond, at most [`Timestamp::NEVER`].
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        self.plus_ms(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    /// Milliseconds from `earlier` to this moment; 0 if `earlier` is later.
    #[must_use]
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
