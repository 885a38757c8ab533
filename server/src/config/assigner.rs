//! [`AssignerConfig`].

use std::net::{Ipv4Addr, SocketAddr};

use softstore_sharding::assigner::AssignerConfig as CoreConfig;

use super::check::{ConfigError, count_in_range, in_range, loopback_unless};
use super::choice::SharderKind;

/// How an Assigner is set up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AssignerConfig {
    /// Where gRPC listens: nodes' sessions, status, drain. Port 0 takes a free one. Default 127.0.0.1:7400.
    pub listen: SocketAddr,
    /// Where `/metrics`, `/healthz` and `/readyz` listen; none: nowhere. Port 0 takes a free one. Default none.
    pub http_listen: Option<SocketAddr>,
    /// Accepts listeners beyond loopback, although there is no TLS or authentication. Default false.
    pub insecure: bool,
    /// How many nodes' hellos the very first assignment waits for; 0: not known, it waits `settle_ms`. 0 to 10,000,
    /// default 0. For the first start of a cluster only: an Assigner that is started again over living nodes, and hears that
    /// many new ones first, would take them for a new cluster.
    pub expect_nodes: u32,
    /// How long a new Assigner gathers hellos before it publishes, unless all it expects came earlier. Milliseconds,
    /// longer than `failure_timeout_ms`, so that a living node's hello is not missed, up to 600,000; default 4,000.
    pub settle_ms: u64,
    /// A node not heard of for so long is dead. Milliseconds, 100 to 600,000, default 3,000; the same on all nodes.
    pub failure_timeout_ms: u64,
    /// How long a node that joined empty waits to take whole what next drains or dies, before it is filled from the
    /// others. Milliseconds, 0 to 3,600,000, default 30,000. Set it a little above the time that a restart of one node
    /// takes, from drain to ready.
    pub rebalance_delay_ms: u64,
    /// How many connections are accepted at once, beside the sessions of up to 4,096 nodes; also bounded by the process'
    /// limit of open files. 1 to 1,000,000, default 4,096.
    pub connections_max: usize,
    /// The policy that cuts the key space. Default even.
    pub sharder: SharderKind,
}

impl Default for AssignerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7400)),
            http_listen: None,
            insecure: false,
            expect_nodes: 0,
            settle_ms: 4_000,
            failure_timeout_ms: 3_000,
            rebalance_delay_ms: 30_000,
            connections_max: 4_096,
            sharder: SharderKind::Even,
        }
    }
}

impl AssignerConfig {
    /// Checks every field, and those that depend on each other.
    ///
    /// # Errors
    /// The first field that does not fit, and what to do.
    pub fn validate(&self) -> Result<(), ConfigError> {
        loopback_unless(self.insecure, "listen", self.listen)?;
        if let Some(address) = self.http_listen {
            loopback_unless(self.insecure, "http_listen", address)?;
        }
        in_range("expect_nodes", self.expect_nodes.into(), 0..=10_000)?;
        in_range("settle_ms", self.settle_ms, 0..=600_000)?;
        in_range("failure_timeout_ms", self.failure_timeout_ms, 100..=600_000)?;
        in_range("rebalance_delay_ms", self.rebalance_delay_ms, 0..=3_600_000)?;
        count_in_range("connections_max", self.connections_max, 1..=1_000_000)?;
        // How they fit together is the core's to say.
        Ok(self.core().validate()?)
    }

    /// The settings of the core.
    pub(crate) fn core(&self) -> CoreConfig {
        CoreConfig {
            failure_timeout_ms: self.failure_timeout_ms,
            settle_ms: self.settle_ms,
            expect_nodes: (self.expect_nodes > 0).then_some(self.expect_nodes as usize),
            rebalance_delay_ms: self.rebalance_delay_ms,
            ..CoreConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use softstore_sharding::assigner::AssignerConfigError;

    use super::*;

    #[test]
    fn the_default_is_valid() {
        assert_eq!(AssignerConfig::default().validate(), Ok(()));
    }

    #[test]
    fn settling_takes_longer_than_a_failure() {
        let with = |settle_ms| AssignerConfig {
            settle_ms,
            failure_timeout_ms: 2_000,
            ..AssignerConfig::default()
        };
        assert_eq!(with(2_001).validate(), Ok(()));
        let refused = with(2_000).validate().unwrap_err();
        assert_eq!(
            refused,
            ConfigError::Assigner(AssignerConfigError::Settle {
                settle_ms: 2_000,
                failure_timeout_ms: 2_000,
            })
        );
        assert!(refused.to_string().contains("Raise settle_ms"), "{refused}");
    }

    #[test]
    fn listening_beyond_loopback_wants_consent() {
        let open = SocketAddr::from(([0, 0, 0, 0], 7400));
        let mut config = AssignerConfig {
            listen: open,
            ..AssignerConfig::default()
        };
        let refused = config.validate().unwrap_err();
        assert_eq!(
            refused,
            ConfigError::BeyondLoopback {
                field: "listen",
                address: open
            }
        );
        config.insecure = true;
        assert_eq!(config.validate(), Ok(()));
    }
}
