//! [`SliceletConfig`]: a slicelet's settings.

use thiserror::Error;

/// A slicelet's settings. [`SliceletConfig::default`] gives the defaults named here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SliceletConfig {
    /// Time between heartbeats, in milliseconds. Default 500; at least 10. Under a lease, a fourth of it if that is less.
    pub heartbeat_interval_ms: u64,
    /// A standstill longer than this suspends serving, in milliseconds. Default 3,000, and never longer than the
    /// Assigner's; at least twice the heartbeat interval.
    pub failure_timeout_ms: u64,
    /// After a standstill, serving resumes when the Assigner was unreachable for this long, in milliseconds. Default 500.
    pub unreachable_ms: u64,
    /// How long a draining node without an Assigner waits for one, in milliseconds. Default 5,000.
    pub assigner_wait_ms: u64,
    /// First pause before a session is opened again, in milliseconds; it doubles with each failure. Default 50; at least 1.
    pub reconnect_min_ms: u64,
    /// Longest such pause, in milliseconds. Default 500; at least the shortest.
    pub reconnect_max_ms: u64,
}

impl Default for SliceletConfig {
    fn default() -> Self {
        Self {
            heartbeat_interval_ms: 500,
            failure_timeout_ms: 3_000,
            unreachable_ms: 500,
            assigner_wait_ms: 5_000,
            reconnect_min_ms: 50,
            reconnect_max_ms: 500,
        }
    }
}

/// Why settings are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SliceletConfigError {
    /// Too frequent.
    #[error("heartbeat_interval_ms is {0}, it must be at least 10")]
    HeartbeatInterval(u64),
    /// One late heartbeat would count as a standstill.
    #[error("failure_timeout_ms is {0}, it must be at least twice heartbeat_interval_ms")]
    FailureTimeout(u64),
    /// The pauses make no sense.
    #[error("reconnect_min_ms is {min}, it must be from 1 to reconnect_max_ms ({max})")]
    Reconnect {
        /// As given.
        min: u64,
        /// As given.
        max: u64,
    },
}

impl SliceletConfig {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    pub fn validate(&self) -> Result<(), SliceletConfigError> {
        if self.heartbeat_interval_ms < 10 {
            return Err(SliceletConfigError::HeartbeatInterval(self.heartbeat_interval_ms));
        }
        if self.failure_timeout_ms < 2 * self.heartbeat_interval_ms {
            return Err(SliceletConfigError::FailureTimeout(self.failure_timeout_ms));
        }
        if self.reconnect_min_ms == 0 || self.reconnect_min_ms > self.reconnect_max_ms {
            return Err(SliceletConfigError::Reconnect {
                min: self.reconnect_min_ms,
                max: self.reconnect_max_ms,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        let good = SliceletConfig::default();
        assert_eq!(good.validate(), Ok(()));
        let bad = [
            SliceletConfig {
                heartbeat_interval_ms: 9,
                ..good
            },
            SliceletConfig {
                failure_timeout_ms: 999,
                ..good
            },
            SliceletConfig {
                reconnect_min_ms: 0,
                ..good
            },
            SliceletConfig {
                reconnect_min_ms: 501,
                ..good
            },
        ];
        for config in bad {
            assert!(config.validate().is_err(), "{config:?}");
        }
    }
}
