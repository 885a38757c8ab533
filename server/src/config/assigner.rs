//! [`AssignerConfig`].

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use softstore_sharding::REVIVAL_MS_MAX;
use softstore_sharding::assigner::{AssignerConfig as CoreConfig, LEASE_MS_MIN, QUIET_HOURS_MAX, QuietHours};
use softstore_sharding::session::LEASE_MS_MAX;
use softstore_sharding::{ClusterName, Founding};

use super::check::{
    ConfigError, cluster_name, count_in_range, in_range, loopback_unless, named_unless_loopback,
};
use super::choice::{Ownership, SharderKind};

/// How an Assigner is set up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AssignerConfig {
    /// Where gRPC listens: nodes' sessions, status, drain. Port 0 takes a free one. Default 127.0.0.1:7400.
    pub listen: SocketAddr,
    /// Where `/metrics`, `/healthz` and `/readyz` listen; none: nowhere. Port 0 takes a free one. Default none.
    pub http_listen: Option<SocketAddr>,
    /// Accepts listeners beyond loopback, although there is no TLS or authentication. Default false.
    pub insecure: bool,
    /// The cluster's name, the same on its nodes and unlike every other cluster's. Default: `local` on loopback; beyond it, none:
    /// it must be said.
    pub cluster: Option<ClusterName>,
    /// Where the Assigner keeps its small state file: the cluster's founding and the highest generation. Default none: an Assigner
    /// that is started again learns them from the nodes, and waits longer before it takes a cluster for new.
    pub state_dir: Option<PathBuf>,
    /// The founding of the cluster, where the nodes tell of two and this Assigner knows neither. Default none.
    pub founding: Option<Founding>,
    /// How many nodes a cluster begins with: before so many have said hello, no first assignment is published. 0 to 10,000, default
    /// 0: not known. A floor: whoever holds entries is waited for all the same, and an Assigner that is started again over living
    /// nodes finds out by itself that they are there.
    pub expect_nodes: u32,
    /// The cluster is new, and so are all its nodes: it begins as soon as `expect_nodes` are there. For development, drills and
    /// tests; never over a cluster that holds anything. Default false.
    pub founds_at_once: bool,
    /// How long a new Assigner gathers hellos before it publishes, unless all it expects came earlier. Milliseconds,
    /// longer than `failure_timeout_ms`, so that a living node's hello is not missed, up to 600,000; default 4,000.
    pub settle_ms: u64,
    /// A node not heard of for so long is dead. Milliseconds, 100 to 600,000, default 3,000; the same on all nodes.
    pub failure_timeout_ms: u64,
    /// How long a node that joined empty waits to take whole what next drains or dies, before it is filled from the
    /// others. Milliseconds, 0 to 3,600,000, default 30,000. Set it a little above the time that a restart of one node
    /// takes, from drain to ready.
    pub rebalance_delay_ms: u64,
    /// For how long what a silent node held may come back, should it only have been away: after its ranges were taken over, and
    /// after it has learnt of that. Nodes have no such setting: they learn it from here. Milliseconds, 0 to 600,000, default
    /// 60,000; 0: nothing comes back.
    pub revival_ms: u64,
    /// What becomes of a node that is cut off from this Assigner. Nodes have no such setting: they learn it from here. Default
    /// available.
    pub ownership: Ownership,
    /// With leased ownership, how long a node may serve after the last heartbeat that was answered. What a node owns that
    /// is cut off or killed is given to others after this and a tenth of it, and not before `failure_timeout_ms`.
    /// Milliseconds, 500 to 60,000, default 2,500: so a node that is killed is missed no longer than without leases.
    pub lease_ms: u64,
    /// How many connections are accepted at once, beside the sessions of up to 4,096 nodes; also bounded by the process'
    /// limit of open files. 1 to 1,000,000, default 4,096.
    pub connections_max: usize,
    /// The policy that cuts the key space. Default auto.
    pub sharder: SharderKind,
    /// How often load is balanced, by a policy that reacts to it. Milliseconds, 100 to 600,000, default 1,000.
    pub balance_interval_ms: u64,
    /// How much of the data set's bytes balancing may move within any minute, in per cent; what drains or dies does not count.
    /// 0 to 1,000, default 50: a new node is filled in one go, since that takes one part in the number of nodes, and no policy
    /// moves everything in less than two minutes. 0: nothing that has bytes is balanced.
    pub balance_churn_percent_per_minute: u32,
    /// Times of day, in UTC, in which nothing is balanced. At most 8, default none.
    pub balance_quiet_hours: Vec<QuietHours>,
    /// How long the policy may take to answer before what must move is placed by even ranges. Milliseconds, 10 to 60,000, default
    /// 1,000.
    pub place_timeout_ms: u64,
}

impl Default for AssignerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7400)),
            http_listen: None,
            insecure: false,
            cluster: None,
            state_dir: None,
            founding: None,
            expect_nodes: 0,
            founds_at_once: false,
            settle_ms: 4_000,
            failure_timeout_ms: 3_000,
            rebalance_delay_ms: 30_000,
            revival_ms: 60_000,
            ownership: Ownership::Available,
            lease_ms: 2_500,
            connections_max: 4_096,
            sharder: SharderKind::Auto,
            balance_interval_ms: 1_000,
            balance_churn_percent_per_minute: 50,
            balance_quiet_hours: Vec::new(),
            place_timeout_ms: 1_000,
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
        named_unless_loopback(self.cluster.as_ref(), self.listen)?;
        in_range("expect_nodes", self.expect_nodes.into(), 0..=10_000)?;
        in_range("settle_ms", self.settle_ms, 0..=600_000)?;
        in_range("failure_timeout_ms", self.failure_timeout_ms, 100..=600_000)?;
        in_range("rebalance_delay_ms", self.rebalance_delay_ms, 0..=3_600_000)?;
        in_range("revival_ms", self.revival_ms, 0..=REVIVAL_MS_MAX)?;
        in_range("lease_ms", self.lease_ms, LEASE_MS_MIN..=LEASE_MS_MAX)?;
        count_in_range("connections_max", self.connections_max, 1..=1_000_000)?;
        in_range("balance_interval_ms", self.balance_interval_ms, 100..=600_000)?;
        let churn = u64::from(self.balance_churn_percent_per_minute);
        in_range("balance_churn_percent_per_minute", churn, 0..=1_000)?;
        let windows = self.balance_quiet_hours.len();
        count_in_range("balance_quiet_hours", windows, 0..=QUIET_HOURS_MAX as u64)?;
        in_range("place_timeout_ms", self.place_timeout_ms, 10..=60_000)?;
        // How they fit together is the core's to say.
        Ok(self.core().validate()?)
    }

    /// The cluster's name: as configured, or that of a cluster on loopback that was given none.
    #[must_use]
    pub fn cluster_name(&self) -> ClusterName {
        cluster_name(self.cluster.as_ref())
    }

    /// The settings of the core.
    pub(crate) fn core(&self) -> CoreConfig {
        let mut balance_quiet_hours = [None; QUIET_HOURS_MAX];
        for (window, hours) in balance_quiet_hours.iter_mut().zip(&self.balance_quiet_hours) {
            *window = Some(*hours);
        }
        CoreConfig {
            balance_interval_ms: self.balance_interval_ms,
            place_timeout_ms: self.place_timeout_ms,
            balance_churn_percent_per_minute: self.balance_churn_percent_per_minute,
            balance_quiet_hours,
            failure_timeout_ms: self.failure_timeout_ms,
            settle_ms: self.settle_ms,
            expect_nodes: (self.expect_nodes > 0).then_some(self.expect_nodes as usize),
            founds_at_once: self.founds_at_once,
            rebalance_delay_ms: self.rebalance_delay_ms,
            revival_ms: self.revival_ms,
            lease_ms: (self.ownership == Ownership::Leased).then_some(self.lease_ms),
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
    fn balancing_has_ranges() {
        let good = || AssignerConfig {
            balance_quiet_hours: vec!["22:00-06:00".parse().unwrap(); 8],
            balance_interval_ms: 600_000,
            ..AssignerConfig::default()
        };
        assert_eq!(good().validate(), Ok(()));
        assert!(good().core().balance_quiet_hours.iter().all(Option::is_some));
        assert_eq!(good().core().balance_interval_ms, 600_000);
        let refused = |change: fn(&mut AssignerConfig)| {
            let mut config = good();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(refused(|c| c.balance_interval_ms = 99).contains("balance_interval_ms = 99"));
        assert!(refused(|c| c.place_timeout_ms = 60_001).contains("place_timeout_ms = 60001"));
        assert!(refused(|c| c.balance_churn_percent_per_minute = 1_001).contains("choose 0 to 1000"));
        assert!(
            refused(|c| c.balance_quiet_hours.push("01:00-02:00".parse().unwrap())).contains("choose 0 to 8")
        );
    }

    #[test]
    fn a_lease_has_a_range_and_counts_in_leased_ownership_only() {
        let with = |lease_ms| AssignerConfig {
            lease_ms,
            ownership: Ownership::Leased,
            ..AssignerConfig::default()
        };
        assert_eq!(with(500).core().lease_ms, Some(500));
        assert_eq!(AssignerConfig::default().core().lease_ms, None);
        assert_eq!(with(60_000).validate(), Ok(()));
        for wrong in [0, 499, 60_001] {
            let refused = ConfigError::OutOfRange {
                field: "lease_ms",
                value: wrong,
                min: 500,
                max: 60_000,
            };
            assert_eq!(with(wrong).validate(), Err(refused));
        }
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
        let unnamed = ConfigError::ClusterMissing { listen: open };
        assert_eq!(config.validate(), Err(unnamed));
        config.cluster = Some(ClusterName::new("prod").unwrap());
        assert_eq!(config.validate(), Ok(()));
    }
}
