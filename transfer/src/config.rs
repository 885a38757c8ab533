//! [`HandoffConfig`]: the limits of a hand-off.

use thiserror::Error;

use crate::message::{TAKE_RANGES_MAX, TAKEN_RANGES_MAX};

/// Limits of the hand-off on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandoffConfig {
    /// Whether entries are pulled. Off: ownership alone is handed over and the taker starts cold. Default: on.
    pub transfer: bool,
    /// How long a pull may take before what has not arrived is given up, in ms; 100 to 3,600,000. Default: 60,000.
    pub pull_deadline_ms: u64,
    /// How long a giver keeps a frozen copy at the most, in ms, whatever it hears or does not hear; at least
    /// `pull_deadline_ms`. Default: 600,000.
    pub copy_age_ms_max: u64,
    /// How long an unanswered `Take` waits before it is sent again, in ms; 1 to 10,000. Default: 50.
    pub take_retry_ms: u64,
    /// How long direct `Take`s may stay unanswered before they also travel through the Assigner, in ms. Default: 500.
    pub take_relay_after_ms: u64,
    /// How long a broken pull waits before it resumes, in ms; 1 to 10,000. Default: 50.
    pub pull_retry_ms: u64,
    /// Most ranges in a `Take`; more are split over several. 1 to [`TAKE_RANGES_MAX`], which is the default.
    pub take_ranges_max: usize,
    /// Most parts in the answer to a `Take`, and most ranges in a pull or in a `Release`. An answer leaves out what does not
    /// fit, and the repeated `Take` asks for it; pulls and releases are split. 1 to [`TAKEN_RANGES_MAX`], which is the
    /// default.
    pub taken_ranges_max: usize,
}

/// A limit that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field} is {value}; it must be {range}")]
pub struct HandoffConfigError {
    /// Which.
    pub field: &'static str,
    /// What it is.
    pub value: u64,
    /// What it may be.
    pub range: &'static str,
}

impl Default for HandoffConfig {
    fn default() -> Self {
        Self {
            transfer: true,
            pull_deadline_ms: 60_000,
            copy_age_ms_max: 600_000,
            take_retry_ms: 50,
            take_relay_after_ms: 500,
            pull_retry_ms: 50,
            take_ranges_max: TAKE_RANGES_MAX,
            taken_ranges_max: TAKEN_RANGES_MAX,
        }
    }
}

impl HandoffConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// Names the first field that is out of its range.
    pub fn validate(&self) -> Result<(), HandoffConfigError> {
        let check = |field, value, ok: bool, range| {
            if ok {
                Ok(())
            } else {
                Err(HandoffConfigError { field, value, range })
            }
        };
        check(
            "pull_deadline_ms",
            self.pull_deadline_ms,
            (100..=3_600_000).contains(&self.pull_deadline_ms),
            "100 to 3600000",
        )?;
        check(
            "copy_age_ms_max",
            self.copy_age_ms_max,
            self.copy_age_ms_max >= self.pull_deadline_ms,
            "at least pull_deadline_ms",
        )?;
        check(
            "take_retry_ms",
            self.take_retry_ms,
            (1..=10_000).contains(&self.take_retry_ms),
            "1 to 10000",
        )?;
        check(
            "pull_retry_ms",
            self.pull_retry_ms,
            (1..=10_000).contains(&self.pull_retry_ms),
            "1 to 10000",
        )?;
        check(
            "take_ranges_max",
            self.take_ranges_max as u64,
            (1..=TAKE_RANGES_MAX).contains(&self.take_ranges_max),
            "1 to 4096",
        )?;
        check(
            "taken_ranges_max",
            self.taken_ranges_max as u64,
            (1..=TAKEN_RANGES_MAX).contains(&self.taken_ranges_max),
            "1 to 65536",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_nonsense_is_named() {
        assert_eq!(HandoffConfig::default().validate(), Ok(()));
        let bad = HandoffConfig {
            take_retry_ms: 0,
            ..HandoffConfig::default()
        };
        assert_eq!(bad.validate().map_err(|error| error.field), Err("take_retry_ms"));
        let bad = HandoffConfig {
            copy_age_ms_max: 5,
            ..HandoffConfig::default()
        };
        assert_eq!(
            bad.validate().map_err(|error| error.field),
            Err("copy_age_ms_max")
        );
    }
}
