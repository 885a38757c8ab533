//! [`AssignerConfig`]: the Assigner's settings.

use thiserror::Error;

use super::quiet::{QUIET_HOURS_MAX, QuietHours};
use crate::assignment::REVIVAL_MS_MAX;
use crate::session::LEASE_MS_MAX;

/// The Assigner's settings. [`AssignerConfig::default`] gives the defaults named here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AssignerConfig {
    /// A node not heard of for this long is dead, in milliseconds. Default 3,000; at least 100.
    pub failure_timeout_ms: u64,
    /// How long after its start an Assigner waits for the hellos of all nodes that it hears of, in milliseconds.
    /// Default 4,000. Longer than the failure timeout, so that a node which lives has said hello.
    pub settle_ms: u64,
    /// An Assigner that has heard of nobody who holds anything publishes no first assignment before this many nodes have said
    /// hello. A floor: it waits for those who might come back all the same. Default: none. At least 1.
    pub expect_nodes: Option<usize>,
    /// The cluster is new, and so are all of its nodes: an Assigner that has heard of nobody who holds anything begins as soon as
    /// `expect_nodes` are there, or else after `settle_ms`. For development, drills and tests. Default false.
    pub founds_at_once: bool,
    /// How long an Assigner that knows of no founding waits from the first hello before it founds a cluster, in milliseconds.
    /// Whoever holds something of one has said hello by then. Default 15,000; counts only if longer than `settle_ms`.
    pub founding_settle_ms: u64,
    /// How long a node that joins empty waits to take whole what next drains or dies, before it is filled from all
    /// others, in milliseconds. Default 30,000.
    pub rebalance_delay_ms: u64,
    /// Shortest time between two assignments, except for drains and deaths, in milliseconds. Default 20; at most 1,000.
    pub publish_interval_ms: u64,
    /// Leased ownership: every answer to a heartbeat lets its node serve for this long from the heartbeat's sending, in
    /// milliseconds; nothing of a life is given to another before this long after the last answer, and a drift allowance;
    /// and a new Assigner publishes nothing before that long after its start. There must be one Assigner at a time.
    /// [`LEASE_MS_MIN`] to [`LEASE_MS_MAX`]; default: none (`available`).
    pub lease_ms: Option<u64>,
    /// For how long after a silent node's ranges were taken over, cold, what it held may come back, should it only have been
    /// away; and for how long a node that learns of its death keeps what it held. In milliseconds, at most [`REVIVAL_MS_MAX`];
    /// 0: nothing comes back. Default 60,000.
    pub revival_ms: u64,
    /// How often a Sharder that reacts to load is asked, in milliseconds. Default 1,000; 100 to 600,000.
    pub balance_interval_ms: u64,
    /// How long a Sharder may take before it is given up for that time and even ranges place what must move, in
    /// milliseconds. Default 1,000; 10 to 60,000.
    pub place_timeout_ms: u64,
    /// How much of the data set's bytes balancing may move within any minute, in per cent; what must move, because its owner
    /// drains or is dead, does not count. Default 50: so a new node is filled in one go in any cluster, since that takes one
    /// part in the number of nodes, and a policy gone wrong cannot move everything in less than two minutes. 0 to 1,000; 0:
    /// nothing is balanced that has bytes.
    pub balance_churn_percent_per_minute: u32,
    /// Times of day in which nothing is balanced. Default none.
    pub balance_quiet_hours: [Option<QuietHours>; QUIET_HOURS_MAX],
}

/// Shortest lease, in milliseconds. Its node sends four heartbeats in that time.
pub const LEASE_MS_MIN: u64 = 500;

/// By how much more than a lease the Assigner waits, in per cent: two clocks' rates may differ by as much.
pub const LEASE_DRIFT_PERCENT: u64 = 10;

impl Default for AssignerConfig {
    fn default() -> Self {
        Self {
            failure_timeout_ms: 3_000,
            settle_ms: 4_000,
            expect_nodes: None,
            founds_at_once: false,
            founding_settle_ms: 15_000,
            rebalance_delay_ms: 30_000,
            publish_interval_ms: 20,
            lease_ms: None,
            revival_ms: 60_000,
            balance_interval_ms: 1_000,
            place_timeout_ms: 1_000,
            balance_churn_percent_per_minute: 50,
            balance_quiet_hours: [None; QUIET_HOURS_MAX],
        }
    }
}

/// Why settings are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AssignerConfigError {
    /// The failure timeout is too short to tell a busy node from a dead one.
    #[error("failure_timeout_ms is {0}, it must be at least 100")]
    FailureTimeout(u64),
    /// A living node might not say hello in time.
    #[error(
        "settle_ms is {settle_ms}, it must be longer than failure_timeout_ms ({failure_timeout_ms}): by then every node \
         that lives has said hello. Raise settle_ms, or lower failure_timeout_ms here and on all nodes"
    )]
    Settle {
        /// As given.
        settle_ms: u64,
        /// As given.
        failure_timeout_ms: u64,
    },
    /// Waiting for no node makes no sense.
    #[error("expect_nodes is 0; leave it out to begin with whoever comes")]
    ExpectNodes,
    /// Too short to outlive a late heartbeat, or longer than nodes believe.
    #[error("lease_ms is {0}, it must be {LEASE_MS_MIN} to {LEASE_MS_MAX}")]
    Lease(u64),
    /// Longer than a frozen copy is kept.
    #[error("revival_ms is {0}, it must be at most {REVIVAL_MS_MAX}")]
    Revival(u64),
    /// Joins and completed hand-offs would wait too long.
    #[error("publish_interval_ms is {0}, it must be at most 1000")]
    PublishInterval(u64),
    /// Too often to learn anything between, or so seldom that it is as good as never.
    #[error("balance_interval_ms is {0}, it must be 100 to 600000")]
    BalanceInterval(u64),
    /// Too short for any Sharder, or so long that a drain would wait.
    #[error("place_timeout_ms is {0}, it must be 10 to 60000")]
    PlaceTimeout(u64),
    /// More than everything, ten times a minute.
    #[error("balance_churn_percent_per_minute is {0}, it must be at most 1000")]
    BalanceChurn(u32),
}

impl AssignerConfig {
    /// How long after an answer a life may still serve, by the Assigner's clock, in milliseconds; 0 without leases.
    /// `said_ms`: the leases under which the life says that it serves. They may be an earlier Assigner's, and longer.
    #[must_use]
    pub fn lease_wait_ms(&self, said_ms: Option<u64>) -> u64 {
        let Some(lease_ms) = self.lease_ms else {
            return 0;
        };
        let lease_ms = lease_ms.max(said_ms.unwrap_or(0));
        // One millisecond for the rounding of either clock.
        lease_ms + lease_ms * LEASE_DRIFT_PERCENT / 100 + 2
    }

    /// Checks the settings against each other.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    pub fn validate(&self) -> Result<(), AssignerConfigError> {
        if self.failure_timeout_ms < 100 {
            return Err(AssignerConfigError::FailureTimeout(self.failure_timeout_ms));
        }
        if self.settle_ms <= self.failure_timeout_ms {
            return Err(AssignerConfigError::Settle {
                settle_ms: self.settle_ms,
                failure_timeout_ms: self.failure_timeout_ms,
            });
        }
        if self.expect_nodes == Some(0) {
            return Err(AssignerConfigError::ExpectNodes);
        }
        if let Some(lease_ms) = self.lease_ms
            && !(LEASE_MS_MIN..=LEASE_MS_MAX).contains(&lease_ms)
        {
            return Err(AssignerConfigError::Lease(lease_ms));
        }
        if self.revival_ms > REVIVAL_MS_MAX {
            return Err(AssignerConfigError::Revival(self.revival_ms));
        }
        if self.publish_interval_ms > 1_000 {
            return Err(AssignerConfigError::PublishInterval(self.publish_interval_ms));
        }
        if !(100..=600_000).contains(&self.balance_interval_ms) {
            return Err(AssignerConfigError::BalanceInterval(self.balance_interval_ms));
        }
        if !(10..=60_000).contains(&self.place_timeout_ms) {
            return Err(AssignerConfigError::PlaceTimeout(self.place_timeout_ms));
        }
        if self.balance_churn_percent_per_minute > 1_000 {
            return Err(AssignerConfigError::BalanceChurn(
                self.balance_churn_percent_per_minute,
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plan: a lease of 1,000 ms. A life that says nothing of leases is waited for as long as that and a tenth; one that
    /// serves under a longer lease of an Assigner before this one, for as long as that one; without leases nobody is.
    #[test]
    fn h1_the_longer_lease_is_waited_for() {
        let leased = AssignerConfig {
            lease_ms: Some(1_000),
            ..AssignerConfig::default()
        };
        assert_eq!(leased.lease_wait_ms(None), 1_102);
        assert_eq!(leased.lease_wait_ms(Some(500)), 1_102);
        assert_eq!(leased.lease_wait_ms(Some(3_000)), 3_302);
        assert_eq!(AssignerConfig::default().lease_wait_ms(Some(3_000)), 0);
    }

    #[test]
    fn settings_are_checked() {
        let good = AssignerConfig::default();
        assert_eq!(good.validate(), Ok(()));
        let bad = [
            AssignerConfig {
                failure_timeout_ms: 99,
                ..good
            },
            AssignerConfig {
                settle_ms: 3_000,
                ..good
            },
            AssignerConfig {
                expect_nodes: Some(0),
                ..good
            },
            AssignerConfig {
                publish_interval_ms: 1_001,
                ..good
            },
            AssignerConfig {
                lease_ms: Some(LEASE_MS_MIN - 1),
                ..good
            },
            AssignerConfig {
                revival_ms: REVIVAL_MS_MAX + 1,
                ..good
            },
            AssignerConfig {
                balance_interval_ms: 99,
                ..good
            },
            AssignerConfig {
                place_timeout_ms: 9,
                ..good
            },
            AssignerConfig {
                balance_churn_percent_per_minute: 1_001,
                ..good
            },
            AssignerConfig {
                lease_ms: Some(LEASE_MS_MAX + 1),
                ..good
            },
        ];
        for config in bad {
            assert!(config.validate().is_err(), "{config:?}");
        }
    }
}
